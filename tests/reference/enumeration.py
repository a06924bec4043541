"""Exact moments of Î₁ and Î₂ of a network, from log p(y|o) at every label.

A law is written in its textbook parameters, and each link says how a network's own output
o gives those: no natural parameter or log-partition enters, so that both are judged. The
derivatives of o by the network's parameters and of log p by o are plain double backward;
the chain rule joins them. Sums over labels are finite, truncated far into the tail, or
quadrature (see `quadrature`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.reference import quadrature

NEGLIGIBLE = 70.0
"""Labels less likely than exp(-70) of the likeliest are left out."""


@dataclasses.dataclass(frozen=True)
class Law:
    """The law of one target.

    Attributes:
        outputs: Number of network outputs for one target; None if the whole vector is one.
        log_density: (labels, *textbook parameters) -> log p [label].
        labels: (*textbook parameters of one example) -> labels, log of their measure.
        links: For each link, the outputs and the constants -> textbook parameters. A
            scalar law takes each output by itself, others take the vector [*, output].
    """

    outputs: int | None
    log_density: Callable[..., Tensor]
    labels: Callable[..., quadrature.Labels]
    links: dict[str | None, Callable[..., tuple]]

    def parameters(self, link: str | None, o: Tensor, constants: dict[str, float]) -> tuple:
        """Return the textbook parameters at network outputs [*, output]."""
        return self.links[link](*(o.unbind(-1) if self.outputs else [o]), **constants)


def _lower(entries: Tensor) -> Tensor:
    """Return the matrix whose lower triangle's rows are `entries`."""
    size = math.isqrt(2 * entries.shape[-1])
    rows, columns = torch.tril_indices(size, size)
    matrix = entries.new_zeros(*entries.shape[:-1], size, size)
    matrix[..., rows, columns] = entries
    return matrix


def _mean_and_triangle(o: Tensor) -> tuple[Tensor, Tensor]:
    size = (math.isqrt(9 + 8 * o.shape[-1]) - 3) // 2
    return o[..., :size], _lower(o[..., size:])


def _from_natural_vector(h):
    first, second = _mean_and_triangle(h)
    covariance = torch.linalg.inv(-(second + second.mT - torch.diag_embed(_diagonal(second))) * 2)
    return (covariance @ first.unsqueeze(-1)).squeeze(-1), covariance


def _from_cholesky(o):
    mean, triangle = _mean_and_triangle(o)
    root = triangle.tril(-1) + torch.diag_embed(_diagonal(triangle).exp())
    return mean, root @ root.mT


def _diagonal(matrix):
    return matrix.diagonal(dim1=-2, dim2=-1)


def _from_log_odds(o, n=1):
    return torch.sigmoid(o), n


def _from_logits(o, n=1):
    return torch.log_softmax(o, -1), n


def _from_mean_log_odds(o1, o2):
    mean, precision = torch.sigmoid(o1), torch.exp(o2)
    return (torch.stack([mean * precision, (1 - mean) * precision], -1),)


_TRIALS = Law(
    1,
    quadrature.binomial_log_density,
    lambda p, n: quadrature.counts(n),
    {
        **dict.fromkeys((None, "log_odds", "logits"), _from_log_odds),
        "mean": lambda o, n=1: (o / n, n),
    },
)
_CLASSES = Law(
    None,
    quadrature.multinomial_log_density,
    lambda log_p, n: quadrature.count_vectors(n, log_p.shape[-1]),
    dict.fromkeys((None, "logits"), _from_logits),
)
_FAILURES = Law(
    1,
    quadrature.negative_binomial_log_density,
    lambda *_: quadrature.counts(),
    {
        None: lambda h, r=1.0: (-torch.expm1(h), r),
        "log_mean": lambda o, r=1.0: (r / (r + o.exp()), r),
        "log_odds": lambda o, r=1.0: (torch.sigmoid(o), r),
        "mean": lambda o, r=1.0: (r / (r + o), r),
    },
)

