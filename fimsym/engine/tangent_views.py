"""Tangents of factors through operations that only rearrange: views, shapes, joins."""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.sites import Moving, Site, Whole, plain_rule, rule, value_of
from fimsym.engine.tangents import LEAD, Pick, Tangent, along, full, product

aten = torch.ops.aten
_SMALL = 2**16
"""Entries of a factor that is looked at for being zero."""


@plain_rule(aten.clone, aten.alias, aten.lift_fresh)
def _same(site: Site, func: Any, args: tuple, kwargs: dict):
    return args[0].tangent


@plain_rule(
    aten.transpose, aten.permute, aten.t, aten.squeeze, aten.unsqueeze, aten.select, aten.slice,
    aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes, aten.unbind,
    aten.expand, aten.diagonal, aten.unfold,
)  # fmt: skip
def view(site: Site, func: Any, args: tuple, kwargs: dict) -> Any:
    """Carry a tangent through a function that returns views of its first argument.

    A factor is expanded to the whole value without being copied; axes along which the views
    still have stride zero are those along which it is constant.
    """
    moving, *rest = args
    call = lambda x: func(x, *rest, **kwargs)  # noqa: E731
    tangent, found = moving.tangent, []
    gone, kept = _picks_after(tangent, call)
    tangent = tangent.unpicked({pick.axis for pick in gone})
    for factor in tangent.factors:
        whole = full(factor, set(range(len(tangent.shape))), tangent.shape)
        views = torch.vmap(torch.vmap(call))(whole)
        found.append(
            [_short(v) for v in views] if isinstance(views, list | tuple) else _short(views)
        )
    if not isinstance(found[0], list):
        return _unless_zero(Tangent(site.value.shape, tuple(found), tuple(kept[0])))
    return [
        _unless_zero(Tangent(torch.Size(_sizes(call, tangent)[n]), factors, tuple(kept[n])))
        for n, factors in enumerate(zip(*found, strict=True))
    ]


def _like(tangent: Tangent) -> Tensor:
    return torch.empty(tangent.shape, device="meta")


def _sizes(call, tangent) -> list[torch.Size]:
    return [found.shape for found in call(_like(tangent))]


def _picks_after(tangent: Tangent, call: Any) -> tuple[list[Pick], list[list[Pick]]]:
    """Return the picks that are lost, and for every result those that are kept.

    An axis is the same afterwards if one axis of the result has its stride and length.
    """
    before = _like(tangent)
    after = call(before)
    results = list(after) if isinstance(after, list | tuple) else [after]
    gone, kept = [], [[] for _ in results]
    for pick in tangent.picks:
        there = (before.stride(pick.axis), before.size(pick.axis))
        places = [
            [axis for axis in range(r.ndim) if (r.stride(axis), r.size(axis)) == there]
            for r in results
        ]
        if any(len(found) != 1 for found in places):
            gone.append(pick)
            continue
        for picks, (axis,) in zip(kept, places, strict=True):
            picks.append(dataclasses.replace(pick, axis=axis))
    return gone, kept


def _short(factor: Tensor) -> Tensor:
    """Return a factor without the repetitions along its axes."""
    for axis in range(LEAD, factor.ndim):
        if factor.size(axis) > 1 and factor.stride(axis) == 0:
            factor = factor.narrow(axis, 0, 1)
    return factor


def _unless_zero(tangent: Tangent) -> Tangent | None:
    zero = any(f.numel() == 0 or (f.numel() <= _SMALL and not f.any()) for f in tangent.factors)
    return None if zero else tangent


@plain_rule(aten.view, aten._unsafe_view)
def reshape(site: Site, func: Any, args: tuple, kwargs: dict) -> Tangent:
    """Carry a tangent through a function that returns its argument in another shape."""
    moving, *_ = args
    if not isinstance(moving, Moving):
        raise Whole
    gone, (kept,) = _picks_after(moving.tangent, lambda x: x.reshape(site.value.shape))
    tangent = moving.tangent.unpicked({pick.axis for pick in gone})
    parts = atoms(tangent.shape, site.value.shape)
    factors = (_reshaped(f, tangent.shape, site.value.shape, parts) for f in tangent.factors)
    return Tangent(site.value.shape, tuple(factors), tuple(kept))


