"""Quantities of several independent targets, from those of each.

Scores of independent targets add up, so that cumulants do. With I_j and V₁ⱼ of target j,

    V₁ = Σ_j V₁ⱼ + 4 Σ_{j<k} I_j I_k,

a sum of terms that are never negative, in O(m).
"""

from __future__ import annotations

import dataclasses
import functools

import sympy as sp

from fimsym.derivation import one_parameter, target, two_parameters
from fimsym.derivation.functions import exact
from fimsym.derivation.normal import Definition, unroll
from fimsym.derivation.symbols import Pairs, axis, directions, index, naturals, total, u, v
from fimsym.errors import UnsupportedError
from fimsym.families import Family

MEANINGS = {
    "information": "Fisher information of each target",
    "asymmetry": "third cumulant of each target's score",
    "variance_of_target": "variance of each target's squared score",
    "information_v": "variance of each target's part of Î₂",
    "mixed": "joint third cumulant κ₂₁ of each target",
}


def program(family: Family, readable: bool = False) -> list[Definition]:
    """Return the lines that compute every quantity, as people or as machines prefer them."""
    if family.components == 1:
        if target.cumulant_of(family, (0, 0, 0, 0)) == 0:
            return _constant_curvature(family)
        lines = one_parameter.readable(family) if readable else one_parameter.program(family)
    elif family.components == 2:
        lines = two_parameters.program(family)
    else:
        lines = _general(family)
    return [*lines, *_sums(family)]


def _sums(family):
    information, asymmetry, variance, information_v, mixed = (symbol(name) for name in MEANINGS)
    return [
        quantity("fisher", total(family, information)),
        quantity("third", total(family, asymmetry)),
        quantity("variance_score_squared", total(family, variance) + 4 * Pairs(information)),
        quantity("variance_negative_hessian", total(family, information_v)),
        quantity("covariance", -total(family, mixed)),
    ]


def symbol(name: str) -> sp.Indexed:
    """Return the symbol of a quantity that every target has."""
    return sp.IndexedBase(name, real=True)[index]


def line_of_target(name: str, expression: sp.Expr) -> Definition:
    """Return the line of one of `MEANINGS`."""
    return Definition(name, symbol(name), expression, MEANINGS[name])


def quantity(name: str, expression: sp.Expr) -> Definition:
    """Return the line of a quantity summed over targets."""
    return Definition(name, sp.Symbol(name, real=True), expression, name)


def _constant_curvature(family):
    """Return the lines where κ₂ is a constant and higher cumulants vanish: V₁ = 2 I²."""
    curvature = target.target(family).at(target.cumulant_of(family, (0, 0)))
    fisher = sp.Symbol("fisher", real=True)
    return [
        quantity("fisher", curvature * total(family, u[index] ** 2)),
        quantity("third", sp.Integer(0)),
        quantity("variance_score_squared", 2 * fisher**2),
        quantity("variance_negative_hessian", curvature * total(family, v[index] ** 2)),
        quantity("covariance", sp.Integer(0)),
    ]


