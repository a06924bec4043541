"""The normaliser of a density with a scalar label, summed or integrated by SymPy."""

from __future__ import annotations

import functools

import sympy as sp

from fimsym.derivation.symbols import read
from fimsym.derivation.target import target, tidy
from fimsym.errors import UnsupportedError
from fimsym.families import Family, families
from fimsym.families import family as registered

_RANGES = {"real": (-sp.oo, sp.oo), "positive": (0, sp.oo)}
_tilt = sp.Symbol("tilt", positive=True)


@functools.cache
def closed_form(family: Family) -> sp.Expr | None:
    """Return Z = ∫ π(y) exp(⟨t(y), h⟩) dy of one target in its symbols, or None.

    None stands for a density without a closed form here: moments are then checked by
    quadrature.
    """
    density = family.density
    if density is None or not closed_forms_wanted(family):
        return None
    if density.support == "counts":
        return _summed(family)
    if density.support in _RANGES:
        return _integrated(family, *_RANGES[density.support])
    return None


def closed_forms_wanted(family: Family) -> bool:
    """Tell whether SymPy is trusted to integrate: for built-in families, which are tested."""
    return family.name in families() and registered(family.name).density == family.density


@functools.cache
def moment(family: Family, word: tuple[int, ...]) -> sp.Expr:
    """Return E Π t_a of one target over the places in `word`, ∂Z/∂h_a∂h_b… / Z."""
    whole = closed_form(family)
    if whole is None:
        raise UnsupportedError(f"the density of {family.name} has no closed form here.")
    return tidy(_derivative(family, tuple(sorted(word))) / whole)


@functools.cache
def _derivative(family, word):
    if not word:
        return closed_form(family)
    one, place = target(family), word[-1]
    slope = sp.diff(one.naturals[place], one.parameters[place])
    return sp.diff(_derivative(family, word[:-1]), one.parameters[place]) * slope


def _integrated(family, low, high):
    y = sp.Symbol("y", positive=True) if low == 0 else sp.Symbol("y", real=True)
    names = {"y": y}
    weight = read(family, family.density.base_measure, names)
    exponent = sp.Integer(0)
    for statistic, natural in zip(
        family.sufficient_statistics, target(family).naturals, strict=True
    ):
        term = sp.expand(read(family, statistic, names) * natural)
        for part in sp.Add.make_args(term):
            power = part.coeff(sp.log(y))
            weight *= y**power
            exponent += part - power * sp.log(y)
    value = sp.integrate(sp.powsimp(weight * sp.exp(exponent)), (y, low, high))
    value = sp.simplify(value.rewrite([sp.sinh, sp.cosh], sp.exp))
    return None if value.has(sp.Integral, sp.Piecewise) else value


def _summed(family):
    y = sp.Symbol("y", integer=True, nonnegative=True)
    one = target(family)
    weight = read(family, family.density.base_measure, {"y": y})
    largest = family.density.largest
    high = sp.oo if largest is None else read(family, largest, {})
    summand = sp.combsimp(weight) * _tilt**y
    value = sp.summation(summand, (y, 0, high)).replace(sp.Piecewise, lambda *cases: cases[0][0])
    if value.has(sp.Sum, sp.hyper):
        return None
    return sp.gammasimp(value.xreplace({_tilt: sp.exp(one.naturals[0])}))
