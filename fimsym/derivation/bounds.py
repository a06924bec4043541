"""Theorem 4.1: constants λ with λ_min ‖u‖² ≤ I ≤ λ_max ‖u‖², and so on.

The constants bound the quadratic form I and the quartic form M over unit vectors; each
comes with a certificate, an identity whose right-hand side is a sum of terms that
cannot be negative.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.normal import BOUND, Definition, inline
from fimsym.derivation.proofs import Identity
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
    v,
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


def certificates(family: Family) -> tuple[Identity, ...]:
    """Return the identities that prove the six inequalities of Theorem 4.1."""
    if uses_probabilities([cumulant(family, 2, 0)]):
        return _softmax_certificates(family)
    return _independent_certificates(family)


def _line(name, expression):
    return Definition(name, sp.Symbol(name, real=True), expression, QUANTITIES[name])


def _cumulants_of_one(family):
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
    second, fourth = _cumulants_of_one(family)
    low, high = AxisMin(second), AxisMax(second)
    return (
        _line("fisher_min", low),
        _line("fisher_max", high),
        _line("quartic_min", sp.Max(0, 2 * low**2 + sp.Min(0, AxisMin(fourth)))),
        _line("quartic_max", 2 * high**2 + sp.Max(0, AxisMax(fourth))),
    )


def _independent_certificates(family):
    second, fourth = _cumulants_of_one(family)
    if not (second.atoms(sp.Indexed) or fourth.atoms(sp.Indexed)):
        return _equalities(family)
    return tuple(
        certificate
        for side, sign in (("min", 1), ("max", -1))
        for certificate in _certificates_of_side(family, second, fourth, side, sign)
    )


def _equalities(family):
    """Prove that each form is its constant times the norm, where curvature is constant."""
    information, variance, hessian = _forms(family)
    values = {line.name: line.expression for line in definitions(family)}
    first, second = total(family, u[index] ** 2), total(family, v[index] ** 2)
    forms = {
        "fisher": (information, "fisher", first),
        "variance_negative_hessian": (hessian, "fisher", second),
        "variance_score_squared": (variance, "quartic", first**2),
    }
    return tuple(
        Identity(
            f"theorem 4.1: {name}, {side}",
            f"the form equals {constant}_{side} times the norm, so the bound is an equality",
            form,
            values[f"{constant}_{side}"] * norm,
        )
        for name, (form, constant, norm) in forms.items()
        for side in ("min", "max")
    )


def _certificates_of_side(family, second, fourth, side, sign):
    """Split form − λ·norm into terms of one sign; λ bounds every κ₂ (and κ₄) from one side."""
    information, variance, hessian = _forms(family)
    bound = sp.Symbol(f"kappa2_{side}", real=True)
    tail = sp.Symbol(f"kappa4_{side}", real=True)
    for name, base, form in (
        ("fisher", u, information),
        ("variance_negative_hessian", v, hessian),
    ):
        square = base[index] ** 2
        yield Identity(
            f"theorem 4.1: {name}, {side}",
            "form − λ‖·‖² = Σ (κ₂ − λ)(·)², every term of one sign",
            sign * (form - bound * total(family, square)),
            sign * total(family, (second - bound) * square),
        )
    square = u[index] ** 2
    norm = total(family, square)
    gap, sums = (total(family, (second + s * bound) * square) for s in (-1, 1))
    yield Identity(
        f"theorem 4.1: variance_score_squared, {side}",
        "V₁ − (2κ₂² + κ₄)‖u‖⁴ splits into differences of one sign",
        sign * (variance - (2 * bound**2 + tail) * norm**2),
        sign * (2 * gap * sums + total(family, fourth * square**2) - tail * norm**2),
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


def _softmax_certificates(family):
    """Prove each bound that the program states, with its own lines inlined."""
    program = definitions(family)
    lines = [line for line in program if line.name != "probability"]
    values = {line.name: _in_sums(inline(line.expression, lines), family) for line in lines}
    return (
        *_softmax_lower(family, values),
        *_softmax_fisher_upper(family, values["fisher_max"]),
        *_softmax_quartic_upper(family, values),
    )


def _in_sums(expression, family):
    """Write Σ_{j≠i} x_j as Σ_j x_j − x_i, and drop the allowance for rounding."""
    expression = expression.replace(
        lambda node: isinstance(node, Others),
        lambda node: total(family, node.args[0]) - node.args[0],
    )
    return expression.replace(lambda node: isinstance(node, RoundedUp), lambda node: node.args[0])


def _centred(family, base):
    return base[index] - total(family, _p * base[index])


def _forms(family):
    """Return I, V₁ and V₂ in cumulants of F."""
    information = cumulant(family, 2, 0)
    return information, cumulant(family, 4, 0) + 2 * information**2, cumulant(family, 0, 2)


def _softmax_lower(family, values):
    """λ_min = 0: each form is a sum of squares and vanishes along the all-ones vector."""
    information, variance, hessian = _forms(family)
    score, second = _centred(family, u), _centred(family, v)
    norm, norm_v = total(family, u[index] ** 2), total(family, v[index] ** 2)
    low, quartic = values["fisher_min"], values["quartic_min"]
    squares = {
        "fisher": (information, low * norm, total(family, _p * score**2)),
        "variance_negative_hessian": (hessian, low * norm_v, total(family, _p * second**2)),
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


def _softmax_fisher_upper(family, fisher_max):
    """Prove every candidate that the program takes the least of.

    A candidate max_i a_i bounds the form when Σ a_i w_i² does; one without a maximum, a
    trace, when it does so times ‖w‖².
    """
    weights = [node.args[0] for node in fisher_max.args if isinstance(node, AxisMax)]
    traces = [node for node in fisher_max.args if not isinstance(node, AxisMax)]
    doubled = [weight for weight in weights if weight.has(sp.Sum)]
    plain = [weight for weight in weights if not weight.has(sp.Sum)]
    spread = 1 - 2 * _p + total(family, _p**2)
    for name, base, form in (
        ("fisher", u, cumulant(family, 2, 0)),
        ("variance_negative_hessian", v, cumulant(family, 0, 2)),
    ):
        w = base[index]
        norm, mean = total(family, w**2), total(family, _p * w)
        pairs = total(family, _p * (w + base[BOUND[1]]) ** 2)
        pairs = total(family, probability[BOUND[1]] * pairs, over=BOUND[1])
        gaps = [
            ("Σ p_i u_i² − I = (Σ p u)² ≥ 0", plain, mean**2),
            (
                "Σ 2p_i(1 − p_i)u_i² − I = Σ_{i<j} p_i p_j (u_i + u_j)² ≥ 0",
                doubled,
                pairs / 2 - total(family, 2 * _p**2 * w**2),
            ),
        ]
        for statement, (weight,), gap in gaps:
            yield Identity(
                f"theorem 4.1: {name}, max of {'p' if weight == _p else '2p(1 − p)'}",
                statement,
                total(family, weight * w**2) - form,
                gap,
            )
        (trace,) = traces
        yield Identity(
            f"theorem 4.1: {name}, max by trace",
            "(1 − ‖p‖²)‖u‖² − I = Σ p_y (‖e_y − p‖²‖u‖² − ⟨e_y − p, u⟩²) ≥ 0",
            trace * norm - form,
            total(family, _p * (spread * norm - _centred(family, base) ** 2)),
        )


def _softmax_quartic_upper(family, values):
    """Two upper bounds of λ_max(M): by λ_max(I), and by the trace of Cov((t−η)(t−η)ᵀ).

    The second holds because V₁ = Σ p_y ⟨X_y − I, uuᵀ⟩², where X_y = (e_y−p)(e_y−p)ᵀ, and
    each inner product is at most ‖X_y − I‖ ‖u‖².
    """
    information, variance, _ = _forms(family)
    score, norm = _centred(family, u), total(family, u[index] ** 2)
    largest = sp.Symbol("distance_max", real=True)
    label, a, b = BOUND[1:4]
    delta = sp.KroneckerDelta
    deviation = (delta(a, label) - probability[a]) * (delta(b, label) - probability[b])
    deviation -= probability[a] * delta(a, b) - probability[a] * probability[b]
    squared = total(family, total(family, deviation**2, over=a), over=b)
    entry = total(family, (delta(a, label) - probability[a]) ** 2, over=a)
    stated = [node for node in values["quartic_max"].args if isinstance(node, sp.Sum)]
    others = [node for node in values["quartic_max"].args if node not in stated]
    yield Identity(
        "theorem 4.1: distance",
        "the distances that the program uses are ‖e_y − p‖²",
        values["distance"].xreplace({index: label}),
        entry,
    )
    yield Identity(
        "theorem 4.1: eigenvalue bound",
        "the other bound that the program uses is λ_max(I) max_y ‖e_y − p‖²",
        sp.Add(*others),
        values["fisher_max"] * AxisMax(values["distance"]),
    )
    yield Identity(
        "theorem 4.1: variance_score_squared, max by eigenvalue",
        "d I‖u‖² − V₁ = Σ p_y s_y²(d‖u‖² − s_y²) + I² ≥ 0, d = max ‖e_y − p‖²",
        largest * norm * information - variance,
        total(family, _p * score**2 * (largest * norm - score**2)) + information**2,
    )
    yield Identity(
        "theorem 4.1: variance_score_squared, max by trace",
        "Σ p_y ‖X_y − I‖² = Σ p_y d_y (d_y − p_y), d_y = ‖e_y − p‖²",
        total(family, probability[label] * squared, over=label),
        sp.Add(*stated),
    )
