"""One target of a family with independent targets: its cumulants, in plain symbols.

A natural parameter with a bound, such as h < 0, is written as a positive symbol's
distance from that bound, so that roots and logarithms of it simplify.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import sympy as sp

from fimsym.derivation.functions import PolygammaRemainder, exact, with_remainders
from fimsym.derivation.symbols import directions, index, naturals, read, u, v
from fimsym.families import Family


@dataclasses.dataclass(frozen=True)
class Target:
    """The symbols of one target.

    Attributes:
        parameters: One symbol per natural parameter, positive where it has a bound.
        naturals: Each natural parameter in them.
        first: The entries of u that belong to the target.
        second: The entries of v.
        log_partition: F of the target.
        columns: What each symbol stands for at the i-th target.
    """

    parameters: tuple[sp.Symbol, ...]
    naturals: tuple[sp.Expr, ...]
    first: tuple[sp.Symbol, ...]
    second: tuple[sp.Symbol, ...]
    log_partition: sp.Expr
    columns: dict[sp.Symbol, sp.Expr]

    def at(self, expression: sp.Expr) -> sp.Expr:
        """Return an expression in the target's symbols as one in columns of the i-th."""
        return sp.sympify(expression).xreplace(self.columns)


@functools.cache
def target(family: Family) -> Target:
    """Return the symbols of one target of `family`."""
    parameters, values, columns = [], [], {}
    for limits, base in zip(family.limits, naturals(family), strict=True):
        name = str(base.label)
        if math.isfinite(limits.low):
            low = sp.Rational(repr(limits.low))
            symbol = sp.Symbol(f"{name}_above", positive=True)
            values.append(low + symbol)
            columns[symbol] = base[index] - low
        elif math.isfinite(limits.high):
            high = sp.Rational(repr(limits.high))
            symbol = sp.Symbol(f"{name}_below", positive=True)
            values.append(high - symbol)
            columns[symbol] = high - base[index]
        else:
            symbol = sp.Symbol(f"{name}_free", real=True)
            values.append(symbol)
            columns[symbol] = base[index]
        parameters.append(symbol)
    both = []
    for base in (u, v):
        parts = directions(family, base)
        symbols = [sp.Symbol(f"{part.label}_entry", real=True) for part in parts]
        columns.update({symbol: part[index] for symbol, part in zip(symbols, parts, strict=True)})
        both.append(tuple(symbols))
    names = dict(zip(family.natural, values, strict=True))
    formula = read(family, family.log_partition, names)
    return Target(tuple(parameters), tuple(values), *both, formula, columns)


@functools.cache
def cumulant_of(family: Family, word: tuple[int, ...]) -> sp.Expr:
    """Return κ of the statistics at the places in `word`, ∂F/∂h_a∂h_b…, tidied."""
    return tidy(_derivative(family, tuple(sorted(word))))


@functools.cache
def _derivative(family, word):
    one = target(family)
    if not word:
        return one.log_partition
    place = word[-1]
    slope = sp.diff(one.naturals[place], one.parameters[place])
    return sp.diff(_derivative(family, word[:-1]), one.parameters[place]) * slope


def directional(family: Family, a: int, b: int) -> sp.Expr:
    """Return κ_ab of one target: a copies of ⟨t, u⟩ and b of ⟨t, v⟩."""
    one = target(family)
    terms: dict[tuple[int, ...], sp.Expr] = {(): sp.Integer(1)}
    for entries in [one.first] * a + [one.second] * b:
        terms = _extended(terms, entries)
    return sp.Add(*(cumulant_of(family, word) * factor for word, factor in terms.items()))


def _extended(terms, entries):
    found: dict[tuple[int, ...], sp.Expr] = {}
    for word, factor in terms.items():
        for place, entry in enumerate(entries):
            key = tuple(sorted((*word, place)))
            found[key] = found.get(key, sp.Integer(0)) + factor * entry
    return {key: sp.expand(value) for key, value in found.items()}


def tidy(expression: sp.Expr) -> sp.Expr:
    """Return an expression in factors, its leading polygamma terms cancelled."""
    expression = with_remainders(sp.sympify(expression))
    replaced, meaning = _generators(expression)
    result = sp.factor(sp.cancel(sp.together(replaced)))
    return result.xreplace(meaning)


