"""A square root of a Gaussian vector's I, and estimators in coordinates that it whitens.

The coordinates of a direction are its c and A, of norm ‖c‖² + 2‖A‖²: see `whitening`, whose
a, b, k and R these lines hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from fimsym.derivation.identity import Identity
from fimsym.derivation.letters import Letter
from fimsym.derivation.matrices import dot, words
from fimsym.derivation.matrix_program import INPUTS, Line, in_cumulants, number, values
from fimsym.families import Family

WHITENING = (
    Line("tilted_u", Letter("x", vector=1), "4 * bent_u", "linear part of E[s² e]"),
    Line(
        "spread_u",
        Letter("Y", symmetric=1),
        "4 * squared_u + slope_u * transpose(slope_u)",
        "quadratic part of E[s² e]",
    ),
    Line(
        "remainder",
        number("R"),
        "16 * (dot(squared_u, squared_u) + dot(bent_u, bent_u))"
        " + 8 * dot(curvature_u, curvature_u)"
        " * (dot(slope_u, slope_u) + dot(curvature_u, curvature_u))",
        "variance of what of s² is not linear in t",
    ),
)
"""s² in the statistics e that c and A are the coordinates of, with ‖(c, A)‖² = ‖c‖² + 2‖A‖²."""

ROOT = (
    Line("root_vector", Letter("g_y", vector=1), "transpose(whitener) * slope_probe", "L g, of y"),
    Line(
        "root_matrix",
        Letter("G_yy", symmetric=1),
        "transpose(whitener) * (2 * curvature_probe + slope_probe * transpose(whitened_h)"
        " + whitened_h * transpose(slope_probe)) * whitener",
        "L g, of y yᵀ",
    ),
)
"""The square root L of I that takes the coordinates (c, A) to statistics, times a probe."""


def identities(
    family: Family, program: Sequence[Line], whitening: Sequence[Line], root: Sequence[Line]
) -> tuple[Identity, ...]:
    """Prove what a, k, b, R and L g are, in the coordinates (c, A) of norm ‖c‖² + 2‖A‖²."""
    found = values((*program, *whitening, *root))
    pairs = {
        "a": (found["slope_u"], found["curvature_u"]),
        "b": (found["slope_v"], found["curvature_v"]),
        "k": (found["tilted_u"], found["spread_u"]),
        "g": (words(INPUTS["slope_probe"]), words(INPUTS["curvature_probe"])),
    }

    def inner(one, other):
        (c, matrix), (d, other_matrix) = pairs[one], pairs[other]
        return dot(c, d) + 2 * dot(matrix, other_matrix)

    raw = in_cumulants(family)
    direction = (words(INPUTS["vector_u"]), words(INPUTS["matrix_u"]))
    claims = {
        "fisher": ("‖Lᵀu‖² = I", inner("a", "a")),
        "third": ("⟨k, a⟩ = κ₃₀", inner("k", "a")),
        "variance_score_squared": ("R + ‖k‖² = V₁", found["remainder"] + inner("k", "k")),
        "variance_negative_hessian": ("‖Lᵀv‖² = V₂", inner("b", "b")),
        "covariance": ("−⟨k, b⟩ = Cov(Î₁, Î₂)", -inner("k", "b")),
    }
    return (
        *(
            Identity(f"whitened form: {name}", statement, value, raw[name], sp.expand)
            for name, (statement, value) in claims.items()
        ),
        Identity(
            "square root",
            "⟨u, L g⟩ = ⟨Lᵀu, g⟩",
            dot(direction[0], found["root_vector"]) + dot(direction[1], found["root_matrix"]),
            inner("a", "g"),
            sp.expand,
        ),
    )
