"""What the formulas of a specification mean in mpmath, on real numbers and vectors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from mpmath import MPContext

from fimsym.families.formula import interpret

context = MPContext()
"""The numbers of every check; its precision is set by whoever computes."""

_MOST_BITS = 3000
"""Bits before the binary point of the largest argument of a transcendental function."""


class Vector:
    """A vector of numbers with element-wise arithmetic."""

    def __init__(self, entries: Any):
        self.entries = tuple(entries)

    def map(self, function: Callable[[Any], Any]) -> Vector:
        """Return the function of every entry."""
        return Vector(map(function, self.entries))

    def _with(self, other: Any, operation: Callable[[Any, Any], Any]) -> Vector:
        others = other.entries if isinstance(other, Vector) else (other,) * len(self.entries)
        return Vector(map(operation, self.entries, others))

    def __neg__(self) -> Vector:
        return self.map(operator.neg)

    def __add__(self, other: Any) -> Vector:
        return self._with(other, operator.add)

    def __sub__(self, other: Any) -> Vector:
        return self._with(other, operator.sub)

    def __mul__(self, other: Any) -> Vector:
        return self._with(other, operator.mul)

    def __truediv__(self, other: Any) -> Vector:
        return self._with(other, operator.truediv)

    def __pow__(self, other: Any) -> Vector:
        return self._with(other, operator.pow)

    def __rsub__(self, other: Any) -> Vector:
        return self._with(other, lambda x, y: y - x)

    def __rtruediv__(self, other: Any) -> Vector:
        return self._with(other, lambda x, y: y / x)

    def __rpow__(self, other: Any) -> Vector:
        return self._with(other, lambda x, y: y**x)

    __radd__ = __add__
    __rmul__ = __mul__


def evaluate(formula: str, names: Mapping[str, Any]) -> Any:
    """Return the real value of a formula, whose names stand for numbers or a `Vector`.

    Raises:
        ArithmeticError: it has no finite real value there.
        SpecError: it is no formula of these names.
    """
    try:
        value = interpret(formula, {"pi": +context.pi, **names}, FUNCTIONS, context.mpf)
    except ValueError as error:
        if type(error) is ValueError:  # mpmath's answer at a pole
            raise ArithmeticError(str(error)) from None
        raise
    for entry in value.entries if isinstance(value, Vector) else (value,):
        if context.im(entry) or not context.isfinite(entry):
            raise ArithmeticError(f"{formula} is {entry}")
    return value.map(context.re) if isinstance(value, Vector) else context.re(value)


def _elementwise(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: x.map(function) if isinstance(x, Vector) else function(x)


def _above(low: float, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that exists above `low` alone."""

    def checked(x: Any) -> Any:
        if context.im(x) or not x >= low:
            raise ArithmeticError(f"argument {context.nstr(x, 5)} below {low}")
        return function(x)

    return checked


def _bounded(function: Callable[[Any], Any], below: float | None = None) -> Callable[[Any], Any]:
    """Return a function that refuses huge arguments, or has the limit `below` at −∞."""

    def checked(x: Any) -> Any:
        if context.mag(x) <= _MOST_BITS:
            return function(x)
        if below is None or context.re(x) > 0:
            raise OverflowError(f"argument of 2^{context.mag(x)}")
        return context.mpf(below)

    return checked


def _softplus(x: Any) -> Any:
    return max(x, context.zero) + context.log1p(_exp(-abs(x)))


_exp = _bounded(context.exp, below=0)
_lgamma = _bounded(context.loggamma)

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": _elementwise(_exp),
    "log": _elementwise(_above(0, context.log)),
    "sqrt": _elementwise(_above(0, context.sqrt)),
    "expm1": _elementwise(_bounded(context.expm1, below=-1)),
    "log1p": _elementwise(_above(-1, context.log1p)),
    "softplus": _elementwise(_softplus),
    "lgamma": _elementwise(_above(0, _lgamma)),
    "gamma": _elementwise(_bounded(context.gamma)),
    "sin": _elementwise(_bounded(context.sin)),
    "cos": _elementwise(_bounded(context.cos)),
    "log_bessel_i0": _elementwise(_bounded(lambda x: context.log(context.besseli(0, x)))),
    "sum": lambda x: sum(x.entries, context.zero) if isinstance(x, Vector) else x,
}