@rule(aten.cat)
def _cat(site: Site, tensors, dim=0):
    axis, before, shape = dim % site.value.ndim, 0, site.value.shape
    if sum(isinstance(tensor, Moving) for tensor in tensors) > 1:
        return Tangent(shape, (torch.cat(_alike(tensors, axis), LEAD + axis),))
    for tensor in tensors:
        if isinstance(tensor, Moving):
            return _placed(tensor.tangent.unpicked({axis}), axis, before, shape)
        before += tensor.shape[axis]
    return None


def _alike(tensors: Sequence[Tensor | Moving], axis: int) -> list[Tensor]:
    """Return the tangents to be joined along an axis as one factor each, of one shape else."""
    wholes = []
    for tensor in tensors:
        shape = value_of(tensor).shape
        if isinstance(tensor, Moving):
            whole = product(tensor.tangent.unpicked().factors)
        else:
            whole = tensor.new_zeros([1] * (LEAD + len(shape)))
        wholes.append(full(whole, {axis}, shape))
    sizes = [list(whole.shape) for whole in wholes]
    widest = [max(size[n] for size in sizes) for n in range(len(sizes[0]))]
    for size, whole in zip(sizes, wholes, strict=True):
        size[:] = [*widest[: LEAD + axis], whole.shape[LEAD + axis], *widest[LEAD + axis + 1 :]]
    return [whole.expand(size) for whole, size in zip(wholes, sizes, strict=True)]


@rule(aten.constant_pad_nd)
def _pad(site: Site, input, pad, value=0):
    ndim, shape = input.value.ndim, site.value.shape
    axes = {ndim - 1 - n for n in range(len(pad) // 2) if pad[2 * n] or pad[2 * n + 1]}
    return along(input.tangent, axes, lambda f: torch.nn.functional.pad(f, pad), shape)


def _placed(tangent: Tangent, axis: int, before: int, shape: torch.Size) -> Tangent:
    """Return a tangent with zeros before and after it along an axis."""
    margins = [0, 0] * (len(shape) - axis - 1)
    margins += [before, shape[axis] - before - tangent.shape[axis]]
    return along(tangent, {axis}, lambda f: torch.nn.functional.pad(f, margins), shape)


Atoms = tuple[list[int], list[list[int]], list[list[int]]]
"""Sizes of atoms; for every old axis the numbers of its atoms; the same for every new axis."""


def atoms(old: Sequence[int], new: Sequence[int]) -> Atoms | None:
    """Return the finest axes that both shapes are made of, None if one cuts across another."""
    ends = [list(itertools.accumulate(shape, operator.mul)) for shape in (old, new)]
    cuts = sorted({1, *ends[0], *ends[1]})
    if any(b % a for a, b in itertools.pairwise(cuts)):
        return None
    sizes = [b // a for a, b in itertools.pairwise(cuts)]

    def members(shape, end):
        firsts = [e // size for e, size in zip(end, shape, strict=True)]
        return [
            [n for n, cut in enumerate(cuts[1:]) if first < cut <= last]
            for first, last in zip(firsts, end, strict=True)
        ]

    return sizes, members(old, ends[0]), members(new, ends[1])


def _reshaped(factor: Tensor, old: torch.Size, new: torch.Size, parts: Atoms | None) -> Tensor:
    lead = factor.shape[:LEAD]
    if parts is None:
        return full(factor, set(range(len(old))), old).reshape(*lead, *new)
    sizes, before, after = parts
    constant = {
        atom for axis, owned in enumerate(before) if factor.size(LEAD + axis) == 1 for atom in owned
    }
    split = factor.reshape(*lead, *(1 if n in constant else size for n, size in enumerate(sizes)))
    merged = [owned for owned in after if not constant.issuperset(owned)]
    long = {atom for owned in merged for atom in owned}
    split = split.expand(*lead, *(size if n in long else 1 for n, size in enumerate(sizes)))
    ends = [math.prod(sizes[n] for n in owned if n in long) for owned in after]
    return split.reshape(*lead, *ends)
