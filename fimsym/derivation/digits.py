"""How many digits a user's formula keeps when it is evaluated in float64."""

from __future__ import annotations

import math
import warnings

import mpmath as mp
import sympy as sp

from fimsym.derivation import accurate
from fimsym.derivation.domain import points
from fimsym.derivation.functions import exact
from fimsym.derivation.symbols import constants, index, naturals
from fimsym.errors import AccuracyWarning
from fimsym.families import Family

_DISTANCES = (1e-6, 1e-3, 0.1, 1.0, 5.0, 20.0, 40.0)
_FRACTIONS = (1e-3, 0.1, 0.5, 0.9, 0.999)
_TOLERANCE = 1e-6
_LINES = {"deviation": "I", "spread": "V₁"}


def warn(family: Family) -> None:
    """Warn where the generated code of one natural parameter would lose most digits.

    The lines in h alone are evaluated in float64 and to 60 digits at points of the domain.
    """
    if family.vector or family.components > 1:
        return
    (base,), fixed = naturals(family), _constants(family)
    for line in accurate.program(family):
        if line.name not in _LINES:
            continue
        for point in points(family.limits, _DISTANCES, _FRACTIONS, 40):
            at = {base[index]: sp.Float(point[0], 60), **fixed}
            error = _error(line.expression, at)
            if error > _TOLERANCE:
                warnings.warn(
                    f"{family.name}: {_LINES[line.name]} is off by {error:.0e} of itself in "
                    f"float64 at {family.natural[0]} = {point[0]:g}, where its formula cancels. "
                    "Write log_partition with expm1, log1p or softplus, or stay away from there.",
                    AccuracyWarning,
                    stacklevel=4,
                )
                break


def _constants(family):
    symbols = constants(family)
    return {symbols[c.name]: sp.Float(c.default, 60) for c in family.constants}


def _error(expression, at):
    """Return the relative error of float64, infinite where it is not finite."""
    with mp.workdps(60):
        truth = exact(expression).xreplace(at).evalf(50)
    if not truth.is_Float or truth == 0:
        return 0.0
    try:
        value = _float(expression, {symbol: float(x) for symbol, x in at.items()})
    except (ArithmeticError, ValueError):
        return math.inf
    return abs(value / float(truth) - 1) if math.isfinite(value) else math.inf


def _float(node, at):
    """Evaluate as torch would: every operation rounded to float64."""
    if node in at:
        return at[node]
    if node.is_number and not node.args:
        return float(node)
    values = [_float(argument, at) for argument in node.args]
    if node.is_Add:
        return sum(values)
    if node.is_Mul:
        return math.prod(values)
    if node.is_Pow:
        return math.pow(*values)
    name = type(node).__name__
    if name in _FUNCTIONS:
        return _FUNCTIONS[name](*values)
    known = node.func(*(sp.Float(value, 60) for value in values))
    return float(exact(known).evalf(50))


def _logistic(x):
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


_FUNCTIONS = {
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "cos": math.cos,
    "Expm1": math.expm1,
    "Log1p": math.log1p,
    "TanhHalf": lambda x: math.tanh(x / 2),
    "Logistic": _logistic,
    "RootLogistic": lambda x: math.sqrt(_logistic(x)),
    "Softplus": lambda x: max(x, 0) + math.log1p(math.exp(-abs(x))),
}
