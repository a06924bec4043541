"""Theorem 4.1: constants λ with λ_min ‖u‖² ≤ I ≤ λ_max ‖u‖², and so on.

The constants bound the quadratic form I and the quartic form M over unit vectors. Each is
proven by `fimsym.derivation.certificates`, which reads the very lines below.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation import bounds_of_targets, concentration, moments
from fimsym.derivation.bounds_of_targets import QUANTITIES, fourth_left, line, tensor
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.extremes import (
    LargestCentred,
    LargestOfClasses,
    OverDirections,
    SmallestReduced,
)
from fimsym.derivation.normal import Definition
from fimsym.derivation.stable import softmax, uses_probabilities
from fimsym.derivation.symbols import (
    AxisMax,
    Lowered,
    Others,
    Raised,
    RoundedUp,
    h,
    index,
    probability,
    second,
    top,
    total,
)
from fimsym.derivation.whitened_concentrations import layout, left_lines
from fimsym.families import Family

__all__ = ["QUANTITIES", "SUMMARY", "definitions", "line", "tensor"]

SUMMARY = "Theorem 4.1's constants: what I, V₁ and V₂ can be, given ‖u‖ and ‖v‖."

_p = probability[index]


def definitions(family: Family) -> tuple[Definition, ...]:
    """Return the program that evaluates the four constants from h."""
    if family.vector and uses_probabilities([cumulant(family, 2, 0)]):
        return _softmax_program(family)
    if family.vector and concentration.applies(family):
        return _concentration_program(family)
    if family.vector or family.components > 2:
        return _of_any_law()
    return bounds_of_targets.program(family)


def _of_any_law():
    """Return the lines of a law of which nothing is known but its forms."""
    forms = {"fisher": _scalar("fisher"), "quartic": _scalar("variance_score_squared")}
    return tuple(
        line(name, OverDirections(forms[name[:-4]], 1 if name.endswith("max") else -1))
        for name in QUANTITIES
    )


def _column(name):
    return sp.IndexedBase(name, real=True)[index]


def _scalar(name):
    return sp.Symbol(name, real=True)


def _define(name, expression, meaning):
    """Return the line of what is the same for every output."""
    return Definition(name, _scalar(name), expression, meaning)


def _concentration_program(family):
    """Bound D − c11ᵀ, D = diag ψ₁(h), by its secular equation, and V₁ = κ₄ + 2I² by each term."""
    at = layout(family)
    variance, weight, fourth = (_column(name) for name in ("variance", "weight", "fourth"))
    left, size = _scalar("left"), _scalar("lost") + _scalar("taken")
    smallest = SmallestReduced(variance, weight, sp.Max(0, RoundedUp(left, -size)))
    largest = LargestCentred(variance, weight, RoundedUp(left, size))
    rest = _scalar("fourth_left")
    least = sp.Min(rest * AxisMax(fourth), rest / total(family, 1 / fourth))
    highest = AxisMax(fourth) + 2 * _scalar("fisher_max") ** 2
    return (
        _define("total", total(family, h[index]), "sum of concentrations"),
        Definition("variance", variance, sp.polygamma(1, h[index]), "of each log y by itself"),
        _define("shared", sp.polygamma(1, _scalar("total")), "what their sum takes away"),
        Definition("weight", weight, _scalar("shared") / variance, "the share of it"),
        *left_lines(at),
        line("fisher_min", Lowered(smallest)),
        line("fisher_max", Raised(largest)),
        Definition("fourth", fourth, sp.polygamma(3, h[index]), "fourth cumulant of each log y"),
        _define("fourth_left", fourth_left(at), "κ₄ ≥ it times Σ ψ₃(h) u⁴"),
        line("quartic_min", sp.Max(0, 2 * _scalar("fisher_min") ** 2 + least)),
        line("quartic_max", Raised(highest)),
    )


def _softmax_program(family):
    draws = moments.draws(family)
    if draws == 1:
        return _one_draw(family, "fisher_max", "quartic_max")
    fisher, quartic = (_scalar(f"{name}_of_draw") for name in ("fisher", "quartic"))
    whole = draws * quartic + 2 * draws * (draws - 1) * fisher**2
    lines = {
        "fisher_min": sp.Integer(0),
        "fisher_max": Raised(draws * fisher),
        "quartic_min": sp.Integer(0),
        "quartic_max": Raised(whole),
    }
    of_draw = _one_draw(family, "fisher_of_draw", "quartic_of_draw")
    return (
        *(one for one in of_draw if one.name not in QUANTITIES),
        *(line(name, value) for name, value in lines.items()),
    )


def _one_draw(family, fisher_name, quartic_name):
    """Return the lines for a single draw, its upper bounds under the given names.

    p is rounded by as much as the two largest logits are apart, in units of the last digit.
    """
    complement, distance, diagonal = (
        _column(name) for name in ("complement", "distance", "diagonal")
    )
    closed = (AxisMax(_p), total(family, _p * complement), AxisMax(2 * _p * complement))
    exact, even, farthest = (_scalar(name) for name in ("fisher_exact", "even", "farthest"))
    margin = (4 + _scalar("reach")) * exact
    squares = _scalar("squares")
    bound = LargestOfClasses(diagonal, _p, even * (farthest - even))
    return (
        softmax(family),
        Definition("complement", complement, Others(_p), "1 − p without cancellation"),
        _define("reach", h[top] - h[second], "how far the two largest logits are apart"),
        _define("fisher_exact", sp.Min(*closed, LargestCentred(_p, _p)), "largest eigenvalue of I"),
        line("fisher_min", sp.Integer(0)),
        Definition(
            fisher_name,
            _scalar(fisher_name),
            RoundedUp(exact, margin),
            QUANTITIES["fisher_max"],
        ),
        Definition(
            "distance",
            distance,
            complement**2 + Others(_p**2),
            "‖e_i − p‖² = 1 − 2 p_i + ‖p‖²",
        ),
        _define("farthest", AxisMax(distance), "its largest value"),
        _define("even", sp.Min(exact, farthest / 2), "the I at which I(r − I) is largest"),
        _define("squares", total(family, _p**2), "‖p‖²"),
        Definition("diagonal", diagonal, _p * (1 + 2 * squares - 4 * _p), "of Cov((t−η)(t−η)ᵀ)"),
        line("quartic_min", sp.Integer(0)),
        Definition(
            quartic_name,
            _scalar(quartic_name),
            RoundedUp(bound, margin),
            QUANTITIES["quartic_max"],
        ),
    )
