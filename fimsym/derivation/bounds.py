"""Theorem 4.1: constants λ with λ_min ‖u‖² ≤ I ≤ λ_max ‖u‖², and so on.

The constants bound the quadratic form I and the quartic form M over unit vectors. Each is
proven by `fimsym.derivation.certificates`, which reads the very lines below.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation import bounds_of_targets, concentration, moments
from fimsym.derivation.bounds_of_targets import QUANTITIES, line, tensor, vacuous
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.normal import Definition
from fimsym.derivation.stable import softmax, uses_probabilities
from fimsym.derivation.symbols import (
    AxisMax,
    AxisMin,
    Others,
    RoundedUp,
    h,
    index,
    probability,
    total,
)
from fimsym.families import Family

__all__ = ["QUANTITIES", "definitions", "line", "tensor", "vacuous"]

_p = probability[index]
_complement = sp.IndexedBase("complement", real=True)
_distance = sp.IndexedBase("distance", real=True)


def definitions(family: Family) -> tuple[Definition, ...]:
    """Return the program that evaluates the four constants from h."""
    if not family.vector:
        return bounds_of_targets.program(family)
    if uses_probabilities([cumulant(family, 2, 0)]):
        return _softmax_program(family)
    if concentration.applies(family):
        return _concentration_program(family)
    return vacuous()


def _concentration_program(family):
    """Bound D − c11ᵀ, D = diag ψ₁(h), by D above and by (1 − c Σ 1/ψ₁(h_i)) D below."""
    variance = sp.IndexedBase("variance", real=True)[index]
    whole, share = sp.symbols("total share", real=True)
    high = sp.Symbol("fisher_max", real=True)
    fourth = sp.polygamma(3, h[index])
    return (
        Definition("total", whole, total(family, h[index]), "sum of concentrations"),
        Definition("variance", variance, sp.polygamma(1, h[index]), "of each log y by itself"),
        Definition(
            "share",
            share,
            sp.polygamma(1, whole) * total(family, 1 / variance),
            "what the shared normalisation takes away at most",
        ),
        line("fisher_min", sp.Max(0, RoundedUp(1 - share, -1 - share)) * AxisMin(variance)),
        line("fisher_max", AxisMax(variance)),
        line("quartic_min", sp.Integer(0)),
        line("quartic_max", AxisMax(fourth) + 2 * high**2),
    )


def _softmax_program(family):
    of_one = ("fisher_of_draw", "quartic_of_draw")
    several = moments.draws(family)
    if several == 1:
        return _one_draw(family, "fisher_max", "quartic_max")
    fisher, quartic = sp.symbols(" ".join(of_one), real=True)
    lines = {
        "fisher_min": sp.Integer(0),
        "fisher_max": several * fisher,
        "quartic_min": sp.Integer(0),
        "quartic_max": several * quartic + 2 * several * (several - 1) * fisher**2,
    }
    return (
        *(one for one in _one_draw(family, *of_one) if one.name not in QUANTITIES),
        *(line(name, value) for name, value in lines.items()),
    )


def _one_draw(family, fisher_name, quartic_name):
    """Return the lines for a single draw, its upper bounds under the given names."""
    complement, distance = _complement[index], _distance[index]
    fisher_max = sp.Symbol(fisher_name, real=True)
    trace = total(family, _p * distance * (distance - _p))
    size = total(family, _p * distance * (distance + _p))
    fisher = sp.Min(AxisMax(_p), total(family, _p * complement), AxisMax(2 * _p * complement))
    quartic = sp.Min(fisher_max * AxisMax(distance), RoundedUp(trace, size))
    return (
        softmax(family),
        Definition("complement", complement, Others(_p), "1 − p without cancellation"),
        Definition(
            "distance",
            distance,
            complement**2 + Others(_p**2),
            "‖e_i − p‖² = 1 − 2 p_i + ‖p‖²",
        ),
        line("fisher_min", sp.Integer(0)),
        Definition(fisher_name, fisher_max, fisher, QUANTITIES["fisher_max"]),
        line("quartic_min", sp.Integer(0)),
        Definition(
            quartic_name, sp.Symbol(quartic_name, real=True), quartic, QUANTITIES["quartic_max"]
        ),
    )
