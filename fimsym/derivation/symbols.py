"""The symbols every derivation shares, and the SymPy reading of a family's formulas."""

from __future__ import annotations

import sympy as sp

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


class Others(AxisFunction):
    """Sum of an indexed expression over all outputs but the i-th."""

    def _latex(self, printer):
        term = printer.parenthesize(self.args[0].xreplace({index: sp.Symbol("j")}), 50)
        return rf"\sum_{{j \neq i}} {term}"


class RoundedUp(sp.Function):
    """A bound, raised by a multiple of the size of its terms that covers their rounding."""

    nargs = 2

    def _latex(self, printer):
        return printer._print(self.args[0])


def axis(family: Family) -> sp.Symbol:
    """Return the symbolic number of outputs, m or C."""
    return sp.Symbol(family.axis, integer=True, positive=True)


def total(family: Family, summand: sp.Expr, over: sp.Symbol = index) -> sp.Sum:
    """Return Σ_i summand over the family's outputs."""
    return sp.Sum(summand, (over, 1, axis(family)))


def constants(family: Family) -> dict[str, sp.Symbol]:
    """Return the symbol of each constant of the family."""
    return {c.name: sp.Symbol(c.name, positive=True) for c in family.constants}


def read(family: Family, formula: str, names: dict[str, sp.Expr]) -> sp.Expr:
    """Return `formula` as a SymPy expression in `names` and the family's constants."""
    return sp.sympify(
        interpret(
            formula,
            names={"pi": sp.pi, **constants(family), **names},
            functions={
                "exp": sp.exp,
                "log": sp.log,
                "sqrt": sp.sqrt,
                "sum": lambda summand: total(family, summand),
            },
            number=sp.Rational,
        )
    )


def log_partition(family: Family, argument: sp.Expr = h[index]) -> sp.Expr:
    """Return F as an expression in `argument`, the i-th natural parameter."""
    value = read(family, family.log_partition, {family.natural: argument})
    return total(family, value) if family.structure == "independent" else value
