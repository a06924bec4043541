"""An operation of the tape as tangents come by, and what it adds to second derivatives.

With x(t) along a direction, the chain rule gives h_c″ = Σ ⟨g_c, Q(ẋ)⟩ over all operations, with
g_c the gradient of h_c at the operation's result and Q its own second derivative along the
tangents of its arguments: no second derivative is carried any further.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from torch import Tensor

from fimsym.engine.contraction import Named, contracted
from fimsym.engine.recording import NoTape
from fimsym.engine.tangents import LEAD, Pick, Tangent, aligned, take

_OUTPUT, _BATCH, _OF_EXAMPLE = 100, 101, 102
_KEPT = {0, 1, _OUTPUT, _BATCH}
INNER = 50
"""Numbers of axes that are summed and that the result does not have start here."""

Handler = Callable[..., Any]
RULES: dict[Any, Handler] = {}
"""For operations of torch: from arguments, some of which move, to the tangent of the result."""


class Whole(Exception):  # noqa: N818
    """There is no rule for factors: the tangent is to be carried on as a whole."""


@dataclasses.dataclass(frozen=True)
class Moving:
    """An argument that moves."""

    value: Tensor
    tangent: Tangent


@dataclasses.dataclass(frozen=True)
class Owner:
    """Which entries of a value belong to which example.

    Attributes:
        axis: The axis that runs over examples, or over examples and positions.
        order: ``"batch"`` or ``"position"``, whichever it runs over first.
    """

    axis: int
    order: str


@dataclasses.dataclass
class Site:
    """An operation, and its share of v.

    Attributes:
        value: Its result.
        live: Whether the tangent of its result is wanted.
        adjoint: g_c at its result, [output, *value]; None where it cannot bend.
        owner: Whose entries of the result are whose.
        batch: Number of examples.
        cache: What is the same for all directions.
        total: v so far, [row or 1, column or 1, batch, output]; None for zero.
    """

    value: Tensor
    live: bool
    adjoint: Tensor | None
    owner: Owner | None
    batch: int
    cache: dict[Hashable, Any]
    total: Tensor | None = None

    def once(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is made the first time and kept."""
        if name not in self.cache:
            self.cache[name] = make()
        return self.cache[name]

    def weight(self, change: Callable[[Tensor], Tensor], name: Hashable = "weight") -> Tensor:
        """Return the adjoint, changed in a way that no direction has a part in."""
        if self.adjoint is None:
            raise Whole
        adjoint = self.adjoint
        return self.once(name, lambda: change(adjoint))

    def bend(self, weight: Tensor, factors: Sequence[Named], picks: Iterable[Pick] = ()) -> None:
        """Add Σ weight · Π factors over the entries of each example to v.

        Args:
            weight: [output, *value].
            factors: With axes 0 and 1 for rows and columns, 2, 3, … for those of the value.
            picks: Where the factors are not zero.
        """
        if self.owner is None:
            raise NoTape("an operation mixes examples")
        mine = self.owner.axis
        whole = weight.reshape(1, 1, *weight.shape)
        for pick in picks:
            if pick.axis == mine:
                raise Whole
            whole = take(whole, pick.axis + 1, pick.lead, pick.index)
        numbers = (0, 1, _OUTPUT, *range(LEAD, LEAD + weight.ndim - 1))
        operands = [self._apart(named, LEAD + mine) for named in ((whole, numbers), *factors)]
        value, axes = contracted(operands, _KEPT)
        order = {0: 0, 1: 1, _BATCH: 2, _OUTPUT: 3}
        self.add(aligned((value, tuple(order[axis] for axis in axes)), 4))

    def add(self, share: Tensor) -> None:
        """Add to v, [row or 1, column or 1, batch, output]."""
        self.total = share if self.total is None else self.total + share

    def _apart(self, named: Named, number: int) -> Named:
        """Split the axis of examples and positions of a tensor in two."""
        tensor, axes = named
        if number not in axes or self.owner is None:
            return named
        place = axes.index(number)
        sizes = [self.batch, -1] if tensor.shape[place] > 1 else [1, 1]
        names = [_BATCH, _OF_EXAMPLE]
        if self.owner.order == "position":
            sizes, names = sizes[::-1], names[::-1]
        split = tensor.unflatten(place, sizes)
        return split, (*axes[:place], *names, *axes[place + 1 :])


def of_value(factors: Iterable[Tensor]) -> list[Named]:
    """Return factors with the axes of the value they belong to."""
    return [(factor, tuple(range(factor.ndim))) for factor in factors]


def rule(*names: Any) -> Callable[[Handler], Handler]:
    """Enter a rule that takes the site and then the arguments of some operations."""

    def enter(body: Handler) -> Handler:
        signature = inspect.signature(body)

        def bound(site, func, args, kwargs):
            try:
                call = signature.bind(site, *args, **kwargs)
            except TypeError:
                raise Whole from None
            return body(*call.args, **call.kwargs)

        RULES.update(dict.fromkeys(names, bound))
        return body

    return enter


def plain_rule(*names: Any) -> Callable[[Handler], Handler]:
    """Enter a rule that takes (site, func, args, kwargs)."""

    def enter(handler: Handler) -> Handler:
        RULES.update(dict.fromkeys(names, handler))
        return handler

    return enter


def value_of(argument: Any) -> Any:
    """Return the value of an argument that moves, and any other as it is."""
    return argument.value if isinstance(argument, Moving) else argument
