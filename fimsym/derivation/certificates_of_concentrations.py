"""Certificates of Theorem 4.1 for Dirichlet-like laws, D − c11ᵀ with D = diag ψ₁(h)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sympy as sp

from fimsym.derivation import bounds, certificates_of_searches
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.extremes import LargestCentred, SmallestReduced
from fimsym.derivation.functions import exact
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import BOUND, Definition, inline, normal
from fimsym.derivation.symbols import AxisMax, Lowered, Raised, RoundedUp, h, index, total, u, v
from fimsym.derivation.whitened_concentrations import cancelled
from fimsym.families import Family


def certificates(family: Family) -> Iterator[Identity]:
    """Prove the bounds of a vector of concentrations."""
    lines = {line.name: line for line in bounds.definitions(family)}
    yield from _values(family, lines)
    yield from _stated(family, {name: line.expression for name, line in lines.items()})
    yield from shares(lines["left"], list(lines.values()), *_sums(family))
    yield from _eigenvalue(family)
    yield from hoelder(family)
    yield from certificates_of_searches.centred()
    yield from certificates_of_searches.reduced()


def _sums(family):
    return total(family, h[index]), total(family, 1 / sp.polygamma(1, h[index]))


def _values(family, lines):
    """I and κ₄ are diagonal forms minus one term, of the values that the lines hold."""
    for name, base, form, order, power in (
        ("fisher", u, cumulant(family, 2, 0), 1, 2),
        ("variance_negative_hessian", v, cumulant(family, 0, 2), 1, 2),
        ("fourth cumulant", u, cumulant(family, 4, 0), 3, 4),
    ):
        diagonal = lines["variance" if order == 1 else "fourth"].expression
        whole = sp.polygamma(order, lines["total"].expression)
        yield Identity(
            f"theorem 4.1: {name}",
            f"Σ ψ_{order}(h_i)(·)^{power} − form = ψ_{order}(Σh)(Σ·)^{power} ≥ 0",
            total(family, diagonal * base[index] ** power) - form,
            whole * total(family, base[index]) ** power,
        )


def _stated(family, values):
    """Read off the lines what is searched, and that every allowance covers its rounding."""
    variance, weight, fourth = (
        sp.IndexedBase(name, real=True)[index] for name in ("variance", "weight", "fourth")
    )
    whole, shared, lost, taken, left, low, high, rest = (
        sp.Symbol(name, real=True)
        for name in (
            *("total", "shared", "lost", "taken", "left"),
            *("fisher_min", "fisher_max", "fourth_left"),
        )
    )
    size = lost + taken
    smallest = SmallestReduced(variance, weight, sp.Max(0, RoundedUp(left, -size)))
    largest = LargestCentred(variance, weight, RoundedUp(left, size))
    least = sp.Min(rest * AxisMax(fourth), rest / total(family, 1 / fourth))
    highest = AxisMax(fourth) + 2 * high**2
    inverse = total(family, sp.polygamma(3, h[index]) ** -sp.Rational(1, 3))
    share = sp.polygamma(3, whole) * inverse**3
    stated = {
        "shared": sp.polygamma(1, whole),
        "weight": shared / variance,
        "fisher_min": Lowered(smallest),
        "fisher_max": Raised(largest),
        "fourth_left": RoundedUp(1 - share, -1 - share),
        "quartic_min": sp.Max(0, 2 * low**2 + least),
        "quartic_max": Raised(highest),
    }
    for name, value in stated.items():
        yield Identity(
            f"theorem 4.1: {name}", "what the other lines prove", values[name], value, sp.expand
        )


def shares(
    left: Definition, lines: Sequence[Definition], whole: sp.Expr, inverse: sp.Expr
) -> Iterator[Identity]:
    """Prove that what is left of the shares is 1 − ψ₁(h₊) Σ 1/ψ₁(h)."""
    kept = [line for line in lines if line.name in ("total", "lost", "taken")]
    yield Identity(
        "theorem 4.1: what is left",
        "1 − Σ w = T − h₊R₊(1 − T)",
        inline(left.expression, kept, 1),
        1 - sp.polygamma(1, whole) * inverse,
        lambda difference: cancelled(normal(exact(difference))),
    )


def _eigenvalue(family):
    """I(u)² ≤ c‖u‖² Σ g² = ‖u‖² Σ w d g² ≤ λ‖u‖² Σ w g² = λ‖u‖² I(u), with one more entry.

    √c g_k = d_k u_k − c Σ u and g₀ = −√c Σ u, of weight r = 1 − Σ w and d₀ = 0.
    """
    d, c = sp.IndexedBase("d", positive=True)[index], sp.Symbol("c", positive=True)
    summed = total(family, u[index])
    scaled = d * u[index] - c * summed
    share = c * total(family, 1 / d)
    form = total(family, d * u[index] ** 2) - c * summed**2
    yield Identity(
        "theorem 4.1: scores as centred values",
        "Σ w g² = I, Σ w g = 0, Σ g_k u_k √c = I",
        sp.Symbol("x") * form + sp.Symbol("y") * 0 + sp.Symbol("z") * form,
        sp.Symbol("x") * (total(family, scaled**2 / d) + (1 - share) * c * summed**2)
        + sp.Symbol("y") * (total(family, scaled / d) - (1 - share) * summed)
        + sp.Symbol("z") * total(family, scaled * u[index]),
    )


def hoelder(family: Family) -> Iterator[Identity]:
    """Prove (Σu)⁴ ≤ (Σ a^(−⅓))³ Σ a u⁴, and Σ a n² ≥ (Σ n)²/Σ(1/a), each by Cauchy's inequality."""
    b, other = sp.IndexedBase("b", positive=True), BOUND[1]
    # b = a^(1/3)
    for name, one, two, product in (
        ("first half", 1 / b[index], b[index] * u[index] ** 2, u[index]),
        ("second half", 1 / b[index], b[index] ** 3 * u[index] ** 4, b[index] * u[index] ** 2),
        ("least", 1 / b[index] ** 3, b[index] ** 3 * u[index] ** 4, u[index] ** 2),
    ):
        moved = {index: other}
        gap = one * two.xreplace(moved) + one.xreplace(moved) * two
        gap -= 2 * product * product.xreplace(moved)
        yield Identity(
            f"theorem 4.1: Hölder, {name}",
            "Σx Σy − (Σz)² = ½ ΣΣ (x_i y_j + x_j y_i − 2 z_i z_j) ≥ 0, z² = xy",
            total(family, one) * total(family, two) - total(family, product) ** 2,
            total(family, total(family, sp.expand(gap), over=other)) / 2,
        )
