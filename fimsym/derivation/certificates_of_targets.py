"""Certificates of Theorem 4.1 for independent targets, from the lines that state it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import sympy as sp

from fimsym.derivation import (
    bounds,
    certificates_of_searches,
    concentration,
    radial,
    target,
    two_parameters,
)
from fimsym.derivation.bounds_of_targets import OF_TARGET
from fimsym.derivation.certificates_of_concentrations import hoelder, shares
from fimsym.derivation.extremes import (
    Larger,
    LargestOfTargets,
    LargestOnCircle,
    Smaller,
    SmallestOfTargets,
    SmallestOnCircle,
)
from fimsym.derivation.functions import exact
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import inline
from fimsym.derivation.symbols import (
    AxisMax,
    AxisMin,
    Lowered,
    Norm,
    Raised,
    RoundedUp,
    index,
    naturals,
)
from fimsym.derivation.whitened_concentrations import layout
from fimsym.errors import DerivationError
from fimsym.families import Family

_SMALLEST, _LARGEST, _LOW, _HIGH = (sp.IndexedBase(name, real=True)[index] for name in OF_TARGET)
_SYMBOLIC = (*OF_TARGET, "left", "lost", "taken", "fourth_left")
"""Lines that are proven by themselves and keep their symbols in those after them."""


def certificates(family: Family) -> tuple[Identity, ...]:
    """Return the identities that prove the six inequalities of Theorem 4.1."""
    if family.components > 2:
        return ()
    lines = bounds.definitions(family)
    if not any(line.expression.atoms(sp.Indexed) for line in lines):
        return tuple(_constants(family, lines))
    kept = [line for line in lines if line.name not in _SYMBOLIC]
    values = {line.name: _in_symbols(family, inline(line.expression, kept)) for line in lines}
    return (*_of_all(values), *_each(family, lines, values))


def _constants(family, lines):
    """Prove that both sides are the constant curvature κ₂, and 2κ₂²."""
    curvature = target.cumulant_of(family, (0, 0))
    stated = {"fisher": curvature, "quartic": 2 * curvature**2}
    for line in lines:
        name, value = line.name, stated[line.name[:-4]]
        yield _claim(f"{name}: equality", "the form is this times the norm", line.expression, value)


def _of_all(values) -> Iterator[Identity]:
    """Read how the constants of all targets follow from those of each."""
    stated = {
        "fisher_min": Lowered(AxisMin(_SMALLEST)),
        "fisher_max": Raised(AxisMax(_LARGEST)),
        "quartic_min": SmallestOfTargets(_SMALLEST, _LOW),
        "quartic_max": LargestOfTargets(_LARGEST, _HIGH),
    }
    for name, value in stated.items():
        yield _claim(name, "of all targets, from that of each", values[name], value, structural)
    yield from certificates_of_searches.targets()


def _each(family, lines, values) -> Iterator[Identity]:
    """Prove the constants of one target."""
    if family.components == 1:
        yield from _one_parameter(family, values)
        return
    yield from certificates_of_searches.circle()
    if radial.applies(family):
        yield from _radial(values)
    elif concentration.applies(family):
        yield from _concentration(family, lines, values)
    else:
        yield from _two_parameters(family, lines, values)


def _one_parameter(family, values):
    second, fourth = (target.cumulant_of(family, (0,) * order) for order in (2, 4))
    form = fourth + 2 * second**2
    for name, stated in zip(OF_TARGET, (second, second, form, form), strict=True):
        yield _claim(name, "it is κ₂, or κ₄ + 2κ₂², of the target", values[name], stated)


def _radial(values):
    """In a and b, the parts of a unit vector along h and across it, M has even powers alone."""
    r = sp.Symbol("r", positive=True)
    kappa = {key: radial.cumulant_at(*key) for key in ((2, 0), (0, 2), (4, 0), (2, 2), (0, 4))}
    along, across = kappa[2, 0], kappa[0, 2]
    values = {
        name: value.xreplace(dict.fromkeys(value.atoms(Norm), r)) for name, value in values.items()
    }
    for name, choose in (("smallest", Smaller), ("largest", Larger)):
        yield _claim(name, "one of the two", values[name], choose(along, across), structural)
    a, b = sp.symbols("a b", real=True)
    information = along * a**2 + across * b**2
    form = kappa[4, 0] * a**4 + 6 * kappa[2, 2] * a**2 * b**2 + kappa[0, 4] * b**4
    forms = form + 2 * information**2, information
    yield from _quartics(values, *forms, (a, b), (sp.sqrt(along) * a, sp.sqrt(across) * b))


def _two_parameters(family, lines, values):
    """(λ − a)(λ − b) = c² at both ends; M is searched on the circle."""
    yield from _information(family, lines, values)
    a, b, c = (target.cumulant_of(family, word) for word in ((0, 0), (1, 1), (0, 1)))
    yield _claim(
        "smallest",
        "(ab − c²)/λ_max, below the smaller root",
        values["smallest"] * _LARGEST,
        a * b - c**2,
    )
    pivot, one = two_parameters.pivot(family), target.target(family)
    variances = (two_parameters.decorrelated(family, pivot, *key) for key in ((2, 0), (0, 2)))
    first, second = one.first[pivot], one.first[1 - pivot]
    entries = (first + two_parameters.slope(family, pivot) * second, second)
    uncorrelated = [sp.sqrt(k) * entry for k, entry in zip(variances, entries, strict=True)]
    yield from _quartics(values, *_forms(family), one.first, uncorrelated)


def _concentration(family, lines, values):
    """Use that det I = ψ₁ψ₁ρ², and that κ₄ is a diagonal form minus one term."""
    one = target.target(family)
    whole = sp.Add(*one.parameters)
    yield from _information(family, lines, values)
    left, rest = (sp.IndexedBase(name, real=True)[index] for name in ("left", "fourth_left"))
    size = sp.Add(*(sp.IndexedBase(name, real=True)[index] for name in ("lost", "taken")))
    variances = [sp.polygamma(1, a) for a in one.parameters]
    fourths = [sp.polygamma(3, a) for a in one.parameters]
    inverse = sp.Add(*(a ** -sp.Rational(1, 3) for a in fourths))
    share = sp.polygamma(3, whole) * inverse**3
    least = Smaller(rest * Larger(*fourths), rest / sp.Add(*(1 / a for a in fourths)))
    stated = {
        "smallest": sp.Mul(*variances) * Larger(0, RoundedUp(left, -size)) / _LARGEST,
        "fourth_left": RoundedUp(1 - share, -1 - share),
    }
    for name, value in stated.items():
        yield _claim(name, "what the other lines prove", values[name], value, structural)
    at = layout(family)
    yield from shares(
        next(line for line in lines if line.name == "left"),
        lines,
        sp.Add(*at.parameters),
        at.add(lambda k: 1 / sp.polygamma(1, at.parameters[k])),
    )
    a, b, c = (target.cumulant_of(family, word) for word in ((0, 0), (1, 1), (0, 1)))
    scale = sp.polygamma(1, whole) * sp.Add(*(1 / value for value in variances))
    yield _claim(
        "determinant", "det I = ψ₁ψ₁(1 − Σ w)", a * b - c**2, sp.Mul(*variances) * (1 - scale)
    )
    entries = zip(fourths, one.first, strict=True)
    yield _claim(
        "fourth cumulant",
        "Σ ψ₃(h) u⁴ − κ₄ = ψ₃(Σh)(Σu)⁴ ≥ 0",
        sp.Add(*(value * entry**4 for value, entry in entries))
        - exact(target.directional(family, 4, 0)),
        sp.polygamma(3, whole) * sp.Add(*one.first) ** 4,
    )
    yield from hoelder(family)
    yield from _quartics(values, *_forms(family), one.first, (), [2 * _SMALLEST**2 + least])


def _information(family, lines, values):
    """Read I's entries and that its larger eigenvalue is taken of them."""
    words = {"variance_1": (0, 0), "variance_2": (1, 1), "covariance_12": (0, 1)}
    for name, word in words.items():
        stated = target.cumulant_of(family, word)
        yield _claim(name, "an entry of I", values[name], stated)
    high = next(line.expression for line in lines if line.name == "largest")
    if not isinstance(high, RoundedUp):
        raise DerivationError(f"expected a largest eigenvalue with an allowance; got {high}.")
    a, b, c = (sp.IndexedBase(name, real=True)[index] for name in words)
    yield _claim(
        "largest",
        "the larger root of (λ − a)(λ − b) = c²",
        high.args[0],
        (a + b) / 2 + sp.sqrt((a - b) ** 2 / 4 + c**2),
        structural,
    )
    yield _claim(
        "allowance for rounding", "a multiple of the trace", high.args[1], a + b, structural
    )


