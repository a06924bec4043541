"""Route (a): joint cumulants of ⟨t,u⟩ and ⟨t,v⟩ by differentiating F along u and v.

K(ε, δ) = F(h + εu + δv) generates them: κ_ab = ∂_ε^a ∂_δ^b K at 0 (MATH: one object
rules them all). The number of outputs stays symbolic.
"""

from __future__ import annotations

import functools

import sympy as sp

from fimsym.derivation.normal import normal
from fimsym.derivation.symbols import (
    delta,
    epsilon,
    h,
    index,
    log_partition,
    probability,
    total,
    u,
    v,
)
from fimsym.families import Family


@functools.cache
def directional(family: Family) -> sp.Expr:
    """Return K(ε, δ) = F(h + εu + δv)."""
    return log_partition(family, h[index] + epsilon * u[index] + delta * v[index])


@functools.cache
def cumulant(family: Family, a: int, b: int) -> sp.Expr:
    """Return κ_ab, the joint cumulant of a copies of ⟨t,u⟩ and b of ⟨t,v⟩.

    Categorical-like families are written in p_i = exp(h_i)/Σ exp(h), others in h.
    """
    derivative = sp.diff(directional(family), *([epsilon] * a + [delta] * b))
    return normal(in_probabilities(derivative.subs({epsilon: 0, delta: 0}), family))


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
