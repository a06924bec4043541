"""Certificates of Theorem 4.1: identities whose right-hand side cannot be negative.

Every bound that `fimsym.derivation.bounds` states is proven from its own lines, inlined,
for any number of outputs.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation import (
    bounds,
    certificates_of_concentrations,
    certificates_of_targets,
    concentration,
    moments,
)
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import BOUND, inline
from fimsym.derivation.stable import softmax, uses_probabilities
from fimsym.derivation.symbols import (
    AxisMax,
    Others,
    RoundedUp,
    index,
    probability,
    total,
    u,
    v,
)
from fimsym.errors import DerivationError
from fimsym.families import Family
from fimsym.families import family as registered

_p = probability[index]


def certificates(family: Family) -> tuple[Identity, ...]:
    """Return the identities that prove the six inequalities of Theorem 4.1."""
    if not family.vector:
        return certificates_of_targets.certificates(family)
    if uses_probabilities([cumulant(family, 2, 0)]):
        if moments.draws(family) == 1:
            return _softmax_certificates(family)
        return (*_softmax_certificates(registered("categorical")), *_draws(family))
    if concentration.applies(family):
        return tuple(certificates_of_concentrations.certificates(family))
    return ()


def _draws(family):
    """Prove that n draws have n times the Fisher information, and n V₁ + 2n(n−1)I²."""
    draws = moments.draws(family)
    information, variance, _ = _forms(family)
    score = _centred(family, u)
    one = total(family, _p * score**2)
    spread = total(family, _p * (score**2 - one) ** 2)
    return (
        Identity("theorem 4.1: fisher of n draws", "I = n I₁", information, draws * one),
        Identity(
            "theorem 4.1: variance_score_squared of n draws",
            "V₁ = n V₁ of one draw + 2n(n − 1) I₁²",
            variance,
            draws * spread + 2 * draws * (draws - 1) * one**2,
        ),
    )


def _softmax_certificates(family):
    """Prove each bound that the program states, with its own lines inlined."""
    program = bounds.definitions(family)
    lines = [line for line in program if line.name != "probability"]
    values = {line.name: _in_sums(inline(line.expression, lines), family) for line in lines}
    probabilities = [line.expression for line in program if line not in lines]
    return (
        Identity(
            "theorem 4.1: probabilities",
            "the program's p are softmax(h)",
            sp.Add(*probabilities),
            softmax(family).expression,
        ),
        *_softmax_lower(family, values),
        *_softmax_fisher_upper(family, values["fisher_max"]),
        *_softmax_quartic_upper(family, values),
    )


def _in_sums(expression, family):
    """Write Σ_{j≠i} x_j as Σ_j x_j − x_i."""
    return expression.replace(
        lambda node: isinstance(node, Others),
        lambda node: total(family, node.args[0]) - node.args[0],
    )


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
            f"{bound}. Prove every candidate in fimsym/derivation/certificates.py."
        )
    return [nodes[0] for nodes in found]


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
    plain, doubled, trace = _candidates(
        fisher_max,
        lambda node: isinstance(node, AxisMax) and not node.has(sp.Sum),
        lambda node: isinstance(node, AxisMax) and node.has(sp.Sum),
        lambda node: isinstance(node, sp.Sum),
    )
    plain, doubled = plain.args[0], doubled.args[0]
    for name, base, form in (
        ("fisher", u, cumulant(family, 2, 0)),
        ("variance_negative_hessian", v, cumulant(family, 0, 2)),
    ):
        w = base[index]
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
            total(family, _p * (spread * norm - _centred(family, base) ** 2)),
        )


def _pairs(family, base):
    """Return Σ_{i<j} p_i p_j (w_i + w_j)²."""
    other = BOUND[1]
    every = total(family, _p * (base[index] + base[other]) ** 2)
    every = total(family, probability[other] * every, over=other)
    return every / 2 - total(family, 2 * _p**2 * base[index] ** 2)


def _softmax_quartic_upper(family, values):
    """Two upper bounds of λ_max(M): by λ_max(I), and by the trace of Cov((t−η)(t−η)ᵀ).

    The second holds because V₁ = Σ p_y ⟨X_y − I, uuᵀ⟩², where X_y = (e_y−p)(e_y−p)ᵀ, and
    each inner product is at most ‖X_y − I‖ ‖u‖².
    """
    information, variance, _ = _forms(family)
    score, norm = _centred(family, u), total(family, u[index] ** 2)
    largest = sp.Symbol("distance_max", real=True)
    label, entry, squared = _squared_norms(family)
    by_trace, by_eigenvalue = _candidates(
        values["quartic_max"],
        lambda node: isinstance(node, RoundedUp),
        lambda node: not isinstance(node, RoundedUp),
    )
    stated, allowance = by_trace.args
    distance = values["distance"]
    yield Identity(
        "theorem 4.1: distance",
        "the distances that the program uses are ‖e_y − p‖²",
        distance.xreplace({index: label}),
        entry,
    )
    yield Identity(
        "theorem 4.1: eigenvalue bound",
        "the other bound that the program uses is λ_max(I) max_y ‖e_y − p‖²",
        by_eigenvalue,
        values["fisher_max"] * AxisMax(distance),
    )
    yield Identity(
        "theorem 4.1: allowance for rounding",
        "it is a multiple of Σ p_y d_y (d_y + p_y), the size of the trace's terms",
        allowance,
        total(family, _p * distance * (distance + _p)),
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
        stated,
    )


def _squared_norms(family):
    """Return y, ‖e_y − p‖² and ‖X_y − I‖², summed entry by entry."""
    label, a, b = BOUND[1:4]
    delta = sp.KroneckerDelta
    deviation = (delta(a, label) - probability[a]) * (delta(b, label) - probability[b])
    deviation -= probability[a] * delta(a, b) - probability[a] * probability[b]
    squared = total(family, total(family, deviation**2, over=a), over=b)
    return label, total(family, (delta(a, label) - probability[a]) ** 2, over=a), squared
