"""What a Gaussian vector's evaluator computes, as lines that several algebras interpret.

With Λ = L Lᵀ and the label whitened, y = μ + L⁻ᵀe, the score of a direction (a, B) of
(Λμ, −Λ/2) is

    s = cᵀe + eᵀAe − tr A,     A = L⁻¹BL⁻ᵀ,     c = L⁻¹a + 2AL⁻¹h,

so that every cumulant is a short polynomial in c and A.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy as sp

from fimsym.derivation.letters import FACTOR, PRECISION, Letter
from fimsym.derivation.matrices import (
    Words,
    derivative,
    dot,
    log_determinant,
    words,
)
from fimsym.derivation.normal import Definition
from fimsym.derivation.stable import QUANTITIES
from fimsym.derivation.symbols import constants
from fimsym.families import Family
from fimsym.families.formula import interpret


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the program.

    Attributes:
        name: Identifier in generated code.
        symbol: What it is called in formulas.
        formula: What it is, in the inputs and earlier lines.
        meaning: One line for people.
    """

    name: str
    symbol: sp.Expr
    formula: str
    meaning: str


def _vector(name):
    return Letter(name, vector=1)


def _symmetric(name):
    return Letter(name, symmetric=1)


def number(name: str) -> sp.Symbol:
    """Return the symbol of a scalar."""
    return sp.Symbol(name, real=True)


INPUTS: dict[str, Letter] = {
    "vector_h": _vector("h"),
    "factor": FACTOR,
    "whitener": FACTOR.inverse,
    "precision": PRECISION,
    "vector_u": _vector("a_u"),
    "matrix_u": _symmetric("B_u"),
    "vector_v": _vector("a_v"),
    "matrix_v": _symmetric("B_v"),
    "slope_w": _vector("c"),
    "curvature_w": _symmetric("A"),
    "slope_probe": _vector("c_g"),
    "curvature_probe": _symmetric("A_g"),
}
"""Letters of what the lines start from; (a, B) is a direction of (h₁, H₂)."""


def _whitened(direction: str) -> tuple[Line, ...]:
    return (
        Line(
            f"curvature_{direction}",
            _symmetric(f"A_{direction}"),
            f"congruence(matrix_{direction})",
            "quadratic part of the score in the whitened label",
        ),
        Line(
            f"slope_{direction}",
            _vector(f"c_{direction}"),
            f"whiten(vector_{direction}) + 2 * curvature_{direction} * whitened_h",
            "linear part of the score in the whitened label",
        ),
    )


def _quantity(name: str, formula: str) -> Line:
    return Line(name, number(name), formula, QUANTITIES[name])


PROGRAM = (
    Line("whitened_h", _vector("z"), "whiten(vector_h)", "whitened mean"),
    Line("mean_vector", _vector("μ"), "transpose(whitener) * whitened_h", "mean of y"),
    Line(
        "mean_matrix",
        _symmetric("M"),
        "transpose(whitener) * whitener + mean_vector * transpose(mean_vector)",
        "mean of y yᵀ",
    ),
    Line(
        "log_partition",
        number("F"),
        "dot(whitened_h, whitened_h) / 2 - logdet(precision) / 2",
        "log-partition",
    ),
    *_whitened("u"),
    Line("bent_u", _vector("w"), "curvature_u * slope_u", "A c"),
    Line("squared_u", _symmetric("Q"), "curvature_u * curvature_u", "A²"),
    _quantity("fisher", "dot(slope_u, slope_u) + 2 * dot(curvature_u, curvature_u)"),
    _quantity("third", "6 * dot(slope_u, bent_u) + 8 * dot(squared_u, curvature_u)"),
    Line(
        "fourth_cumulant",
        number("kappa_40"),
        "48 * (dot(squared_u, squared_u) + dot(bent_u, bent_u))",
        "fourth cumulant of the score",
    ),
    _quantity("variance_score_squared", "fourth_cumulant + 2 * fisher**2"),
    *_whitened("v"),
    _quantity(
        "variance_negative_hessian",
        "dot(slope_v, slope_v) + 2 * dot(curvature_v, curvature_v)",
    ),
    _quantity(
        "covariance",
        "-(8 * dot(squared_u, curvature_v) + 4 * dot(bent_u, slope_v)"
        " + 2 * dot(slope_u, curvature_v * slope_u))",
    ),
)
"""The evaluator; every term of a variance is non-negative."""

