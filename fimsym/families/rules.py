"""What a specification must satisfy before anything is derived from it."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fimsym.errors import SpecError, nearest
from fimsym.families.formula import (
    FUNCTIONS,
    MATRIX_FUNCTIONS,
    SAMPLER_FUNCTIONS,
    VECTOR_FUNCTIONS,
    interpret,
)
from fimsym.families.syntax import Name, Negative, Node, Number, read, refuse

if TYPE_CHECKING:
    from fimsym.families.spec import Family, Link

_EVALUATORS = (
    "mean log_partition fisher variance_score_squared variance_negative_hessian covariance "
    "moments bounds third"
)
RESERVED = frozenset(
    f"h u v p y i j k l o N pi top second torch runtime special float {_EVALUATORS}".split()
) | {*FUNCTIONS, *SAMPLER_FUNCTIONS, *VECTOR_FUNCTIONS, *MATRIX_FUNCTIONS}
"""Names that mean something in formulas or generated code already."""

LINE_SUPPORTS = ("real", "positive", "unit", "angle", "counts")
VECTOR_SUPPORTS = ("one_hot", "count_vectors", "simplex")
_SUPPORTS = {"vector": VECTOR_SUPPORTS, "matrix": ("vector",)}
_STRUCTURES = ("independent", "joint", "matrix")
_TUPLES = ("natural", "sufficient_statistics", "domain")
_LONGEST_NAME = 64


def check(family: Family) -> None:
    """Turn single texts into tuples and refuse a specification that cannot be used.

    Raises:
        SpecError: which field is wrong, what was expected and what came.
    """
    for field in _TUPLES:
        value = getattr(family, field)
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
            raise SpecError(f"{field} must be text or a list of texts; got {value!r}.")
        object.__setattr__(family, field, tuple(value))
    if not isinstance(family.log_partition, str):
        raise SpecError(f"log_partition must be a formula as text; got {family.log_partition!r}.")
    if not family.title:
        object.__setattr__(family, "title", str(family.name))
    if family.structure not in _STRUCTURES:
        raise SpecError(
            f"structure must be 'independent' or 'joint'; got {family.structure!r}. Independent "
            "targets have a log-partition each; joint outputs share one, with sum(...)."
        )
    _check_parts(family)
    _check_names(family)
    if len(family.sufficient_statistics) != len(family.natural):
        raise SpecError(
            "sufficient_statistics: expected one for each of "
            f"{', '.join(family.natural)}; got {len(family.sufficient_statistics)}: "
            f"{', '.join(family.sufficient_statistics)}."
        )
    if family.structure != "matrix":
        domain = _inequalities("domain", family.domain, family.natural)
        object.__setattr__(family, "domain", domain)
    _check_support(family)
    for link in family.links:
        _check_link(family, link)
    check_formulas(family)


def check_formulas(family: Family) -> None:
    """Refuse formulas that use a name or function they may not.

    Raises:
        SpecError: which formula, with line and column.
    """
    for key, text, names, functions in _formulas(family):
        anything = _Anything()
        try:
            interpret(
                text,
                {"pi": anything, **dict.fromkeys(names, anything)},
                dict.fromkeys(functions, lambda *_: _Anything()),
                lambda _: _Anything(),
            )
        except SpecError as error:
            raise SpecError(f"{key}: {error}") from None


def _formulas(family: Family) -> Iterator[tuple[str, str, tuple[str, ...], set[str]]]:
    """Yield (key, formula, names, functions) of every formula of a family."""
    constants = tuple(constant.name for constant in family.constants)
    matrix = family.structure == "matrix"
    whole = {*FUNCTIONS}
    if family.vector or matrix:
        whole |= {*VECTOR_FUNCTIONS}
        constants_and_axis = (*constants, family.axis)
    else:
        constants_and_axis = constants
    if matrix:
        whole |= {*MATRIX_FUNCTIONS}
    yield "log_partition", family.log_partition, (*family.natural, *constants), whole
    if not (family.vector or matrix):
        for text in family.sufficient_statistics:
            yield "sufficient_statistics", text, ("y", *constants), {*FUNCTIONS}
    if family.density is not None:
        names = ("y", *constants_and_axis)
        yield "density.base_measure", family.density.base_measure, names, whole
        if family.density.largest is not None:
            yield "density.largest", family.density.largest, constants, {*FUNCTIONS}
    if family.sampler is not None:
        names = (*family.natural, *constants_and_axis)
        for name, text in family.sampler.arguments.items():
            yield f"sampler.{name}", text, names, whole | {*SAMPLER_FUNCTIONS}
    for link in family.links:
        for text in link.natural:
            yield f"links.{link.name}.natural", text, (*link.outputs, *constants), whole


class _Anything:
    """A value of which only the formula's names matter."""

    def _same(self, *_: Any) -> _Anything:
        return self

    __add__ = __sub__ = __mul__ = __truediv__ = __pow__ = __neg__ = _same


