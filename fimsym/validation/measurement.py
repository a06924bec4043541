"""What is measured of one law or network, before the two sides are compared."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.families import Family
from fimsym.generated import evaluator
from fimsym.laws.law import Law, log_base_measure, sufficient_statistics
from fimsym.validation.montecarlo import Derivatives, Estimates, direct, estimators

GAP = 1e-8
"""Largest relative difference between two ways to the same number."""

_SPOT_CHECKS = 5
_SPOT_LABELS = 50


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is validated.

    Attributes:
        name: Of the data set, or ``"random h, u, v"``.
        title: In words.
        family: Name of the output family.
        constants: Values of its constants.
        link: Name of the link, None for natural parameters.
        inputs: Number of inputs, or of random points.
        quality: How good the network is, or what was drawn, in words.
        samples: Labels for each input and parameter.
    """

    name: str
    title: str
    family: str
    constants: Mapping[str, Any]
    link: str | None
    inputs: int
    quality: str
    samples: int


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Both sides of one subject.

    Attributes:
        subject: What was measured.
        closed: Closed forms by quantity, from the evaluators, [param].
        estimates: Monte Carlo estimates by name, from autograd.
        layers: Range of each layer in the vector over parameters.
        autograd_gap: Largest relative difference found between Î₁, Î₂ along a parameter's
            path and by autograd through the whole network.
        function_gap: Largest relative difference between the closed forms and the
            evaluator's functions of one quantity, or between the law's density and that of
            the specification; infinite where a bound of Theorem 4.1 is violated.
        seconds: How long it took.
    """

    subject: Subject
    closed: Mapping[str, Tensor]
    estimates: Mapping[str, Estimates]
    layers: Mapping[str, slice]
    autograd_gap: float
    function_gap: float
    seconds: float


def autograd_gap(
    law: Law,
    model: nn.Module,
    points: Sequence[Derivatives],
    inputs: Sequence[Tensor],
    seed: int,
) -> float:
    """Return the largest relative gap between path and whole-network autograd."""
    rng = np.random.default_rng(seed)
    gap = 0.0
    for at, example in list(zip(points, inputs, strict=True))[:_SPOT_CHECKS]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            label = law.given(at.h).sample()
        along = estimators(law, at, label.reshape(1, 1, *label.shape))
        for position in rng.integers(at.u.shape[1], size=_SPOT_CHECKS).tolist():
            whole = direct(law, model, example, label, position)
            for one, other in zip((a[0] for a in along), whole, strict=True):
                gap = max(gap, abs(float(one[position]) - other) / _size(one))
    return gap


def density_gap(law: Law, h: Tensor, seed: int) -> float:
    """Compare log p of drawn labels with log π + ⟨t, h⟩ − F of the family's density.

    Zero for a family without a density on a line. Without it a sampler of another law with
    the same log-partition would pass for the family's.
    """
    family = law.family
    if family.density is None or family.vector or family.structure == "matrix":
        return 0.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        labels = law.given(h).sample((_SPOT_LABELS,)).to(h.dtype)
    statistics = sufficient_statistics(family, law.constants, labels)
    parts = torch.stack(h.chunk(family.components, dim=-1), dim=-1)
    weight = log_base_measure(family, law.constants, labels) + (statistics * parts).sum(-1)
    partition = evaluator(family).log_partition(h, **law.constants)
    expected, given = weight.sum(-1) - partition, law.log_prob(h, labels)
    inside = expected.isfinite() & given.isfinite()
    gap = (expected - given)[inside].abs() / expected[inside].abs().clamp(min=1)
    return float(gap.max()) if bool(inside.any()) else math.inf


def natural_points(law: Law, points: Sequence[Derivatives]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the natural parameters h [point, output] of a network's outputs, with u and v.

    With a link h = g(o) they are u = g'[o'] and v = g''[o', o'] + g'[o''], the first two
    derivatives of g(o + εo' + ε²o''/2).
    """
    found = [_natural(law, at) for at in points]
    return tuple(torch.stack(values) for values in zip(*found, strict=True))  # type: ignore


def _natural(law: Law, at: Derivatives) -> tuple[Tensor, Tensor, Tensor]:
    step = torch.zeros(at.u.shape[1], 1, dtype=at.h.dtype, requires_grad=True)
    h = law.natural(at.h + step * at.u.T + step.square() / 2 * at.v.T)
    first, second = [], []
    for output in h.unbind(-1):
        (u,) = torch.autograd.grad(output.sum(), step, create_graph=True)
        (v,) = torch.autograd.grad(u.sum(), step, allow_unused=True, retain_graph=True)
        first.append(u.detach().squeeze(-1))
        second.append(torch.zeros_like(first[-1]) if v is None else v.squeeze(-1))
    return law.natural(at.h).detach(), torch.stack(first), torch.stack(second)


def function_gap(
    family: Family,
    constants: Mapping[str, float],
    closed: Mapping[str, Tensor],
    h: Tensor,
    u: Tensor,
    v: Tensor,
) -> float:
    """Compare the evaluator's functions of one quantity, and its bounds, with closed forms.

    Args:
        family: Whose evaluator it is.
        constants: Values of its constants.
        closed: Closed forms by quantity, mean over the points, [param].
        h: Natural parameters, [point, output].
        u: Their first derivatives, [point, output, param].
        v: Their second derivatives, likewise.
    """
    module = evaluator(family)
    of_functions = {
        "fisher": module.fisher(h, u, **constants),
        "variance_score_squared": module.variance_score_squared(h, u, **constants),
        "variance_negative_hessian": module.variance_negative_hessian(h, v, **constants),
        "covariance": module.covariance(h, u, v, **constants),
    }
    gap = 0.0
    for quantity, values in of_functions.items():
        whole = closed[quantity]
        gap = max(gap, float((values.mean(0) - whole).abs().max()) / _size(whole))
    return gap if _bounded(module.bounds(h, **constants), of_functions, u, v) else math.inf


def _bounded(bounds: Any, values: Mapping[str, Tensor], u: Tensor, v: Tensor) -> bool:
    """Return whether every value lies within Theorem 4.1's bounds."""
    norm, norm_v = u.square().sum(1), v.square().sum(1)
    limits = (
        (values["fisher"], norm, bounds.fisher_min, bounds.fisher_max),
        (values["variance_negative_hessian"], norm_v, bounds.fisher_min, bounds.fisher_max),
        (values["variance_score_squared"], norm**2, bounds.quartic_min, bounds.quartic_max),
    )
    for value, size, low, high in limits:
        slack = GAP * size * high[:, None]
        low, high = size * low[:, None] - slack, size * high[:, None] + slack
        if not bool(((value >= low) & (value <= high)).all()):
            return False
    return True


def _size(values: Tensor) -> float:
    return max(float(values.abs().max()), sys.float_info.min)
