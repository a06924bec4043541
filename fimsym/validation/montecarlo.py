"""Î₁ and Î₂ of labels, from autograd alone.

Nothing here knows a closed form: Î₁ is the squared first derivative of log p along a
parameter and Î₂ minus its second derivative.

A parameter moves h along h(θ + ε e_i) = h + εu + ε²v/2 + …, and the first two derivatives
of log p(y|h(ε)) at ε = 0 are those of the network, whatever the law. So u and v are taken
once per input, by double backward, and all labels share them. With a link, h here is
whatever the network puts out.

Where labels can be listed, log p is differentiated at every one of them. Where they cannot,
its derivatives are affine in t(y), as log p = log π(y) + ⟨t(y), h⟩ − F(h): their coefficients
are fitted to autograd at some labels and compared with autograd at others, to rounding. That
is the one thing taken from the specification, and it is measured, not assumed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fimsym.laws import Law
from fimsym.laws.statistics import statistics

_DIRECTIONS = 512
_ELEMENTS = 2**17
_FITTED = 16
"""Labels for each coefficient that is fitted."""
_COMPARED = 64
_FAR = 8.0


@dataclasses.dataclass(frozen=True)
class Derivatives:
    """h [output], u and v [output, param] of one input, by plain double backward."""

    h: Tensor
    u: Tensor
    v: Tensor

    def of(self, part: slice) -> Derivatives:
        """Return those of some parameters."""
        return Derivatives(self.h, self.u[:, part], self.v[:, part])


def derivatives(
    model: nn.Module, example: Tensor, positions: Sequence[Tensor] | None = None
) -> Derivatives:
    """Return h, u and v of one input, in the order of the trainable parameters.

    Args:
        model: The network.
        example: One input, without a batch axis.
        positions: Which entries of each trainable parameter, flattened; all if None.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if positions is None:
        positions = [torch.arange(p.numel()) for p in parameters]
    chosen = list(zip(parameters, positions, strict=True))
    h = model(example.unsqueeze(0)).squeeze(0)
    first, second = [], []
    for output in h.unbind():
        gradients = torch.autograd.grad(
            output, parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        pairs = list(zip(gradients, chosen, strict=True))
        first.append(torch.cat([g.detach().reshape(-1)[at] for g, (_, at) in pairs]))
        second.append(torch.cat([_hessian_diagonal(g, p, at) for g, (p, at) in pairs]))
    return Derivatives(h.detach(), torch.stack(first), torch.stack(second))


def _hessian_diagonal(gradient: Tensor, parameter: Tensor, positions: Tensor) -> Tensor:
    size = parameter.numel()
    found = [gradient.new_zeros(0)]
    for part in positions.split(_DIRECTIONS):
        directions = gradient.new_zeros(len(part), size)
        directions[torch.arange(len(part)), part] = 1
        rows = _rows(gradient, parameter, directions.reshape(-1, *gradient.shape))
        if rows is None:
            return gradient.new_zeros(len(positions))
        found.append(rows.reshape(len(part), size)[torch.arange(len(part)), part])
    return torch.cat(found)


def _rows(gradient: Tensor, parameter: Tensor, directions: Tensor) -> Tensor | None:
    """Return rows of a Hessian, all at once where backward can be batched."""
    if not gradient.requires_grad:
        return None
    options = {"retain_graph": True, "allow_unused": True}
    try:
        (rows,) = torch.autograd.grad(
            gradient, parameter, directions, is_grads_batched=True, **options
        )
        return rows
    except (RuntimeError, NotImplementedError):
        each = [torch.autograd.grad(gradient, parameter, d, **options)[0] for d in directions]
        return None if each and each[0] is None else torch.stack(each)


def scores(law: Law, at: Derivatives, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first two derivatives of log p of each label and parameter, [label, param].

    All labels of a parameter share one step ε, so that the law is set up once for each
    parameter. Derivatives of every label with respect to it come from reverse mode alone:
    Σ w_l ∂ℓ_l/∂ε is a gradient for any weights w, and its own gradient in w holds every
    ∂ℓ_l/∂ε. (Nested forward mode would be wrong through some matrix functions.)

    Args:
        law: The law of the labels.
        at: h, u and v of one input.
        labels: [label, param] or [label, 1] and the label's own axes.
    """
    width = max(1, _ELEMENTS // max(1, len(labels)))
    size = at.u.shape[1]
    parts = [slice(start, start + width) for start in range(0, size, width)]
    found = []
    for part in parts:
        own = labels if labels.shape[1] == 1 else labels[:, part]
        found.append(_scores(law, at.of(part), own))
    first, second = zip(*found, strict=True)
    return torch.cat(first, 1), torch.cat(second, 1)


def _scores(law: Law, at: Derivatives, labels: Tensor) -> tuple[Tensor, Tensor]:
    step = torch.zeros(at.u.shape[1], 1, dtype=at.h.dtype, requires_grad=True)
    path = at.h + step * at.u.T + step.square() / 2 * at.v.T
    score = _slope(law.log_prob(path, labels), step, differentiable=True)
    curvature = _slope(score, step)
    return score.detach(), curvature.detach()


def _slope(values: Tensor, step: Tensor, differentiable: bool = False) -> Tensor:
    """Return the derivative of each of values [label, param] along its step [param, 1]."""
    weights = torch.zeros_like(values, requires_grad=True)
    (weighted,) = torch.autograd.grad(values, step, weights, create_graph=True)
    (slope,) = torch.autograd.grad(weighted.sum(), weights, create_graph=differentiable)
    return slope


def estimators(law: Law, at: Derivatives, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return Î₁ and Î₂ of each label and parameter, [label, param]; see `scores`."""
    score, curvature = scores(law, at, labels)
    return score.square(), -curvature


@dataclasses.dataclass(frozen=True)
class Affine:
    """Derivatives of log p along every parameter, as affine functions of t(y).

    Attributes:
        centre: t is taken relative to this where it is far from zero, [output].
        score: Intercept and slopes of the first derivative, [1 + output, param].
        curvature: Those of the second.
        gap: Largest difference from autograd at labels that were not fitted, relative to
            the derivative's root mean square over them.
    """

    centre: Tensor
    score: Tensor
    curvature: Tensor
    gap: float

    def estimators(self, t: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Return Î₁ and Î₂ of one parameter for t [label, output], each [label]."""
        both = torch.stack([self.score[:, position], -self.curvature[:, position]])
        t = t - self.centre if bool(self.centre.any()) else t
        score, second = torch.addmm(both[:, :1], both[:, 1:], t.T)
        return score.square_(), second


def labels_to_fit(outputs: int) -> int:
    """Return how many labels `affine` takes for so many natural parameters."""
    return _FITTED * (1 + outputs) + _COMPARED


def affine(law: Law, at: Derivatives, labels: Tensor) -> Affine | None:
    """Fit derivatives of log p to t(y); None where the family gives no formula of t.

    Args:
        law: The law of the labels.
        at: h, u and v of one input.
        labels: As many as `labels_to_fit` says, [label] and the label's own axes.
    """
    t = statistics(law.family, law.constants, labels, law.natural(at.h).shape[-1])
    if t is None:
        return None
    fitted = len(t) - _COMPARED
    centre = t[:fitted].mean(0)
    far = centre.abs() > _FAR * (t[:fitted] - centre).abs().amax(0)
    centre = torch.where(far, centre, 0.0)  # else digits are kept without it
    spread = (t[:fitted] - centre).abs().amax(0).clamp(min=torch.finfo(t.dtype).tiny)
    design = torch.cat([torch.ones_like(t[:, :1]), (t - centre) / spread], dim=1)
    coefficients: list[Tensor] = []
    gap = 0.0
    for truth in scores(law, at, labels.unsqueeze(1)):
        solved = torch.linalg.lstsq(design[:fitted], truth[:fitted], driver="gelsd").solution
        apart = (design[fitted:] @ solved - truth[fitted:]).abs().amax(0)
        size = truth.square().mean(0).sqrt()
        gap = max(gap, _largest(apart, size))
        coefficients.append(torch.cat([solved[:1], solved[1:] / spread.unsqueeze(1)]))
    score, curvature = coefficients
    return Affine(centre, score, curvature, gap)


def _largest(apart: Tensor, size: Tensor) -> float:
    """Return the largest ratio; a derivative that is zero everywhere has none."""
    ratio = torch.where(size > 0, apart / size.clamp(min=torch.finfo(size.dtype).tiny), 0.0)
    return float(ratio.nan_to_num(math.inf).max())


def direct(law: Law, model: nn.Module, example: Tensor, label: Tensor, place: tuple) -> tuple:
    """Return Î₁ and Î₂ of one label and parameter by autograd through the whole model.

    Args:
        law: The law of the labels.
        model: The network.
        example: One input, without a batch axis.
        label: One label.
        place: Number of the trainable parameter, and the entry of it, flattened.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    tensor, entry = place
    log_prob = law.log_prob(model(example.unsqueeze(0)).squeeze(0), label)
    (gradient,) = torch.autograd.grad(
        log_prob, parameters[tensor], create_graph=True, allow_unused=True, materialize_grads=True
    )
    score = gradient.reshape(-1)[entry]
    if not score.requires_grad:
        return float(score.detach()) ** 2, 0.0
    (second,) = torch.autograd.grad(
        score, parameters[tensor], allow_unused=True, materialize_grads=True
    )
    return float(score.detach()) ** 2, -float(second.reshape(-1)[entry])
