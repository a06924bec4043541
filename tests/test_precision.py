"""Derivatives whose fourth powers float32 cannot hold."""

import copy

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine import chain
from tests.networks import Attention, Residual, build, convolution, inputs, mlp
from tests.test_tables import Words


class Scaled(nn.Module):
    """A parameter that enters by an operation no rule knows."""

    def __init__(self):
        super().__init__()
        self.scales, self.last = nn.Parameter(torch.rand(4)), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.sin(x @ torch.diag(self.scales)))


def looked_up():
    return torch.randint(7, (9, 5), generator=torch.Generator().manual_seed(0))


def test_two_classes_that_are_nearly_equal():
    """V₁ = p q (p − q)² u⁴ is far below I² there, and below all that float32 holds."""
    model, data = build(lambda: mlp(4, 5, 6, 2)), inputs(9, 4)
    with torch.no_grad():
        model[-1].weight.mul_(1e-7)
        model[-1].bias.mul_(1e-7)
    given = {"family": "categorical", "progress": False}
    truth = fimsym.analyze(copy.deepcopy(model), data, **given).variance_score_squared
    for quantities in ("all", ("fisher", "variance_score_squared"), ("variance_score_squared",)):
        found = fimsym.analyze(model.float(), data.float(), quantities=quantities, **given)
        for name, value in found.variance_score_squared.items():
            assert value.max() > 0
            torch.testing.assert_close(value, truth[name], rtol=1e-3, atol=1e-4 * truth[name].max())


CASES = {
    "chain": (lambda: mlp(4, 5, 6, 3), lambda: inputs(9, 4)),
    "two classes": (lambda: mlp(4, 5, 6, 2), lambda: inputs(9, 4)),
    "columns": (lambda: mlp(4, 5, 40), lambda: inputs(9, 4)),
    "below columns": (lambda: mlp(4, 5, 6, 40), lambda: inputs(9, 4)),
    "convolution": (convolution, lambda: inputs(5, 2, 4, 4)),
    "residual": (Residual, lambda: inputs(9, 4)),
    "attention": (Attention, looked_up),
    "table": (Words, looked_up),
    "functional": (Scaled, lambda: inputs(9, 4)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", ["categorical", "poisson"])
@pytest.mark.parametrize("size", [1e-9, 1e-14, 1e-24])
@pytest.mark.parametrize("quantities", ["all", ("fisher", "variance_score_squared")])
def test_small_derivatives_have_variances(name, family, size, quantities):
    make, draw = CASES[name]
    model, data = build(make), draw()
    with torch.no_grad():
        [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1].weight.mul_(size)
    model = model.float()
    given = {"family": family, "quantities": quantities, "progress": False}
    single = data.float() if data.is_floating_point() else data
    found = fimsym.analyze(model, single, **given)
    wide = single.double() if data.is_floating_point() else data
    truth = fimsym.analyze(copy.deepcopy(model).double(), wide, **given)
    compared = 0
    for quantity, named in truth.values.items():
        for parameter, value in named.items():
            own = truth.fisher[parameter].max() ** (1 if quantity == "fisher" else 2)
            if value.abs().max() > 1e-6 * own > 0:  # else it is rounding
                gap = (found.values[quantity][parameter] - value).abs().max()
                assert gap <= 1e-3 * value.abs().max()
                compared += own < 1e-13
    assert compared


@pytest.mark.parametrize(
    ("family", "outputs"), [("categorical", 3), ("categorical", 2), ("poisson", 3), ("poisson", 1)]
)
def test_small_derivatives_behind_ones_that_are_zero(family, outputs, monkeypatch):
    """Blocks of inputs are taken one after the other; units are dead in the first."""
    monkeypatch.setattr(chain, "_ENTRIES", 12 * outputs)
    model, data = build(lambda: mlp(4, 5, 6, outputs, activation=nn.ReLU)), inputs(9, 4)
    with torch.no_grad():
        model[2].weight.abs_()
        model[2].bias.zero_()
        model[0].bias.zero_()
        model[0].weight.abs_()
        model[-1].weight.mul_(1e-14)
    data.abs_()[:5] *= -1
    given = {"family": family, "progress": False}
    found = fimsym.analyze(model.float(), data.float(), **given).variance_score_squared
    truth = fimsym.analyze(model.double(), data.float().double(), **given).variance_score_squared
    for name in ("0.weight", "2.weight"):
        assert truth[name].max() > 0
        torch.testing.assert_close(found[name], truth[name], rtol=1e-3, atol=0)


class Positions(nn.Module):
    """A linear layer, and the mean over positions."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x).mean(1)


def test_large_derivatives_of_a_certain_answer():
    """V₁ is far from what float32 loses, and I and the probability are not."""
    model, data = build(Positions).float(), 2000 + 50 * inputs(1, 4, 2).float().abs()
    with torch.no_grad():
        model.linear.bias += torch.tensor([103.4, 0.0, 0.0]) - model(data)[0]
    given = {"family": "categorical", "progress": False}
    found = fimsym.analyze(model, data, **given)
    truth = fimsym.analyze(model.double(), data.double(), **given)
    for quantity in ("fisher", "variance_score_squared"):
        one, other = (x.values[quantity]["linear.weight"] for x in (found, truth))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=0)
