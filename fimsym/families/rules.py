"""What a specification must satisfy before anything is derived from it."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fimsym.errors import SpecError, nearest
from fimsym.families.formula import (
    FUNCTIONS,
    MATRIX_FUNCTIONS,
    SAMPLER_FUNCTIONS,
    VECTOR_FUNCTIONS,
    interpret,
)
from fimsym.families.inequalities import inequalities

if TYPE_CHECKING:
    from fimsym.families.spec import Family, Link

_EVALUATORS = (
    "mean log_partition fisher variance_score_squared variance_negative_hessian covariance "
    "moments bounds third root estimator_variances variance_rademacher_probe"
)
RESERVED = frozenset(
    f"h u v p y i j k l o N pi probe top second torch runtime special float {_EVALUATORS}".split()
) | {*FUNCTIONS, *SAMPLER_FUNCTIONS, *VECTOR_FUNCTIONS, *MATRIX_FUNCTIONS}
"""Names that mean something in formulas or generated code already."""

LINE_SUPPORTS = ("real", "positive", "unit", "angle", "counts")
VECTOR_SUPPORTS = ("one_hot", "count_vectors", "simplex")
_SUPPORTS = {"vector": VECTOR_SUPPORTS, "matrix": ("vector",)}
_STRUCTURES = ("independent", "joint", "matrix")
_TUPLES = ("natural", "sufficient_statistics", "domain")
_LONGEST_NAME = 64
_LONGEST_TEXT = 200


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
    _check_prose("title", family.title)
    for statistic in family.sufficient_statistics:
        _check_prose("sufficient_statistics", statistic)
    for constant in family.constants:
        _check_prose(f"constants.{constant.name}.meaning", constant.meaning)
    _check_names(family)
    if len(family.sufficient_statistics) != len(family.natural):
        raise SpecError(
            "sufficient_statistics: expected one for each of "
            f"{', '.join(family.natural)}; got {len(family.sufficient_statistics)}: "
            f"{', '.join(family.sufficient_statistics)}."
        )
    if family.structure != "matrix":
        domain = inequalities("domain", family.domain, family.natural)
        object.__setattr__(family, "domain", domain)
    _check_support(family)
    for link in family.links:
        _check_link(family, link)
    check_formulas(family)
    for link in family.links:
        _check_link_formulas(link)


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
    names = [link.name for link in family.links]
    if len({*names}) < len(names):
        raise SpecError(f"links must have different names; got {', '.join(map(str, names))}.")
    for constant in family.constants:
        spec.positive(f"constants.{constant.name}", constant.default, constant.integer)
    if not isinstance(family.minimum_outputs, int) or family.minimum_outputs < 1:
        raise SpecError(
            f"minimum_outputs must be a positive integer; got {family.minimum_outputs!r}."
        )
    if family.sampler is not None and not isinstance(family.sampler.arguments, Mapping):
        raise SpecError(f"sampler.arguments must map names to formulas; got {family.sampler!r}.")
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
                f"another name. Taken are {', '.join(sorted(RESERVED - {'h'}))}."
            )
    found = [family.name, *(name for _, name in names)]
    for name in found:
        if found.count(name) > 1:
            raise SpecError(
                f"name, natural, axis and constants must differ from each other; got {name!r} "
                "twice."
            )


def _check_prose(field: str, text: Any) -> None:
    """Refuse text that could end the docstring it is written into."""
    if not isinstance(text, str) or not text.isprintable() or set(text) & set('"\\{}'):
        raise SpecError(
            f"{field}: expected one line of text without quotes, backslashes and braces; got "
            f"{str(text)[:80]!r}."
        )
    if len(text) > _LONGEST_TEXT:
        raise SpecError(f"{field}: expected at most {_LONGEST_TEXT} characters; got {len(text)}.")


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
        if not isinstance(value, str | list | tuple) or not all(isinstance(x, str) for x in value):
            raise SpecError(f"{key}.{field}: expected a list of texts; got {value!r}.")
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
        domain = inequalities(f"{key}.domain", link.domain, link.outputs)
        object.__setattr__(link, "domain", domain)


def _check_link_formulas(link: Link) -> None:
    """Refuse a link whose formulas and outputs do not meet."""
    key = f"links.{link.name}"
    used = [set(re.findall(r"[A-Za-z_]\w*", formula)) for formula in link.natural]
    for output in link.outputs:
        if not any(output in names for names in used):
            raise SpecError(f"{key}: no formula uses the output {output!r}; leave it out.")
    for formula, names in zip(link.natural, used, strict=True):
        if not names & set(link.outputs):
            raise SpecError(
                f"{key}.natural: {formula!r} depends on none of {', '.join(link.outputs)}; "
                "expected a formula in the outputs."
            )
