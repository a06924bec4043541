"""Arrange a derivation's lines so that they take few passes over u and v."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import sympy as sp

from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import directions, u, v
from fimsym.families import Family


def moving_symbols(family: Family, lines: Sequence[Definition]) -> frozenset[sp.Basic]:
    """Return the symbols that have an entry for every parameter: u, v and what they enter."""
    moving = {u, v, *directions(family, u), *directions(family, v)}
    for line in lines:
        if symbols_in(line.expression) & moving:
            moving.add(base_of(line.symbol))
    return frozenset(moving)


def symbols_in(expression: sp.Expr) -> set[sp.Basic]:
    """Return the symbols and indexed bases of an expression."""
    return expression.atoms(sp.IndexedBase, sp.Symbol)


def base_of(symbol: sp.Expr) -> sp.Basic:
    """Return what stands for a symbol at every output."""
    return symbol.base if isinstance(symbol, sp.Indexed) else symbol


def arranged(family: Family, lines: Sequence[Definition]) -> tuple[Definition, ...]:
    """Return lines with the same values in fewer passes.

    What is only summed over outputs is written into its sum; a sum with weights that are the
    same for every parameter stands by itself, to be a matrix product; a square that is used
    again has a name.
    """
    moving = moving_symbols(family, lines)
    found = _with_squares(_summed(list(lines), moving), moving)
    moving = moving_symbols(family, found)
    return tuple(
        dataclasses.replace(line, expression=_with_weights(line.expression, moving))
        for line in found
    )


def factors(product: sp.Expr, moving: Collection[sp.Basic]) -> tuple[sp.Expr, sp.Expr]:
    """Return the factors that are the same for every parameter, and the others."""
    found = [factor for factor in sp.Mul.make_args(product) if symbols_in(factor) & moving]
    fixed = [factor for factor in sp.Mul.make_args(product) if factor not in found]
    return sp.Mul(*fixed), sp.Mul(*found)


def _with_weights(expression, moving):
    """Split sums over outputs whose terms have different weights."""

    def is_weighted(term):
        weights, rest = factors(term, moving)
        return bool(weights.atoms(sp.Indexed)) and rest != 1

    def split(node):
        terms = sp.Add.make_args(node.function)
        weighted = [term for term in terms if is_weighted(term)]
        plain = sp.Add(*(term for term in terms if term not in weighted))
        if len(terms) == 1 or not weighted:
            return node
        parts = [*weighted, plain] if plain != 0 else weighted
        return sp.Add(*(sp.Sum(part, *node.limits) for part in parts))

    return expression.replace(lambda node: isinstance(node, sp.Sum), split)


def _summed(lines: list[Definition], moving: Collection[sp.Basic]) -> list[Definition]:
    for line in list(lines):
        base = base_of(line.symbol)
        if not isinstance(line.symbol, sp.Indexed) or base not in moving:
            continue
        places = [n for n, other in enumerate(lines) if base in symbols_in(other.expression)]
        if len(places) != 1:
            continue
        user = lines[places[0]]
        expression = user.expression.replace(
            lambda node, symbol=line.symbol: isinstance(node, sp.Sum) and node.function == symbol,
            lambda node, value=line.expression: sp.Sum(value, *node.limits),
        )
        if base not in symbols_in(expression):
            lines[places[0]] = dataclasses.replace(user, expression=expression)
            lines.remove(line)
    return lines


def _with_squares(lines: list[Definition], moving: Collection[sp.Basic]) -> list[Definition]:
    powers = [power for line in lines for power in _powers(line.expression, moving)]
    again = {power.base for power in powers if sum(p.base == power.base for p in powers) > 1}
    names = {base: sp.IndexedBase(f"square_of_{base.base.label}", real=True) for base in again}
    found: list[Definition] = []
    for line in lines:
        used = {p.base for p in _powers(line.expression, moving)} & set(names)
        for base in sorted(used, key=sp.default_sort_key):
            symbol = names[base][base.indices[0]]
            new = Definition(str(symbol.base.label), symbol, base**2, f"square of {base}")
            found += [new] if new not in found else []
        expression = line.expression.replace(
            lambda node: isinstance(node, sp.Pow) and node.base in names and node.exp in (2, 3, 4),
            lambda node: _in_square(node, names[node.base][node.base.indices[0]]),
        )
        found.append(dataclasses.replace(line, expression=expression))
    return found


def _powers(expression, moving):
    """Return every occurrence of a power of an indexed symbol that moves."""
    return [
        node
        for node in sp.preorder_traversal(expression)
        if isinstance(node, sp.Pow)
        and isinstance(node.base, sp.Indexed)
        and node.base.base in moving
        and node.exp in (2, 3, 4)
    ]


def _in_square(power, square):
    whole, odd = divmod(int(power.exp), 2)
    return square**whole * power.base**odd
