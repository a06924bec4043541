"""Certificates of Theorem 4.1 for laws with a log-sum-exp partition."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from fimsym.derivation import bounds, certificates_of_searches, moments
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.extremes import LargestCentred, LargestOfClasses
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import BOUND, Definition, inline
from fimsym.derivation.stable import softmax
from fimsym.derivation.symbols import (
    AxisMax,
    Raised,
    RoundedUp,
    h,
    index,
    probability,
    second,
    top,
    total,
    u,
    v,
)
from fimsym.derivation.targets import in_sums
from fimsym.errors import DerivationError
from fimsym.families import Family
from fimsym.families import family as registered

_p = probability[index]
_SYMBOLIC = ("fisher_exact", "farthest", "even", "fisher_of_draw", "quartic_of_draw")
"""Lines that are proven by themselves and keep their symbols in those after them."""


def certificates(family: Family) -> Iterator[Identity]:
    """Prove each bound that the program states, with its own lines inlined."""
    lines = bounds.definitions(family)
    if moments.draws(family) != 1:
        yield from _draws(family, lines)
        family = registered("categorical")
        lines = [_of_one(line) for line in lines if line.name not in bounds.QUANTITIES] + [
            line for line in lines if line.name in ("fisher_min", "quartic_min")
        ]
    kept = [line for line in lines if line.name != "probability"]
    inlined = [line for line in kept if line.name not in _SYMBOLIC]
    values = {line.name: in_sums(inline(line.expression, inlined), family) for line in kept}
    yield Identity(
        "theorem 4.1: probabilities",
        "the program's p are softmax(h)",
        sp.Add(*(line.expression for line in lines if line.name == "probability")),
        softmax(family).expression,
    )
    yield from _lower(family, values)
    yield from _margins(values)
    yield from _fisher_upper(family, values["fisher_exact"])
    yield from _quartic_upper(family, values)
    yield from certificates_of_searches.centred()
    yield from certificates_of_searches.classes()


def _of_one(line: Definition) -> Definition:
    """Return a line of one draw under the name that it has for a single one."""
    name = line.name.replace("_of_draw", "_max")
    symbol = sp.Symbol(name, real=True) if name != line.name else line.symbol
    return Definition(name, symbol, line.expression, line.meaning)


def _draws(family, lines):
    """Prove that n draws have n times the Fisher information, and n V₁ + 2n(n−1)I²."""
    draws = moments.draws(family)
    information, variance, _ = _forms(family)
    score = _centred(family, u)
    one = total(family, _p * score**2)
    spread = total(family, _p * (score**2 - one) ** 2)
    fisher, quartic = sp.symbols("fisher_of_draw quartic_of_draw", real=True)
    stated = {"fisher_max": draws * fisher}
    stated["quartic_max"] = draws * quartic + 2 * draws * (draws - 1) * fisher**2
    yield Identity("theorem 4.1: fisher of n draws", "I = n I₁", information, draws * one)
    yield Identity(
        "theorem 4.1: variance_score_squared of n draws",
        "V₁ = n V₁ of one draw + 2n(n − 1) I₁²",
        variance,
        draws * spread + 2 * draws * (draws - 1) * one**2,
    )
    for line in lines:
        if line.name in stated:
            value = stated[line.name]
            name = f"{line.name} of n draws"
            yield _claim(name, "the same of bounds", line.expression, Raised(value))


def _claim(name, statement, left, right):
    """Claim that two expressions that SymPy orders alike are equal."""
    return Identity(f"theorem 4.1: {name}", statement, left, right, sp.expand)


def _candidates(bound, *kinds):
    """Return the candidates that a bound is the least of, one of each kind, in order.

    Raises:
        DerivationError: it is not such a minimum.
    """
    found = [[node for node in bound.args if kind(node)] for kind in kinds]
    if (
        not isinstance(bound, sp.Min)
        or len(bound.args) != len(kinds)
        or any(len(nodes) != 1 for nodes in found)
    ):
        raise DerivationError(
            f"expected an upper bound that is the least of {len(kinds)} known candidates; got "
            f"{bound}. Prove every candidate in fimsym/derivation/certificates_of_classes.py."
        )
    return [nodes[0] for nodes in found]


def _centred(family, base):
    return base[index] - total(family, _p * base[index])


def _forms(family):
    """Return I, V₁ and V₂ in cumulants of F."""
    information = cumulant(family, 2, 0)
    return information, cumulant(family, 4, 0) + 2 * information**2, cumulant(family, 0, 2)


def _lower(family, values):
    """λ_min = 0: each form is a sum of squares and vanishes along the all-ones vector."""
    information, variance, hessian = _forms(family)
    score, other = _centred(family, u), _centred(family, v)
    norm, norm_v = total(family, u[index] ** 2), total(family, v[index] ** 2)
    low, quartic = values["fisher_min"], values["quartic_min"]
    squares = {
        "fisher": (information, low * norm, total(family, _p * score**2)),
        "variance_negative_hessian": (hessian, low * norm_v, total(family, _p * other**2)),
        "variance_score_squared": (
            variance,
            quartic * norm**2,
            total(family, _p * (score**2 - information) ** 2),
        ),
    }
    ones = {u[index]: sp.Integer(1), v[index]: sp.Integer(1)}
    for name, (form, bound, sum_of_squares) in squares.items():
        yield Identity(
            f"theorem 4.1: {name}, min",
            "the form minus λ_min times the norm is a sum of squares",
            form - bound,
            sum_of_squares,
        )
        yield Identity(
            f"theorem 4.1: {name}, min attained",
            "the all-ones direction gives zero, so λ_min = 0",
            form.xreplace(ones),
            sp.Integer(0),
        )


def _margins(values):
    """Read the allowances for rounding, which grow with how far the largest logits are apart."""
    exact = sp.Symbol("fisher_exact", real=True)
    margin = (4 + h[top] - h[second]) * exact
    for name in ("fisher", "quartic"):
        bound = values[f"{name}_max"]
        if not isinstance(bound, RoundedUp):
            raise DerivationError(f"expected {name}_max with an allowance; got {bound}.")
        statement = "the allowance for rounding is relative to λ_max(I)"
        yield _claim(f"{name}_max, rounding", statement, bound.args[1], margin)
    yield _claim("fisher_max", "λ_max(I), rounded up", values["fisher_max"].args[0], exact)


def _fisher_upper(family, exact):
    """Prove every candidate that the program takes the least of.

    A candidate max_i a_i bounds the form when Σ a_i w_i² does; one without a maximum, a
    trace, when it does so times ‖w‖².
    """
    plain, doubled, trace, search = _candidates(
        exact,
        lambda node: isinstance(node, AxisMax) and not node.has(sp.Sum),
        lambda node: isinstance(node, AxisMax) and node.has(sp.Sum),
        lambda node: isinstance(node, sp.Sum),
        lambda node: isinstance(node, LargestCentred),
    )
    plain, doubled = plain.args[0], doubled.args[0]
    yield _claim("search for λ_max(I)", "d = w = p", search, LargestCentred(_p, _p))
    for name, base, form in (
        ("fisher", u, cumulant(family, 2, 0)),
        ("variance_negative_hessian", v, cumulant(family, 0, 2)),
    ):
        w, score = base[index], _centred(family, base)
        yield Identity(
            f"theorem 4.1: {name}, max of p",
            "Σ p_i u_i² − I = (Σ p u)² ≥ 0",
            total(family, plain * w**2) - form,
            total(family, _p * w) ** 2,
        )
        yield Identity(
            f"theorem 4.1: {name}, max of 2p(1 − p)",
            "Σ 2p_i(1 − p_i)u_i² − I = Σ_{i<j} p_i p_j (u_i + u_j)² ≥ 0",
            total(family, doubled * w**2) - form,
            _pairs(family, base),
        )
        spread = 1 - 2 * _p + total(family, _p**2)
        norm = total(family, w**2)
        yield Identity(
            f"theorem 4.1: {name}, max by trace",
            "(1 − ‖p‖²)‖u‖² − I = Σ p_y (‖e_y − p‖²‖u‖² − ⟨e_y − p, u⟩²) ≥ 0",
            trace * norm - form,
            total(family, _p * (spread * norm - score**2)),
        )
        yield Identity(
            f"theorem 4.1: {name}, max",
            "I = Σ p s u, so that I² ≤ ‖u‖² Σ p² s² ≤ λ ‖u‖² Σ p s² = λ ‖u‖² I",
            form,
            total(family, _p * score * w),
        )


def _pairs(family, base):
    """Return Σ_{i<j} p_i p_j (w_i + w_j)²."""
    other = BOUND[1]
    every = total(family, _p * (base[index] + base[other]) ** 2)
    every = total(family, probability[other] * every, over=other)
    return every / 2 - total(family, 2 * _p**2 * base[index] ** 2)


def _quartic_upper(family, values):
    """Prove V₁ ≤ x(r − x), and V₁ ≤ ‖A‖ ‖u‖² for A = Σ_y p_y φ_y (e_y−p)(e_y−p)ᵀ, φ = s² − I."""
    search = values["quartic_max"].args[0]
    if not isinstance(search, LargestOfClasses):
        raise DerivationError(f"expected quartic_max by a matrix norm; got {search}.")
    diagonal, weight, ceiling = search.args
    exact, farthest, even = (
        sp.Symbol(name, real=True) for name in ("fisher_exact", "farthest", "even")
    )
    yield _claim("search for λ_max(M)", "its weights are p", weight, _p)
    yield _claim("ceiling", "x(r − x)", ceiling, even * (farthest - even))
    yield _claim("x", "min(λ_max(I), r/2)", values["even"], sp.Min(exact, farthest / 2))
    yield from _ceiling(family, values["farthest"])
    yield from _norm(family, diagonal)


def _ceiling(family, farthest):
    information, variance, _ = _forms(family)
    score, norm = _centred(family, u), total(family, u[index] ** 2)
    r, largest, fisher = sp.symbols("r lambda I", real=True)
    spread = 1 - 2 * _p + total(family, _p**2)
    if not isinstance(farthest, AxisMax):
        raise DerivationError(f"expected the largest of ‖e_y − p‖²; got {farthest}.")
    yield Identity("theorem 4.1: r", "r = max (1 − 2 p_y + ‖p‖²)", farthest.args[0], spread)
    yield Identity(
        "theorem 4.1: variance_score_squared, max by I",
        "I(r‖u‖² − I) − V₁ = Σ p_y s_y²(r‖u‖² − s_y²) ≥ 0, r = max ‖e_y − p‖²",
        information * (r * norm - information) - variance,
        total(family, _p * score**2 * (r * norm - score**2)),
    )
    yield _claim(
        "even",
        "r²/4 − I(r − I) = (r/2 − I)²",
        r**2 / 4 - fisher * (r - fisher),
        (r / 2 - fisher) ** 2,
    )
    yield _claim(
        "below even",
        "λ(r − λ) − I(r − I) = (λ − I)(r − λ − I) ≥ 0 for I ≤ λ ≤ r/2",
        largest * (r - largest) - fisher * (r - fisher),
        (largest - fisher) * (r - largest - fisher),
    )


def _norm(family, diagonal):
    information, variance, _ = _forms(family)
    score = _centred(family, u)
    label, a, b = BOUND[1:4]
    x = sp.IndexedBase("x", real=True)
    weight = probability[label] * (x[label] - total(family, _p * x[index]))
    delta = sp.KroneckerDelta
    entry = total(
        family,
        weight * (delta(a, label) - probability[a]) * (delta(b, label) - probability[b]),
        over=label,
    )
    trace = total(family, weight * (delta(a, label) - probability[a]) ** 2, over=label)
    centred = x[index] - total(family, _p * x[index])
    tilt = total(family, _p**2 * centred)
    yield Identity(
        "theorem 4.1: variance_score_squared, by a matrix",
        "V₁ = Σ p φ s² = uᵀAu",
        variance,
        total(family, _p * (score**2 - information) * score**2),
    )
    yield Identity(
        "theorem 4.1: norm of the matrix",
        "‖A‖² = Σ D p φ² + 2(Σ p² φ)² for Σ p φ = 0",
        total(family, total(family, entry**2, over=a), over=b),
        total(family, diagonal * _p * centred**2) + 2 * tilt**2,
    )
    yield Identity(
        "theorem 4.1: trace of the matrix",
        "tr A = −2 Σ p² φ for Σ p φ = 0",
        total(family, trace, over=a),
        -2 * tilt,
    )
