"""Theorem 4.1 for independent targets: constants of each target, and of all together.

With n_j = ‖u_j‖², so that Σ n_j = ‖u‖², and λ_j, q_j the constants of target j,

    V₁ ≤ Σ_j q_j n_j² + 2 Σ_{j≠k} λ_j λ_k n_j n_k ≤ max(max_j q_j, 2 max_{j≠k} λ_j λ_k) ‖u‖⁴,

and likewise from below.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation import concentration, one_parameter, radial
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import (
    AxisMax,
    AxisMin,
    LargestPair,
    RoundedUp,
    SmallestPair,
    index,
    naturals,
)
from fimsym.derivation.target import cumulant_of, target, tidy
from fimsym.families import Family

QUANTITIES = {
    "fisher_min": "smallest eigenvalue of I: λ with I ≥ λ‖u‖² and V₂ ≥ λ‖v‖²",
    "fisher_max": "upper bound of its largest eigenvalue: I ≤ λ‖u‖², V₂ ≤ λ‖v‖²",
    "quartic_min": "lower bound of M on unit vectors: V₁ ≥ λ‖u‖⁴",
    "quartic_max": "upper bound of M on unit vectors: V₁ ≤ λ‖u‖⁴",
}


def line(name: str, expression: sp.Expr) -> Definition:
    """Return the line of one of `QUANTITIES`."""
    return Definition(name, sp.Symbol(name, real=True), expression, QUANTITIES[name])


def vacuous() -> tuple[Definition, ...]:
    """Return what holds for every law: forms are between zero and infinity."""
    return tuple(
        line(name, sp.Integer(0) if name.endswith("min") else sp.oo) for name in QUANTITIES
    )


def program(family: Family) -> tuple[Definition, ...]:
    """Return the lines that evaluate the four constants from h."""
    if family.components > 2:
        return vacuous()
    if family.components == 1:
        curvature = target(family).at(cumulant_of(family, (0, 0)))
        if not curvature.atoms(sp.Indexed):
            values = dict(zip(QUANTITIES, [curvature] * 2 + [2 * curvature**2] * 2, strict=True))
            return tuple(line(name, value) for name, value in values.items())
        lines = _one_parameter(family)
    elif radial.applies(family):
        lines = _radial(family)
    elif concentration.applies(family):
        lines = _concentration(family)
    else:
        lines = _two_parameters(family)
    bounded = next(one for one in lines if one.name == "smallest_quartic").expression != 0
    kept = [one for one in lines if bounded or one.name != "smallest_quartic"]
    return (*kept, *_of_all(bounded))


OF_TARGET = ("smallest", "largest", "smallest_quartic", "largest_quartic")
"""The four constants of each target."""


def _of_all(bounded):
    smallest, largest, low, high = (_column(name) for name in OF_TARGET)
    return (
        line("fisher_min", AxisMin(smallest)),
        line("fisher_max", AxisMax(largest)),
        line("quartic_min", sp.Min(AxisMin(low), 2 * SmallestPair(smallest)) * int(bounded)),
        line("quartic_max", sp.Max(AxisMax(high), 2 * LargestPair(largest))),
    )


def _one_parameter(family):
    needed = {"deviation", "spread"}
    lines = [one for one in one_parameter.program(family) if one.name in needed]
    deviation, spread = (_column(name) for name in ("deviation", "spread"))
    variance, quartic = deviation**2, deviation**2 * spread**2
    values = (variance, variance, quartic, quartic)
    return [*lines, *map(_line, OF_TARGET, values)]


def _radial(family):
    """Bound by the parts along h and across it: 1 = (a² + b²)² = a⁴ + 2a²b² + b⁴."""
    wanted = {"radius", "variance_along", "variance_across"}
    wanted |= {f"quartic_{key}" for key in ("40", "22", "04")}
    lines = [one for one in radial.program(family) if one.name in wanted]
    along, across = _column("variance_along"), _column("variance_across")
    quartic = (
        _column("quartic_40"),
        _column("quartic_22") / 2,
        _column("quartic_04"),
    )
    values = (sp.Min(along, across), sp.Max(along, across), sp.Min(*quartic), sp.Max(*quartic))
    return [*lines, *map(_line, OF_TARGET, values)]


def _concentration(family):
    """Bound diag ψ₁(h) − ψ₁(Σh) 11ᵀ by its diagonal, and M by κ₄ ≤ max ψ₃ and 2I²."""
    entries = [base[index] for base in naturals(family)]
    variances = [sp.polygamma(1, entry) for entry in entries]
    share = sp.polygamma(1, sp.Add(*entries)) * sp.Add(*(1 / value for value in variances))
    smallest = sp.Max(0, RoundedUp(1 - share, -1 - share)) * sp.Min(*variances)
    fourth = sp.Max(*(sp.polygamma(3, entry) for entry in entries))
    values = (smallest, sp.Max(*variances), sp.Integer(0), fourth + 2 * _column("largest") ** 2)
    return list(map(_line, OF_TARGET, values))


def _two_parameters(family):
    """Bound by the eigenvalues of the 2×2 matrix I and by the norm of the tensor M."""
    one = target(family)
    variances = [cumulant_of(family, (place, place)) for place in (0, 1)]
    shared = cumulant_of(family, (0, 1))
    determinant = tidy(sp.Mul(*variances) - shared**2)
    first, second, both = (_column(name) for name in ("variance_1", "variance_2", "covariance_12"))
    largest = (first + second) / 2 + sp.sqrt((first - second) ** 2 / 4 + both**2)
    entries = tensor(family)
    norm = sp.sqrt(sp.Add(*(sp.binomial(4, k) * _column(f"m_{k}") ** 2 for k in range(5))))
    high = _column("largest")
    values = {
        "largest": RoundedUp(largest, first + second),
        "smallest": _column("determinant") / high,
        "smallest_quartic": sp.Integer(0),
        "largest_quartic": norm,
    }
    given = {
        "variance_1": variances[0],
        "variance_2": variances[1],
        "covariance_12": shared,
        "determinant": determinant,
        **{f"m_{k}": entry for k, entry in enumerate(entries)},
    }
    lines = [_line(name, one.at(value)) for name, value in given.items()]
    return [*lines, *(_line(name, value) for name, value in values.items())]


def tensor(family: Family) -> list[sp.Expr]:
    """Return the entries of the symmetric M of one target with k of four places second."""
    a, b, c = (cumulant_of(family, word) for word in ((0, 0), (1, 1), (0, 1)))
    third = sp.Rational(1, 3)
    products = [2 * a**2, 2 * a * c, 2 * third * (a * b + 2 * c**2), 2 * b * c, 2 * b**2]
    return [
        tidy(cumulant_of(family, (0,) * (4 - k) + (1,) * k) + product)
        for k, product in enumerate(products)
    ]


def _column(name):
    return sp.IndexedBase(name, real=True)[index]


def _line(name, expression):
    return Definition(name, _column(name), expression, name.replace("_", " "))
