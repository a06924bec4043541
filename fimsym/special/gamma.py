"""Polygamma functions, written so that nothing cancels.

With ψ_n the n-th derivative of the digamma function ψ_0, and ψ_{−1} = log Γ, the function
(−1)^{n+1} ψ_n is positive and decreasing for n ≥ 1. Below `SHIFT` an argument is moved up
by `SHIFT` steps of the recurrence, every step a sum of positive terms (DLMF 5.15.5); above
it follows the asymptotic series in 1/x (DLMF 5.11.1, 5.11.2, 5.15.8). Values and
gradients are finite for arguments from 1e-35 to 1e150.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from fimsym.errors import DomainError
from fimsym.special.series import horner

SHIFT = 12
"""Where the asymptotic series begins; the first omitted term is below 2^-57 of the first."""

ORDER = 6
"""Largest order n of ψ_n."""

_TERMS = 14


def _bernoulli(count: int) -> list[Fraction]:
    """Return B_0, …, B_{count−1} from Σ_k binom(n+1, k) B_k = 0 (DLMF 24.5.3)."""
    numbers = [Fraction(1)]
    for n in range(1, count):
        total = sum((math.comb(n + 1, k) * numbers[k] for k in range(n)), Fraction(0))
        numbers.append(-total / (n + 1))
    return numbers


def _asymptotic() -> dict[int, tuple[float, ...]]:
    """Return B_2k (2k+n−1)!/(2k)!, k = 1, 2, …, for every order n."""
    numbers = _bernoulli(2 * _TERMS + 1)
    return {
        n: tuple(
            float(numbers[2 * k] * Fraction(math.factorial(2 * k + n - 1), math.factorial(2 * k)))
            for k in range(1, _TERMS + 1)
        )
        for n in range(-1, ORDER + 1)
    }


_ASYMPTOTIC = _asymptotic()


def polygamma_remainder(n: int, x: Tensor) -> Tensor:
    """Return ψ_n(x) less its leading term for large x.

        n ≥ 1:   R_n(x) = ψ_n(x) − (−1)^{n+1} (n−1)!/x^n
        n = 0:   R_0(x) = ψ_0(x) − log x
        n = −1:  R_{−1}(x) = log Γ(x) − (x log x − x)

    Args:
        n: Order, −1 to 6.
        x: Positive, any shape.

    Returns:
        R_n(x), the shape of x. For n ≥ 0 its sign is (−1)^{n+1} and its relative error
        is below 2e-15; R_{−1} changes sign once, and its error is below 2e-15 relative to
        max(1, |R_{−1}|).

    Raises:
        DomainError: n is out of range.

    Source:
        DLMF 5.11.1, 5.11.2, 5.15.5, 5.15.8.
    """
    _check_order(n, -1, ORDER)
    small, near, far = _split(x)
    value = _series(n, far.reciprocal()) + torch.where(small, _remainder_steps(n, near), 0.0)
    if n == -1:
        value = value - 0.5 * (far / (2 * math.pi)).log()
    return _signed(n, value)


def polygamma(n: int, x: Tensor) -> Tensor:
    """Return ψ_n(x), the n-th derivative of the digamma function.

    Args:
        n: Order, 0 to 6.
        x: Positive, any shape.

    Returns:
        ψ_n(x), the shape of x. For n ≥ 1 its sign is (−1)^{n+1} and its relative error
        is below 2e-15; ψ_0 is increasing with a root at 1.46, and its error is below 1e-15
        relative to max(1, |ψ_0|).

    Raises:
        DomainError: n is out of range.

    Source:
        DLMF 5.2.2, 5.5.2, 5.15.
    """
    _check_order(n, 0, ORDER)
    if n:
        leading = math.factorial(n - 1) * x.reciprocal() ** n
        return _signed(n, leading) + polygamma_remainder(n, x)
    small, near, far = _split(x)
    steps = _steps(near).reciprocal().sum(-1)
    return far.log() - _series(0, far.reciprocal()) - torch.where(small, steps, 0.0)


def polygamma_difference(n: int, a: Tensor, b: Tensor) -> Tensor:
    """Return ψ_n(a) − ψ_n(a + b), accurate relative to itself for b ≪ a and for a ≪ b.

    Args:
        n: Order, 0 to 3.
        a: Positive.
        b: Positive, of a shape that broadcasts with that of a.

    Returns:
        The difference, of sign (−1)^{n+1}, in the common shape of a and b; relative error
        below 2e-15.

    Raises:
        DomainError: n is out of range.

    Source:
        DLMF 5.5.2, 5.11.2, 5.15.5, 5.15.8, every difference of powers of 1/a and 1/(a+b)
        as b times a sum of positive terms where b < a.
    """
    _check_order(n, 0, 3)
    a, b = torch.broadcast_tensors(a, b)
    small, near, far = _split(a)
    steps, gap = _steps(near), b.unsqueeze(-1)
    head = math.factorial(n) * _powers_gap(n + 1, steps, gap).sum(-1)
    return _signed(n, _series_gap(n, far, b) + torch.where(small, head, 0.0))


def _check_order(n: int, low: int, high: int) -> None:
    if not isinstance(n, int) or not low <= n <= high:
        raise DomainError(
            f"n must be a whole number from {low} to {high}; got {n!r}. "
            "Differentiate a lower order for more."
        )


def _signed(n: int, value: Tensor) -> Tensor:
    return value if n % 2 else -value


def _split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return where x < SHIFT, x there (elsewhere SHIFT), and x moved to [SHIFT, ∞)."""
    small = x < SHIFT
    return small, torch.where(small, x, SHIFT), torch.where(small, x + SHIFT, x)


