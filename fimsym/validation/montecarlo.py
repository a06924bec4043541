"""Monte Carlo estimates of I, V₁, V₂ and Cov(Î₁, Î₂), from labels and autograd alone.

Nothing here knows a closed form: labels are drawn from the model's own law, Î₁ is the
squared first derivative of log p along a parameter and Î₂ minus its second derivative.

A parameter moves h along h(θ + ε e_i) = h + εu + ε²v/2 + …, and the first two derivatives
of log p(y|h(ε)) at ε = 0 are those of the network, whatever the law. So u and v are taken
once per input, by double backward, and all labels share them. With a link, h here is
whatever the network puts out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.laws.law import Law

_ELEMENTS = 2**17
_DIRECTIONS = 512

ESTIMATES = (
    "fisher_score_squared",
    "fisher_negative_hessian",
    "variance_score_squared",
    "variance_negative_hessian",
    "covariance",
)
"""What is estimated: the mean of Î₁, the mean of Î₂, their variances and covariance."""


@dataclasses.dataclass(frozen=True)
class Estimates:
    """Monte Carlo estimates of one quantity, mean over the inputs, [param].

    Attributes:
        mean: The estimates.
        standard_error: Their standard errors.
        largest: Largest contribution of a single label to the estimate's error; with the
            standard error it bounds the tails of the error without a normal limit.
    """

    mean: Tensor
    standard_error: Tensor
    largest: Tensor


@dataclasses.dataclass(frozen=True)
class Derivatives:
    """h [output], u and v [output, param] of one input, by plain double backward."""

    h: Tensor
    u: Tensor
    v: Tensor


def derivatives(model: nn.Module, example: Tensor) -> Derivatives:
    """Return h, u and v of one input for all trainable parameters, in their order."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    h = model(example.unsqueeze(0)).squeeze(0)
    first, second = [], []
    for output in h.unbind():
        gradients = torch.autograd.grad(output, parameters, create_graph=True)
        first.append(torch.cat([g.detach().reshape(-1) for g in gradients]))
        second.append(
            torch.cat([_hessian_diagonal(g, p) for g, p in zip(gradients, parameters, strict=True)])
        )
    return Derivatives(h.detach(), torch.stack(first), torch.stack(second))


def _hessian_diagonal(gradient: Tensor, parameter: Tensor) -> Tensor:
    size = parameter.numel()
    if not gradient.requires_grad:
        return gradient.new_zeros(size)
    found = []
    for start in range(0, size, _DIRECTIONS):
        positions = torch.arange(start, min(start + _DIRECTIONS, size))
        directions = gradient.new_zeros(len(positions), size)
        directions[torch.arange(len(positions)), positions] = 1
        (rows,) = torch.autograd.grad(
            gradient,
            parameter,
            directions.reshape(-1, *gradient.shape),
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
        if rows is None:
            return gradient.new_zeros(size)
        found.append(rows.reshape(len(positions), size)[torch.arange(len(positions)), positions])
    return torch.cat(found)


def estimators(law: Law, at: Derivatives, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return Î₁ and Î₂ of each label and parameter, [label, param].

    All labels of a parameter share one step ε, so that the law is set up once for each
    parameter. Derivatives of every label with respect to it come from reverse mode alone:
    Σ w_l ∂ℓ_l/∂ε is a gradient for any weights w, and its own gradient in w holds every
    ∂ℓ_l/∂ε. (Nested forward mode would be wrong through some matrix functions.)

    Args:
        law: The law of the labels.
        at: h, u and v of one input.
        labels: [label, param] or [label, 1] and the label's own axes.
    """
    step = torch.zeros(at.u.shape[1], 1, dtype=at.h.dtype, requires_grad=True)
    path = at.h + step * at.u.T + step.square() / 2 * at.v.T
    score = _slope(law.log_prob(path, labels), step, differentiable=True)
    curvature = _slope(score, step)
    return score.detach().square(), -curvature


def _slope(values: Tensor, step: Tensor, differentiable: bool = False) -> Tensor:
    """Return the derivative of each of values [label, param] along its step [param, 1]."""
    weights = torch.zeros_like(values, requires_grad=True)
    (weighted,) = torch.autograd.grad(values, step, weights, create_graph=True)
    (slope,) = torch.autograd.grad(weighted.sum(), weights, create_graph=differentiable)
    return slope


def direct(law: Law, model: nn.Module, example: Tensor, label: Tensor, position: int) -> tuple:
    """Return Î₁ and Î₂ of one label and parameter by autograd through the whole model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    log_prob = law.log_prob(model(example.unsqueeze(0)).squeeze(0), label)
    gradients = torch.autograd.grad(log_prob, parameters, create_graph=True)
    score = torch.cat([g.reshape(-1) for g in gradients])[position]
    seconds = torch.autograd.grad(score, parameters, allow_unused=True, materialize_grads=True)
    curvature = torch.cat([g.reshape(-1) for g in seconds])[position]
    return float(score.detach()) ** 2, -float(curvature.detach())


def simulate(
    law: Law,
    points: list[Derivatives],
    samples: int,
    seed: int | Sequence[int],
    advance: Callable[[int], None] = lambda steps: None,
) -> dict[str, Estimates]:
    """Estimate every quantity of `ESTIMATES` for all parameters.

    Each input and parameter gets `samples` labels of its own, so that the errors of
    different parameters are independent.

    Args:
        law: The law of the labels.
        points: h, u and v of each input.
        samples: Labels for each input and parameter.
        seed: Seed of all random numbers; several numbers count as one.
        advance: Called with the number of inputs done.
    """
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    totals: dict[str, list[Tensor]] = {}
    for number, at in enumerate(points):
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seeds, number])))
        support = law.support(at.h)
        if support is None:
            of_input = _from_draws(law, at, samples, rng)
        else:
            of_input = _from_counts(law, at, support, samples, rng)
        for name, (mean, variance, largest) in of_input.items():
            old = totals.setdefault(name, [torch.zeros_like(mean) for _ in range(3)])
            old[0] += mean
            old[1] += variance
            old[2] = torch.maximum(old[2], largest)
        advance(1)
    count = len(points)
    return {
        name: Estimates(mean / count, variance.sqrt() / count, largest / count)
        for name, (mean, variance, largest) in totals.items()
    }