_ROOT = words(FACTOR.inverse)

FUNCTIONS: dict[str, Any] = {
    "dot": dot,
    "transpose": lambda matrix: matrix.transposed,
    "inverse": lambda matrix: matrix.inverse,
    "solve": lambda matrix, x: matrix.inverse * x,
    "logdet": log_determinant,
    "whiten": lambda x: _ROOT * x,
    "congruence": lambda matrix: _ROOT * matrix * _ROOT.transposed,
}
"""The functions of formulas in the algebra of words."""


def evaluate(formula: str, names: Mapping[str, Any]) -> Any:
    """Return the value of a formula in words and SymPy scalars."""
    return interpret(formula, names, FUNCTIONS, sp.Rational)


def values(lines: Iterable[Line], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return every line in terms of the inputs, some of which may be `given`."""
    found = {**{name: words(letter) for name, letter in INPUTS.items()}, **(given or {})}
    for line in lines:
        found[line.name] = evaluate(line.formula, found)
    return found


def definitions(lines: Sequence[Line], before: Sequence[Line] = ()) -> tuple[Definition, ...]:
    """Return each line in terms of the lines before it."""
    symbols = {**INPUTS, **{line.name: line.symbol for line in (*before, *lines)}}
    names = {k: words(x) if isinstance(x, Letter) else x for k, x in symbols.items()}
    found = []
    for line in lines:
        value = interpret(line.formula, names, {**FUNCTIONS, **_NORMS}, sp.Rational)
        value = value.expression if isinstance(value, Words) else value
        found.append(Definition(line.name, line.symbol, value, line.meaning))
    return tuple(found)


_NORMS = {
    "largest_information": lambda *_: number("sup ‖c_u‖² + 2 ‖A_u‖² over ‖u‖ = 1"),
    "largest_square": lambda *_: number("sup ‖u‖² over ‖c_u‖² + 2 ‖A_u‖² = 1"),
    "largest_curvature": lambda *_: number("sup ‖A_u‖² over ‖u‖ = 1"),
    "relative_rounding": lambda *_: number("ε ‖L‖ ‖L⁻¹‖"),
    "smaller": sp.Min,
}


def needed(lines: Sequence[Line], wanted: Iterable[str]) -> list[Line]:
    """Return the lines that `wanted` depend on, in their order."""
    names, found = set(wanted), []
    for line in reversed(lines):
        if line.name in names:
            found.append(line)
            names |= set(re.findall(r"[A-Za-z_]\w*", line.formula))
    return found[::-1]


def log_partition(family: Family) -> sp.Expr:
    """Return F as its specification states it."""
    vector, matrix = family.natural
    names = {vector: words(INPUTS["vector_h"]), matrix: words(PRECISION) / -2}
    return evaluate(family.log_partition, {"pi": sp.pi, **constants(family), **names})


@functools.cache
def cumulant(family: Family, a: int, b: int) -> sp.Expr:
    """Return κ_ab by differentiating F a times along u and b times along v."""
    if b:
        return derivative(cumulant(family, a, b - 1), _along("v"))
    if a:
        return derivative(cumulant(family, a - 1, 0), _along("u"))
    return log_partition(family)


def _along(direction):
    """Return the derivative of every letter along u or v: ∂h₁ = a, ∂Λ = −2B."""
    directions = [INPUTS[f"{kind}_{w}"] for kind in ("vector", "matrix") for w in "uv"]
    return {
        INPUTS["vector_h"]: words(INPUTS[f"vector_{direction}"]),
        PRECISION: -2 * words(INPUTS[f"matrix_{direction}"]),
        **{letter: Words({}, letter.shape) for letter in directions},
    }


def in_cumulants(family: Family) -> dict[str, sp.Expr]:
    """Return every quantity as cumulants κ_ab of F."""
    fisher = cumulant(family, 2, 0)
    return {
        "log_partition": log_partition(family),
        "fisher": fisher,
        "third": cumulant(family, 3, 0),
        "variance_score_squared": sp.expand(cumulant(family, 4, 0) + 2 * fisher**2),
        "variance_negative_hessian": cumulant(family, 0, 2),
        "covariance": -cumulant(family, 2, 1),
    }
