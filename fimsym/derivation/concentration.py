"""Dirichlet laws, F = Σ ln Γ(h_k) − ln Γ(Σ h): differences of polygammas without cancelling.

κ_n = Σ_k ψ_{n−1}(h_k) u_kⁿ − ψ_{n−1}(h₊) (Σ u)ⁿ with h₊ = Σ h. The leading terms of the
polygammas, (n−2)!/h^(n−1), combine with weights π_k = h_k/h₊ into moments of w_k = u_k/h_k
about their mean w̄ = Σ π w, in which w̄ⁿ cancels symbolically; what is left are remainders
R_{n−1}, whose difference cancels little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sympy as sp

from fimsym.derivation.functions import PolygammaRemainder
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import (
    directions,
    h,
    index,
    log_partition,
    naturals,
    total,
    u,
    v,
)
from fimsym.derivation.target import target
from fimsym.families import Family

_WORDS = {
    "information": (u, u),
    "asymmetry": (u, u, u),
    "fourth": (u, u, u, u),
    "information_v": (v, v),
    "mixed": (u, u, v),
}
Add = Callable[[Callable[[int], sp.Expr]], sp.Expr]


def applies(family: Family) -> bool:
    """Tell whether F is the log-partition of a Dirichlet law in the natural parameters."""
    if family.vector:
        value = log_partition(family)
        return value == total(family, sp.loggamma(h[index])) - sp.loggamma(total(family, h[index]))
    one = target(family)
    entries = [sp.loggamma(parameter) for parameter in one.parameters]
    whole = sp.loggamma(sp.Add(*one.parameters))
    return (
        one.naturals == one.parameters
        and sp.expand(one.log_partition - sp.Add(*entries) + whole) == 0
    )


def program_of_targets(family: Family) -> list[Definition]:
    """Return the lines of targets with few named concentrations each."""
    bases = naturals(family)
    places = range(len(bases))

    def column(name):
        return sp.IndexedBase(name, real=True)[index]

    def add(term):
        return sp.Add(*map(term, places))

    entries = {base: [part[index] for part in directions(family, base)] for base in (u, v)}
    parameters = [base[index] for base in bases]
    names = [str(n + 1) for n in places]
    lines, cumulants = _lines(parameters, entries, names, add, column, column)
    fisher = column("information")
    variance = cumulants.pop("fourth") + 2 * fisher**2
    values = {**cumulants, "variance_of_target": variance}
    return [*lines, *(Definition(k, column(k), x, k) for k, x in values.items())]


def program(family: Family) -> list[Definition]:
    """Return the lines of one vector of concentrations."""

    def column(name):
        return sp.IndexedBase(name, real=True)[index]

    def scalar(name):
        return sp.Symbol(name, real=True)

    def add(term):
        return total(family, term(0))

    entries = {base: [base[index]] for base in (u, v)}
    lines, cumulants = _lines([h[index]], entries, [""], add, column, scalar)
    fisher = scalar("fisher")
    values = {
        "fisher": cumulants["information"],
        "third": cumulants["asymmetry"],
        "variance_score_squared": cumulants["fourth"] + 2 * fisher**2,
        "variance_negative_hessian": cumulants["information_v"],
        "covariance": -cumulants["mixed"],
    }
    return [*lines, *(Definition(k, scalar(k), x, k) for k, x in values.items())]


def _lines(parameters, entries, names: Sequence[str], add: Add, column, scalar):
    """Return the lines shared by all quantities, and each cumulant in them."""
    whole = scalar("total")
    lines = [Definition("total", whole, add(lambda k: parameters[k]), "sum of concentrations")]
    deviations, means, sums = {}, {}, {}
    for base in (u, v):
        sums[base], means[base] = scalar(f"sum_{base}"), scalar(f"mean_{base}")
        lines += [
            Definition(f"sum_{base}", sums[base], add(lambda k, b=base: entries[b][k]), "Σ"),
            Definition(f"mean_{base}", means[base], sums[base] / whole, "mean of w = u/h"),
        ]
        deviations[base] = [column(f"deviation_{base}{name}") for name in names]
        lines += [
            Definition(
                f"deviation_{base}{name}",
                deviations[base][k],
                entries[base][k] / parameters[k] - means[base],
                "w minus its mean",
            )
            for k, name in enumerate(names)
        ]
    cumulants = {}
    for name, word in _WORDS.items():
        order = len(word)
        excess = _about_mean(word)
        centred = {base: means[base] for base in set(word)}

        def leading(k, excess=excess, centred=centred):
            values = {_symbols[base][0]: mean for base, mean in centred.items()}
            values |= {_symbols[base][1]: deviations[base][k] for base in centred}
            return parameters[k] * excess.xreplace(values)

        def remainder(k, order=order, word=word):
            product = sp.Mul(*(entries[base][k] for base in word))
            return PolygammaRemainder(order - 1, parameters[k]) * product

        rest = add(remainder) - PolygammaRemainder(order - 1, whole) * sp.Mul(
            *(sums[base] for base in word)
        )
        cumulants[name] = (-1) ** order * sp.factorial(order - 2) * add(leading) + rest
    return lines, cumulants


_symbols = {base: sp.symbols(f"mean_{base} deviation_{base}", real=True) for base in (u, v)}


def _about_mean(word):
    """Return Π (w̄ + d) − Π w̄ without the terms linear in d, whose weighted sum is zero."""
    product = sp.expand(sp.Mul(*(sp.Add(*_symbols[base]) for base in word)))
    deviations = [_symbols[base][1] for base in (u, v)]
    polynomial = sp.Poly(product, *deviations)
    kept = [
        coefficient * sp.Mul(*(d**power for d, power in zip(deviations, powers, strict=True)))
        for powers, coefficient in polynomial.terms()
        if sum(powers) >= 2
    ]
    return _squares(sp.factor(sp.Add(*kept)))


def _squares(expression):
    """Write 6 w̄² + 4 w̄ d + d² as (d + 2 w̄)² + 2 w̄², which cannot be negative."""
    mean, deviation = _symbols[u]
    return expression.xreplace(
        {
            6 * mean**2 + 4 * mean * deviation + deviation**2: (deviation + 2 * mean) ** 2
            + 2 * mean**2
        }
    )
