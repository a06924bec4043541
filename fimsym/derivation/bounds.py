"""Theorem 4.1: constants λ with λ_min ‖u‖² ≤ I ≤ λ_max ‖u‖², and so on.

The constants bound the quadratic form I and the quartic form M over unit vectors. Each is
proven by `fimsym.derivation.certificates`, which reads the very lines below.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.normal import Definition
from fimsym.derivation.stable import softmax, uses_probabilities
from fimsym.derivation.symbols import (
    AxisMax,
    AxisMin,
    Others,
    RoundedUp,
    index,
    probability,
    total,
    u,
)
from fimsym.families import Family

QUANTITIES = {
    "fisher_min": "smallest eigenvalue of I: λ with I ≥ λ‖u‖² and V₂ ≥ λ‖v‖²",
    "fisher_max": "upper bound of its largest eigenvalue: I ≤ λ‖u‖², V₂ ≤ λ‖v‖²",
    "quartic_min": "lower bound of M on unit vectors: V₁ ≥ λ‖u‖⁴",
    "quartic_max": "upper bound of M on unit vectors: V₁ ≤ λ‖u‖⁴",
}

_p = probability[index]
_complement = sp.IndexedBase("complement", real=True)
_distance = sp.IndexedBase("distance", real=True)


def definitions(family: Family) -> tuple[Definition, ...]:
    """Return the program that evaluates the four constants from h."""
    if uses_probabilities([cumulant(family, 2, 0)]):
        return _softmax_program(family)
    return _independent_program(family)


def cumulants_of_one(family):
    """Return the second and fourth cumulant of output i from κ₂₀ and κ₄₀."""
    return tuple(
        sp.diff(
            cumulant(family, order, 0).replace(
                lambda node: isinstance(node, sp.Sum), lambda node: node.function
            ),
            *[u[index]] * order,
        )
        / sp.factorial(order)
        for order in (2, 4)
    )


def _independent_program(family):
    second, fourth = cumulants_of_one(family)
    low, high = AxisMin(second), AxisMax(second)
    return (
        _line("fisher_min", low),
        _line("fisher_max", high),
        _line("quartic_min", sp.Max(0, 2 * low**2 + sp.Min(0, AxisMin(fourth)))),
        _line("quartic_max", 2 * high**2 + sp.Max(0, AxisMax(fourth))),
    )


def _softmax_program(family):
    complement, distance = _complement[index], _distance[index]
    fisher_max = sp.Symbol("fisher_max", real=True)
    trace = total(family, _p * distance * (distance - _p))
    size = total(family, _p * distance * (distance + _p))
    return (
        softmax(family),
        Definition("complement", complement, Others(_p), "1 − p without cancellation"),
        Definition(
            "distance",
            distance,
            complement**2 + Others(_p**2),
            "‖e_i − p‖² = 1 − 2 p_i + ‖p‖²",
        ),
        _line("fisher_min", sp.Integer(0)),
        _line(
            "fisher_max",
            sp.Min(AxisMax(_p), total(family, _p * complement), AxisMax(2 * _p * complement)),
        ),
        _line("quartic_min", sp.Integer(0)),
        _line("quartic_max", sp.Min(fisher_max * AxisMax(distance), RoundedUp(trace, size))),
    )


def _line(name, expression):
    return Definition(name, sp.Symbol(name, real=True), expression, QUANTITIES[name])
