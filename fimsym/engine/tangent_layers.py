"""Tangents of factors through convolutions, pools and tables."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fimsym.engine.sites import Moving, Site, Whole, plain_rule, rule, value_of
from fimsym.engine.tangent_rules import total
from fimsym.engine.tangents import LEAD, Tangent, along, full, picked, product

aten = torch.ops.aten


@rule(aten.embedding)
def _embedding(site: Site, weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    tangent = weight.tangent
    row, column = tangent.pick_along(0), tangent.pick_along(1)
    if row is None or scale_grad_by_freq or any(f.numel() > 1 for f in tangent.factors):
        raise Whole
    hit = row.index.reshape(-1, *[1] * indices.ndim) == indices
    if padding_idx >= 0:
        hit = hit & (indices != padding_idx)
    shape = [1, 1, *indices.shape, 1]
    shape[row.lead] = len(row.index)
    factor = hit.to(site.value.dtype).reshape(shape) * product(tangent.factors).reshape(-1)
    picks = () if column is None else (dataclasses.replace(column, axis=indices.ndim),)
    return Tangent(site.value.shape, (factor,), picks)


@plain_rule(aten.avg_pool2d, aten.avg_pool3d, aten._adaptive_avg_pool2d, aten._adaptive_avg_pool3d)
def _pooled(site: Site, func: Any, args: tuple, kwargs: dict) -> Tangent:
    """Carry a tangent through what acts on each channel's positions alone, and linearly."""
    moving, *rest = args
    axes = _positions(func, moving.value)
    act = lambda f: _folded(f, lambda x: func(x, *rest, **kwargs))  # noqa: E731
    return along(moving.tangent, axes, act, site.value.shape)


def _positions(func: Any, value: Tensor) -> set[int]:
    """Return the axes of the positions that a pool acts on, of a batch [row, channel, …]."""
    if value.ndim != (5 if "3d" in str(func) else 4):
        raise Whole
    return set(range(2, value.ndim))


