"""What can be computed of a network, and how its parameters are grouped."""

from __future__ import annotations

from collections.abc import Iterable

from fimsym.engine.bounded import BOUNDS, bounds_of
from fimsym.engine.empirical import EMPIRICAL
from fimsym.errors import SpecError, nearest

QUANTITIES = (
    "fisher",
    "variance_score_squared",
    "variance_negative_hessian",
    "covariance",
)
"""What `analyze` can compute from inputs alone, ``"all"`` of it."""

KNOWN = (*QUANTITIES, EMPIRICAL, BOUNDS)
"""What `analyze` can compute."""

GROUPINGS = ("layer", "parameter", "model")
"""How parameters can be grouped."""


def group_name(parameter: str, grouping: str) -> str:
    """Return the group a parameter belongs to; a layer is the module that holds it.

    Parameters that the network itself holds are by themselves.
    """
    if grouping == "model":
        return "model"
    return (grouping == "layer" and parameter.rpartition(".")[0]) or parameter


def by_group(parameters: Iterable[str], grouping: str) -> dict[str, list[str]]:
    """Return the parameters of every group, by its name."""
    members: dict[str, list[str]] = {}
    for name in parameters:
        members.setdefault(group_name(name, grouping), []).append(name)
    return members


def check_quantities(quantities: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the quantities asked for, in the canonical order.

    Raises:
        SpecError: one is unknown, or none is given.
    """
    asked = QUANTITIES if quantities == "all" else quantities
    asked = (asked,) if isinstance(asked, str) else tuple(asked)
    if "all" in asked:
        asked = (*QUANTITIES, *(quantity for quantity in asked if quantity != "all"))
    for quantity in asked:
        if quantity not in KNOWN:
            raise SpecError(
                f'unknown quantity {quantity!r}; expected "all" or some of '
                f"{', '.join(KNOWN)}.{nearest(str(quantity), KNOWN)}"
            )
    if not asked:
        raise SpecError(f"no quantity asked for; expected some of {', '.join(KNOWN)}.")
    if BOUNDS in asked and not bounds_of(asked):
        raise SpecError(
            f"{BOUNDS} of nothing asked for; expected some of I, V₁ and V₂ besides, such as "
            f'quantities=("fisher", "{BOUNDS}").'
        )
    return tuple(quantity for quantity in KNOWN if quantity in asked)


def check_grouping(groups: str) -> str:
    """Return `groups`, or raise SpecError unless it is a known grouping."""
    if groups not in GROUPINGS:
        raise SpecError(
            f"unknown grouping {groups!r}; expected one of {', '.join(GROUPINGS)}."
            f"{nearest(str(groups), GROUPINGS)}"
        )
    return groups
