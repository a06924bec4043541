"""Theorem 4.1 for a Gaussian vector: eigenvalues of I, and V₁ between multiples of I².

I of a direction is ‖c‖² + 2‖A‖², so that its extreme eigenvalues are those of two small
matrices, and V₁ = 2I² + 48(‖A²‖² + ‖Ac‖²).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import sympy as sp

from fimsym.derivation.identity import Identity
from fimsym.derivation.letters import Letter
from fimsym.derivation.matrices import dot
from fimsym.derivation.matrix_moments import SIZES
from fimsym.derivation.matrix_program import Line, evaluate, needed, number, values
from fimsym.families.formula import interpret

BOUNDS = (
    Line(
        "largest",
        number("largest"),
        "largest_information(slope_u, curvature_u)",
        "largest eigenvalue of I, from the c and A of unit directions",
    ),
    Line(
        "matrix_w",
        Letter("B", symmetric=1),
        "factor * curvature_w * transpose(factor)",
        "the direction whose score has c and A",
    ),
    Line(
        "vector_w",
        Letter("a", vector=1),
        "factor * slope_w - 2 * matrix_w * mean_vector",
        "likewise",
    ),
    Line(
        "largest_inverse",
        number("largest_inverse"),
        "largest_square(vector_w, matrix_w)",
        "largest eigenvalue of I⁻¹, from the directions of unit scores",
    ),
    Line(
        "rounding",
        number("rounding"),
        "relative_rounding(factor, whitener)",
        "what rounding may have taken from an eigenvalue, relative to it",
    ),
    Line(
        "fisher_min",
        number("fisher_min"),
        "(1 - rounding) / largest_inverse",
        "smallest eigenvalue of I: λ with I ≥ λ‖u‖² and V₂ ≥ λ‖v‖²",
    ),
    Line(
        "fisher_max",
        number("fisher_max"),
        "(1 + rounding) * largest",
        "largest eigenvalue of I: λ with I ≤ λ‖u‖² and V₂ ≤ λ‖v‖²",
    ),
    Line(
        "quartic_min",
        number("quartic_min"),
        "2 * fisher_min**2",
        "lower bound of M on unit vectors: V₁ ≥ λ‖u‖⁴",
    ),
    Line(
        "curved",
        number("curved"),
        "(1 + rounding) * largest_curvature(curvature_u)",
        "largest ‖A‖² of unit directions",
    ),
    Line(
        "share",
        number("share"),
        "smaller(curved, fisher_max / 2)",
        "what ‖A‖² can be, since 2‖A‖² ≤ I",
    ),
    Line(
        "quartic_max",
        number("quartic_max"),
        "2 * fisher_max**2 + 48 * share * (fisher_max - share)",
        "upper bound of M on unit vectors: V₁ ≤ λ‖u‖⁴",
    ),
)
"""Theorem 4.1's constants."""


def identities(program: Sequence[Line], bounds: Sequence[Line]) -> tuple[Identity, ...]:
    """Prove I of the direction with given c and A, and the bounds of V₁ by those of I and ‖A‖².

    With x = ‖A‖² and y = ‖c‖², I = 2x + y, ‖A²‖² ≤ x² and ‖Ac‖² ≤ xy, so that
    κ₄₀ ≤ 48 x (I − x), which grows with I, and with x up to I/2.
    """
    found = values(needed((*program, *bounds), ["vector_w"]))
    at = {"vector_u": found["vector_w"], "matrix_u": found["matrix_w"]}
    slope, curvature = found["slope_w"], found["curvature_w"]
    x, y, fourth, more, above, rest = sp.symbols("x y kappa_40 p q r", nonnegative=True)
    fisher, share = y + 2 * x, x + above
    last = {line.name: line.formula for line in (*program, *bounds)}
    low = evaluate(last["quartic_min"], {"fisher_min": fisher})
    high = evaluate(last["quartic_max"], {"fisher_max": fisher + more, "share": share})
    variance = evaluate(
        last["variance_score_squared"], {"fourth_cumulant": fourth, "fisher": fisher}
    )
    curved, largest = sp.symbols("curved fisher_max", positive=True)
    given = {"curved": curved, "fisher_max": largest}
    return (
        Identity(
            "bound: directions of unit scores",
            "I = ‖c‖² + 2‖A‖² at a = Lc − 2Bμ, B = LALᵀ",
            values(program, at)["fisher"],
            dot(slope, slope) + 2 * dot(curvature, curvature),
            sp.expand,
        ),
        Identity(
            "bound: share",
            "S is the least of what ‖A‖² and I allow",
            interpret(last["share"], given, {"smaller": sp.Min}, sp.Rational),
            sp.Min(curved, largest / 2),
            sp.expand,
        ),
        Identity("bound: from below", "V₁ = 2I² + κ₄₀, κ₄₀ ≥ 0", variance, low + fourth, sp.expand),
        Identity(
            "bound: from above",
            "the bound less 2I² + 48x(I − x) is Σ of products of I_max − I, S − x, I_max − 2S ≥ 0",
            (high - variance.subs(fourth, 48 * x * (fisher - x))).subs(y, rest + 2 * above - more),
            2 * more * (2 * fisher + more).subs(y, rest + 2 * above - more)
            + 48 * (above * (rest + above) + x * more),
            sp.expand,
        ),
        *(identity for size in SIZES[1:] for identity in _norm_identities(size)),
    )


def _norm_identities(size):
    """Prove ‖A²‖² ≤ ‖A‖⁴ and ‖Ac‖² ≤ ‖A‖²‖c‖² as sums of squares (Lagrange)."""
    c = sp.Matrix(sp.symbols(f"c_:{size}", real=True))
    a = sp.Matrix(size, size, lambda i, j: sp.Symbol(f"A_{min(i, j)}{max(i, j)}", real=True))
    rows = [a.row(i) for i in range(size)]

    def minors(one, other):
        pairs = itertools.combinations(range(size), 2)
        return sum((one[k] * other[n] - one[n] * other[k]) ** 2 for k, n in pairs)

    def square(matrix):
        return (matrix.T * matrix).trace()

    return (
        Identity(
            f"bound: square of a matrix (D = {size})",
            "‖A‖⁴ − ‖A²‖² is a sum of squares",
            square(a) ** 2 - square(a * a),
            sum(minors(one, other) for one in rows for other in rows),
            sp.expand,
        ),
        Identity(
            f"bound: matrix times vector (D = {size})",
            "‖A‖²‖c‖² − ‖Ac‖² is a sum of squares",
            square(a) * square(c) - square(a * c),
            sum(minors(row, c) for row in rows),
            sp.expand,
        ),
    )
