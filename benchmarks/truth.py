"""What the diagonal is, and whether what a contender returned is it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

import fimsym

TOLERANCE = 1e-3
"""Largest error of a float32 diagonal, relative to the largest entry of its parameter."""
FLOOR = 1e-8
"""Entries below this, relative to the network's largest, count as zero: a key's bias has none."""
AGREEMENT = 1e-9
"""The same between fimsym in float64 and enumeration."""
QUANTITIES = ("fisher", "variance_score_squared")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What is known about a diagonal.

    Attributes:
        error: Largest error relative to the largest entry of its parameter.
        dropped: Parameters it does not cover.
        worst: Parameter with the largest error.
        wrong: Parameters with an error above the tolerance.
    """

    error: float
    dropped: tuple[str, ...]
    worst: str
    wrong: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``ok``, ``wrong`` or ``incomplete``."""
        if not self.error <= TOLERANCE:
            return "wrong"
        return "incomplete" if self.dropped else "ok"


def judge(got: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> Verdict:
    """Compare a diagonal with the true one; NaN, a wrong shape or an unknown name is wrong."""
    floor = FLOOR * _largest(truth.values())
    errors = {
        name: _error(value, truth[name], floor) if name in truth else math.inf
        for name, value in got.items()
    }
    worst = max(errors, key=lambda name: errors[name], default="")
    dropped = tuple(name for name in truth if name not in got)
    wrong = tuple(name for name, error in errors.items() if error > TOLERANCE)
    return Verdict(errors.get(worst, math.inf), dropped, worst, wrong)


def _largest(tensors: Iterable[Tensor]) -> float:
    return max(tensor.abs().max().item() for tensor in tensors)


def _error(got: Tensor, true: Tensor, floor: float) -> float:
    """Return the largest difference relative to the largest true entry, or to `floor`."""
    if got.shape != true.shape:
        return math.inf
    difference = _largest([got.detach().cpu().double() - true.cpu()])
    scale = max(_largest([true]), floor)
    found = difference / scale if scale else (math.inf if difference else 0.0)
    return math.inf if math.isnan(found) else found


def exact(model: nn.Module, batches: Sequence[Tensor], family: str) -> dict[str, dict]:
    """Return I and V₁ by fimsym in float64: quantity → parameter → tensor."""
    double = copy.deepcopy(model).double()
    inputs = [x.double() for x in batches]
    found = fimsym.analyze(double, inputs, family=family, quantities=QUANTITIES, progress=False)
    return {name: dict(found.values[name]) for name in QUANTITIES}


def enumerated(model: nn.Module, inputs: Tensor, family: str) -> dict[str, dict]:
    """Return I and V₁ by one gradient per input and label, in float64; shares no code.

    Categorical: I = Σ_y p_y s_y², V₁ = Σ_y p_y s_y⁴ − I² with the score s_y = ∂ log p_y/∂θ;
    Gaussian: I = Σ_k (∂h_k/∂θ)², V₁ = 2 I².
    """
    double = copy.deepcopy(model).double()
    names, parameters = zip(*double.named_parameters(), strict=True)
    total = {q: {n: torch.zeros_like(p) for n, p in double.named_parameters()} for q in QUANTITIES}
    for x in inputs.double():
        h = double(x[None])[0]
        scores = h if family == "gaussian" else torch.log_softmax(h, dim=0)
        weights = torch.ones_like(h) if family == "gaussian" else torch.softmax(h, dim=0)
        second = [torch.zeros_like(p) for p in parameters]
        fourth = [torch.zeros_like(p) for p in parameters]
        for score, weight in zip(scores, weights.detach(), strict=True):
            gradients = torch.autograd.grad(score, parameters, retain_graph=True)
            for i, gradient in enumerate(gradients):
                square = gradient.square()
                second[i] += weight * square
                fourth[i] += weight * square.square()
        for name, two, four in zip(names, second, fourth, strict=True):
            variance = 2 * two.square() if family == "gaussian" else four - two.square()
            total["fisher"][name] += two.detach() / len(inputs)
            total["variance_score_squared"][name] += variance.detach() / len(inputs)
    return total


def disagreement(model: nn.Module, inputs: Tensor, family: str) -> float:
    """Return the largest error of `exact` against `enumerated` on a few inputs.

    That of V₁ is relative to I² where V₁ is smaller: E s⁴ and I² cancel in the enumeration.
    """
    ours, theirs = exact(model, [inputs], family), enumerated(model, inputs, family)
    fisher, variance = (theirs[quantity] for quantity in QUANTITIES)
    worst = judge(ours["fisher"], fisher).error
    floor = FLOOR * max(_largest(variance.values()), _largest(fisher.values()) ** 2)
    for name, true in variance.items():
        cancelled = max(floor, _largest([fisher[name]]) ** 2)
        worst = max(worst, _error(ours["variance_score_squared"][name], true, cancelled))
    return worst
