"""Normal form of expressions in sums over outputs, and definitions to be inlined.

Two expressions with the same normal form are equal for every number of outputs: sums
are split into monomials, factors that do not depend on the index are pulled out, and
probabilities add up to one. Subtracting two normal forms is how identities with a
symbolic number of classes are proven, without `simplify`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import sympy as sp

from fimsym.derivation.symbols import index, probability

BOUND = sp.symbols("i j k l o", integer=True, positive=True)


@dataclasses.dataclass(frozen=True)
class Definition:
    """A named quantity: one line of a formula's "where", one line of generated code.

    Attributes:
        name: Identifier in generated code.
        symbol: The symbol that stands for it, ``Indexed`` by `i` when it has one value
            per output.
        expression: What it is, in terms of the inputs and earlier definitions.
        meaning: One line for people.
    """

    name: str
    symbol: sp.Expr
    expression: sp.Expr
    meaning: str


def letter_sums(line: Definition) -> sp.Expr:
    """Return a definition's expression with its sums indexed from j if it has an i itself."""
    return _relabel(line.expression, int(isinstance(line.symbol, sp.Indexed)))


def inline(expression: sp.Expr, definitions: Sequence[Definition], level: int = 0) -> sp.Expr:
    """Replace the symbols of `definitions` by what they stand for, to the bottom.

    Sums are indexed by i, j, k, … from the outside in; `level=1` starts at j, for an
    expression that is itself indexed by i.
    """
    fresh = (sp.Symbol(f"bound{n}", integer=True, positive=True) for n in itertools.count())
    # Bound indices are made unique first so that no substitution captures one.
    expression = _rename(sp.sympify(expression), fresh)
    for definition in reversed(definitions):
        expression = _substitute(expression, definition, fresh)
    return _relabel(expression, level)


def _substitute(expression, definition, fresh):
    symbol, value = definition.symbol, definition.expression
    if isinstance(symbol, sp.Indexed):
        found = {node for node in expression.atoms(sp.Indexed) if node.base == symbol.base}
    else:
        found = {symbol} & expression.free_symbols
    if not found:
        return expression

    def at(node):
        return value.xreplace({index: node.indices[0]}) if isinstance(node, sp.Indexed) else value

    if not value.has(sp.Sum):
        return expression.xreplace({node: at(node) for node in found})
    # Every occurrence gets bound indices of its own.
    return expression.replace(
        lambda node: node in found,
        lambda node: _rename(value, fresh).xreplace(
            {index: node.indices[0]} if isinstance(node, sp.Indexed) else {}
        ),
    )


def _peel(expression: sp.Sum) -> tuple[sp.Expr, sp.Tuple]:
    """Return the summand and limits of the outermost sum; SymPy flattens nested ones."""
    *inner, outer = expression.limits
    return (sp.Sum(expression.function, *inner) if inner else expression.function), outer


def _rename(expression, fresh):
    if isinstance(expression, sp.Sum):
        body, (old, low, high) = _peel(expression)
        new = next(fresh)
        return sp.Sum(_rename(body, fresh).xreplace({old: new}), (new, low, high))
    if not expression.args or isinstance(expression, sp.Indexed):
        return expression
    return expression.func(*(_rename(argument, fresh) for argument in expression.args))


def _relabel(expression, level):
    if isinstance(expression, sp.Sum):
        body, (old, low, high) = _peel(expression)
        body = _relabel(body, level + 1).xreplace({old: BOUND[level]})
        return sp.Sum(body, (BOUND[level], low, high))
    if not expression.args or isinstance(expression, sp.Indexed):
        return expression
    return expression.func(*(_relabel(argument, level) for argument in expression.args))


def normal(expression: sp.Expr) -> sp.Expr:
    """Return the normal form of an expression in sums over outputs."""
    expression = sp.sympify(expression)
    if isinstance(expression, sp.Sum):
        return _normal_sum(expression)
    if not expression.args or isinstance(expression, sp.Indexed):
        return expression
    return sp.expand(expression.func(*map(normal, expression.args)))


def _normal_sum(expression):
    summand, (bound, low, high) = _peel(expression)
    body = sp.expand(normal(summand))
    result = sp.Integer(0)
    for term in sp.Add.make_args(body):
        outside, inside = _split(term, bound)
        deltas = inside.atoms(sp.KroneckerDelta)
        if deltas:
            result += outside * _pick(inside, bound, deltas)
            continue
        if inside == 1:
            value = high - low + 1
        elif inside == probability[bound]:
            value = sp.Integer(1)
        else:
            # All sums are indexed alike, unless that index already means something inside.
            free = bound == index or index not in inside.atoms(sp.Symbol)
            chosen = index if free else bound
            value = sp.Sum(inside.xreplace({bound: chosen}), (chosen, low, high))
        result += outside * value
    return sp.expand(result)


def _pick(inside, bound, deltas):
    """Return Σ_i δ_{i,n} x_i = x_n."""
    delta = min(deltas, key=sp.default_sort_key)
    (position,) = set(delta.args) - {bound}
    return inside.xreplace({bound: position})


def _split(term, bound):
    """Split a product into the factors without and with the bound index."""
    outside, inside = sp.Integer(1), sp.Integer(1)
    for factor in sp.Mul.make_args(term):
        if bound in factor.free_symbols:
            inside *= factor
        else:
            outside *= factor
    return outside, inside


def unroll(expression: sp.Expr, size: sp.Symbol, outputs: int) -> sp.Expr:
    """Return `expression` with `outputs` explicit outputs instead of symbolic sums."""
    if isinstance(expression, sp.Sum):
        body, (bound, _, _) = _peel(expression)
        body = unroll(body, size, outputs)
        return sp.Add(*(body.xreplace({bound: sp.Integer(n)}) for n in range(1, outputs + 1)))
    if expression == size:
        return sp.Integer(outputs)
    if not expression.args or isinstance(expression, sp.Indexed):
        return expression
    return expression.func(*(unroll(a, size, outputs) for a in expression.args))
