"""Theorem 4.1 for independent targets: constants of each target, and of all together.

With n_j = ‖u_j‖², so that Σ n_j = ‖u‖², and λ_j, q_j the constants of target j,

    V₁ ≤ Σ_j q_j n_j² + 2 Σ_{j≠k} λ_j λ_k n_j n_k,

a quadratic form on the simplex, and likewise from below.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation import concentration, one_parameter, radial, two_parameters
from fimsym.derivation.extremes import (
    Larger,
    LargestOfTargets,
    LargestOnCircle,
    Smaller,
    SmallestOfTargets,
    SmallestOnCircle,
)
from fimsym.derivation.functions import PolygammaDifference
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import AxisMax, AxisMin, Lowered, Raised, RoundedUp, index
from fimsym.derivation.target import cumulant_of, target, tidy
from fimsym.derivation.whitened_concentrations import Layout, layout, left_lines
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


def program(family: Family) -> tuple[Definition, ...]:
    """Return the lines that evaluate the four constants from h."""
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
    return (*lines, *_of_all())


OF_TARGET = ("smallest", "largest", "smallest_quartic", "largest_quartic")
"""The four constants of each target."""


def _of_all():
    smallest, largest, low, high = (_column(name) for name in OF_TARGET)
    return (
        line("fisher_min", Lowered(AxisMin(smallest))),
        line("fisher_max", Raised(AxisMax(largest))),
        line("quartic_min", SmallestOfTargets(smallest, low)),
        line("quartic_max", LargestOfTargets(largest, high)),
    )


def _one_parameter(family):
    needed = {"deviation", "spread"}
    lines = [one for one in one_parameter.program(family) if one.name in needed]
    deviation, spread = (_column(name) for name in ("deviation", "spread"))
    variance, quartic = deviation**2, deviation**2 * spread**2
    values = (variance, variance, quartic, quartic)
    return [*lines, *map(_line, OF_TARGET, values)]


def _radial(family):
    """Take the parts along h and across it, in which M has no odd powers."""
    wanted = {"radius", "variance_along", "variance_across"}
    wanted |= {f"quartic_{key}" for key in ("40", "22", "04")}
    lines = [one for one in radial.program(family) if one.name in wanted]
    along, across = _column("variance_along"), _column("variance_across")
    quartic = (
        _column("quartic_40"),
        sp.Integer(0),
        _column("quartic_22") / 6,
        sp.Integer(0),
        _column("quartic_04"),
    )
    smallest = {"smallest": Smaller(along, across), "largest": Larger(along, across)}
    return [
        *lines,
        *(_line(name, value) for name, value in smallest.items()),
        *_quartics(quartic, (along, across), quartic),
    ]


def _quartics(entries, variances=(), uncorrelated=(), others=()):
    """Return the lines of the least and largest value of M on the circle.

    In statistics that do not correlate and have variance one, M is at least ρ, and so
    V₁ ≥ ρ I² ≥ ρ λ²: where eigenvalues of I are far apart, that is more than rounding leaves
    of M itself.
    """
    least = [SmallestOnCircle(*entries), *others]
    if uncorrelated:
        first, last = variances
        standard = [
            entry / (first ** sp.Rational(4 - k, 2) * last ** sp.Rational(k, 2))
            for k, entry in enumerate(uncorrelated)
        ]
        least.append(SmallestOnCircle(*standard) * _column("smallest") ** 2)
    return [
        _line("smallest_quartic", Larger(0, *least)),
        _line("largest_quartic", LargestOnCircle(*entries)),
    ]


def _two_parameters(family):
    """Take the eigenvalues of the 2×2 matrix I and the form M on the circle."""
    pivot = two_parameters.pivot(family)
    wanted = ("second_cumulant", "quartic")
    known = [x for x in two_parameters.eliminated(family, pivot) if x.name.startswith(wanted)]
    symbols = {one.name: one.symbol for one in known}
    variances = (symbols["second_cumulant_20"], symbols["second_cumulant_02"])
    standard = [symbols.get(f"quartic_{4 - k}{k}", sp.Integer(0)) for k in range(5)]
    determinant = tidy(
        cumulant_of(family, (0, 0)) * cumulant_of(family, (1, 1)) - cumulant_of(family, (0, 1)) ** 2
    )
    return [
        *_information(family),
        _line("determinant", target(family).at(determinant)),
        _line("smallest", _column("determinant") / _column("largest")),
        *_tensor_lines(family),
        *known,
        *_quartics([_column(f"m_{k}") for k in range(5)], variances, standard),
    ]


def _information(family):
    """Return the lines of I's entries and of its larger eigenvalue."""
    one = target(family)
    words = ((0, 0), (1, 1), (0, 1))
    return _eigenvalue([one.at(cumulant_of(family, word)) for word in words])


