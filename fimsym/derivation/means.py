"""The mean of t, ∂F/∂h, in forms that keep their digits and their range."""

from __future__ import annotations

import functools

import sympy as sp

from fimsym.derivation import concentration, one_parameter, stable, target
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.functions import LogBessel, PolygammaDifference, exact
from fimsym.derivation.normal import inline
from fimsym.derivation.symbols import Others, directions, h, index, naturals, u
from fimsym.errors import DerivationError
from fimsym.families import Family


@functools.cache
def mean(family: Family) -> sp.Expr:
    """Return η_i = E[t_i] = ∂F/∂h_i; one per natural parameter of a target if it has several.

    Raises:
        DerivationError: the form is not the derivative.
    """
    plain = derivative(family)
    if family.vector:
        softmax = stable.softmax(family)
        found = _of_vector(family, inline(plain, [softmax], level=1))
    else:
        found = _of_target(family, plain)
    if not family.vector:
        several = family.components > 1
        for form, value in zip(
            found if several else [found], plain if several else [plain], strict=True
        ):
            _check(family, form, value)
    return found


def derivative(family: Family) -> sp.Expr:
    """Return ∂F/∂h_i as κ₁₀ has it, a tuple for several parameters of a target."""
    parts = directions(family, u)
    linear = cumulant(family, 1, 0).replace(
        lambda node: isinstance(node, sp.Sum) and any(node.has(part) for part in parts),
        lambda node: node.function,
    )
    if family.components == 1:
        return sp.diff(linear, u[index])
    return sp.Tuple(*(sp.diff(linear, part[index]) for part in parts))


def _of_vector(family, plain):
    if not concentration.applies(family):
        return plain
    return PolygammaDifference(0, h[index], Others(h[index]))


def _of_target(family, plain):
    if family.components == 1:
        one = target.target(family)
        return one_parameter.stable(target.cumulant_of(family, (0,)), one)
    if concentration.applies(family):
        first, second = (base[index] for base in naturals(family))
        return sp.Tuple(
            PolygammaDifference(0, first, second), PolygammaDifference(0, second, first)
        )
    # ∂ log I₀ = r g₁, in which r cancels against the direction's.
    return plain.replace(
        lambda node: isinstance(node, LogBessel) and node.args[1] == 1,
        lambda node: node.args[2] * LogBessel(node.args[0] + 1, 0, node.args[2]),
    )


def _check(family, form, plain):
    one = target.target(family)
    columns = {
        base[index]: value for base, value in zip(naturals(family), one.naturals, strict=True)
    }
    rest = target.canonical(exact(form - plain).xreplace(columns))
    if rest != 0:
        raise DerivationError(f"the mean of {family.name} is {plain}, not {form}.")
