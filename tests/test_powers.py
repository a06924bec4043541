"""Sums over a batch of quantities times powers of what comes into a layer."""

import pytest
import torch

from fimsym.engine import powers

VALUES = {"fisher": 2, "variance_score_squared": 4, "covariance": 4}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("entries", [1, 12, 2**19])
@pytest.mark.parametrize("names", [tuple(VALUES), ("fisher",)])
def test_sums_of_any_number_of_inputs_at_a_time(transposed, entries, names, monkeypatch):
    monkeypatch.setattr(powers, "_ENTRIES", entries)
    a = torch.randn(20, 4)
    a[:3, 0], a[3:, 0] = 1e12, 1.0  # the first inputs alone leave the range of float32
    a[:, 1] *= 1e-12
    a[:, 2] = 0.0
    x = {name: torch.rand(20, 5) for name in names}
    for name, total in powers.summed(a, x, transposed).items():
        b = a.double() ** VALUES[name]
        exact = x[name].double().T @ b if transposed else b.T @ x[name].double()
        torch.testing.assert_close(total.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("entries", [1, 12, 2**19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spread_about_the_mean(transposed, entries, dtype, monkeypatch):
    monkeypatch.setattr(powers, "_ENTRIES", entries)
    a, x = torch.randn(20, 4), torch.rand(20, 5).to(dtype)
    a[:, 0] *= 1e-12
    a[:3, 1] = 1e12
    a[:, 2] = 0.0
    a[:, 3] += 100.0
    one = x.double().unsqueeze(2) * a.double().square().unsqueeze(1)
    exact = (one - one.mean(0)).square().sum(0)
    found = powers.spread(a, x, transposed).double()
    rounding = 1e-4 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(found if transposed else found.T, exact, rtol=rounding, atol=0)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_spread_of_inputs_that_hardly_vary(size):
    """I of one input after the other differs by a thousandth of I."""
    a, x = size * (1 + 1e-3 * torch.randn(600, 4)), 3 + 3e-3 * torch.randn(600, 5)
    one = x.double().unsqueeze(2) * a.double().square().unsqueeze(1)
    exact = (one - one.mean(0)).square().sum(0)
    found = powers.spread(a, x, True).double()
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)


def test_spread_of_a_feature_that_is_constant():
    """What its mean is rounded by must not count."""
    a, x = torch.full((1000, 2), 0.3), 0.7 * (1 + 1e-5 * torch.randn(1000, 5))
    one = x.double().unsqueeze(2) * a.double().square().unsqueeze(1)
    exact = (one - one.mean(0)).square().sum(0)
    torch.testing.assert_close(powers.spread(a, x, True).double(), exact, rtol=1e-5, atol=0)
