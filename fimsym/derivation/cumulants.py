"""Route (a): joint cumulants of ⟨t,u⟩ and ⟨t,v⟩ by differentiating F along u and v.

K(ε, δ) = F(h + εu + δv) generates them: κ_ab = ∂_ε^a ∂_δ^b K at 0 (MATH: one object
rules them all). The number of outputs stays symbolic.
"""

from __future__ import annotations

import functools

import sympy as sp

from fimsym.derivation import target
from fimsym.derivation.normal import normal
from fimsym.derivation.symbols import (
    delta,
    directions,
    epsilon,
    h,
    index,
    log_partition,
    naturals,
    probability,
    total,
    u,
    v,
)
from fimsym.families import Family


@functools.cache
def directional(family: Family) -> sp.Expr:
    """Return K(ε, δ) = F(h + εu + δv)."""
    arguments = [
        base[index] + epsilon * first[index] + delta * second[index]
        for base, first, second in zip(
            naturals(family), directions(family, u), directions(family, v), strict=True
        )
    ]
    return log_partition(family, arguments)


@functools.cache
def cumulant(family: Family, a: int, b: int) -> sp.Expr:
    """Return κ_ab, the joint cumulant of a copies of ⟨t,u⟩ and b of ⟨t,v⟩.

    Categorical-like families are written in p_i = exp(h_i)/Σ exp(h), others in h. Those of
    independent targets add up.
    """
    if not family.vector:
        one = target.target(family)
        return total(family, one.at(target.directional(family, a, b)))
    derivative = sp.diff(directional(family), *([epsilon] * a + [delta] * b))
    value = derivative.subs({epsilon: 0, delta: 0})
    return normal(value if draws(family) is None else in_probabilities(value, family))


def draws(family: Family) -> sp.Expr | None:
    """Return n if F = n log Σ exp(h) with a constant n, None for other laws."""
    if not family.vector:
        return None
    ratio = log_partition(family) / sp.log(total(family, sp.exp(h[index])))
    return None if ratio.atoms(sp.Sum, sp.Indexed) else ratio


def in_probabilities(expression: sp.Expr, family: Family) -> sp.Expr:
    """Write each Σ exp(h_i) x_i as Z Σ p_i x_i, where Z = Σ exp(h_i)."""
    partition, size = total(family, sp.exp(h[index])), sp.Dummy("Z", positive=True)
    rewritten = {}
    for node in expression.atoms(sp.Sum):
        weight, bound = sp.exp(h[node.limits[0][0]]), node.limits[0][0]
        if node.function.has(weight):
            summand = sp.expand(node.function / weight)
            if summand == 1:
                rewritten[node] = size
            elif not summand.has(sp.exp):
                summand = probability[bound] * summand
                rewritten[node] = size * total(family, summand.xreplace({bound: index}))
    result = sp.expand(expression.xreplace(rewritten))
    return result.xreplace({size: partition})


def in_naturals(expression: sp.Expr, family: Family) -> sp.Expr:
    """Write each p_i as exp(h_i)/Σ exp(h), whatever the index is called."""
    other = sp.Symbol("other", integer=True, positive=True)
    partition = total(family, sp.exp(h[other]), over=other)
    return expression.replace(
        lambda node: isinstance(node, sp.Indexed) and node.base == probability,
        lambda node: sp.exp(h[node.indices[0]]) / partition,
    )
