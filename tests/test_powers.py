"""Sums over a batch of quantities times powers of what comes into a layer."""

import pytest
import torch

from fimsym.engine import powers

VALUES = {"fisher": 2, "variance_score_squared": 4, "covariance": 4}


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
def test_spread_about_the_mean(transposed):
    a, x = torch.randn(20, 4).double(), torch.rand(20, 5).double()
    a[:, 0] *= 1e-70
    both = (x.unsqueeze(2), a.square().unsqueeze(1))
    one = both[0] * both[1]
    exact = (one - one.mean(0)).square().sum(0)
    found = powers.spread(a, x, transposed)
    torch.testing.assert_close(found if transposed else found.T, exact, rtol=1e-9, atol=0)