def _eigenvalue(entries):
    names = ("variance_1", "variance_2", "covariance_12")
    first, second, both = map(_column, names)
    largest = (first + second) / 2 + sp.sqrt((first - second) ** 2 / 4 + both**2)
    return [*map(_line, names, entries), _line("largest", RoundedUp(largest, first + second))]


def _tensor_lines(family):
    one = target(family)
    return [_line(f"m_{k}", one.at(entry)) for k, entry in enumerate(tensor(family))]


def _concentration(family):
    """Take det I = ψ₁ψ₁ρ², and κ₄ ≥ r Σ ψ₃ u⁴."""
    at = layout(family)
    alone, fourth = at.columns("alone"), at.columns("fourth")
    rest, left = _column("fourth_left"), _column("left")
    size = _column("lost") + _column("taken")
    determinant = sp.Mul(*alone) * Larger(0, RoundedUp(left, -size))
    least = Smaller(rest * Larger(*fourth), rest / sp.Add(*(1 / entry for entry in fourth)))
    first, second = at.parameters
    pairs = ((first, second), (second, first))
    information = [PolygammaDifference(1, *pair) for pair in pairs]
    information.append(-sp.polygamma(1, _column("total")))
    shared = -sp.polygamma(3, _column("total"))
    one, other = (PolygammaDifference(3, *pair) for pair in pairs)
    a, b, c = (_column(name) for name in ("variance_1", "variance_2", "covariance_12"))
    entries = map(sp.Add, (one, shared, shared, shared, other), _products(a, b, c))
    return [
        Definition("total", _column("total"), sp.Add(*at.parameters), "sum of concentrations"),
        *at.each("alone", [sp.polygamma(1, x) for x in at.parameters]),
        *left_lines(at),
        *_eigenvalue(information),
        _line("smallest", determinant / _column("largest")),
        *at.each("fourth", [sp.polygamma(3, x) for x in at.parameters]),
        _line("fourth_left", fourth_left(at)),
        *(_line(f"m_{k}", entry) for k, entry in enumerate(entries)),
        *_quartics(
            [_column(f"m_{k}") for k in range(5)],
            others=[2 * _column("smallest") ** 2 + least],
        ),
    ]


def fourth_left(at: Layout) -> sp.Expr:
    """Return r with κ₄ = Σ ψ₃(h) u⁴ − ψ₃(h₊)(Σ u)⁴ ≥ r Σ ψ₃(h) u⁴, by Hölder's inequality."""
    third = sp.Rational(1, 3)
    inverse = at.add(lambda k: sp.polygamma(3, at.parameters[k]) ** -third)
    share = sp.polygamma(3, at.scalar("total")) * inverse**3
    return RoundedUp(1 - share, -1 - share)


def tensor(family: Family) -> list[sp.Expr]:
    """Return the entries of the symmetric M of one target with k of four places second."""
    entries = (cumulant_of(family, word) for word in ((0, 0), (1, 1), (0, 1)))
    return [
        tidy(cumulant_of(family, (0,) * (4 - k) + (1,) * k) + product)
        for k, product in enumerate(_products(*entries))
    ]


def _products(a, b, c):
    """Return the entries of the symmetric part of 2 I⊗I."""
    return [2 * a**2, 2 * a * c, 2 * (a * b + 2 * c**2) / 3, 2 * b * c, 2 * b**2]


def _column(name):
    return sp.IndexedBase(name, real=True)[index]


def _line(name, expression):
    return Definition(name, _column(name), expression, name.replace("_", " "))
