"""Tangents of many directions at once, as products of factors that are constant along axes.

Moving one weight W[i, j] of a layer that is used at many positions moves output i at position
s by a[s, j]: the change is a product of a factor of the row i and one of the column j. Most
operations of a network act along some axes only, and leave factors that are constant along
these as they are; so a change is built for every row and column at once where none can
tell them apart, and as a whole only from where one can.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor

from fimsym.engine.contraction import Named, contracted

LEAD = 2
"""Axes of every factor before those of the value: rows and columns of the parameter."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pick:
    """A tangent is zero along an axis except at one place for each row or column.

    Attributes:
        axis: The axis of the value.
        lead: 0 if the place depends on the row, 1 if on the column.
        index: The places, [row] or [column].
    """

    axis: int
    lead: int
    index: Tensor


@dataclasses.dataclass(frozen=True)
class Tangent:
    """How a value moves along each direction: a product of factors, zero off its picks.

    Attributes:
        shape: Shape of the value.
        factors: At least one, each [row or 1, column or 1, *shape], 1 long along axes where
            it is constant, and along axes with a pick.
        picks: At most one for each axis.
    """

    shape: torch.Size
    factors: tuple[Tensor, ...]
    picks: tuple[Pick, ...] = ()

    def pick_along(self, axis: int) -> Pick | None:
        """Return the pick along an axis, if there is one."""
        return next((pick for pick in self.picks if pick.axis == axis), None)

    def scaled(self, coefficient: Tensor) -> Tangent:
        """Return the tangent of the product with a constant that broadcasts to the value."""
        return self.times(picked(coefficient, len(self.shape), self.picks))

    def times(self, factor: Tensor) -> Tangent:
        """Return the tangent with one more factor, multiplied into one of the same shape.

        The first factor keeps free of numbers: operations leave it as it is most often, and
        sums of tangents then find it the same.
        """
        found = list(self.factors)
        for place, other in reversed(list(enumerate(found))):
            number = other.numel() == 1 or (factor.numel() == 1 and place > 0)
            if other.shape == factor.shape or number:
                found[place] = other * factor
                return dataclasses.replace(self, factors=tuple(found))
        return dataclasses.replace(self, factors=(*found, factor))

    def unpicked(self, axes: Collection[int] | None = None) -> Tangent:
        """Return the same with picks along some axes, or all, written out as factors."""
        gone = [pick for pick in self.picks if axes is None or pick.axis in axes]
        marks = [_mark(pick, self.shape, self.factors[0]) for pick in gone]
        kept = tuple(pick for pick in self.picks if pick not in gone)
        return Tangent(self.shape, (*self.factors, *marks), kept)

    def split(self, axes: Collection[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the factors that are constant along some axes, and the others."""
        apart: tuple[list[Tensor], list[Tensor]] = [], []
        for factor in self.factors:
            apart[any(factor.shape[LEAD + axis] > 1 for axis in axes)].append(factor)
        return apart

    def broadcast(self, shape: torch.Size) -> Tangent:
        """Return the tangent of the value expanded to a shape."""
        new = len(shape) - len(self.shape)
        factors = (f.reshape(*f.shape[:LEAD], *[1] * new, *f.shape[LEAD:]) for f in self.factors)
        picks = (dataclasses.replace(pick, axis=pick.axis + new) for pick in self.picks)
        return Tangent(shape, tuple(factors) if new else self.factors, tuple(picks))

    def dense(self, rows: int, columns: int) -> Tensor:
        """Return the whole, [row, column, *shape]."""
        return product(self.unpicked().factors).expand(rows, columns, *self.shape)


def picked(coefficient: Tensor, ndim: int, picks: Iterable[Pick]) -> Tensor:
    """Return a coefficient that broadcasts to a value of so many axes as a factor at picks."""
    ones = LEAD + ndim - coefficient.ndim
    factor = coefficient.reshape(*[1] * ones, *coefficient.shape)
    for pick in picks:
        factor = take(factor, pick.axis, pick.lead, pick.index)
    return factor


def take(factor: Tensor, axis: int, lead: int, index: Tensor) -> Tensor:
    """Return a factor at one place along an axis, for each row or column.

    Args:
        factor: [row or 1, column or 1, *value].
        axis: The axis of the value; 1 long afterwards.
        lead: 0 for rows, 1 for columns.
        index: The places.
    """
    place = LEAD + axis
    if factor.shape[place] == 1:
        return factor
    if factor.shape[lead] == 1:
        found = factor.squeeze(lead).index_select(place - 1, index)
        return found.movedim(place - 1, lead).unsqueeze(place)
    index = index.reshape(*[-1 if a == lead else 1 for a in range(factor.ndim)])
    shape = [1 if a == place else size for a, size in enumerate(factor.shape)]
    return factor.gather(place, index.expand(shape))


def product(factors: Sequence[Tensor]) -> Tensor:
    """Return the product of at least one factor, smallest first."""
    return functools.reduce(torch.mul, sorted(factors, key=Tensor.numel))


def summed(factors: Sequence[Tensor], over: Collection[int]) -> Tensor:
    """Return the product of factors summed over some axes of the value, 1 long afterwards.

    Along axes where none of the factors is longer than 1 nothing is summed.
    """
    ndim = factors[0].ndim
    kept = [n for n in range(ndim) if n - LEAD not in over]
    value, axes = contracted([(factor, tuple(range(ndim))) for factor in factors], kept)
    return aligned((value, axes), ndim)


def aligned(value: Named, ndim: int) -> Tensor:
    """Return a named tensor with its axes in order, and ones in between."""
    tensor, axes = value
    order = sorted(range(len(axes)), key=lambda place: axes[place])
    tensor = tensor.permute(order)
    sizes = dict(zip(sorted(axes), tensor.shape, strict=True))
    return tensor.reshape([sizes.get(axis, 1) for axis in range(ndim)])


def plus(one: Tangent, other: Tangent) -> Tangent:
    """Return the sum of two tangents of the same shape; factors they share stay apart."""
    ndim = LEAD + len(one.shape)
    if not _same_picks(one, other):
        one, other = one.unpicked(), other.unpicked()
    shared, own, left = [], [], list(other.factors)
    for factor in one.factors:
        place = next((n for n, found in enumerate(left) if _same(factor, found)), None)
        if place is None:
            own.append(factor)
        else:
            shared.append(left.pop(place))
    terms = [product(f) if f else one.factors[0].new_ones([1] * ndim) for f in (own, left)]
    return dataclasses.replace(one, factors=(*shared, terms[0] + terms[1]))


def _same(one: Tensor, other: Tensor) -> bool:
    """Tell whether two factors are the same numbers in memory."""

    def key(factor):
        steps = zip(factor.shape, factor.stride(), strict=True)
        return factor.shape, factor.dtype, [step for size, step in steps if size > 1]

    return one is other or (one.data_ptr() == other.data_ptr() and key(one) == key(other))


def _same_picks(one: Tangent, other: Tangent) -> bool:
    def key(t):
        return {(pick.axis, pick.lead, id(pick.index)) for pick in t.picks}

    return key(one) == key(other)


def _mark(pick: Pick, shape: torch.Size, like: Tensor) -> Tensor:
    """Return 1 at the place of a pick, and 0 elsewhere."""
    places = torch.arange(shape[pick.axis], device=like.device)
    hit = (pick.index[:, None] == places).to(like.dtype)
    sizes = [1] * (LEAD + len(shape))
    sizes[pick.lead], sizes[LEAD + pick.axis] = hit.shape
    return hit.reshape(sizes)


def along(
    tangent: Tangent, axes: Collection[int], act: Callable[[Tensor], Tensor], shape: torch.Size
) -> Tangent:
    """Return the tangent of a linear operation that acts along some axes only.

    Args:
        tangent: Of its argument.
        axes: Axes it acts along. Others it must leave as they are, in number and order.
        act: The operation on a factor [row, column, *value], which may be 1 long along
            other axes.
        shape: Shape of the result.
    """
    tangent = tangent.unpicked(axes)
    kept, rest = tangent.split(axes)
    whole = product(rest) if rest else tangent.factors[0].new_ones([1] * (LEAD + len(shape)))
    return Tangent(shape, (*kept, act(full(whole, axes, tangent.shape))), tangent.picks)


def full(factor: Tensor, axes: Collection[int], shape: torch.Size) -> Tensor:
    """Return a factor expanded along some axes of a value."""
    sizes = [shape[n - LEAD] if n - LEAD in axes else size for n, size in enumerate(factor.shape)]
    return factor.expand(sizes)
