"""The logarithm of the modified Bessel function I₀ and its derivatives.

Three roads by the size of r: below `NEAR` the power series of log I₀ in r², above `FAR`
its asymptotic series in 1/r, both with coefficients from exact recurrences; in between
central moments of the density ∝ exp(r cos y) by the midpoint rule, which is exact to
double precision there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from fimsym.errors import DomainError
from fimsym.special.series import horner

NEAR = 1.0
"""Below it the power series, which converges for r < 2.40, the first zero of J₀."""

FAR = 30.0
"""Above it the asymptotic series."""

_NODES = 32  # of the half circle
_TERMS = 32

Terms = dict[int, Fraction]
"""Coefficients by exponent of r."""


def _logarithm(series: list[Fraction]) -> list[Fraction]:
    """Return the coefficients of log Σ b_k z^k for b_0 = 1."""
    result = [Fraction(0)]
    for k in range(1, len(series)):
        rest = sum((i * result[i] * series[k - i] for i in range(1, k)), Fraction(0))
        result.append(series[k] - rest / k)
    return result


def _near_slope() -> Terms:
    """Return g' = A in powers of r at 0, from I₀ = Σ (r²/4)^k / k!² (DLMF 10.25.2)."""
    series = [Fraction(1, 4**k * math.factorial(k) ** 2) for k in range(_TERMS)]
    return {2 * k - 1: 2 * k * c for k, c in enumerate(_logarithm(series)) if k}


def _far_slope() -> Terms:
    """Return g' = A in powers of r at ∞ (DLMF 10.40.1, with 10.17.1 for ν = 0)."""
    series = [Fraction(1)]
    for k in range(1, _TERMS):
        series.append(series[-1] * Fraction((2 * k - 1) ** 2, 8 * k))
    logarithm = _logarithm(series)
    return {0: Fraction(1), -1: Fraction(-1, 2)} | {
        -k - 1: -k * logarithm[k] for k in range(1, _TERMS)
    }


def _derive(slope: Terms, j: int, n: int) -> Terms:
    """Return d^n g_j / dr^n from g'; for j = n = 0 the integral without its logarithm."""
    if j == n == 0:
        return {e + 1: c / (e + 1) for e, c in slope.items() if e != -1}
    terms = {e - 1: c for e, c in slope.items()} if j else slope
    for _ in range(j - 1):
        terms = {e - 2: c * e for e, c in terms.items() if e}
    for _ in range(n if j else n - 1):
        terms = {e - 1: c * e for e, c in terms.items() if e}
    return terms


def _dense(terms: Terms, step: int) -> tuple[int, tuple[float, ...]]:
    """Return the first exponent and the coefficients of every `step`-th one from there."""
    present = [e for e, c in terms.items() if c]
    first = min(present) if step > 0 else max(present)
    last = max(present) if step > 0 else min(present)
    return first, tuple(float(terms.get(e, 0)) for e in range(first, last + step, step))


class _Circle:
    """Expectations under the density ∝ exp(r cos y), with X = cos y − A and Y = sin y.

    The midpoint rule with 64 nodes on the circle errs by I_64(r)/I_0(r) at most; nodes
    y and −y are one, since only even powers of Y occur. 1 − cos y = 2 sin²(y/2).
    """

    def __init__(self, r: Tensor) -> None:
        half = (torch.arange(_NODES, dtype=r.dtype, device=r.device) + 0.5) * (
            math.pi / (2 * _NODES)
        )
        versine = 2 * half.sin() ** 2
        self.r = r
        self.weights = torch.exp(-r.unsqueeze(-1) * versine)
        self.total = self.weights.sum(-1)
        self.versine = self.mean(versine)
        self.x = self.versine.unsqueeze(-1) - versine
        self.y2 = versine * (2 - versine)

    def mean(self, values: Tensor) -> Tensor:
        return (self.weights * values).sum(-1) / self.total


_MOMENTS: dict[tuple[int, int], Callable[[_Circle], Tensor]] = {
    (0, 0): lambda at: at.r + (at.total / _NODES).log(),
    (0, 1): lambda at: 1 - at.versine,
    (0, 2): lambda at: at.mean(at.x**2),
    (0, 3): lambda at: at.mean(at.x**3),
    (0, 4): lambda at: at.mean(at.x**4) - 3 * at.mean(at.x**2) ** 2,
    (1, 0): lambda at: at.mean(at.y2),
    (1, 1): lambda at: at.mean(at.x * at.y2),
    (1, 2): lambda at: at.mean(at.x**2 * at.y2) - at.mean(at.x**2) * at.mean(at.y2),
    (2, 0): lambda at: at.mean(at.x * at.y2) / at.r,
}


def log_bessel_i0(j: int, n: int, r: Tensor) -> Tensor:
    r"""Return d^n g_j/dr^n for g_j = ((1/r) d/dr)^j log I₀(r).

        (0, 0)  log I₀(r)                          (1, 0)  A/r = E Y²
        (0, 1)  A = I₁(r)/I₀(r) = E cos y          (1, 1)  E XY²
        (0, 2)  E X²                               (1, 2)  E X²Y² − E X² E Y²
        (0, 3)  E X³                               (2, 0)  E XY²/r = (E Y⁴ − 3 (E Y²)²)/3
        (0, 4)  E X⁴ − 3 (E X²)²

    with X = cos y − A and Y = sin y under the von Mises density ∝ exp(r cos y).

    Args:
        j: Order of the operator (1/r) d/dr.
        n: Order of the derivative by r.
        r: Non-negative, any shape.

    Returns:
        The value, the shape of r. Non-negative for (0, 0), (0, 1), (0, 2) and (1, 0),
        never positive for (0, 3), (1, 1) and (2, 0), and changing sign once for (0, 4)
        and (1, 2). Relative error below 2e-15, for the last two relative to
        |f| + |r f'|: what one rounding of r makes of f.

    Raises:
        DomainError: the pair (j, n) is not one of those above.

    Source:
        DLMF 10.25.2, 10.29.4, 10.32.1, 10.40.1.
    """
    if (j, n) not in _MOMENTS:
        known = ", ".join(map(str, _MOMENTS))
        raise DomainError(
            f"(j, n) must be one of {known}; got {(j, n)!r}. Differentiate one of them for more."
        )
    near, far = r < NEAR, r > FAR
    between = ~(near | far)
    value = torch.where(near, _near(j, n, torch.where(near, r, 0.0)), r)
    value = torch.where(far, _far(j, n, torch.where(far, r, FAR)), value)
    circle = _Circle(torch.where(between, r, NEAR))
    return torch.where(between, _MOMENTS[j, n](circle), value)


def _table(slope: Terms, step: int) -> dict[tuple[int, int], tuple[int, tuple[float, ...]]]:
    return {order: _dense(_derive(slope, *order), step) for order in _MOMENTS}


_NEAR = _table(_near_slope(), 2)
_FAR = _table(_far_slope(), -1)


def _near(j: int, n: int, r: Tensor) -> Tensor:
    exponent, coefficients = _NEAR[j, n]
    value = horner(coefficients, r * r)
    return value * r**exponent if exponent else value


def _far(j: int, n: int, r: Tensor) -> Tensor:
    exponent, coefficients = _FAR[j, n]
    inverse = r.reciprocal()
    if j == n == 0:
        return r - 0.5 * (2 * math.pi * r).log() + horner((0.0, *coefficients[2:]), inverse)
    return horner(coefficients, inverse) * inverse**-exponent