LAWS = {
    "gaussian": Law(
        1,
        quadrature.normal_log_density,
        quadrature.real,
        {None: lambda h, sigma=1.0: (sigma**2 * h, sigma), "mean": lambda o, sigma=1.0: (o, sigma)},
    ),
    "categorical": _CLASSES,
    "multinomial": _CLASSES,
    "bernoulli": _TRIALS,
    "binomial": _TRIALS,
    "geometric": _FAILURES,
    "negative_binomial": _FAILURES,
    "poisson": Law(
        1,
        lambda y, rate: y * torch.log(rate) - rate - torch.lgamma(y + 1),
        lambda _: quadrature.counts(),
        {
            **dict.fromkeys((None, "log_rate", "log_mean"), lambda o: (o.exp(),)),
            "mean": lambda o: (o,),
        },
    ),
    "exponential": Law(
        1,
        lambda y, rate: torch.log(rate) - rate * y,
        lambda _: quadrature.positive(),
        {
            None: lambda h: (-h,),
            "log_rate": lambda o: (o.exp(),),
            "log_mean": lambda o: (1 / o.exp(),),
            "rate": lambda o: (o,),
            "mean": lambda o: (1 / o,),
        },
    ),
    "gamma": Law(
        2,
        quadrature.gamma_log_density,
        lambda *_: quadrature.positive(),
        {
            None: lambda h1, h2: (h1 + 1, -h2),
            "log_shape_log_rate": lambda o1, o2: (o1.exp(), o2.exp()),
            "log_shape_log_mean": lambda o1, o2: (o1.exp(), o1.exp() / o2.exp()),
        },
    ),
    "beta": Law(
        2,
        quadrature.dirichlet_log_density,
        lambda _: quadrature.simplex(2),
        {
            None: lambda h1, h2: (torch.stack([h1, h2], -1),),
            "log_concentration": lambda o1, o2: (torch.stack([o1.exp(), o2.exp()], -1),),
            "mean_log_odds_log_precision": _from_mean_log_odds,
        },
    ),
    "dirichlet": Law(
        None,
        quadrature.dirichlet_log_density,
        lambda concentration: quadrature.simplex(concentration.shape[-1]),
        {None: lambda h: (h,), "log_concentration": lambda o: (o.exp(),)},
    ),
    "gaussian_mean_variance": Law(
        2,
        quadrature.normal_log_density,
        quadrature.real,
        {
            None: lambda h1, h2: (-h1 / (2 * h2), (-2 * h2) ** -0.5),
            "mean_log_variance": lambda o1, o2: (o1, o2.exp().sqrt()),
            "mean_log_scale": lambda o1, o2: (o1, o2.exp()),
            "mean_variance": lambda o1, o2: (o1, o2.sqrt()),
        },
    ),
    "multivariate_gaussian": Law(
        None,
        quadrature.normal_vector_log_density,
        quadrature.vector,
        {None: _from_natural_vector, "mean_cholesky": _from_cholesky},
    ),
    "inverse_gaussian": Law(
        2,
        quadrature.inverse_gaussian_log_density,
        lambda *_: quadrature.positive(),
        {
            None: lambda h1, h2: ((h2 / h1).sqrt(), -2 * h2),
            "log_mean_log_shape": lambda o1, o2: (o1.exp(), o2.exp()),
        },
    ),
    "von_mises": Law(
        2,
        quadrature.von_mises_log_density,
        lambda *_: quadrature.circle(),
        {
            None: lambda h1, h2: (torch.atan2(h2, h1), torch.hypot(h1, h2)),
            "mean_direction_concentration": lambda o1, o2: (o1, o2),
            "mean_direction_log_concentration": lambda o1, o2: (o1, o2.exp()),
        },
    ),
}


def likelihood(
    law: Law, link: str | None, o: Tensor, constants: dict[str, float]
) -> tuple[Tensor, Tensor]:
    """Return labels and the probability [label] of each, for one target's outputs [output].

    Raises:
        ArithmeticError: the probabilities do not add up to one.
    """
    found = law.parameters(link, o, constants)
    labels, log_measure = law.labels(*found)
    log_weight = log_measure + law.log_density(labels, *found)
    kept = log_weight > log_weight.max() - NEGLIGIBLE
    weight = log_weight[kept].exp()
    if abs(float(weight.sum()) - 1) > 1e-11:
        raise ArithmeticError(f"probabilities add up to {float(weight.sum())}; refine the labels")
    return labels[kept], weight


def by_outputs(law, link, o, labels, constants) -> tuple[Tensor, Tensor]:
    """Return the gradient [label, output] and Hessian of log p(y|o) by o."""
    at = o.detach().expand(len(labels), -1).clone().requires_grad_()
    log_p = law.log_density(labels, *law.parameters(link, at, constants))
    (gradient,) = torch.autograd.grad(log_p.sum(), at, create_graph=True)
    rows = [
        torch.autograd.grad(column.sum(), at, retain_graph=True)[0]
        for column in gradient.unbind(-1)
    ]
    return gradient.detach(), torch.stack(rows, dim=-2)


