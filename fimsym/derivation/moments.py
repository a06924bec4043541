"""Route (b): moments of the estimators straight from the density, without F.

The normaliser Z is summed or integrated from π(y) exp(⟨t(y), h⟩); moments of t are that
sum or integral with t inside, ∂Z/Z. Then every quantity is the variance or covariance of
the estimators Î₁ = s² and Î₂ = I − w as random variables, with s = ⟨u, t−η⟩ and
w = ⟨v, t−η⟩.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import sympy as sp

from fimsym.derivation import cumulants, normaliser, target
from fimsym.derivation.cumulants import in_probabilities
from fimsym.derivation.normal import normal
from fimsym.derivation.symbols import (
    directions,
    h,
    index,
    probability,
    read,
    total,
    u,
    v,
)
from fimsym.errors import UnsupportedError
from fimsym.families import Family


def available(family: Family) -> bool:
    """Tell whether the density's moments have a closed form here."""
    if family.density is None:
        return False
    if family.vector:
        return cumulants.draws(family) is not None and _counts_draws(family)
    return normaliser.closed_form(family) is not None


def _counts_draws(family):
    """Tell whether labels are one-hot, or the counts of as many draws as F has."""
    density = family.density
    if density.support == "one_hot":
        return cumulants.draws(family) == 1
    counted = density.support == "count_vectors" and density.largest is not None
    return counted and read(family, density.largest, {}) == cumulants.draws(family)


def log_normaliser(family: Family) -> sp.Expr:
    """Return log ∫ π(y) exp(⟨t(y), h⟩) dy for the whole output vector."""
    if family.vector:
        return draws(family) * sp.log(total(family, sp.exp(h[index])))
    return total(family, target.target(family).at(sp.log(normaliser.closed_form(family))))


def draws(family: Family) -> sp.Expr:
    """Return n of a categorical-like F = n log Σ exp(h): how many one-hot labels add up."""
    return cumulants.draws(family) or sp.Integer(1)


@functools.cache
def mean(family: Family) -> sp.Expr:
    """Return ⟨η_i, u_i⟩, the mean of the i-th output's part of ⟨t, u⟩."""
    if family.vector:
        return draws(family) * probability[index] * u[index]
    one = target.target(family)
    parts = directions(family, u)
    means = (one.at(normaliser.moment(family, (place,))) for place in range(len(parts)))
    return sp.Add(*(value * part[index] for value, part in zip(means, parts, strict=True)))


@functools.cache
def score_moment(family: Family, a: int, b: int) -> sp.Expr:
    """Return E[s^a w^b]."""
    if family.vector:
        return _of_draws(family, a, b)
    return _independent_moment(family, [u] * a + [v] * b)


def fisher(family: Family) -> sp.Expr:
    """Return E[Î₁] = E[s²]."""
    return score_moment(family, 2, 0)


def third(family: Family) -> sp.Expr:
    """Return E[s³]."""
    return score_moment(family, 3, 0)


def variance_score_squared(family: Family) -> sp.Expr:
    """Return Var(Î₁) = E[s⁴] − E[s²]²."""
    return score_moment(family, 4, 0) - score_moment(family, 2, 0) ** 2


def variance_negative_hessian(family: Family) -> sp.Expr:
    """Return Var(Î₂) = E[(I − w)²] − E[I − w]²."""
    information = fisher(family)
    first = information - score_moment(family, 0, 1)
    second = (
        information**2 - 2 * information * score_moment(family, 0, 1) + score_moment(family, 0, 2)
    )
    return second - first**2


def covariance(family: Family) -> sp.Expr:
    """Return Cov(Î₁, Î₂) = E[s²(I − w)] − E[s²] E[I − w]."""
    information = fisher(family)
    product = information * score_moment(family, 2, 0) - score_moment(family, 2, 1)
    return product - information * (information - score_moment(family, 0, 1))


def central_moment(family: Family, positions: tuple[int, ...], outputs: int) -> sp.Expr:
    """Return E Π_a (t_a − η_a) over explicit output positions, counted from 1.

    Categorical-like families are written in p_1 … p_C, others in h_1 … h_m. Where the
    density has no closed form, the moments follow from the cumulants.
    """
    if family.vector:
        return _of_explicit_draws(family, positions, outputs)
    targets = outputs // family.components
    places = [divmod(position - 1, targets) for position in positions]
    one = target.target(family)
    found = sp.Integer(1)
    for n in sorted({place for _, place in places}):
        word = tuple(sorted(component for component, place in places if place == n))
        value = one.at(central_moment_of_one(family, word))
        found *= value.xreplace({index: sp.Integer(n + 1)})
    return found


