"""Divide an evaluator's statements into what follows from h alone and what a block repeats."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

_NAME = re.compile(r"(?<![\w.\"])[A-Za-z_]\w*")
_FRESH = re.compile(r" [-+*/] |\.square\(\)|^torch\.add(cmul)?\(")
"""What an expression holds whose value is a tensor of its own, not a view of another."""
_OTHER = r"([A-Za-z_]\w*)"
_FORMS = (
    (r"\bNAME\.square\(\)", r"square(NAME"),
    (rf"^NAME - {_OTHER}$", r"sub(NAME, \1"),
    (rf"(?<=, )NAME \* {_OTHER}(?=\))", r"mul(NAME, \1"),
    (rf"(?<=, ){_OTHER} \* NAME(?=\))", r"mul(\1, NAME"),
    (rf"(?<=total\()NAME \* {_OTHER}(?=\))", r"mul(NAME, \1"),
    (rf"(?<=total\(){_OTHER} \* NAME(?=\))", r"mul(\1, NAME"),
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
        """Those that need u or v; each frees memory, or writes over what is dead after it."""
        return _freeing(self.moving)

    @property
    def freeing(self) -> tuple:
        """The same, without writing over anything."""
        return _freeing(self.moving, over=False)


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
    before, repeated, used = [], [], set()
    for statement in statements:
        names = set(_NAME.findall(statement.code))
        if names & moving:
            repeated.append(statement)
            moving.update(targets(statement.name))
            used |= names
        elif statement not in before:  # parts of a formula may share a subexpression
            before.append(statement)
    known = ["h", *components.get("h", ()), *(n for s in before for n in targets(s.name))]
    columns = tuple(name for name in known if name in used)
    return Divided(tuple(before), tuple(repeated), columns)


def _freeing(statements, over: bool = True) -> tuple:
    """Say of each statement which tensors as large as u are not used after it.

    Their memory is still in the cache when the next result is written to it, by this
    statement itself if `over`.
    """
    wide = {s.name for s in statements if s.wide}
    last: dict[str, int] = {}
    for place, statement in enumerate(statements):
        last |= dict.fromkeys(_NAME.findall(statement.code), place)
    last = {name: place for name, place in last.items() if name in wide}
    freed = (
        replace(statement, dead=tuple(n for n in last if last[n] == place))
        for place, statement in enumerate(statements)
    )
    lines = _overwriting(list(freed)) if over else list(freed)
    return (*lines[:-1], *(replace(line, dead=()) for line in lines[-1:]))


def _overwriting(statements) -> list:
    """Let operations write their results over an operand that is dead after them."""
    alias = {s.code for s in statements}
    own = {s.name for s in statements if _FRESH.search(s.code) and s.name not in alias}
    return [replace(s, code=_over(s.code, own.intersection(s.dead))) for s in statements]


def _over(code: str, dead: Collection[str]) -> str:
    """Return code in which each of some names is written over, if one operation takes it."""
    for name in sorted(dead):
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
