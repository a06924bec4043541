"""Two natural parameters per target, in coordinates where the statistics do not correlate.

The Fisher information of two statistics can be nearly singular, and quadratic forms in it
cancel. With s = u_a t_a + u_b t_b and c = κ_ab/κ_aa,

    s = (u_a + c u_b) t_a + u_b (t_b − c t_a),

where t_a and t_b − c t_a are uncorrelated: I is a sum of two squares, and cumulants in
these coordinates are as large as the result they add up to.
"""

from __future__ import annotations

import functools

import sympy as sp

from fimsym.derivation import concentration, radial
from fimsym.derivation.functions import SumOfProducts
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import directions, index, u, v
from fimsym.derivation.target import Target, cumulant_of, target, tidy
from fimsym.families import Family


def program(family: Family) -> list[Definition]:
    """Return the lines of each target's quantities."""
    if radial.applies(family):
        return radial.program(family)
    if concentration.applies(family):
        return concentration.program_of_targets(family)
    return eliminated(family, pivot(family))


def pivot(family: Family) -> int:
    """Return the place of the statistic that the other is regressed on."""
    return min((0, 1), key=lambda place: _effort(family, place))


def _effort(family, pivot):
    return sum(
        int(sp.count_ops(decorrelated(family, pivot, a, n - a)))
        for n in (2, 3, 4)
        for a in range(n + 1)
    )


@functools.cache
def decorrelated(family: Family, pivot: int, a: int, b: int) -> sp.Expr:
    """Return the cumulant of `a` copies of t_a and `b` copies of t_b − c t_a."""
    factor = slope(family, pivot)
    terms = (
        sp.binomial(b, k)
        * (-factor) ** k
        * cumulant_of(family, tuple(sorted([pivot] * (a + k) + [1 - pivot] * (b - k))))
        for k in range(b + 1)
    )
    return tidy(sp.Add(*terms))


def slope(family: Family, pivot: int) -> sp.Expr:
    """Return c = κ_ab/κ_aa, a the pivot."""
    return tidy(cumulant_of(family, (0, 1)) / cumulant_of(family, (pivot, pivot)))


def eliminated(family: Family, pivot: int) -> list[Definition]:
    """Return the lines of each target's quantities in t_a and t_b − c t_a."""
    one = target(family)
    combined, rest = {}, {}
    above, below = map(one.at, sp.fraction(slope(family, pivot)))
    lines = []
    for base in (u, v):
        parts = [part[index] for part in directions(family, base)]
        combined[base] = sp.IndexedBase(f"combined_{base}", real=True)[index]
        rest[base] = parts[1 - pivot]
        lines.append(
            Definition(
                f"combined_{base}",
                combined[base],
                SumOfProducts(below, parts[pivot], above, rest[base]) / below
                if above != 0
                else parts[pivot],
                f"{base} of the first of two uncorrelated statistics",
            )
        )
    second, third = (
        _cumulants(family, pivot, order, f"{word}_cumulant", one)
        for order, word in ((2, "second"), (3, "third"))
    )
    fourth = _quartic(family, pivot, one)
    x, y = combined[u], rest[u]
    information = _form(second, (x, y), 2)
    lines += [*second.values(), *third.values(), *fourth.values()]
    return [
        *lines,
        _line("information", information, ""),
        _line("asymmetry", _form(third, (x, y), 3), ""),
        _line("variance_of_target", _form(fourth, (x, y), 4), ""),
        _line("information_v", _form(second, (combined[v], rest[v]), 2), ""),
        _line("mixed", _polarised(third, (x, y), (combined[v], rest[v])), ""),
    ]


def _cumulants(family, pivot, order, name, one: Target):
    values = {(order - b, b): decorrelated(family, pivot, order - b, b) for b in range(order + 1)}
    return _lines(name, values, one, order)


def _quartic(family, pivot, one):
    """Return the lines of V₁'s coefficients, κ₄₀ + 2κ₂₀² of one target."""
    first, last = (decorrelated(family, pivot, *key) for key in ((2, 0), (0, 2)))
    pairs = {(4, 0): 2 * first**2, (2, 2): sp.Rational(2, 3) * first * last, (0, 4): 2 * last**2}
    values = {
        (4 - b, b): tidy(decorrelated(family, pivot, 4 - b, b) + pairs.get((4 - b, b), 0))
        for b in range(5)
    }
    return _lines("quartic", values, one, 4)


def _lines(name, values, one, order):
    return {
        key: _line(f"{name}_{key[0]}{key[1]}", one.at(value), f"coefficient of order {order}")
        for key, value in values.items()
        if value != 0
    }


def _form(coefficients, coordinates, order):
    """Return Σ binom(order, b) c_ab x^a y^b."""
    x, y = coordinates
    return sp.Add(
        *(
            sp.binomial(order, b) * line.symbol * x**a * y**b
            for (a, b), line in coefficients.items()
        )
    )


def _polarised(coefficients, first, second):
    """Return the cubic form at two equal directions and one other."""
    x, y = first
    form = _form(coefficients, first, 3)
    return sp.expand((sp.diff(form, x) * second[0] + sp.diff(form, y) * second[1]) / 3)


def _line(name, expression, meaning):
    return Definition(name, sp.IndexedBase(name, real=True)[index], expression, meaning)
