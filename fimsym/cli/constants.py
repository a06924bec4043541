"""Constants of a family, from the command line to a function's keyword arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from fimsym.errors import SpecError

if TYPE_CHECKING:
    from fimsym.families import Family

Result = TypeVar("Result")


def read_constants(given: Iterable[str], family: Family) -> dict[str, float]:
    """Return a family's constants from texts such as ``sigma=0.5``.

    Raises:
        SpecError: one is not of that form, is given twice, or is none of the family's.
        DomainError: a value that the constant cannot have.
    """
    found: dict[str, float] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        try:
            number = float(value)
        except ValueError:
            equals, number = "", 0.0
        if not (name and equals):
            raise SpecError(f"expected --constant NAME=VALUE with a number; got {text!r}.")
        if name in found:
            raise SpecError(
                f"--constant {name} is given twice, as {found[name]:g} and as {number:g}. "
                "Leave out one of them."
            )
        found[name] = number
    family.bind(found)
    return found


def with_constants(
    function: Callable[..., Result], constants: Mapping[str, float], family: Family
) -> Callable[..., Result]:
    """Return a function that takes constants besides, with their values filled in.

    Raises:
        SpecError: a constant of a user's family is called like an argument of the function.
    """
    for name in constants:
        if name in inspect.signature(function).parameters:
            raise SpecError(
                f"the constant {name!r} of {family.name} is called like an argument of "
                f"{function.__name__}, so that no value of it can be given. Rename it in the "
                "family."
            )
    return functools.partial(function, **constants)
