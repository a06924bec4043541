"""Inequalities such as ``"0 < p < 1"``, the domains of parameters and of links' outputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from fimsym.errors import SpecError
from fimsym.families.syntax import Name, Negative, Node, Number, read, refuse


def inequalities(key: str, texts: Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the inequalities of a field one by one, each of which can be read.

    Raises:
        SpecError: `key`, what was expected and what came.
    """
    from fimsym.families.spec import limits

    try:
        found = tuple(part for text in texts if text.strip() for part in split(text, names))
        limits(names, found)
    except SpecError as error:
        raise SpecError(f"{key}: {error}") from None
    return found


def split(text: str, names: tuple[str, ...]) -> list[str]:
    """Return the inequalities for `names` that commas or ``and`` join in `text`.

    Raises:
        SpecError: one cannot be read; line and column are those in `text`.
    """
    parts, start = [], 0
    for joint in [*re.finditer(r",|\band\b", text), None]:
        end = joint.start() if joint else len(text)
        # Blanks in place of what is before the part keep its line and column.
        read_inequality(re.sub(r"[^\n]", " ", text[:start]) + text[start:end], names)
        parts.append(text[start:end].strip())
        start = joint.end() if joint else end
    return parts


def read_inequality(text: str, names: tuple[str, ...]) -> tuple[str, float, float]:
    """Return (name, low, high) of an inequality such as ``"0 < p < 1"`` or ``"h < 0"``.

    Raises:
        SpecError: it does not compare one of `names` with numbers.
    """
    sides, signs = read(text)
    example = f"such as '{names[0]} > 0' or '0 < {names[0]} < 1'"
    place = {n: side.name for n, side in enumerate(sides) if isinstance(side, Name)}
    place = {n: name for n, name in place.items() if name in names}
    if len(place) != 1 or len(signs) not in (1, 2):
        why = f"expected an inequality for one of {', '.join(names)}, {example}"
        refuse(text, sides[0].at, why)
    (here,) = place
    low, high = -math.inf, math.inf
    for n, (sign, at) in enumerate(signs):
        if here not in (n, n + 1) or sign[0] != signs[0][0][0]:
            refuse(text, at, f"expected one name between two numbers, {example}")
        number = _number(sides[n + 1 if here == n else n], text)
        if (sign[0] == "<") == (here == n):
            high = min(high, number)
        else:
            low = max(low, number)
    return place[here], low, high


def _number(node: Node, text: str) -> float:
    sign, value = (-1, node.operand) if isinstance(node, Negative) else (1, node)
    if not isinstance(value, Number):
        refuse(text, node.at, "expected a plain number beside the inequality sign")
    return sign * float(value.digits)