def _folded(factor: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an operation on batches to a factor [row, column, batch, …]."""
    return act(factor.flatten(0, LEAD)).unflatten(0, factor.shape[: LEAD + 1])


@plain_rule(
    aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d,
)  # fmt: skip
def _max_pooled(site: Site, func: Any, args: tuple, kwargs: dict) -> list[Tangent | None]:
    moving, *rest = args
    axes = _positions(func, moving.value)
    index = site.once("index", lambda: func(moving.value, *rest, **kwargs)[1].flatten(2))
    tangent = moving.tangent.unpicked(axes)
    kept, varying = tangent.split(axes)
    whole = product(varying) if varying else torch.ones_like(tangent.factors[0][:1, :1])
    whole = full(whole, axes, tangent.shape).flatten(-len(axes))
    places = picked(index, 3, tangent.picks)
    lead = torch.broadcast_shapes(whole.shape[:-1], places.shape[:-1])
    found = whole.expand(*lead, -1).gather(-1, places.expand(*lead, -1))
    found = found.unflatten(-1, site.value.shape[2:])
    return [Tangent(site.value.shape, (*kept, found), tangent.picks), None]


@rule(aten.convolution)
def _convolution(
    site: Site, input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
):
    x, kernel = value_of(input), value_of(weight)
    if transposed or (isinstance(input, Moving) and isinstance(weight, Moving)):
        raise Whole
    given = Geometry(stride, padding, dilation, groups, kernel)
    shape, parts = site.value.shape, []
    if isinstance(bias, Moving):
        channels = (1, -1, *[1] * len(stride))
        factors = tuple(f.reshape(*f.shape[:LEAD], *channels) for f in bias.tangent.factors)
        picks = tuple(dataclasses.replace(p, axis=1) for p in bias.tangent.picks)
        parts.append(Tangent(shape, factors, picks))
    if isinstance(weight, Moving):
        parts.append(_of_kernel(weight.tangent, x, given, shape))
    if isinstance(input, Moving):
        parts.append(_of_input(input.tangent, given, shape))
    return total(*parts)


@dataclasses.dataclass
class Geometry:
    """How a convolution looks at its input.

    Attributes:
        stride: Steps along each axis of positions; likewise padding and dilation.
        groups: Number of groups of channels.
        kernel: The kernel, [out, in of a group, *window].
    """

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    kernel: Tensor

    @property
    def members(self) -> int:
        """Number of results in a group."""
        return len(self.kernel) // self.groups

    def seen(self, x: Tensor, tap: tuple[int, ...]) -> Tensor:
        """Return what one place in the kernel sees at every position, [*any, *positions].

        Args:
            x: Input with its margins, [*any, *positions].
            tap: Place in the kernel.
        """
        first = x.ndim - len(tap)
        for axis, place, step, gap, size in zip(
            range(first, x.ndim),
            tap,
            self.stride,
            self.dilation,
            self.kernel.shape[2:],
            strict=True,
        ):
            length = x.shape[axis] - gap * (size - 1)
            x = x.narrow(axis, place * gap, length)
            x = x[(slice(None),) * axis + (slice(None, None, step),)]
        return x

    def patches(self, x: Tensor) -> Tensor:
        """Return what every place in the kernel sees, [*any, tap, position].

        Args:
            x: Input, [*any, *positions].
        """
        margin, taps = self.padded(x), itertools.product(*map(range, self.kernel.shape[2:]))
        axis = x.ndim - len(self.stride)
        return torch.stack([self.seen(margin, tap) for tap in taps], axis).flatten(axis + 1)

    def padded(self, x: Tensor) -> Tensor:
        """Return the input with margins of zeros."""
        sizes = [size for pad in reversed(self.padding) for size in (pad, pad)]
        return functional.pad(x, sizes) if any(sizes) else x

    def convolved(self, x: Tensor) -> Tensor:
        """Return the convolution of an input."""
        nothing = [0] * len(self.stride)
        given = (self.stride, self.padding, self.dilation, False, nothing, self.groups)
        return torch.convolution(x, self.kernel, None, *given)


def _of_kernel(tangent: Tangent, x: Tensor, given: Geometry, shape: torch.Size) -> Tangent:
    """Return the tangent of the result for one entry of the kernel moving at a time."""
    picks = {pick.axis: pick for pick in tangent.picks}
    long = {axis for axis, size in enumerate(tangent.shape) if size > 1}
    row = picks.get(0)
    columns = [picks.get(axis) for axis in range(1, len(tangent.shape))]
    if not long <= picks.keys() or (row is not None and row.lead != 0):
        raise Whole
    count = max((len(pick.index) for pick in columns if pick), default=1)
    if any(pick is not None and pick.lead != 1 for pick in columns):
        raise Whole
    places = [[0] * count if pick is None else pick.index.tolist() for pick in columns]
    groups = [r // given.members for r in ([0] if row is None else row.index.tolist())]
    margin = given.padded(x)
    inner = given.kernel.shape[1]
    seen = {
        group: torch.stack(
            [
                given.seen(margin[:, group * inner + channel], tuple(tap))
                for channel, *tap in zip(*places, strict=True)
            ]
        )
        for group in dict.fromkeys(groups)
    }
    if len(seen) == 1:
        factor = seen[groups[0]].unsqueeze(0)
    else:
        factor = torch.stack([seen[group] for group in groups])
    factor = factor.unsqueeze(LEAD + 1)
    kept = () if row is None else (dataclasses.replace(row, axis=1),)
    scale = product(tangent.factors)
    scale = scale.reshape(*scale.shape[:LEAD], *[1] * len(shape))
    return Tangent(shape, (factor,), kept).times(scale)


def _of_input(tangent: Tangent, given: Geometry, shape: torch.Size) -> Tangent:
    """Return the tangent of the result for a moving input."""
    inside = set(range(1, len(shape)))
    pick = tangent.pick_along(1)
    tangent = tangent.unpicked(inside - {1})
    if pick is None or pick.lead != 0:
        return along(tangent, inside, lambda f: _folded(f, given.convolved), shape)
    kernel, members, inner = given.kernel, given.members, given.kernel.shape[1]
    kept, varying = tangent.split(inside)
    whole = product(varying) if varying else kernel.new_ones([1] * (LEAD + len(shape)))
    whole = full(whole, inside - {1}, tangent.shape)
    patches = given.patches(whole.squeeze(LEAD + 1))
    mine = [
        kernel.unflatten(0, (given.groups, members))[channel // inner, :, channel % inner]
        for channel in pick.index.tolist()
    ]
    weights = torch.stack(mine).flatten(2)[:, None, None]  # row, 1, 1, out of a group, tap
    found = (weights @ patches).unflatten(-1, shape[2:])
    if inner == members == 1:  # each channel by itself
        return Tangent(shape, (*kept, found), tangent.picks)
    picks = tuple(p for p in tangent.picks if p is not pick)
    if given.groups > 1:
        wide = found.new_zeros(*found.shape[: LEAD + 1], *shape[1:])
        for n, channel in enumerate(pick.index.tolist()):
            first = channel // inner * members
            wide[n, :, :, first : first + members] = found[n]
        found = wide
    return Tangent(shape, (*kept, found), picks)
