"""log ∫ π(y) exp(⟨t(y), h⟩) dy of a density, by summation or quadrature.

Integrals over an interval are moved to the whole line, where the integrand decays
exponentially and the trapezoidal rule converges faster than any power of its step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fimsym.derivation.multiprecision import Vector, context, evaluate
from fimsym.errors import SpecError
from fimsym.families import Density, Family

_DIGITS = 45
_OUTPUTS = 3
_MOST_TERMS = 5000
_MOST_NODES = 4096
_NEGLIGIBLE = 50
"""−log of a weight that no longer counts."""

mpf = context.mpf


def log_integral(family: Family, h: tuple[Any, ...], constants: Mapping[str, Any]) -> Any:
    """Return the log of a density's total weight.

    Args:
        family: A family with a density.
        h: Natural parameters of one target; of `outputs(family)` outputs for a vector.
        constants: Values of its constants.

    Returns:
        The log; None where the sum has too many terms to be worth it.

    Raises:
        SpecError: there is no density, it is negative somewhere, or its weight is not finite.
    """
    density = family.density
    if density is None:
        raise SpecError(f"{family.name} has no density to integrate.")
    with context.workdps(_DIGITS):
        weight = Weight(family, h, constants)
        support = density.support
        if support in ("counts", "one_hot", "count_vectors"):
            labels = _labels(density, len(h), constants)
            return None if labels is None else _sum(weight, labels)
        if support == "angle" and (value := _circle(weight)) is not None:
            return value
        return _line(lambda x: weight.on_line(support, x))


def outputs(family: Family) -> int:
    """Return the number of outputs at which the density of a vector family is integrated."""
    return 2 if family.density and family.density.support == "simplex" else _OUTPUTS


class Weight:
    """log π(y) + ⟨t(y), h⟩."""

    def __init__(self, family, h, constants):
        self.family = family
        self.h = h
        self.constants = constants
        self.names = {**constants, family.axis: mpf(len(h))} if family.vector else constants

    def __call__(self, y: Any) -> Any:
        """Return the log of the weight of a label; −∞ where the weight is 0."""
        names = {**self.names, "y": y}
        base = evaluate(self.family.density.base_measure, names)
        base = context.fprod(base.entries) if isinstance(base, Vector) else base
        if base < 0:
            raise SpecError(
                f"density.base_measure is negative at y = {_show(y)}: {context.nstr(base, 5)}; "
                "expected π(y) ≥ 0."
            )
        if not base:
            return -context.inf
        return context.log(base) + context.fdot(self.statistics(y, names), self.h)

    def statistics(self, y: Any, names: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return t(y), one number for each natural parameter."""
        if not self.family.vector:
            return tuple(evaluate(t, names) for t in self.family.sufficient_statistics)
        if self.family.density.support != "simplex":
            return y.entries
        return evaluate(self.family.sufficient_statistics[0], names).entries

    def on_line(self, support: str, x: Any) -> Any:
        """Return the log of the weight of dx, for y = y(x); −∞ where it cannot be told."""
        try:
            y, slope = from_line(support, x)
            return self(y) + context.log(slope)
        except ArithmeticError:
            return -context.inf


def from_line(support: str, x: Any) -> tuple[Any, Any]:
    """Return y(x) and dy/dx of a map from the line onto the support."""
    if support == "real":
        return context.sinh(x), context.cosh(x)
    if support == "positive":
        return context.exp(x), context.exp(x)
    small = 1 / (1 + context.exp(abs(x)))
    low, high = (small, 1 - small) if x < 0 else (1 - small, small)
    if support == "angle":
        return (low - high) * context.pi, 2 * context.pi * low * high
    return Vector((low, high)) if support == "simplex" else low, low * high