def by_parameters(model: nn.Module, scalar: Tensor) -> tuple[Tensor, Tensor]:
    """Return ∂ and ∂² of a scalar by every parameter [param] of a model."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        scalar, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    first = torch.cat([g.reshape(-1) for g in gradients])
    second = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        for n, entry in enumerate(gradient.reshape(-1).unbind()):
            found = None
            if entry.requires_grad:
                (found,) = torch.autograd.grad(
                    entry, parameter, retain_graph=True, allow_unused=True
                )
            second.append(torch.zeros(()) if found is None else found.reshape(-1)[n])
    return first.detach().double(), torch.stack([c.double() for c in second])


def _one_example(law, link, o, first, second, constants) -> dict[str, Tensor]:
    """Add up independent targets: s and ∂²ℓ do, and every E s is zero."""
    outputs = law.outputs or len(o)
    targets = []
    for target in torch.arange(len(o)).reshape(outputs, -1).unbind(-1):
        labels, weight = likelihood(law, link, o[target].detach(), constants)
        gradient, hessian = by_outputs(law, link, o[target], labels, constants)
        bent = torch.einsum("lab,ap,bp->lp", hessian, first[target], first[target])
        curvature = bent + gradient @ second[target]
        targets.append(quadrature.moments(weight, gradient @ first[target], curvature))
    values = {name: sum(found[name] for found in targets) for name in targets[0]}
    squares = sum(found["fisher"].square() for found in targets)
    values["variance_score_squared"] += 2 * (values["fisher"].square() - squares)
    return values


def moments(
    family: str, model: nn.Module, inputs: Tensor, link: str | None = None, **constants: float
) -> dict[str, Tensor]:
    """Return I, V₁, V₂, Cov over the flat vector of parameters, mean over the inputs."""
    found = []
    for example in inputs:
        o = model(example.unsqueeze(0)).squeeze(0)
        derivatives = [by_parameters(model, output) for output in o.unbind()]
        first, second = (torch.stack(parts) for parts in zip(*derivatives, strict=True))
        found.append(_one_example(LAWS[family], link, o.double(), first, second, constants))
    totals = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
    if len(found) > 1:
        totals["input_variance"] = torch.stack([one["fisher"] for one in found]).var(dim=0)
    return totals


def fisher_by_example(model: nn.Module, inputs: Tensor, name: str) -> Tensor:
    """Return Σ_c p_c (u_c − ū)² of a parameter for every example, from logits of classes."""
    parameter, found = model.get_parameter(name), []
    for example in inputs:
        h = model(example[None])[0]
        u = torch.stack([torch.autograd.grad(one, parameter, retain_graph=True)[0] for one in h])
        p = h.detach().softmax(0).reshape(-1, *[1] * parameter.ndim)
        found.append((p * (u - (p * u).sum(0)).square()).sum(0))
    return torch.stack(found)


def score_rows(
    family: str,
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    link: str | None = None,
    **constants: float,
) -> Tensor:
    """Return ∂ log p(y|x)/∂θ of one label per input by autograd, [batch, param].

    Args:
        family: Name of the law.
        model: The network.
        inputs: [batch, …].
        labels: As `Law.log_density` takes them: [batch, target] of a law with some outputs
            for each target, else [batch, *label].
        link: What the network puts out.
        **constants: Of the family.
    """
    law, rows = LAWS[family], []
    for example, label in zip(inputs, labels, strict=True):
        o = model(example.unsqueeze(0)).squeeze(0)
        outputs = law.outputs or len(o)
        by_target = torch.arange(len(o)).reshape(outputs, -1).unbind(-1)
        ys = label.unbind(0) if law.outputs else [label]
        log_p = torch.stack([
            law.log_density(y.unsqueeze(0), *law.parameters(link, o[target], constants)).sum()
            for y, target in zip(ys, by_target, strict=True)
        ]).sum()  # fmt: skip
        parameters = [p for p in model.parameters() if p.requires_grad]
        given = {"allow_unused": True, "materialize_grads": True}
        gradients = torch.autograd.grad(log_p, parameters, **given)
        rows.append(torch.cat([g.reshape(-1) for g in gradients]).double())
    return torch.stack(rows)