def _check_parts(family: Family) -> None:
    from fimsym.families import spec

    kinds = {"constants": spec.Constant, "theorems": spec.Theorem, "links": spec.Link}
    for field, kind in kinds.items():
        value = getattr(family, field)
        if not isinstance(value, tuple) or not all(isinstance(x, kind) for x in value):
            raise SpecError(f"{field} must be a tuple of {kind.__name__}; got {value!r}.")
    for field, kind in {"density": spec.Density, "sampler": spec.Sampler}.items():
        value = getattr(family, field)
        if not isinstance(value, kind | None):
            raise SpecError(f"{field} must be a {kind.__name__} or None; got {value!r}.")


def _check_names(family: Family) -> None:
    if not family.natural:
        raise SpecError("natural must list at least one symbol, such as 'h'; got none.")
    names = [("axis", family.axis)]
    names += [("constant", constant.name) for constant in family.constants]
    names += [("natural", natural) for natural in family.natural]
    check_identifier("name", family.name)
    for role, name in names:
        check_identifier(role, name)
        if name in RESERVED and (role, name) != ("natural", "h"):
            raise SpecError(
                f"{role}: {name!r} already means something in formulas or generated code; choose "
                f"a name other than {', '.join(sorted(RESERVED))}."
            )
    found = [family.name, *(name for _, name in names)]
    for name in found:
        if found.count(name) > 1:
            raise SpecError(
                f"name, natural, axis and constants must differ from each other; got {name!r} "
                "twice."
            )


def check_identifier(role: str, name: Any) -> None:
    """Refuse a name that Python code could not use.

    Raises:
        SpecError: `role`, what was expected and what came.
    """
    plain = isinstance(name, str) and name.isascii() and name.isidentifier()
    if not plain or keyword.iskeyword(name) or name.startswith("_") or len(name) > _LONGEST_NAME:
        shown = name[:80] if isinstance(name, str) else name
        raise SpecError(
            f"{role}: expected a plain identifier of at most {_LONGEST_NAME} letters, digits and "
            f"underscores that starts with a letter and is no keyword of Python; got {shown!r}."
        )


def _check_support(family: Family) -> None:
    if family.density is None:
        return
    structure = "vector" if family.vector else family.structure
    allowed = _SUPPORTS.get(structure, LINE_SUPPORTS)
    support = family.density.support
    if support not in allowed:
        raise SpecError(
            f"density.support: expected one of {', '.join(allowed)} for a family of this "
            f"structure; got {support!r}.{nearest(str(support), allowed)}"
        )
    if support == "count_vectors" and family.density.largest is None:
        raise SpecError("density.largest: the sum of a vector of counts is missing; such as 'n'.")


def _check_link(family: Family, link: Link) -> None:
    key = f"links.{link.name}"
    check_identifier(key, link.name)
    for field in ("outputs", "natural", "domain"):
        value = getattr(link, field)
        object.__setattr__(link, field, (value,) if isinstance(value, str) else tuple(value))
    if link.name == "natural":
        raise SpecError(f"{key}: this name stands for the natural parameters; choose another.")
    taken = {"pi", *FUNCTIONS, *SAMPLER_FUNCTIONS, *MATRIX_FUNCTIONS, *VECTOR_FUNCTIONS}
    taken |= {constant.name for constant in family.constants}
    for output in link.outputs:
        check_identifier(f"{key}.outputs", output)
        if output in taken or link.outputs.count(output) > 1:
            raise SpecError(
                f"{key}.outputs: {output!r} already has a meaning; choose another name."
            )
    if len(link.natural) != len(family.natural):
        raise SpecError(
            f"{key}.natural: expected a formula for each of {', '.join(family.natural)}; got "
            f"{len(link.natural)}."
        )
    if family.structure != "matrix":
        domain = _inequalities(f"{key}.domain", link.domain, link.outputs)
        object.__setattr__(link, "domain", domain)


def _inequalities(key: str, texts: Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
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
