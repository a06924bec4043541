"""Moments of Î₁ and Î₂ over labels, accumulated in parts that merge in any number.

Kept are the number of labels, both means, and the central sums Σ (a − ā)ʲ (b − b̄)ᵏ of total
order up to four that variances of means, of variances and of the covariance need. Î₁ is the
square of the score, so that its fourth moment is the score's eighth.

Two parts merge by moving both to their common mean: (a − ā)ʲ is expanded about the part's own
mean, which costs no digits where the means agree. Parts are merged in pairs of neighbours, so
that rounding grows with the logarithm of their number and the result depends on their order
alone, not on who computed which.

Source: Chan, Golub & LeVeque (1979); Pébay (2008), *Formulas for robust, one-pass parallel
computation of covariances and arbitrary-order statistical moments*.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ORDERS = ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3), (4, 0), (2, 2), (0, 4))
"""Powers (j, k) of the central sums; those that merging needs are among them."""

_FACTORS = {
    (2, 0): (0, 0), (1, 1): (0, 1), (0, 2): (1, 1), (3, 0): (2, 0), (2, 1): (2, 1),
    (1, 2): (4, 0), (0, 3): (4, 1), (4, 0): (2, 2), (2, 2): (2, 4), (0, 4): (4, 4),
}  # fmt: skip
"""Which two of a, b, a², ab and b² make each power."""
_EXTREMES = 5
FIELDS = 3 + len(ORDERS) + _EXTREMES
"""Numbers kept for every parameter."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of every parameter's labels.

    Attributes:
        values: [field, param]: the number of labels, the means of Î₁ and Î₂, the central sums
            in the order of `ORDERS`, and the extremes: least and largest Î₁ and Î₂, and the
            largest product of both deviations.
    """

    values: Array

    @property
    def count(self) -> Array:
        """Number of labels, [param]."""
        return self.values[0]

    @property
    def means(self) -> tuple[Array, Array]:
        """Means of Î₁ and Î₂, each [param]."""
        return self.values[1], self.values[2]

    def central(self, j: int, k: int) -> Array:
        """Return the mean of (Î₁ − its mean)ʲ (Î₂ − its mean)ᵏ, [param]."""
        return self.values[3 + ORDERS.index((j, k))] / self.count

    @property
    def deviations(self) -> tuple[Array, Array, Array]:
        """Largest |Î₁ − mean|, largest |Î₂ − mean| and largest product of both, each [param]."""
        least_a, most_a, least_b, most_b, product = self.values[-_EXTREMES:]
        mean_a, mean_b = self.means
        return (
            np.maximum(most_a - mean_a, mean_a - least_a),
            np.maximum(most_b - mean_b, mean_b - least_b),
            product,
        )


def of_labels(first: Array, second: Array) -> Array:
    """Return the fields of one parameter's labels, [field].

    Args:
        first: Î₁ of every label, [label].
        second: Î₂, likewise.
    """
    one, other = torch.from_numpy(first), torch.from_numpy(second)
    mean_a, mean_b = one.mean(), other.mean()
    rows = torch.empty(5, len(first), dtype=torch.float64)
    a, b, aa, ab, bb = rows
    torch.sub(one, mean_a, out=a)
    torch.sub(other, mean_b, out=b)
    for left, right, product in ((a, a, aa), (a, b, ab), (b, b, bb)):
        torch.mul(left, right, out=product)
    gram = (rows @ rows.T).numpy()
    sums = [gram[_FACTORS[order]] for order in ORDERS]
    low, high = torch.aminmax(ab)
    extremes = (*_ends(one), *_ends(other), max(-float(low), float(high)))
    return np.array((len(first), float(mean_a), float(mean_b), *sums, *extremes))


def _ends(values: torch.Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(values)
    return float(low), float(high)


def of_counts(first: Array, second: Array, weights: Array, count: float, seen: Mask) -> Moments:
    """Return moments of labels that occur with given shares.

    Args:
        first: Î₁ of every distinct label, [label, param].
        second: Î₂, likewise.
        weights: Share of each, adding up to one over labels, [label, param].
        count: Number of labels that the shares are of.
        seen: Which labels count for the extremes, [label, param].
    """
    mean_a, mean_b = (weights * first).sum(0), (weights * second).sum(0)
    a, b = first - mean_a, second - mean_b
    aa, ab, bb = a * a, a * b, b * b
    powers = (aa, ab, bb, aa * a, aa * b, bb * a, bb * b, aa * aa, aa * bb, bb * bb)
    sums = [count * (weights * power).sum(0) for power in powers]
    low_a, low_b = (np.where(seen, x, math.inf).min(0) for x in (first, second))
    high_a, high_b = (np.where(seen, x, -math.inf).max(0) for x in (first, second))
    product = np.where(seen, np.abs(ab), 0.0).max(0)
    whole = np.full_like(mean_a, count)
    return Moments(np.stack([whole, mean_a, mean_b, *sums, low_a, high_a, low_b, high_b, product]))


def merged(parts: Array) -> Array:
    """Return the fields of all parts together, [field, param].

    Args:
        parts: Fields of each part in order, [part, field, param].
    """
    while len(parts) > 1:
        even = len(parts) // 2 * 2
        both = _together(parts[0:even:2], parts[1:even:2])
        parts = np.concatenate([both, parts[even:]])
    return parts[0]


def _together(one: Array, other: Array) -> Array:
    """Return the fields of two parts together; both [..., field, param]."""
    n, m = one[..., 0, :], other[..., 0, :]
    total = n + m
    gap_a, gap_b = other[..., 1, :] - one[..., 1, :], other[..., 2, :] - one[..., 2, :]
    shares = (-m / total, n / total)
    moved = [
        _moved(part, share * gap_a, share * gap_b)
        for part, share in zip((one, other), shares, strict=True)
    ]
    lows, highs = [-5, -3], [-4, -2, -1]
    result = np.empty_like(one)
    result[..., 0, :] = total
    result[..., 1, :] = one[..., 1, :] + gap_a * (m / total)
    result[..., 2, :] = one[..., 2, :] + gap_b * (m / total)
    for place, (left, right) in enumerate(zip(*moved, strict=True)):
        result[..., 3 + place, :] = left + right
    result[..., lows, :] = np.minimum(one[..., lows, :], other[..., lows, :])
    result[..., highs, :] = np.maximum(one[..., highs, :], other[..., highs, :])
    return result


def _moved(part: Array, alpha: Array, beta: Array) -> list[Array]:
    """Return a part's sums about a mean that its own exceeds by alpha and beta."""
    own = {(0, 0): part[..., 0, :]}
    own |= {order: part[..., 3 + place, :] for place, order in enumerate(ORDERS)}
    found = []
    for j, k in ORDERS:
        total = np.zeros_like(alpha)
        for p in range(j + 1):
            for q in range(k + 1):
                if (p, q) in own:
                    ways = math.comb(j, p) * math.comb(k, q)
                    total = total + ways * alpha ** (j - p) * beta ** (k - q) * own[p, q]
        found.append(total)
    return found
