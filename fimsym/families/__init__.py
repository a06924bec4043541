"""What is known: one frozen specification per family. Data, no logic."""

from __future__ import annotations

from fimsym.errors import SpecError, nearest
from fimsym.families.categorical import categorical
from fimsym.families.gaussian import gaussian
from fimsym.families.spec import Constant, Density, Family, Sampler, Theorem

__all__ = [
    "Constant",
    "Density",
    "Family",
    "Sampler",
    "Theorem",
    "families",
    "family",
]

_REGISTRY: dict[str, Family] = {spec.name: spec for spec in (gaussian, categorical)}


def families() -> tuple[str, ...]:
    """Return the names of the built-in families."""
    return tuple(_REGISTRY)


def family(name: str | Family) -> Family:
    """Return the specification called `name`; a `Family` is returned as it is.

    Raises:
        SpecError: no family has that name; the message names the nearest one.
    """
    if isinstance(name, Family):
        return name
    if not isinstance(name, str):
        raise SpecError(
            f"expected a family's name or a Family; got {type(name).__name__}. "
            f"Names: {', '.join(_REGISTRY)}."
        )
    if name not in _REGISTRY:
        raise SpecError(
            f"unknown family {name!r}; expected one of {', '.join(_REGISTRY)}."
            f"{nearest(name, _REGISTRY)}"
        )
    return _REGISTRY[name]
