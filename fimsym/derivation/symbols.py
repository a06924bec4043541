"""The symbols every derivation shares, and the SymPy reading of a family's formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sympy as sp

from fimsym.derivation.functions import FUNCTIONS
from fimsym.families import Family
from fimsym.families.formula import interpret

h = sp.IndexedBase("h", real=True)
u = sp.IndexedBase("u", real=True)
v = sp.IndexedBase("v", real=True)
probability = sp.IndexedBase("p", real=True)

epsilon, delta = sp.symbols("epsilon delta", real=True)
y = sp.Symbol("y", real=True)
labels = sp.Symbol("N", integer=True, positive=True)
index = sp.Symbol("i", integer=True, positive=True)
top, second = sp.symbols("top second", integer=True, positive=True)
"""Positions of the two largest natural parameters."""


class AxisFunction(sp.Function):
    """A function of an indexed expression over all outputs; `i` is bound in it."""

    nargs = 1


class AxisMax(AxisFunction):
    """Largest value of an indexed expression over the outputs."""

    @classmethod
    def eval(cls, expression):
        """Evaluate an expression that is the same for every output to itself."""
        return None if expression.atoms(sp.Indexed) else expression

    def _latex(self, printer):
        return rf"\max_{{i}} {printer.parenthesize(self.args[0], 50)}"


class AxisMin(AxisFunction):
    """Smallest value of an indexed expression over the outputs."""

    @classmethod
    def eval(cls, expression):
        """Evaluate an expression that is the same for every output to itself."""
        return None if expression.atoms(sp.Indexed) else expression

    def _latex(self, printer):
        return rf"\min_{{i}} {printer.parenthesize(self.args[0], 50)}"


class LargestPair(AxisFunction):
    """Product of the two largest values over the targets; 0 for a single target."""

    def _latex(self, printer):
        return rf"\max_{{i \neq j}} {printer.parenthesize(self.args[0], 50)} (\cdot)_j"


class SmallestPair(AxisFunction):
    """Product of the two smallest values over the targets; infinite for a single target."""

    def _latex(self, printer):
        return rf"\min_{{i \neq j}} {printer.parenthesize(self.args[0], 50)} (\cdot)_j"


class Others(AxisFunction):
    """Sum of an indexed expression over all outputs but the i-th."""

    def _latex(self, printer):
        term = printer.parenthesize(self.args[0].xreplace({index: sp.Symbol("j")}), 50)
        return rf"\sum_{{j \neq i}} {term}"


class Pairs(AxisFunction):
    """Sum of the products of an indexed expression at any two outputs, Σ_{i<j} x_i x_j."""

    def _latex(self, printer):
        (term,) = self.args
        other = term.xreplace({index: sp.Symbol("j")})
        one, two = (printer.parenthesize(x, 50) for x in (term, other))
        return rf"\sum_{{i < j}} {one} {two}"


class Cosine(sp.Function):
    """x/r, the entry of a unit vector; a given value where r = 0."""

    nargs = 3

    def exact(self) -> sp.Expr:
        """Return the quotient, for proofs at r > 0."""
        return self.args[0] / self.args[1]

    def _latex(self, printer):
        return printer._print(self.args[0] / self.args[1])


class Norm(sp.Function):
    """√(x² + y²), without leaving the range of floating-point numbers."""

    nargs = 2

    def exact(self) -> sp.Expr:
        """Return the root, for proofs."""
        return sp.sqrt(self.args[0] ** 2 + self.args[1] ** 2)

    def _latex(self, printer):
        return printer._print(self.exact())


class RoundedUp(sp.Function):
    """A bound, raised by a multiple of the size of its terms that covers their rounding."""

    nargs = 2

    def _latex(self, printer):
        return printer._print(self.args[0])


def axis(family: Family) -> sp.Symbol:
    """Return the symbolic number of outputs, m or C."""
    return sp.Symbol(family.axis, integer=True, positive=True)


def total(family: Family, summand: sp.Expr, over: sp.Symbol = index) -> sp.Expr:
    """Return Σ_i summand over the family's outputs, or its targets."""
    return sp.Sum(summand, (over, 1, axis(family))) if summand != 0 else sp.Integer(0)


def constants(family: Family) -> dict[str, sp.Symbol]:
    """Return the symbol of each constant of the family."""
    return {
        c.name: sp.Symbol(c.name, positive=True, **({"integer": True} if c.integer else {}))
        for c in family.constants
    }


def naturals(family: Family) -> tuple[sp.IndexedBase, ...]:
    """Return the base of each natural parameter of one target, h or h1, h2 and so on."""
    return _bases("h", family)


def directions(family: Family, base: sp.IndexedBase) -> tuple[sp.IndexedBase, ...]:
    """Return the parts of u or v that belong to each natural parameter."""
    return _bases(str(base.label), family)


def _bases(letter, family):
    if family.components == 1:
        return (sp.IndexedBase(letter, real=True),)
    return tuple(sp.IndexedBase(f"{letter}{n}", real=True) for n in range(1, family.components + 1))


def read(family: Family, formula: str, names: Mapping[str, sp.Expr]) -> sp.Expr:
    """Return `formula` as a SymPy expression in `names` and the family's constants."""
    return sp.sympify(
        interpret(
            formula,
            names={"pi": sp.pi, **constants(family), **names},
            functions={**FUNCTIONS, "sum": lambda summand: total(family, summand)},
            number=sp.Rational,
        )
    )


def log_partition(family: Family, arguments: Sequence[sp.Expr] | None = None) -> sp.Expr:
    """Return F as an expression in `arguments`, the natural parameters of the i-th output."""
    if arguments is None:
        arguments = [base[index] for base in naturals(family)]
    value = read(family, family.log_partition, dict(zip(family.natural, arguments, strict=True)))
    return value if family.vector else total(family, value)
