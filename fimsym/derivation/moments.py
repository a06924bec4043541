"""Route (b): moments of the estimators straight from the density, without F.

The normaliser is summed or integrated from π(y) exp(⟨t(y), h⟩); then every quantity is
the variance or covariance of the estimators Î₁ = s² and Î₂ = I − w as random variables,
with s = ⟨u, t−η⟩ and w = ⟨v, t−η⟩.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import sympy as sp

from fimsym.derivation.cumulants import in_probabilities
from fimsym.derivation.normal import normal
from fimsym.derivation.symbols import h, index, probability, read, total, u, v, y
from fimsym.errors import UnsupportedError
from fimsym.families import Family


@functools.cache
def log_normaliser(family: Family) -> sp.Expr:
    """Return log ∫ π(y) exp(⟨t(y), h⟩) dy for the whole output vector."""
    if family.density.support == "one_hot":
        return sp.log(total(family, _weight(family)))
    return total(family, _log_integral(family))


@functools.cache
def mean(family: Family) -> sp.Expr:
    """Return η_i = E[t_i]."""
    if family.density.support == "one_hot":
        return probability[index]
    return _real_moment(family, 1, sp.Integer(0))


@functools.cache
def score_moment(family: Family, a: int, b: int) -> sp.Expr:
    """Return E[s^a w^b]."""
    if family.density.support == "one_hot":
        return _one_hot_moment(family, a, b)
    return normal(_independent_moment(family, [u] * a + [v] * b))


def fisher(family: Family) -> sp.Expr:
    """Return E[Î₁] = E[s²]."""
    return score_moment(family, 2, 0)


def third(family: Family) -> sp.Expr:
    """Return E[s³]."""
    return score_moment(family, 3, 0)


def variance_score_squared(family: Family) -> sp.Expr:
    """Return Var(Î₁) = E[s⁴] − E[s²]²."""
    return normal(score_moment(family, 4, 0) - score_moment(family, 2, 0) ** 2)


def variance_negative_hessian(family: Family) -> sp.Expr:
    """Return Var(Î₂) = E[(I − w)²] − E[I − w]²."""
    information = fisher(family)
    first = information - score_moment(family, 0, 1)
    second = (
        information**2 - 2 * information * score_moment(family, 0, 1) + score_moment(family, 0, 2)
    )
    return normal(second - first**2)


def covariance(family: Family) -> sp.Expr:
    """Return Cov(Î₁, Î₂) = E[s²(I − w)] − E[s²] E[I − w]."""
    information = fisher(family)
    product = information * score_moment(family, 2, 0) - score_moment(family, 2, 1)
    return normal(product - information * (information - score_moment(family, 0, 1)))


def central_moment(family: Family, positions: tuple[int, ...], outputs: int) -> sp.Expr:
    """Return E Π_a (t_a − η_a) over explicit output positions, counted from 1.

    Categorical-like families are written in p_1 … p_C, others in h_1 … h_m.
    """
    if family.density.support == "one_hot":
        p = [probability[n] for n in range(1, outputs + 1)]
        return sp.Add(
            *(
                p[label] * sp.Mul(*(int(label + 1 == a) - p[a - 1] for a in positions))
                for label in range(outputs)
            )
        )
    counts = [(n, positions.count(n)) for n in sorted(set(positions))]
    return sp.Mul(
        *(central_moment_of_one(family, k).xreplace({index: sp.Integer(n)}) for n, k in counts)
    )


@functools.cache
def central_moment_of_one(family: Family, order: int) -> sp.Expr:
    """Return E[(t_i − η_i)^order] of one independent output, by integration."""
    if order == 1:
        return sp.Integer(0)
    return _real_moment(family, order, mean(family))


def _weight(family):
    """Return π exp(h_i), the unnormalised probability of class i."""
    return read(family, family.density.base_measure, {}) * sp.exp(h[index])


def _one_hot_moment(family, a, b):
    partition = total(family, _weight(family))
    score = u[index] - total(family, probability[index] * u[index])
    second = v[index] - total(family, probability[index] * v[index])
    expectation = total(family, _weight(family) * score**a * second**b) / partition
    return normal(in_probabilities(sp.expand(normal(expectation)), family))


@functools.cache
def _scalar(family):
    """Return π(y) exp(h y) of one output with a plain symbol for h, and that symbol."""
    natural = sp.Symbol("h", real=True)
    return read(family, family.density.base_measure, {"y": y}) * sp.exp(natural * y), natural


@functools.cache
def _integral(family, power, centre):
    density, natural = _scalar(family)
    integrand = (y - centre) ** power * density
    return sp.simplify(sp.integrate(integrand, (y, -sp.oo, sp.oo))), natural


def _log_integral(family):
    value, natural = _integral(family, 0, sp.Integer(0))
    return sp.expand_log(sp.log(value), force=True).xreplace({natural: h[index]})


@functools.cache
def _real_moment(family, power, centre):
    natural = _scalar(family)[1]
    moment, _ = _integral(family, power, centre.xreplace({h[index]: natural}))
    normaliser, _ = _integral(family, 0, sp.Integer(0))
    return sp.simplify(moment / normaliser).xreplace({natural: h[index]})


def _independent_moment(family, bases):
    """Return E Π_c Σ_j c_j x_j for independent centred x_j = t_j − η_j.

    Expanding the product gives one sum per partition of the factors into blocks that
    share an output. Blocks of one vanish, blocks on distinct outputs factorise; up to
    four factors leave at most two blocks, and Σ_{j≠k} a_j b_k = Σa Σb − Σab.
    """
    if len(bases) > 4:
        raise UnsupportedError(f"moments up to order four are derived; got {len(bases)}.")
    if not bases:
        return sp.Integer(1)
    result = sp.Integer(0)
    for blocks in _partitions(list(range(len(bases)))):
        if min(map(len, blocks)) == 1:
            continue
        terms = [
            central_moment_of_one(family, len(block))
            * sp.Mul(*(bases[position][index] for position in block))
            for block in blocks
        ]
        product = sp.Mul(*(total(family, term) for term in terms))
        result += product if len(terms) == 1 else product - total(family, sp.Mul(*terms))
    return result


def _partitions(items: list[int]) -> Iterator[list[list[int]]]:
    """Yield every partition of `items` into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for size in range(len(rest) + 1):
        for companions in itertools.combinations(rest, size):
            left = [item for item in rest if item not in companions]
            for partition in _partitions(left):
                yield [[first, *companions], *partition]
