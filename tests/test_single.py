"""One output: closed forms are scaled by its derivative, not evaluated anew."""

import pytest
import torch

import fimsym
from fimsym.engine import chain
from fimsym.engine.head import Head
from fimsym.engine.single import Single, single
from tests.cases import CASES, points
from tests.networks import build, inputs, mlp

BOTH = ("fisher", "variance_score_squared")
ONE = [name for name, case in CASES.items() if 1 in case.outputs]


def _heads(name):
    case = CASES[name]
    return [(Head(name, None, constants), scale, case) for constants in case.constants
            for scale in case.scales]  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_scaled_values_equal_the_evaluator(name):
    taken = 0
    for head, region, case in _heads(name):
        h, u, _ = points(case, 1, region)
        found = single(head, h)
        if found is None:
            continue
        taken += 1
        expected = head.values(BOTH, h, u, None)
        out = {quantity: torch.empty_like(expected[quantity]) for quantity in BOTH}
        for given in ({}, {"out": out}):
            values = found.used_up(u.clone(), slice(None), True, **given)
            for quantity, value in values.items():
                torch.testing.assert_close(value, expected[quantity], rtol=1e-11, atol=0)
        for quantity, value in out.items():
            torch.testing.assert_close(value, expected[quantity], rtol=1e-11, atol=0)
        one = head.values(BOTH, h, torch.ones_like(u[..., :1]), None)
        for quantity, value in found.moments_of_outputs().items():
            torch.testing.assert_close(value, one[quantity], rtol=1e-11, atol=0)
    assert taken


@pytest.mark.parametrize("with_variance", [True, False])
@pytest.mark.parametrize("batch", [1, 20, 700])
def test_some_inputs_and_sums_over_them(with_variance, batch):
    h, u, _ = points(CASES["poisson"], 1, batch=batch + 3)
    head, rows = Head("poisson", None, {}), slice(2, batch + 2)
    expected = head.values(BOTH, h[rows], u[rows], None)
    for summed in (True, False):
        values = single(head, h).used_up(u[rows].clone(), rows, with_variance, summed)
        assert tuple(values) == (BOTH if with_variance else BOTH[:1])
        assert len(values["fisher"]) == batch
        if with_variance:  # many are not added up by one product, which has few digits
            assert len(values["variance_score_squared"]) == (1 if summed and batch < 512 else batch)
        for quantity, value in values.items():
            torch.testing.assert_close(value.sum(0), expected[quantity].sum(0))


def test_two_outputs_are_left_to_the_evaluator():
    assert single(Head("gamma", None, {}), torch.tensor([[0.0, -1.0]])) is None


def test_a_link_is_part_of_it():
    head = Head("exponential", "log_mean", {})
    o, u = torch.randn(5, 1).double(), torch.randn(5, 1, 4).double()
    found = single(head, o).used_up(u.clone(), slice(None), True)
    for quantity, value in head.values(BOTH, o, u, None).items():
        torch.testing.assert_close(found[quantity], value)


@pytest.mark.parametrize("h", [-80.0, 15.0])
def test_sizes_that_float32_spoils_are_left_to_the_evaluator(h):
    """I(1) = e^h: the fourth power of a small u underflows, that of a large one overflows."""
    head = Head("poisson", None, {})
    assert single(head, torch.tensor([[h], [0.0]])) is None
    assert single(head, torch.tensor([[1.0], [0.0]])) is not None


def test_large_derivatives_of_a_small_law():
    """V₁(1) is 2e-28, u⁴ 1e44: float32 holds the product, and not u⁴."""
    model, data = build(lambda: mlp(3, 4, 1)), inputs(6, 3)
    with torch.no_grad():
        model[-1].weight.mul_(1e11)
    given = {"link": "mean", "sigma": 1e7, "quantities": BOTH, "progress": False}
    found = fimsym.analyze(model.float(), data.float(), "gaussian", **given)
    truth = fimsym.analyze(model.double(), data.float().double(), "gaussian", **given)
    for quantity in BOTH:
        for parameter, value in truth.values[quantity].items():
            torch.testing.assert_close(
                found.values[quantity][parameter], value, rtol=1e-4, atol=1e-4 * value.max()
            )


def test_networks_take_it(monkeypatch):
    taken = []
    used_up = Single.used_up

    def noted(self, u, *given, **named):
        taken.append(u.shape[-1])
        return used_up(self, u, *given, **named)

    monkeypatch.setattr(Single, "used_up", noted)
    fimsym.analyze(build(lambda: mlp(4, 5, 6, 1)), inputs(9, 4), "poisson", progress=False)
    assert sorted(taken) == [5, 6]


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
@pytest.mark.parametrize("size", [1.0, 1e-9, 1e-14])
@pytest.mark.parametrize("quantities", [BOTH, "fisher", "all"])
def test_networks_of_one_output_in_float32(name, size, quantities, monkeypatch):
    monkeypatch.setattr(chain, "_ENTRIES", 12)  # several blocks
    model, data = build(lambda: mlp(4, 5, 6, 1)), inputs(9, 4)
    with torch.no_grad():
        model[-1].weight.mul_(size)
    given = {"family": name, "quantities": quantities, "progress": False}
    found = fimsym.analyze(model.float(), data.float(), **given)
    truth = fimsym.analyze(model.double(), data.float().double(), **given)
    for quantity in BOTH if quantities != "fisher" else BOTH[:1]:
        for parameter, value in truth.values[quantity].items():
            assert value.max() > 0
            gap = (found.values[quantity][parameter] - value).abs().max()
            assert gap <= 1e-4 * value.abs().max()