def vanishes(expression: sp.Expr) -> bool:
    """Tell whether an expression is zero, as a rational function of its functions."""
    return canonical(expression) == 0


def canonical(expression: sp.Expr) -> sp.Expr:
    """Return zero, or the numerator of an expression that is not zero.

    It is a polynomial in the exponentials, roots and special functions that occur, whose
    only relation is that the square of a norm is a sum of squares.
    """
    expression = sp.expand_log(exact(sp.sympify(expression)), force=True).replace(
        lambda node: isinstance(node, sp.log) and isinstance(node.args[0], sp.gamma),
        lambda node: sp.loggamma(node.args[0].args[0]),
    )
    replaced, meaning = _generators(expression)
    numerator = sp.expand(sp.fraction(sp.together(replaced))[0])
    for norm, root in meaning.items():
        square = root**2
        if numerator != 0 and square.is_Add and square.is_polynomial():
            eliminated = min(square.free_symbols, key=str)
            numerator = sp.expand(sp.rem(numerator, norm**2 - square, eliminated))
    return numerator.xreplace(meaning)


def _generators(expression):
    """Replace exponentials, roots and special functions by symbols.

    Returns the expression and what each symbol stands for.
    """
    meaning: dict[sp.Symbol, sp.Expr] = {}
    expression = expression.replace(
        lambda node: isinstance(node, sp.polygamma | sp.loggamma | PolygammaRemainder),
        lambda node: node.func(*node.args[:-1], sp.expand(node.args[-1])),
    )
    expression = expression.replace(_is_symbolic_power, lambda node: _power(node, meaning))
    roots = {
        node.base
        for node in expression.atoms(sp.Pow)
        if node.exp.is_Rational and not node.exp.is_Integer and node.base.is_Symbol
    }
    for n, base in enumerate(sorted(roots, key=str)):
        root = sp.Symbol(f"root{n}", positive=True)
        meaning[root] = sp.sqrt(base)
        expression = expression.xreplace({base: root**2})
    norms = {node.base for node in expression.atoms(sp.Pow) if _is_root_of_sum(node)}
    for n, square in enumerate(sorted(norms, key=sp.default_sort_key)):
        norm = sp.Symbol(f"norm{n}", positive=True)
        meaning[norm] = sp.sqrt(square)
        expression = _with_norm(expression, square, norm)
    expression = expression.replace(
        lambda node: isinstance(node, sp.exp), lambda node: _exponential(node, meaning)
    )
    functions = [node for node in expression.atoms(sp.Function) if not node.has(sp.exp)]
    for n, node in enumerate(sorted(functions, key=sp.default_sort_key)):
        symbol = sp.Symbol(f"function{n}", real=True)
        meaning[symbol] = node
        expression = expression.xreplace({node: symbol})
    back = {
        symbol: value.xreplace({s: m for s, m in meaning.items() if s is not symbol})
        for symbol, value in meaning.items()
    }
    return expression, back


def _is_root_of_sum(node):
    return node.base.is_Add and node.exp.is_Rational and node.exp.q == 2


def _is_symbolic_power(node):
    return node.is_Pow and not node.exp.is_number


def _power(node, meaning):
    """Write b^(n + k) as b^k times a symbol for b^n."""
    whole, rest = sp.expand(node.exp).as_coeff_Add()
    negative = rest.could_extract_minus_sign()
    rest = -rest if negative else rest
    power = node.base**rest
    symbol = sp.Symbol(f"power_{sp.srepr(power)}", positive=True)
    meaning[symbol] = power
    return node.base**whole * symbol ** (-1 if negative else 1)


def _with_norm(expression, square, norm):
    """Write every power of a sum as a power of its root."""
    return expression.replace(
        lambda node: node.is_Pow and node.base == square, lambda node: norm ** (2 * node.exp)
    )


def _exponential(node, meaning):
    product = sp.Integer(1)
    for term in sp.Add.make_args(sp.expand(node.args[0])):
        factor, rest = term.as_coeff_Mul()
        if rest == 1:
            product *= sp.exp(factor)
            continue
        if not factor.is_Integer:
            factor, rest = sp.Integer(1), term
        symbol = sp.Symbol(f"exp_{sp.srepr(rest)}", positive=True)
        meaning[symbol] = sp.exp(rest)
        product *= symbol**factor
    return product
