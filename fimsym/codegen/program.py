"""From a derivation's definitions to the statements of each evaluator function."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence

import sympy as sp

from fimsym.codegen.atoms import stabilise
from fimsym.codegen.division import Divided, divide
from fimsym.codegen.passes import base_of, moving_symbols, symbols_in
from fimsym.codegen.printer import TorchPrinter
from fimsym.derivation import Derivation
from fimsym.derivation.accurate import Weights
from fimsym.derivation.functions import LogBessel, PolygammaRemainder
from fimsym.derivation.normal import Definition
from fimsym.derivation.record import equation
from fimsym.derivation.symbols import (
    AxisFunction,
    constants,
    directions,
    h,
    index,
    naturals,
    second,
    top,
    u,
    v,
)
from fimsym.families import Family


@dataclasses.dataclass(frozen=True)
class Statement:
    """One assignment of a generated function.

    Attributes:
        name: The name, or names, that it assigns to.
        code: What it assigns.
        wide: It has an entry for every output.
        dead: Names that are not used after it, and as large as u.
    """

    name: str
    code: str
    wide: bool = False
    dead: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Function:
    """One generated function, ready to be laid out.

    Attributes:
        name: Its name.
        summary: First line of its docstring.
        equations: The formulas it evaluates, one line of Unicode each.
        arguments: Tensor arguments it takes, of h, u and v.
        statements: Its body, without checks.
        results: The names it returns.
        columns: Names of the components of each argument, if it has several.
    """

    name: str
    summary: str
    equations: tuple[str, ...]
    arguments: tuple[str, ...]
    statements: tuple[Statement, ...]
    results: tuple[str, ...]
    columns: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    @property
    def divided(self) -> Divided:
        """The statements, divided into those of h alone and those that a block repeats."""
        return divide(self.statements, self.columns, self.arguments[1:])


def function(
    derivation: Derivation,
    name: str,
    definitions: Sequence[Definition],
    results: Sequence[str],
    arguments: tuple[str, ...],
    summary: str,
    readable: Sequence[Definition] | None = None,
) -> Function:
    """Return the function that evaluates `results`, with only the lines they need.

    Its docstring states them as `readable` does, which may be simpler than `definitions`.
    """
    needed = _needed(definitions, results)
    printer = TorchPrinter(
        _names(derivation, definitions), moving_symbols(derivation.family, needed)
    )
    statements = _statements(derivation, needed, arguments, printer)
    if any(line.expression.has(second) for line in needed):
        statements.insert(0, Statement("top, second", "runtime.two_largest(h)"))
    return Function(
        name=name,
        summary=summary,
        equations=tuple(equation(line) for line in _needed(readable or definitions, results)),
        arguments=arguments,
        statements=tuple(statements),
        results=tuple(results),
        columns=component_names(derivation.family),
    )


def _statements(derivation, needed, arguments, printer):
    """Return an assignment for each line, and for what several share."""
    moving = printer.moving
    narrowed = _narrowed(derivation, needed) if len(arguments) > 1 else frozenset()
    pairs = _pairs([line for line in needed if base_of(line.symbol) in moving])
    statements = []
    for line in needed:
        if line.name in pairs.values():
            continue
        expression = stabilise(line.expression)
        if line.name in pairs:
            values = printer.code(expression.base[index])
            names = f"{line.name}, {pairs[line.name]}"
            statements.append(Statement(names, f"runtime.rows({values}, top, second)"))
            continue
        if base_of(line.symbol) in moving:
            expression, fixed = hoisted(expression, moving, printer)
            statements += [s for s in fixed if s not in statements]
        code = printer.code(expression)
        if not _has_column(expression, derivation):
            code = _filled(code, line, derivation.family, arguments, needed)
        if line.name in narrowed:
            code = f"runtime.narrow({code}, dtype)"
        statements.append(Statement(line.name, code, isinstance(line.symbol, sp.Indexed)))
    return statements


def precise(derivation: Derivation) -> bool:
    """Tell whether formulas cancel more digits than float32 has, so that u is widened too."""
    lines = derivation.program
    special = (sp.polygamma, sp.loggamma, PolygammaRemainder, LogBessel)
    return derivation.family.components > 1 or any(line.expression.has(*special) for line in lines)


def _narrowed(derivation, needed):
    """Return the lines in h alone that meet u or v, where they take the dtype of those."""
    if precise(derivation):
        return frozenset()
    moving = moving_symbols(derivation.family, needed)
    fixed = {
        base_of(line.symbol): line.name for line in needed if base_of(line.symbol) not in moving
    }
    lines = [line for line in needed if base_of(line.symbol) in moving]
    used = {s for line in lines for s in line.expression.atoms(sp.IndexedBase, sp.Symbol)}
    own_dtype = {line.name for line in needed if line.expression.has(Weights)}
    return frozenset(fixed[s] for s in used if s in fixed) - own_dtype


def hoisted(
    expression: sp.Expr, moving: frozenset[sp.Basic], printer: TorchPrinter
) -> tuple[sp.Expr, list[Statement]]:
    """Take functions of h alone out of an expression, so that blocks of u share them.

    Returns:
        The expression with names in their place, and the statements of these names.
    """
    found: list[Statement] = []

    def is_fixed(node):
        return (
            isinstance(node, sp.Function)
            and bool(node.free_symbols)
            and not node.atoms(sp.IndexedBase, sp.Symbol) & moving
        )

    def name_of(node):
        places = {place for part in node.atoms(sp.Indexed) for place in part.indices}
        if len(places) > 1:
            return node
        code = printer.code(node.xreplace(dict.fromkeys(places, index)))
        words = re.sub(r"\W+", "_", re.sub(r"\b(torch|runtime|special)\.", "", code)).strip("_")
        found.append(Statement(words, code))
        return sp.IndexedBase(words)[places.pop()] if places else sp.Symbol(words)

    def visit(node):
        if is_fixed(node):
            return name_of(node)
        if not node.args or isinstance(node, sp.Indexed):
            return node
        return node.func(*map(visit, node.args))

    return visit(expression), found


def _filled(code, line, family, arguments, needed):
    """Return the code of a constant as a column, of one row if outputs share it."""
    if isinstance(line.symbol, sp.Indexed):
        parts = component_names(family)
        return f"torch.zeros_like({parts['h'][0] if parts else 'h'}) + {code}"
    known = _sums_of(family, needed[: needed.index(line)])
    names = [known.get(name, name) for name in arguments[1:] or arguments]
    return f"runtime.fill({code}, {', '.join(names)})"


def _sums_of(family, lines):
    """Return for u and for v the first line that is one row and follows from it alone."""
    letters = {part: {str(base.label)} for base in (u, v) for part in directions(family, base)}
    found: dict[str, str] = {}
    for line in lines:
        used = set().union(*(letters.get(x, ()) for x in symbols_in(line.expression)))
        letters[base_of(line.symbol)] = used
        if len(used) == 1 and not isinstance(line.symbol, sp.Indexed):
            found.setdefault(*used, line.name)
    return found


def _needed(definitions, results):
    """Return the definitions that `results` depend on, in their order."""
    by_symbol = {base_of(line.symbol): line for line in definitions}
    wanted = [line for line in definitions if line.name in results]
    found: dict[str, Definition] = {}
    while wanted:
        line = wanted.pop()
        found[line.name] = line
        used = line.expression.atoms(sp.IndexedBase, sp.Symbol)
        wanted += [by_symbol[s] for s in used if s in by_symbol and by_symbol[s].name not in found]
    return [line for line in definitions if line.name in found]


def _pairs(lines):
    """Return the names of entries at the most probable output and of the same at the second."""
    found = {}
    for one, other in itertools.pairwise(lines):
        places = (one.expression, other.expression)
        bases = {place.base for place in places if place.is_Indexed}
        if len(bases) == 1 and [place.args[1:] for place in places] == [(top,), (second,)]:
            found[one.name] = other.name
    return found


def component_names(family: Family) -> dict[str, list[str]]:
    """Return the names of each argument's columns, such as h1 and h2 for h; none for one."""
    if family.components == 1:
        return {}
    return {
        str(base.label): [str(part.label) for part in parts]
        for base, parts in (
            (h, naturals(family)),
            (u, directions(family, u)),
            (v, directions(family, v)),
        )
    }


def _names(derivation, definitions):
    bases = {base: str(base.label) for base in (h, u, v)}
    return {**bases, **{base_of(line.symbol): line.name for line in definitions}}


def _has_column(expression, derivation):
    """Tell whether an expression has one value per batch entry, not the same for all."""
    known = set(constants(derivation.family).values())
    return bool(expression.atoms(sp.Indexed, AxisFunction)) or bool(expression.free_symbols - known)
