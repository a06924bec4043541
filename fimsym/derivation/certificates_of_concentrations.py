"""Certificates of Theorem 4.1 for a vector of concentrations."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from fimsym.derivation import bounds
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import BOUND, inline
from fimsym.derivation.symbols import AxisMax, AxisMin, RoundedUp, h, index, total, u, v
from fimsym.families import Family


def certificates(family: Family) -> Iterator[Identity]:
    """Prove that I and κ₄ are diagonal forms minus one non-negative term."""
    whole = total(family, h[index])
    for name, base, form, order, power in (
        ("fisher", u, cumulant(family, 2, 0), 1, 2),
        ("variance_negative_hessian", v, cumulant(family, 0, 2), 1, 2),
        ("fourth cumulant", u, cumulant(family, 4, 0), 3, 4),
    ):
        yield Identity(
            f"theorem 4.1: {name}, max",
            f"Σ ψ_{order}(h_i)(·)^{power} − form = ψ_{order}(Σh)(Σ·)^{power} ≥ 0",
            total(family, sp.polygamma(order, h[index]) * base[index] ** power) - form,
            sp.polygamma(order, whole) * total(family, base[index]) ** power,
        )
    yield _cauchy(family)
    variance = sp.polygamma(1, h[index])
    share = sp.polygamma(1, whole) * total(family, 1 / variance)
    largest = AxisMax(variance)
    stated = {
        "fisher_min": sp.Max(0, RoundedUp(1 - share, -1 - share)) * AxisMin(variance),
        "fisher_max": largest,
        "quartic_min": sp.Integer(0),
        "quartic_max": AxisMax(sp.polygamma(3, h[index])) + 2 * largest**2,
    }
    lines = bounds.definitions(family)
    for line in lines:
        if line.name in stated:
            yield Identity(
                f"theorem 4.1: {line.name}",
                "the bound of a diagonal minus one term",
                _lettered(inline(line.expression, lines)),
                _lettered(inline(stated[line.name], ())),
                sp.expand,
            )


def _lettered(expression):
    """Index every sum alike, also where a maximum over outputs surrounds it."""
    return expression.xreplace(dict.fromkeys(BOUND, index))


def _cauchy(family):
    """Prove (Σ u)² ≤ (Σ 1/d)(Σ d u²), so that D − c11ᵀ ≥ (1 − c Σ 1/d) D."""
    d, other = sp.IndexedBase("d", positive=True), BOUND[1]
    gap = (d[index] * u[index] - d[other] * u[other]) ** 2 / (d[index] * d[other])
    return Identity(
        "theorem 4.1: fisher, min",
        "(Σ 1/d)(Σ d u²) − (Σ u)² = ½ ΣΣ (d_i u_i − d_j u_j)²/(d_i d_j) ≥ 0",
        total(family, 1 / d[index]) * total(family, d[index] * u[index] ** 2)
        - total(family, u[index]) ** 2,
        total(family, total(family, sp.expand(gap), over=other)) / 2,
    )