def _from_counts(law, at, support, samples, rng):
    """Draw how often each of countably many labels occurs among `samples` of them.

    The law of the errors is known here too, from p itself.
    """
    probability = law.log_prob(at.h, support.labels).exp()
    probability = probability / probability.sum()
    counts = rng.multinomial(samples, probability.numpy(), size=at.u.shape[1])
    occurred = None if support.finite else torch.from_numpy(counts.any(axis=0))
    labels, p = support.labels.unsqueeze(1), probability.unsqueeze(-1)
    parts = []
    for part in _parts(at, len(probability)):
        weights = torch.from_numpy(counts[part].T / samples)
        first, second = estimators(law, _some(at, part), labels)
        parts.append(_moments(first, second, weights, p, samples, occurred))
    return _joined(parts)


def _from_draws(law, at, samples, rng):
    """Draw `samples` labels for every parameter, a few parameters at a time."""
    parts = []
    for part in _parts(at, samples):
        some = _some(at, part)
        drawn = [
            estimators(law, some, _labels(law, at.h, (rows, some.u.shape[1]), rng))
            for rows in _split(samples, _ELEMENTS)
        ]
        first, second = (torch.cat(values) for values in zip(*drawn, strict=True))
        parts.append(_moments(first, second, None, None, samples))
    return _joined(parts)


def _parts(at, labels):
    """Return ranges of parameters whose labels fit in a chunk."""
    width = max(1, _ELEMENTS // labels)
    return [slice(start, start + width) for start in range(0, at.u.shape[1], width)]


def _some(at, part):
    return Derivatives(at.h, at.u[:, part], at.v[:, part])


def _joined(parts):
    return {
        name: tuple(torch.cat([part[name][n] for part in parts]) for n in range(3))
        for name in ESTIMATES
    }


def _labels(law, h, shape, rng):
    """Draw labels from the law at h, leaving the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        return law.given(h).sample(shape)


def _split(count, size):
    return [min(size, count - start) for start in range(0, count, size)]


def _moments(first, second, weights, law_weights, samples, occurred=None):
    """Return (estimate, its error's variance, one label's largest effect) by name.

    Args:
        first: Î₁ of each label and parameter, [label, param].
        second: Î₂, likewise.
        weights: How often each label occurred, adding up to one over labels; None where
            every row is a label of its own.
        law_weights: The same in the law itself, from which the errors are computed.
        samples: Number of labels that the weights count.
        occurred: Which rows have occurred, where the law has infinitely many labels; the
            largest effect is theirs. None where all rows count.
    """
    unbiased = samples / (samples - 1)
    mean_a, mean_b = _mean(first, weights), _mean(second, weights)
    a, b = first - mean_a, second - mean_b
    estimates = {
        "fisher_score_squared": mean_a,
        "fisher_negative_hessian": mean_b,
        "variance_score_squared": _mean(a * a, weights) * unbiased,
        "variance_negative_hessian": _mean(b * b, weights) * unbiased,
        "covariance": _mean(a * b, weights) * unbiased,
    }
    if law_weights is not weights:
        a, b = first - _mean(first, law_weights), second - _mean(second, law_weights)
    influences = (a, b, a * a, b * b, a * b)
    found = {}
    for (name, estimate), influence in zip(estimates.items(), influences, strict=True):
        deviation = influence - _mean(influence, law_weights)
        variance = _mean(deviation * deviation, law_weights) / samples
        seen = deviation if occurred is None else deviation[occurred]
        found[name] = (estimate, variance, seen.abs().amax(0) / samples)
    return found


def _mean(values, weights):
    """Return the mean over labels, [param]; every label counts the same without weights."""
    return values.mean(0) if weights is None else (weights * values).sum(0)
