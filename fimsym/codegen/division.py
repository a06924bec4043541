"""Divide an evaluator's statements into what follows from h alone and what a block repeats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

_NAME = re.compile(r"(?<![\w.\"])[A-Za-z_]\w*")
_FORMS = (
    (r"\bNAME\.square\(\)", r"square(NAME"),
    (r"^NAME - (\w+)$", r"sub(NAME, \1"),
    (r"(?<=, )NAME \* (\w+)(?=\))", r"mul(NAME, \1"),
    (r"(?<=, )(\w+) \* NAME(?=\))", r"mul(\1, NAME"),
    (r"(?<=total\()NAME \* (\w+)(?=\))", r"mul(NAME, \1"),
    (r"(?<=total\()(\w+) \* NAME(?=\))", r"mul(\1, NAME"),
)
"""Operations on entries of u, and the same with a place for the result."""


class Divided(NamedTuple):
    """The statements of one function.

    Attributes:
        before: Those that follow from h alone.
        moving: Those that need u or v.
        columns: Names that the second kind uses of h and the first.
    """

    before: tuple
    moving: tuple
    columns: tuple[str, ...]

    @property
    def inside(self) -> tuple:
        """Those that need u or v, with the memory that each of them frees."""
        return _freeing(self.moving)


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
    return Divided(tuple(before), tuple(inside), columns)


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
    freed = (
        replace(statement, dead=tuple(n for n in last if last[n] == place))
        for place, statement in enumerate(statements)
    )
    return tuple(
        replace(s, code=_overwriting(s), dead=s.dead if place < end else ())
        for place, s in enumerate(freed)
    )


def _overwriting(statement) -> str:
    """Return the code of a statement, writing over an operand that is dead after it."""
    code = statement.code
    for name in statement.dead:
        if len(re.findall(rf"\b{name}\b", code)) > 1:
            continue
        for form, operation in _FORMS:
            written = f"torch.{operation}, out=reuse(NAME))".replace("NAME", name)
            code = re.sub(form.replace("NAME", name), written, code)
    return code


def halves(first: Divided, both: Divided) -> dict[str, Any]:
    """Return the parts of ``moments``: of a function of u, and of one of u and v."""
    done = {statement.name for statement in first.moving}
    added = [statement for statement in both.moving if statement.name not in done]
    lines = _freeing([*first.moving, *added])
    return {
        "before": both.before,
        "columns": both.columns,
        "of_u": lines[: len(first.moving)],
        "of_v": lines[len(first.moving) :],
    }


def targets(names: str) -> list[str]:
    """Return the names that a statement assigns to."""
    return names.split(", ")
