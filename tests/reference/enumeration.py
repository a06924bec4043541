"""Exact moments of Î₁ and Î₂ of a network, by autograd of log p at every label.

Discrete laws are summed over their labels; the Gaussian is integrated by Gauss–Hermite
quadrature, exact here because the estimators are polynomials of low degree in the label.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


def _score_and_curvature(model: nn.Module, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(
        log_prob, parameters, create_graph=True, allow_unused=True, materialize_grads=True
    )
    score = torch.cat([g.reshape(-1) for g in gradients])
    curvature = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        for n, entry in enumerate(gradient.reshape(-1).unbind()):
            second = None
            if entry.requires_grad:
                (second,) = torch.autograd.grad(
                    entry, parameter, retain_graph=True, allow_unused=True
                )
            curvature.append(torch.zeros(()) if second is None else second.reshape(-1)[n])
    return score.detach(), torch.stack([c.to(score.dtype) for c in curvature])


def _categorical(h: Tensor) -> list[tuple[float, Tensor]]:
    log_p = torch.log_softmax(h, dim=-1)
    return [(float(value.detach().exp()), value) for value in log_p.unbind()]


def _gaussian(h: Tensor, sigma: float) -> list[tuple[float, Tensor]]:
    if h.numel() > 2:
        raise ValueError("quadrature over more than two outputs is too slow here")
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)
    grids = np.meshgrid(*[np.arange(6)] * h.numel(), indexing="ij")
    mean = sigma**2 * h
    found = []
    for picked in zip(*(grid.reshape(-1) for grid in grids), strict=True):
        at = list(picked)
        weight = float(np.prod(weights[at] / math.sqrt(2 * math.pi)))
        label = mean.detach() + sigma * torch.as_tensor(nodes[at], dtype=h.dtype)
        log_prob = -((label - mean) ** 2).sum() / (2 * sigma**2)
        found.append((weight, log_prob))
    return found


LAWS = {"categorical": _categorical, "gaussian": _gaussian}


def moments(family: str, model: nn.Module, inputs: Tensor, **constants: float) -> dict[str, Tensor]:
    """Return I, V₁, V₂, Cov over the flat vector of parameters, mean over the inputs."""
    totals: dict[str, Tensor] = {}
    per_input = []
    for example in inputs:
        h = model(example.unsqueeze(0)).squeeze(0)
        weights, first, second = [], [], []
        for weight, log_prob in LAWS[family](h, **constants):
            score, curvature = _score_and_curvature(model, log_prob)
            weights.append(weight)
            first.append(score.square())
            second.append(-curvature)
        w = torch.tensor(weights, dtype=torch.float64).unsqueeze(-1)
        a, b = torch.stack(first).double(), torch.stack(second).double()
        mean_a, mean_b = (w * a).sum(0), (w * b).sum(0)
        per_input.append(mean_a)
        values = {
            "fisher": mean_a,
            "fisher_negative_hessian": mean_b,
            "variance_score_squared": (w * (a - mean_a) ** 2).sum(0),
            "variance_negative_hessian": (w * (b - mean_b) ** 2).sum(0),
            "covariance": (w * (a - mean_a) * (b - mean_b)).sum(0),
        }
        for name, value in values.items():
            totals[name] = totals.get(name, 0) + value / len(inputs)
    if len(inputs) > 1:
        totals["input_variance"] = torch.stack(per_input).var(dim=0)
    return totals