def _general(family):
    """Return the lines of three parameters or more, straight from the cumulants."""
    one = target.target(family)
    fourth = target.directional(family, 4, 0)
    values = {
        "information": target.directional(family, 2, 0),
        "asymmetry": target.directional(family, 3, 0),
        "variance_of_target": fourth + 2 * target.directional(family, 2, 0) ** 2,
        "information_v": target.directional(family, 0, 2),
        "mixed": target.directional(family, 2, 1),
    }
    return [line_of_target(name, one.at(value)) for name, value in values.items()]


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Decides whether two expressions in sums over independent targets are equal.

    Both are polynomials in u and v that couple at most so many targets, mostly two, so
    that they agree for every number of targets once they agree up to that many.
    """

    family: Family

    @functools.cache  # noqa: B019 (a frozen value, as long-lived as its family)
    def __call__(self, difference: sp.Expr) -> sp.Expr:
        """Return zero, or the first coefficient of `difference` that is not zero."""
        for targets in range(1, coupled(in_sums(difference, self.family)) + 1):
            for coefficient in self.coefficients(difference, targets):
                rest = target.canonical(coefficient)
                if rest != 0:
                    return rest
        return sp.Integer(0)

    def coefficients(self, expression: sp.Expr, targets: int) -> list[sp.Expr]:
        """Return the coefficients of an expression as a polynomial in u and v."""
        explicit = unroll(in_sums(expression, self.family), axis(self.family), targets)
        explicit = exact(explicit.xreplace(self.symbols(targets)))
        entries = [self._entry(part[n]) for part, n in self._places(targets)]
        masked, meaning = _masked(explicit, set(entries))
        polynomial = sp.Poly(sp.expand(masked), *entries)
        return [coefficient.xreplace(meaning) for coefficient in polynomial.coeffs()]

    def _places(self, targets):
        parts = [part for base in (u, v) for part in directions(self.family, base)]
        return [(part, n) for part in parts for n in range(1, targets + 1)]

    @staticmethod
    def _entry(node):
        return sp.Symbol(f"{node.base.label}_{node.indices[0]}", real=True)

    def symbols(self, targets: int) -> dict[sp.Expr, sp.Expr]:
        """Return the plain symbols of the first targets' parameters, u and v."""
        found = {part[n]: self._entry(part[n]) for part, n in self._places(targets)}
        one = target.target(self.family)
        bases = naturals(self.family)
        for n in range(1, targets + 1):
            new = {
                symbol: sp.Symbol(f"{symbol.name}_{n}", **symbol.assumptions0)
                for symbol in one.parameters
            }
            for base, value in zip(bases, one.naturals, strict=True):
                found[base[n]] = value.xreplace(new)
        return found


def coupled(expression: sp.Expr) -> int:
    """Return how many targets a term of `expression` couples at most, at least one.

    Raises:
        UnsupportedError: a sum over targets stands inside a function or a denominator.
    """
    return max(1, _sums_multiplied(sp.sympify(expression)))


def _sums_multiplied(node):
    inside = [_sums_multiplied(argument) for argument in node.args]
    if isinstance(node, sp.Sum):
        return len(node.limits) + inside[0]
    if isinstance(node, sp.Mul):
        return sum(inside)
    if isinstance(node, sp.Add) or not any(inside):
        return max(inside, default=0)
    if isinstance(node, sp.Pow) and node.exp.is_Integer and node.exp > 0:
        return int(node.exp) * inside[0]
    raise UnsupportedError(
        f"expected a polynomial in sums over targets; got {node}. Multiply by its denominator "
        "before you compare, and take functions of sums apart."
    )


def in_sums(expression: sp.Expr, family: Family) -> sp.Expr:
    """Write Σ_{i<j} x_i x_j as half of (Σ x)² − Σ x²."""
    return expression.replace(
        lambda node: isinstance(node, Pairs),
        lambda node: (total(family, node.args[0]) ** 2 - total(family, node.args[0] ** 2)) / 2,
    )


def _masked(expression, entries):
    """Replace every part without u and v by a symbol."""
    names: dict[sp.Expr, sp.Symbol] = {}

    def name(part):
        return part if part.is_Number else names.setdefault(part, sp.Symbol(f"mask{len(names)}"))

    def visit(node):
        if not node.free_symbols & entries:
            return name(node)
        if not node.args:
            return node
        fixed = [a for a in node.args if not a.free_symbols & entries]
        if isinstance(node, sp.Add | sp.Mul) and len(fixed) > 1:
            moving = [visit(a) for a in node.args if a.free_symbols & entries]
            return node.func(name(node.func(*fixed)), *moving)
        return node.func(*map(visit, node.args))

    masked = visit(expression)
    return masked, {symbol: part for part, symbol in names.items()}
