"""Functions that have one stable implementation in torch, recognised by their formula."""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.symbols import AxisFunction, index


class LogSumExp(AxisFunction):
    """log Σ_i exp(x_i)."""


class Softmax(AxisFunction):
    """exp(x_i) / Σ_j exp(x_j)."""


def stabilise(expression: sp.Expr) -> sp.Expr:
    """Replace formulas that overflow by the atoms that compute the same without."""
    expression = expression.replace(_is_log_sum_exp, _log_sum_exp)
    return expression.replace(_is_softmax, _softmax)


def _log_sum_exp(node):
    return LogSumExp(node.args[0].function.args[0])


def _is_sum_of_exponentials(node):
    return isinstance(node, sp.Sum) and isinstance(node.function, sp.exp)


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