def _forms(family):
    """Return V₁ and I of one target."""
    information = target.directional(family, 2, 0)
    return target.directional(family, 4, 0) + 2 * information**2, information


def _quartics(
    values: Mapping[str, sp.Expr],
    variance: sp.Expr,
    information: sp.Expr,
    entries: Sequence[sp.Expr],
    uncorrelated: Sequence[sp.Expr],
    others: Sequence[sp.Expr] = (),
) -> Iterator[Identity]:
    """Prove what is searched on the circle: M, and M in statistics of variance one.

    Args:
        values: The lines.
        variance: V₁ as a form in `entries`.
        information: I, likewise.
        entries: A direction of one target.
        uncorrelated: The same in statistics of variance one; none if those are not searched.
        others: Further lower bounds, proven elsewhere.
    """
    high, low = values["largest_quartic"], values["smallest_quartic"]
    searches = sorted(low.atoms(SmallestOnCircle), key=lambda one: one.args != high.args)
    if not isinstance(high, LargestOnCircle) or len(searches) != 1 + bool(uncorrelated):
        raise DerivationError(f"expected M searched on the circle; got {low} and {high}.")
    form = _binomial(high.args, *entries)
    yield _claim("M", "Σ binom(4, k) m_k x^(4−k) y^k = V₁", form, variance)
    expected = [searches[0], *others]
    yield _claim("M from below", "the same M", _binomial(searches[0].args, *entries), variance)
    if uncorrelated:
        expected.append(searches[1] * _SMALLEST**2)
        square = sp.Add(*(entry**2 for entry in uncorrelated))
        yield _claim("variance one", "X² + Y² = I", square, information)
        relative = _binomial(searches[1].args, *uncorrelated)
        yield _claim("M relative to I", "Σ binom(4, k) ρ_k X^(4−k) Y^k = V₁", relative, variance)
    yield _claim(
        "smallest_quartic",
        "V₁ ≥ 0, M on the circle, and V₁ ≥ ρ I² ≥ ρ λ²",
        low,
        Larger(0, *expected),
        structural,
    )


def _binomial(coefficients, x, y):
    terms = (value * x ** (4 - k) * y**k for k, value in enumerate(coefficients))
    return sp.Add(*(sp.binomial(4, k) * term for k, term in enumerate(terms)))


def structural(expression: sp.Expr) -> sp.Expr:
    """Reduce a difference of two expressions that SymPy orders alike."""
    return sp.expand(expression)


def _claim(name, statement, left, right, reduce=target.canonical):
    return Identity(f"theorem 4.1: {name}", statement, left, right, reduce)


def _in_symbols(family, value):
    """Write a value of the i-th target in plain symbols."""
    one = target.target(family)
    return value.xreplace(
        {base[index]: x for base, x in zip(naturals(family), one.naturals, strict=True)}
    )
