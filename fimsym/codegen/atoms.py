"""Functions that have one stable implementation in torch, recognised by their formula."""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.functions import Softplus
from fimsym.derivation.symbols import AxisFunction, Norm, index


class LogSumExp(AxisFunction):
    """log Σ_i exp(x_i)."""


class Log1mExp(sp.Function):
    """log(1 − e^x), x < 0."""

    nargs = 1


class Softmax(AxisFunction):
    """exp(x_i) / Σ_j exp(x_j)."""


def stabilise(expression: sp.Expr) -> sp.Expr:
    """Replace formulas that overflow by the atoms that compute the same without."""
    expression = expression.replace(_is_log_sum_exp, _log_sum_exp)
    expression = expression.replace(_is_norm, lambda node: Norm(*(x.base for x in node.base.args)))
    expression = expression.replace(_is_softplus, lambda node: Softplus(_exponent(node)))
    expression = expression.replace(_is_log1mexp, lambda node: Log1mExp(_exponent(node)))
    return expression.replace(_is_softmax, _softmax)


def _log_sum_exp(node):
    return LogSumExp(node.args[0].function.args[0])


def _is_sum_of_exponentials(node):
    return isinstance(node, sp.Sum) and isinstance(node.function, sp.exp)


def _is_norm(node):
    squares = node.base.args if node.is_Pow and node.base.is_Add else ()
    half = node.is_Pow and node.exp == sp.Rational(1, 2)
    return half and len(squares) == 2 and all(x.is_Pow and x.exp == 2 for x in squares)


def _exponent(node):
    (exponential,) = node.args[0].atoms(sp.exp)
    return exponential.args[0]


def _is_softplus(node):
    return isinstance(node, sp.log) and _is_one_and(node.args[0], 1)


def _is_log1mexp(node):
    return isinstance(node, sp.log) and _is_one_and(node.args[0], -1)


def _is_one_and(node, sign):
    """Tell whether a node is 1 + sign·exp(x)."""
    exponentials = node.atoms(sp.exp)
    return len(exponentials) == 1 and node == 1 + sign * next(iter(exponentials))


def _is_log_sum_exp(node):
    return isinstance(node, sp.log) and _is_sum_of_exponentials(node.args[0])


def _is_softmax(node):
    return node.is_Mul and _softmax_parts(node) is not None


def _softmax_parts(node):
    """Return the factors exp(x_i) and 1/Σ exp(x) of a product, if it has them."""
    for divisor in node.args:
        if divisor.is_Pow and divisor.exp == -1 and _is_sum_of_exponentials(divisor.base):
            bound = divisor.base.limits[0][0]
            numerator = divisor.base.function.xreplace({bound: index})
            if numerator in node.args:
                return numerator, divisor
    return None


def _softmax(node):
    numerator, divisor = _softmax_parts(node)
    rest = [factor for factor in node.args if factor not in (numerator, divisor)]
    return sp.Mul(Softmax(numerator.args[0]), *rest)