def _of_explicit_draws(family, positions, outputs):
    """Return the moment of a sum of n one-hot labels, over blocks of labels that coincide."""
    p = [probability[n] for n in range(1, outputs + 1)]

    def of_one(block):
        return sp.Add(
            *(
                p[label]
                * sp.Mul(*(int(label + 1 == positions[n]) - p[positions[n] - 1] for n in block))
                for label in range(outputs)
            )
        )

    return sp.Add(
        *(
            sp.ff(draws(family), len(blocks)) * sp.Mul(*map(of_one, blocks))
            for blocks in _partitions(list(range(len(positions))))
            if min(map(len, blocks)) > 1
        )
    )


@functools.cache
def central_moment_of_one(family: Family, word: tuple[int, ...]) -> sp.Expr:
    """Return E Π (t_a − η_a) of one target, a running over the places in `word`."""
    if len(word) == 1:
        return sp.Integer(0)
    if not available(family):
        return _from_cumulants(family, word)
    result = sp.Integer(0)
    for size in range(len(word) + 1):
        for kept in itertools.combinations(range(len(word)), size):
            inside = tuple(sorted(word[n] for n in kept))
            outside = [word[n] for n in range(len(word)) if n not in kept]
            means = sp.Mul(*(-normaliser.moment(family, (place,)) for place in outside))
            result += normaliser.moment(family, inside) * means
    return target.tidy(result)


def _from_cumulants(family, word):
    """Return Σ over partitions into blocks of two or more of the product of their cumulants."""
    return sp.Add(
        *(
            sp.Mul(
                *(
                    target.cumulant_of(family, tuple(sorted(word[n] for n in block)))
                    for block in blocks
                )
            )
            for blocks in _partitions(list(range(len(word))))
            if min(map(len, blocks)) > 1
        )
    )


def _one_hot_moment(family, a, b):
    weight, partition = sp.exp(h[index]), total(family, sp.exp(h[index]))
    score = u[index] - total(family, probability[index] * u[index])
    second = v[index] - total(family, probability[index] * v[index])
    expectation = total(family, weight * score**a * second**b) / partition
    return normal(in_probabilities(sp.expand(normal(expectation)), family))


def _of_draws(family, a, b):
    """Return the moment of a sum of n independent one-hot labels' scores.

    Blocks of labels that coincide factorise, and the n labels fill k blocks in
    n(n − 1)…(n − k + 1) ways.
    """
    letters = [0] * a + [1] * b
    result = sp.Integer(0)
    for blocks in _partitions(list(range(len(letters)))):
        counts = [
            (len(block) - sum(letters[n] for n in block), sum(letters[n] for n in block))
            for block in blocks
        ]
        product = sp.Mul(*(_one_hot_moment(family, *count) for count in counts))
        result += sp.ff(draws(family), len(blocks)) * product
    return normal(result)


def _independent_moment(family, bases):
    """Return E Π_c Σ_j ⟨c_j, x_j⟩ for independent centred x_j = t_j − η_j.

    Expanding the product gives one sum per partition of the factors into blocks that
    share a target. Blocks of one vanish, blocks on distinct targets factorise; up to
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
        terms = [_of_one(family, [bases[position] for position in block]) for block in blocks]
        product = sp.Mul(*(total(family, term) for term in terms))
        result += product if len(terms) == 1 else product - total(family, sp.Mul(*terms))
    return result


def _of_one(family, bases):
    """Return E Π_c ⟨c_i, x_i⟩ of the i-th target, over the directions c in `bases`."""
    one = target.target(family)
    terms = []
    for word in itertools.product(range(family.components), repeat=len(bases)):
        parts = [
            directions(family, base)[place][index] for base, place in zip(bases, word, strict=True)
        ]
        moment = one.at(central_moment_of_one(family, tuple(sorted(word))))
        terms.append(moment * sp.Mul(*parts))
    return sp.Add(*terms)


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
