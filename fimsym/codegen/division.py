"""Divide an evaluator's statements into what follows from h alone and what a block repeats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

_NAME = re.compile(r"(?<![\w.\"])[A-Za-z_]\w*")


class Divided(NamedTuple):
    """The statements of one function.

    Attributes:
        before: Those that follow from h alone.
        inside: Those that need u or v.
        columns: Names that the second kind uses of h and the first.
    """

    before: tuple
    inside: tuple
    columns: tuple[str, ...]


def divide(
    statements: Sequence, components: Mapping[str, Sequence[str]], directions: Sequence[str]
) -> Divided:
    """Divide the statements of a function.

    Args:
        statements: Assignments, each with a `name` and `code`.
        components: Names of the components of h, u and v, if they have several.
        directions: Which of u and v are arguments.
    """
    moving = {name for letter in directions for name in (letter, *components.get(letter, ()))}
    before, inside, used = [], [], set()
    for statement in statements:
        names = set(_NAME.findall(statement.code))
        if names & moving:
            inside.append(statement)
            moving.update(targets(statement.name))
            used |= names
        elif statement not in before:  # parts of a formula may share a subexpression
            before.append(statement)
    known = ["h", *components.get("h", ()), *(n for s in before for n in targets(s.name))]
    columns = tuple(name for name in known if name in used)
    return Divided(tuple(before), _freeing(inside), columns)


def _freeing(statements):
    """Say of each statement which tensors as large as u are not used after it.

    Their memory is still in the cache when the next result is written to it.
    """
    wide = {s.name for s in statements if s.wide}
    last: dict[str, int] = {}
    for place, statement in enumerate(statements):
        last |= dict.fromkeys(_NAME.findall(statement.code), place)
    last = {name: place for name, place in last.items() if name in wide}
    end = len(statements) - 1
    return tuple(
        replace(statement, dead=tuple(n for n in last if last[n] == place and place < end))
        for place, statement in enumerate(statements)
    )


def halves(first: Divided, both: Divided) -> dict[str, Any]:
    """Return the parts of ``moments``: of a function of u, and of one of u and v."""
    done = {statement.name for statement in first.inside}
    added = [statement for statement in both.inside if statement.name not in done]
    lines = _freeing([*first.inside, *added])
    return {
        "before": both.before,
        "columns": both.columns,
        "of_u": lines[: len(first.inside)],
        "of_v": lines[len(first.inside) :],
    }


def targets(names: str) -> list[str]:
    """Return the names that a statement assigns to."""
    return names.split(", ")