def _steps(x: Tensor) -> Tensor:
    """Return x, x + 1, …, x + SHIFT − 1 in a new last axis."""
    return x.unsqueeze(-1) + torch.arange(SHIFT, dtype=x.dtype, device=x.device)


def _series(n: int, t: Tensor) -> Tensor:
    """Return (−1)^{n+1} R_n(1/t) for t ≤ 1/SHIFT; for n = −1 without ½ log(2πt)."""
    tail = t ** (n + 2) * horner(_ASYMPTOTIC[n], t * t)
    return tail if n == -1 else math.factorial(n) / 2 * t ** (n + 1) + tail


def _remainder_steps(n: int, x: Tensor) -> Tensor:
    """Return (−1)^{n+1} (R_n(x) − R_n(x + SHIFT)).

    One step is, with a = 1/x and b = 1/(x+1), for n ≥ 1

        n! a^{n+1} − (n−1)! (a^n − b^n) = (n−1)! ab Σ_{i=1..n} i a^i b^{n−i},

    a − log(1 + a) for n = 0, and log(1 + a) − (a − log(1 + a))/a for n = −1.
    """
    steps = _steps(x)
    a = steps.reciprocal()
    if n <= 0:
        logarithm = torch.log1p(a)
        gap = a - logarithm
        return (gap if n == 0 else logarithm - gap / a).sum(-1)
    b = (steps + 1).reciprocal()
    power = total = a
    for i in range(2, n + 1):
        power = power * a
        total = total * b + i * power
    return math.factorial(n - 1) * (a * b * total).sum(-1)


def _powers_gap(m: int, x: Tensor, gap: Tensor) -> Tensor:
    """Return x^{−m} − (x + gap)^{−m}, m ≥ 1.

    For gap < x it is gap·ab Σ_{i<m} a^i b^{m−1−i} with a = 1/x, b = 1/(x + gap); for
    gap ≥ x the plain difference, whose derivative by `gap` does not cancel.
    """
    a, b = x.reciprocal(), (x + gap).reciprocal()
    power = total = torch.ones_like(a)
    for _ in range(1, m):
        power = power * a
        total = total * b + power
    close = gap < x
    return torch.where(close, torch.where(close, gap, 0.0) * a * b * total, a**m - b**m)


def _series_gap(n: int, x: Tensor, gap: Tensor) -> Tensor:
    """Return (−1)^{n+1} (ψ_n(x) − ψ_n(x + gap)) for x ≥ SHIFT."""
    second = math.factorial(n) / 2 * _powers_gap(n + 1, x, gap)
    if n == 0:
        return torch.log1p(gap / x) + second + _tail_gap(n, x, gap)
    return math.factorial(n - 1) * _powers_gap(n, x, gap) + second + _tail_gap(n, x, gap)


def _tail_gap(n: int, x: Tensor, gap: Tensor) -> Tensor:
    """Return f(1/x) − f(1/(x + gap)) for f(t) = t^{n+2} Σ_k c_k t^{2k−2}."""
    a, b = x.reciprocal(), (x + gap).reciprocal()
    s, t = a * a, b * b
    value = torch.full_like(s, _ASYMPTOTIC[n][-1])
    slope = torch.zeros_like(s)  # divided difference of the polynomial in s and t
    for coefficient in _ASYMPTOTIC[n][-2::-1]:
        slope = slope * t + value
        value = value * s + coefficient
    close = _powers_gap(n + 2, x, gap) * value + b ** (n + 2) * _powers_gap(2, x, gap) * slope
    plain = a ** (n + 2) * value - b ** (n + 2) * horner(_ASYMPTOTIC[n], t)
    return torch.where(gap < x, close, plain)
