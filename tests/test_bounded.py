"""Theorem 4.1 for networks: the bounds are what the theorem says, and no value is outside."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacfwd, jacrev

import fimsym
from fimsym.engine import bounded
from tests.networks import build, inputs

QUANTITIES = ("fisher", "variance_score_squared", "variance_negative_hessian")
CASES = {
    "categorical": ("categorical", None, {}, 3),
    "gaussian": ("gaussian", None, {"sigma": 0.7}, 2),
    "poisson": ("poisson", None, {}, 2),
    "link": ("gaussian_mean_variance", "mean_log_variance", {}, 4),
}


def network(outputs):
    return build(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)))


def derivatives(model, x, head):
    """Return h, u and v of one input for every parameter, by torch.func."""
    names = dict(model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in names.values()])

    def h(theta):
        parts = theta.split([p.numel() for p in names.values()])
        named = {n: part.view_as(p) for (n, p), part in zip(names.items(), parts, strict=True)}
        return head(functional_call(model, named, (x[None],)))[0]

    second = jacfwd(jacrev(h))(flat).diagonal(dim1=1, dim2=2)
    return h(flat).detach(), jacrev(h)(flat), second


def natural(module, link, constants):
    if link is None:
        return lambda o: o
    return lambda o: module.LINKS[link](o, **constants)[0]


@pytest.mark.parametrize("case", CASES)
def test_bounds_are_constants_times_norms(case):
    family, link, constants, outputs = CASES[case]
    model, data = network(outputs), inputs(4, 3)
    given = {"link": link, "progress": False, **constants}
    found = fimsym.analyze(model, data, family, quantities=("all", "bounds"), **given)
    module = fimsym.evaluator(family)
    total = dict.fromkeys(found.bounds, 0.0)
    for x in data:
        h, u, v = derivatives(model, x, natural(module, link, constants))
        limits = module.bounds(h, **constants)
        first, second = u.square().sum(0), v.square().sum(0)
        for end in ("min", "max"):
            total[f"fisher_{end}"] += getattr(limits, f"fisher_{end}") * first
            total[f"variance_score_squared_{end}"] += getattr(limits, f"quartic_{end}") * first**2
            total[f"variance_negative_hessian_{end}"] += getattr(limits, f"fisher_{end}") * second
    for name, value in total.items():
        flat = torch.cat([t.flatten() for t in found.bounds[name].values()])
        torch.testing.assert_close(flat, value / len(data), rtol=1e-10, atol=1e-14)
    for quantity in QUANTITIES:
        for name, value in found.values[quantity].items():
            slack = 1e-12 * value.abs().max()
            assert (found.bounds[f"{quantity}_min"][name] <= value + slack).all()
            assert (value <= found.bounds[f"{quantity}_max"][name] + slack).all()


def test_groups_carry_bounds_and_how_tight_they_are(tmp_path):
    found = fimsym.analyze(
        network(2), inputs(4, 3), "gaussian", quantities=("all", "bounds"), progress=False
    )
    first, last = found.groups
    for group in (first, last):
        for quantity in QUANTITIES[:2]:
            assert group.log_ratios[quantity] == pytest.approx(0, abs=1e-12)  # equalities
            low, high = group.bounds[quantity]
            assert low == pytest.approx(high)
    assert first.log_ratios["variance_negative_hessian"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(last.log_ratios["variance_negative_hessian"])
    assert {"fisher_min", "fisher_max"} <= set(found.to_frame().columns)
    found.save(tmp_path / "a.safetensors")
    loaded = fimsym.Analysis.load(tmp_path / "a.safetensors")
    assert [g.bounds for g in loaded.groups] == [g.bounds for g in found.groups]


def test_bounds_of_shared_and_functional_parameters_and_estimates_hold():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv1d(1, 2, 2), nn.Linear(4, 3)
            self.power = nn.Parameter(torch.tensor(1.5))

        def forward(self, x):
            z = torch.tanh(self.conv(x.unsqueeze(1))).flatten(1)
            return self.last(z * (1 + z.square()) ** self.power)

    model, data = build(Bare), inputs(3, 3)
    given = {"quantities": ("all", "bounds"), "progress": False}
    found = fimsym.analyze(model, data, "categorical", **given)
    assert {"structured", "functional"} <= set(found.roads.values())
    for quantity in QUANTITIES:
        for name, value in found.values[quantity].items():
            assert (value <= found.bounds[f"{quantity}_max"][name] * (1 + 1e-12)).all()
            assert found.bounds[f"{quantity}_min"][name].min() >= 0
    estimated = [
        fimsym.analyze(
            model, data, "categorical", second_derivative="stochastic", seed=seed, **given
        ).bounds["variance_negative_hessian_max"]["conv.weight"]
        for seed in range(24)
    ]
    stacked = torch.stack(estimated)
    error = stacked.std(0) / len(estimated) ** 0.5
    exact = found.bounds["variance_negative_hessian_max"]["conv.weight"]
    assert ((stacked.mean(0) - exact).abs() < 5 * error).all()


def test_bounds_of_nothing_are_refused():
    with pytest.raises(fimsym.SpecError, match="bounds of nothing"):
        fimsym.analyze(network(2), inputs(2, 3), "gaussian", quantities="bounds")


def test_an_infinite_constant_is_no_overflow(monkeypatch):
    real = bounded.values

    def unbounded(asked, *rest):
        return {n: v * torch.inf if n.endswith("max") else v for n, v in real(asked, *rest).items()}

    monkeypatch.setattr(bounded, "values", unbounded)
    found = fimsym.analyze(
        network(2), inputs(2, 3), "poisson", quantities=("fisher", "bounds"), progress=False
    )
    assert found.groups[0].log_ratios["fisher"] == math.inf
