"""Whitening of independent targets with one or two natural parameters each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from fimsym.derivation import (
    concentration,
    one_parameter,
    radial,
    target,
    two_parameters,
    whitened_concentrations,
)
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import Others, directions, index, probe, total, u, v
from fimsym.families import Family

Pair = Sequence[sp.Expr]
Orders = Mapping[tuple[int, int], sp.Expr]


def program(family: Family) -> list[Definition]:
    """Return the lines of a, k, R, b and L g.

    R adds up over targets, and products of different targets' scores are not linear in t:
    R = Σ_j R_j + 2 Σ_j I_j Σ_{k≠j} I_k.
    """
    if family.components == 1:
        if target.cumulant_of(family, (0, 0, 0)) == 0:
            return _constant_curvature(family)
        lines = _one_parameter(family)
    elif concentration.applies(family):
        lines = whitened_concentrations.program(family)
    elif radial.applies(family):
        lines = _radial(family)
    else:
        lines = _eliminated(family)
    information = column("information")
    rest = 2 * total(family, information * Others(information))
    if lines[-1].expression == 0:
        lines = lines[:-1]
    else:
        rest += total(family, column("own_remainder"))
    return [*lines, Definition("remainder", sp.Symbol("remainder", real=True), rest, "R")]


def column(name: str) -> sp.Indexed:
    """Return the symbol of what has a value for every target."""
    return sp.IndexedBase(name, real=True)[index]


def line(name: str, expression: sp.Expr, meaning: str = "") -> Definition:
    """Return the line of what has a value for every target."""
    return Definition(name, column(name), expression, meaning or name.replace("_", " "))


def _constant_curvature(family):
    """Return the lines where κ₂ is a constant and higher cumulants vanish."""
    deviation = sp.sqrt(target.target(family).at(target.cumulant_of(family, (0, 0))))
    scalars = {
        "fisher": total(family, column("whitened_u") ** 2),
        "remainder": 2 * sp.Symbol("fisher", real=True) ** 2,
    }
    return [
        line("whitened_u", deviation * u[index]),
        line("coskewness", sp.Integer(0)),
        *(Definition(name, sp.Symbol(name, real=True), x, name) for name, x in scalars.items()),
        line("whitened_v", deviation * v[index]),
        line("root_probe", deviation * probe[index]),
    ]


def _one_parameter(family):
    """Regress s² on s: what is left is (κ₄ + 2κ₂² − κ₃²/κ₂) u⁴, zero for two-point laws."""
    one = target.target(family)
    second, third, fourth = (target.cumulant_of(family, (0,) * n) for n in (2, 3, 4))
    rest = target.tidy((fourth + 2 * second**2 - third**2 / second) / second)
    whitened, deviation = column("whitened_u"), column("deviation")
    slope = one_parameter.stable(target.tidy(third / second), one)
    lines = [
        line("deviation", one_parameter.root(second, one), "standard deviation of t"),
        line("slope", slope, "∂ log Var(t)/∂h, so that κ₃ = κ₂ slope"),
        line("whitened_u", deviation * u[index]),
        line("slope_u", column("slope") * u[index]),
        line("coskewness", whitened * column("slope_u")),
        line("whitened_v", deviation * v[index]),
        line("root_probe", deviation * probe[index]),
        line("information", whitened**2),
    ]
    if rest == 0:
        return [*lines, line("own_remainder", rest)]
    return [
        *lines,
        line("leftover", one_parameter.root(rest, one), "√(R/κ₂) of t alone"),
        line("leftover_u", column("leftover") * u[index]),
        line("own_deviation", whitened * column("leftover_u"), "√R of each target"),
        line("own_remainder", column("own_deviation") ** 2),
    ]


def _eliminated(family):
    """Whiten t_a and t_b − c t_a; L is lower triangular with a before b."""
    pivot = two_parameters.pivot(family)
    wanted = ("combined_u", "combined_v", "second_cumulant", "third_cumulant")
    lines = [x for x in two_parameters.eliminated(family, pivot) if x.name.startswith(wanted)]
    variances = [column("second_cumulant_20"), column("second_cumulant_02")]
    third = {
        tuple(map(int, x.name[-2:])): x.symbol for x in lines if x.name.startswith("third_cumulant")
    }
    rest = {n: target.target(family).at(value) for n, value in _remainder(family, pivot).items()}
    parts = {
        base: [column(f"combined_{base}"), directions(family, base)[1 - pivot][index]]
        for base in (u, v)
    }
    first, second = (
        column(f"deviation{n + 1}") * directions(family, probe)[n][index] for n in (0, 1)
    )
    slope = target.target(family).at(two_parameters.slope(family, pivot))
    roots = {pivot: first, 1 - pivot: slope * first + second}
    return [*lines, *_of_pair(variances, third, parts, rest, [roots[0], roots[1]])]


def _remainder(family, pivot):
    """Return the coefficients of R_j by the power of the second coordinate."""

    def kappa(a: int, b: int) -> sp.Expr:
        return two_parameters.decorrelated(family, pivot, a, b)

    x, y = sp.symbols("x y", real=True)
    variances = (kappa(2, 0), kappa(0, 2))
    third = {(a, 3 - a): kappa(a, 3 - a) for a in range(4)}
    information = variances[0] * x**2 + variances[1] * y**2
    form = sp.Add(*(sp.binomial(4, n) * kappa(4 - n, n) * x ** (4 - n) * y**n for n in range(5)))
    form += 2 * information**2
    for linear, variance in zip(_third(third, (x, y)), variances, strict=True):
        form -= linear**2 / variance
    polynomial = sp.Poly(sp.expand(form), x, y)
    return {n: target.tidy(polynomial.coeff_monomial(x ** (4 - n) * y**n)) for n in range(5)}


def _third(third: Orders, coordinates: Pair) -> list[sp.Expr]:
    """Return κ(s, s, t) for each of two statistics t."""
    x, y = coordinates
    powers = (x**2, 2 * x * y, y**2)
    return [
        sp.Add(*(third.get((3 - n - k, n + k), 0) * powers[n] for n in range(3))) for k in (0, 1)
    ]


def _radial(family):
    """Whiten the statistics along h and across it."""
    wanted = {"radius", "cosine", "sine", "third_along", "third_mixed"}
    wanted |= {f"{part}_{base}" for part in ("radial", "tangential") for base in (u, v)}
    wanted |= {"variance_along", "variance_across", "quartic_40", "quartic_22", "quartic_04"}
    lines = [x for x in radial.program(family) if x.name in wanted]
    skew, coskew = column("third_along"), column("third_mixed")
    along, across = column("variance_along"), column("variance_across")
    rest = {
        0: column("quartic_40") - skew**2 / along,
        2: column("quartic_22") - 2 * skew * coskew / along - 4 * coskew**2 / across,
        4: column("quartic_04") - coskew**2 / along,
    }
    parts = {base: [column(f"radial_{base}"), column(f"tangential_{base}")] for base in (u, v)}
    first, second = (
        column(f"deviation{n + 1}") * directions(family, probe)[n][index] for n in (0, 1)
    )
    cosine, sine = column("cosine"), column("sine")
    roots = [cosine * first - sine * second, sine * first + cosine * second]
    return [*lines, *_of_pair([along, across], {(3, 0): skew, (1, 2): coskew}, parts, rest, roots)]


def _of_pair(
    variances: Pair, third: Orders, parts: Mapping[sp.IndexedBase, Pair], rest, roots: Pair
) -> list[Definition]:
    """Return the lines of a, k, b, L g and R_j in two uncorrelated statistics."""
    deviations = [column(f"deviation{n}") for n in (1, 2)]
    x, y = parts[u]
    values = {
        **{f"deviation{n}": sp.sqrt(value) for n, value in enumerate(variances, 1)},
        **{f"whitened_u{n}": deviations[n - 1] * parts[u][n - 1] for n in (1, 2)},
        **{
            f"coskewness{n}": form / deviations[n - 1]
            for n, form in enumerate(_third(third, (x, y)), 1)
        },
        **{f"whitened_v{n}": deviations[n - 1] * parts[v][n - 1] for n in (1, 2)},
        **{f"root_probe{n}": value for n, value in enumerate(roots, 1)},
        "information": column("whitened_u1") ** 2 + column("whitened_u2") ** 2,
        **{f"remainder_{4 - n}{n}": value for n, value in rest.items() if value != 0},
    }
    own = sp.Add(
        *(
            column(f"remainder_{4 - n}{n}") * x ** (4 - n) * y**n
            for n, value in rest.items()
            if value != 0
        )
    )
    return [*(line(name, value) for name, value in values.items()), line("own_remainder", own)]
