"""Directional derivatives of F to 50 digits and more, by truncated power series.

K(ε, δ) = F(h + εu + δv) is expanded in (ε, δ) to total degree four in mpmath arithmetic;
its coefficients times a! b! are the cumulants κ_ab. Relative accuracy survives vanishing
probabilities because log S is expanded around the largest term of S.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mpmath as mp

DEGREE = 4
DIGITS = 80

Series = dict[tuple[int, int], mp.mpf]


def _multiply(x: Series, y: Series) -> Series:
    product: Series = {}
    for (a, b), p in x.items():
        for (c, d), q in y.items():
            if a + b + c + d <= DEGREE:
                key = (a + c, b + d)
                product[key] = product.get(key, mp.mpf(0)) + p * q
    return product


def _add(x: Series, y: Series, factor: mp.mpf | int = 1) -> Series:
    result = dict(x)
    for key, value in y.items():
        result[key] = result.get(key, mp.mpf(0)) + factor * value
    return result


def _exp_of_linear(constant, slope_e, slope_d) -> Series:
    """Return exp(constant + slope_e ε + slope_d δ)."""
    scale = mp.exp(constant)
    return {
        (a, b): scale * slope_e**a * slope_d**b / math.factorial(a) / math.factorial(b)
        for a in range(DEGREE + 1)
        for b in range(DEGREE + 1 - a)
    }


def _log1p(x: Series) -> Series:
    """Return log(1 + x) for a series of any constant term."""
    constant = x.get((0, 0), mp.mpf(0))
    rest = {key: value / (1 + constant) for key, value in x.items() if key != (0, 0)}
    result: Series = {(0, 0): mp.log1p(constant)}
    power: Series = {(0, 0): mp.mpf(1)}
    for n in range(1, DEGREE + 1):
        power = _multiply(power, rest)
        result = _add(result, power, mp.mpf((-1) ** (n + 1)) / n)
    return result


def categorical(h, u, v) -> Series:
    """Expand log Σ exp(h + εu + δv)."""
    top = max(range(len(h)), key=lambda n: h[n])
    others: Series = {}
    for n in range(len(h)):
        if n != top:
            others = _add(others, _exp_of_linear(h[n] - h[top], u[n] - u[top], v[n] - v[top]))
    linear = {(0, 0): h[top], (1, 0): u[top], (0, 1): v[top]}
    return _add(_log1p(others), linear)


def gaussian(h, u, v, sigma) -> Series:
    """Expand σ² Σ (h + εu + δv)² / 2."""
    total: Series = {}
    for a, b, c in zip(h, u, v, strict=True):
        line = {(0, 0): a, (1, 0): b, (0, 1): c}
        total = _add(total, _multiply(line, line), sigma**2 / 2)
    return total


LOG_PARTITIONS = {"categorical": categorical, "gaussian": gaussian}


def moments(
    family: str,
    h: Sequence[float],
    u: Sequence[float],
    v: Sequence[float],
    **constants: float,
) -> dict[str, mp.mpf]:
    """Return I, V₁, κ₃₀, V₂, Cov and F for one point, from derivatives of F alone."""
    with mp.workdps(DIGITS):
        exact = [[mp.mpf(x) for x in vector] for vector in (h, u, v)]
        fixed = {name: mp.mpf(value) for name, value in constants.items()}
        series = LOG_PARTITIONS[family](*exact, **fixed)

        def cumulant(a: int, b: int) -> mp.mpf:
            return series.get((a, b), mp.mpf(0)) * math.factorial(a) * math.factorial(b)

        return {
            "log_partition": cumulant(0, 0),
            "fisher": cumulant(2, 0),
            "variance_score_squared": cumulant(4, 0) + 2 * cumulant(2, 0) ** 2,
            "third": cumulant(3, 0),
            "variance_negative_hessian": cumulant(0, 2),
            "covariance": -cumulant(2, 1),
        }
