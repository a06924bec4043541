"""Textbook densities, the labels to integrate them over, and moments over those labels.

Each rule returns labels and the logarithm of the measure of each, by which a density is
multiplied.

Trapezoid sums in log y, logit y and on the circle converge faster than any power of the
step for the analytic densities here; Gauss–Hermite is exact for Gaussians, because the
estimators are polynomials in the label.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

Labels = tuple[Tensor, Tensor]

HERMITE = 8
"""Nodes per dimension: exact to degree 15, where s⁴ has degree 8."""
LARGEST_COUNT = 4096
ANGLES = 256


def counts(largest: float | None = None) -> Labels:
    """Return 0, 1, 2, … up to `largest`, or far into the tail."""
    y = torch.arange((LARGEST_COUNT if largest is None else largest) + 1, dtype=torch.float64)
    return y, torch.zeros_like(y)


def count_vectors(total: float, classes: int) -> Labels:
    """Return every vector [class] of counts that add up to `total`."""
    total = int(total)
    found = [
        [b - a - 1 for a, b in itertools.pairwise((-1, *bars, total + classes - 1))]
        for bars in itertools.combinations(range(total + classes - 1), classes - 1)
    ]
    return torch.tensor(found, dtype=torch.float64), torch.zeros(len(found), dtype=torch.float64)


def real(mean: Tensor, deviation: Tensor | float) -> Labels:
    """Return Gauss–Hermite nodes for a normal law."""
    y, log_measure = vector(
        torch.as_tensor(mean).reshape(1), torch.as_tensor(deviation).reshape(1, 1) ** 2
    )
    return y.squeeze(-1), log_measure


def vector(mean: Tensor, covariance: Tensor) -> Labels:
    """Return product Gauss–Hermite nodes [label, D] for a normal vector."""
    root = torch.linalg.cholesky(covariance.double())
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.hermite_e.hermegauss(HERMITE))
    z, log_weights = (
        torch.cartesian_prod(*[a] * len(mean)).reshape(-1, len(mean))
        for a in (nodes, weights.log())
    )
    log_measure = (log_weights + z.square() / 2).sum(-1) + root.diagonal().log().sum()
    return mean + z @ root.mT, log_measure


def positive(step: float = 0.04) -> Labels:
    """Return y on (0, ∞), evenly spaced in log y."""
    log_y = torch.arange(-400, 60, step, dtype=torch.float64)
    return log_y.exp(), log_y + math.log(step)


def simplex(classes: int) -> Labels:
    """Return log y [label, class], by breaking a stick at evenly spaced log-odds.

    Logarithms, because 1 − y vanishes where log(1 − y) does not.
    """
    step, end = (0.05, 400) if classes == 2 else (0.25, 90)
    line = torch.arange(-end, end, step, dtype=torch.float64)
    odds = torch.cartesian_prod(*[line] * (classes - 1)).reshape(-1, classes - 1)
    taken, left = torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds)
    remaining = left.cumsum(-1)
    before = torch.cat([torch.zeros_like(left[:, :1]), remaining[:, :-1]], -1)
    log_y = torch.cat([before + taken, remaining[:, -1:]], -1)
    return log_y, (before + taken + left + math.log(step)).sum(-1)


def circle() -> Labels:
    """Return evenly spaced angles."""
    y = torch.arange(ANGLES, dtype=torch.float64) * (2 * math.pi / ANGLES)
    return y, torch.full_like(y, math.log(2 * math.pi / ANGLES))


def normal_log_density(y, mean, deviation):
    deviation = torch.as_tensor(deviation, dtype=torch.float64)
    z = (y - mean) / deviation
    return -(z**2) / 2 - deviation.log() - math.log(2 * math.pi) / 2


def normal_vector_log_density(y, mean, covariance):
    away = (y - mean).unsqueeze(-1)
    squared = (away.mT @ torch.linalg.inv(covariance) @ away)[..., 0, 0]
    return -(squared + torch.logdet(covariance) + y.shape[-1] * math.log(2 * math.pi)) / 2


def binomial_log_density(y, p, n):
    ways = math.lgamma(n + 1) - torch.lgamma(y + 1) - torch.lgamma(n - y + 1)
    return ways + y * torch.log(p) + (n - y) * torch.log1p(-p)


def multinomial_log_density(y, log_p, n):
    ways = math.lgamma(n + 1) - torch.lgamma(y + 1).sum(-1)
    return ways + (y * log_p).sum(-1)


def negative_binomial_log_density(y, p, r):
    ways = torch.lgamma(y + r) - math.lgamma(r) - torch.lgamma(y + 1)
    return ways + r * torch.log(p) + y * torch.log1p(-p)


def _log_gamma(x):
    """Return log Γ(x) from larger x: torch's trigamma is only good to 1e-9 at small x."""
    shift = torch.arange(16, dtype=torch.float64)
    return torch.lgamma(x + len(shift)) - torch.log(x.unsqueeze(-1) + shift).sum(-1)


def gamma_log_density(y, shape, rate):
    return shape * torch.log(rate) - _log_gamma(shape) + (shape - 1) * torch.log(y) - rate * y


def dirichlet_log_density(log_y, concentration):
    normaliser = _log_gamma(concentration).sum(-1) - _log_gamma(concentration.sum(-1))
    return ((concentration - 1) * log_y).sum(-1) - normaliser


def inverse_gaussian_log_density(y, mean, shape):
    squared = shape * (y - mean) ** 2 / (mean**2 * y)
    return (torch.log(shape) - math.log(2 * math.pi) - 3 * torch.log(y) - squared) / 2


def von_mises_log_density(y, direction, concentration):
    normaliser = torch.log(torch.special.i0e(concentration)) + concentration
    return concentration * torch.cos(y - direction) - normaliser - math.log(2 * math.pi)


def moments(weight: Tensor, score: Tensor, curvature: Tensor) -> dict[str, Tensor]:
    """Return I, V₁, V₂, Cov [param] from s and ∂²ℓ [label, param] and probabilities."""
    w = weight.unsqueeze(-1)
    a, b = score.square(), -curvature
    mean_a, mean_b = (w * a).sum(0), (w * b).sum(0)
    return {
        "fisher": mean_a,
        "fisher_negative_hessian": mean_b,
        "variance_score_squared": (w * (a - mean_a) ** 2).sum(0),
        "variance_negative_hessian": (w * (b - mean_b) ** 2).sum(0),
        "covariance": (w * (a - mean_a) * (b - mean_b)).sum(0),
    }