def _labels(density: Density, size: int, constants: Mapping[str, Any]) -> Iterator[Any] | None:
    """Yield every label; None if there are finitely many, yet too many."""
    largest = density.largest
    if density.support == "one_hot":
        return (Vector(mpf(i == j) for j in range(size)) for i in range(size))
    if largest is None:
        return map(mpf, itertools.count())
    most = int(evaluate(largest, constants))
    if density.support == "counts":
        return map(mpf, range(most + 1)) if most < _MOST_TERMS else None
    if (most + 1) ** (size - 1) > _MOST_TERMS:
        return None
    counts = itertools.product(range(most + 1), repeat=size - 1)
    return (Vector(map(mpf, (*some, most - sum(some)))) for some in counts if sum(some) <= most)


def _sum(weight: Callable[[Any], Any], labels: Iterator[Any]) -> Any:
    total, last = context.zero, context.inf
    for count, y in enumerate(labels):
        try:
            term = context.exp(weight(y))
        except ArithmeticError as error:
            raise SpecError(f"the density is not finite at y = {_show(y)}: {error}.") from None
        total += term
        ratio = term / last if last else context.inf
        last = term
        if isinstance(y, mpf) and ratio < 1 and term < total * (1 - ratio) * mpf(10) ** -18:
            break
        if count > _MOST_TERMS:
            raise SpecError(f"the density's sum over counts is not settled at y = {_show(y)}.")
    if not total:
        raise SpecError("the density is 0 everywhere.")
    return context.log(total)


def _line(weight: Callable[[Any], Any]) -> Any:
    """Return log ∫ exp(weight(x)) dx over the line."""
    steps = [context.expm1(mpf(n) / 12) for n in range(1, 73)]
    places = [-x for x in reversed(steps)] + [context.zero, *steps]
    values = [weight(x) for x in places]
    best = max(range(len(places)), key=values.__getitem__)
    if values[best] == -context.inf:
        raise SpecError("the density is 0 or not finite everywhere on its support.")
    if best in (0, len(places) - 1):
        raise SpecError(
            "the density's integral is not finite: check the signs in base_measure and "
            "sufficient_statistics, and the domain."
        )
    top = _maximum(weight, places[best - 1], places[best + 1])
    counted = [n for n, value in enumerate(values) if value > top - _NEGLIGIBLE]
    low, high = min([best, *counted]) - 1, max([best, *counted]) + 1
    if low < 0 or high >= len(places):
        raise SpecError(
            "the density's integral is not finite: check the signs in base_measure and "
            "sufficient_statistics, and the domain."
        )
    value = _trapezoid(weight, top, places[low], places[high], _MOST_NODES)
    if value is None:
        raise SpecError(
            "the density's integral does not settle, since its integrand is not smooth inside "
            "the support: leave [density] out, or use a statistic that is smooth."
        )
    return top + context.log(value)


def _maximum(weight, low, high):
    """Return the largest weight between two places, by golden section."""
    golden = (context.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = weight(left), weight(right)
    for _ in range(30):
        if at_left > at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = weight(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = weight(right)
    return max(at_left, at_right)


def _circle(weight: Callable[[Any], Any]) -> Any:
    """Return the log of the integral of a smooth periodic weight; None if it is not one."""
    top = weight(context.zero)
    if not context.isfinite(top):
        return None
    value = _trapezoid(weight, top, -context.pi, +context.pi, 512)
    return None if value is None else top + context.log(value)


def _trapezoid(weight, top, low, high, most):
    """Return ∫ exp(weight(x) − top) dx, or None if `most` nodes are too few."""

    def value(x: Any) -> Any:
        return context.exp(weight(x) - top)

    nodes, step = 32, (high - low) / 32
    total = sum((value(low + n * step) for n in range(1, 32)), (value(low) + value(high)) / 2)
    total *= step
    while nodes <= most:
        middle = context.fsum(value(low + (n + 0.5) * step) for n in range(nodes))
        finer = (total + middle * step) / 2
        if abs(finer - total) < mpf(10) ** -17 * finer:
            return finer
        total, nodes, step = finer, nodes * 2, step / 2
    return None


def _show(y: Any) -> str:
    entries = y.entries if isinstance(y, Vector) else (y,)
    return ", ".join(context.nstr(entry, 5) for entry in entries)
