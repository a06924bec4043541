"""Moments of a Gaussian vector's score, entry by entry, from the density of whitened labels.

In the eigenbasis of A the coordinates of the whitened label contribute independently, so
that the cumulants of one direction follow for every D from those at D = 1.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import sympy as sp
from sympy.polys.rings import ring

from fimsym.derivation.identity import Identity
from fimsym.derivation.matrix_program import Line, needed
from fimsym.families.formula import interpret

SIZES = (1, 2, 3)
"""Sizes D at which moments are compared entry by entry."""

_STATEMENTS = {
    "fisher": "E[s²] = ‖c‖² + 2‖A‖²",
    "third": "E[s³] = 6 cᵀAc + 8 tr A³",
    "variance_score_squared": "Var(s²) = 48(‖A²‖² + ‖Ac‖²) + 2(E[s²])²",
    "variance_negative_hessian": "E[w²] = ‖c‖² + 2‖A‖² of v",
    "covariance": "−E[s²w] = −κ₂₁",
}


def moment_identities(program: Sequence[Line], size: int) -> tuple[Identity, ...]:
    """Compare E over standard normal e with a program's polynomials in c and A."""
    moments, given = _moments(size)
    explicit = _explicit(program, given)
    return tuple(
        Identity(
            f"two routes: {name} (D = {size})",
            statement,
            moments[name],
            explicit[name],
            sp.expand,
        )
        for name, statement in _STATEMENTS.items()
    )


@functools.cache
def _moments(size):
    """Return every quantity by the density, and c and A as matrices."""
    scores, given = _scores(size)
    s, w = scores["u"], scores["v"]
    information = _expectation(s**2, size)
    moments = {
        "fisher": information,
        "third": _expectation(s**3, size),
        "variance_score_squared": _expectation(s**4, size) - information**2,
        "variance_negative_hessian": _expectation(w**2, size),
        "covariance": -_expectation(s**2 * w, size),
    }
    return {name: value.as_expr() for name, value in moments.items()}, given


def _scores(size):
    """Return s and w as polynomials in c, A and e, and c and A as matrices."""
    entries = list(itertools.combinations_with_replacement(range(size), 2))
    names = [f"c{k}_{i}" for k in "uv" for i in range(size)]
    names += [f"A{k}_{i}{j}" for k in "uv" for i, j in entries]
    names += [f"e_{i}" for i in range(size)]
    _, *generators = ring(names, sp.QQ)
    letters = dict(zip(names, generators, strict=True))
    label = generators[-size:]
    scores, given = {}, {}
    for k in "uv":
        slope = [letters[f"c{k}_{i}"] for i in range(size)]
        place = [[f"{min(i, j)}{max(i, j)}" for j in range(size)] for i in range(size)]
        matrix = [[letters[f"A{k}_{ij}"] for ij in row] for row in place]
        scores[k] = sum(c * e for c, e in zip(slope, label, strict=True)) + sum(
            matrix[i][j] * (label[i] * label[j] - int(i == j))
            for i in range(size)
            for j in range(size)
        )
        given[f"slope_{k}"] = sp.Matrix([c.as_expr() for c in slope])
        given[f"curvature_{k}"] = sp.Matrix([[x.as_expr() for x in row] for row in matrix])
    return scores, given


def _expectation(polynomial, size):
    """Return the expectation over independent standard normal last generators."""
    result = polynomial.ring.zero
    for monomial, coefficient in polynomial.terms():
        rest, powers = monomial[:-size], monomial[-size:]
        if all(power % 2 == 0 for power in powers):
            factor = int(sp.prod(sp.factorial2(power - 1) for power in powers))
            place = (*rest, *[0] * size)
            result[place] = result.get(place, 0) + factor * coefficient
    result.strip_zero()
    return result


def _explicit(program, given):
    """Return the program's lines from c and A on, for matrices of numbers."""
    found = dict(given)
    functions = {"dot": lambda a, b: (a.T * b).trace()}
    for line in needed([line for line in program if line.name not in given], _STATEMENTS):
        found[line.name] = interpret(line.formula, found, functions, sp.Rational)
    return found
