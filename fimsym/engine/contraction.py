"""Sums of products of tensors over named axes, two tensors at a time in the best order."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

Named = tuple[Tensor, tuple[int, ...]]
"""A tensor, and a number for each of its axes; equal numbers are the same axis."""

Shape = tuple[tuple[int, int], ...]
"""Number and length of each axis of a tensor."""

_SEARCHED = 5
"""Most tensors for which every order is tried."""


def contracted(factors: Sequence[Named], kept: Collection[int]) -> Named:
    """Return the product of the factors, summed over every axis that is not kept.

    Axes of length one may stand for longer ones of the same number, along which the factor
    is constant; at least one factor must have the full length, or the axis counts once.

    Args:
        factors: At least one.
        kept: Numbers of the axes of the result, as far as a factor has them.
    """
    left = [_without_ones(factor) for factor in factors]
    shapes = tuple(tuple(zip(axes, value.shape, strict=True)) for value, axes in left)
    for i, j in _order(shapes, frozenset(kept)):
        other, one = left.pop(j), left.pop(i)
        left.append(_product(one, other, {n for _, axes in left for n in axes} | set(kept)))
    value, axes = left[0]
    over = [place for place, axis in enumerate(axes) if axis not in kept]
    rest = tuple(axis for axis in axes if axis in kept)
    return (value.sum(over) if over else value), rest


def _without_ones(factor: Named) -> Named:
    value, axes = factor
    ones = [place for place, size in enumerate(value.shape) if size == 1]
    axes = tuple(axis for place, axis in enumerate(axes) if place not in ones)
    return value.squeeze(ones) if ones else value, axes


@functools.lru_cache(maxsize=4096)
def _order(shapes: tuple[Shape, ...], kept: frozenset[int]) -> list[tuple[int, int]]:
    """Return which two tensors to multiply next, until one is left."""
    if len(shapes) > _SEARCHED:
        pairs = itertools.combinations(range(len(shapes)), 2)
        pair = min(pairs, key=lambda pair: _step(shapes, pair, kept)[0])
        return [pair, *_order(_step(shapes, pair, kept)[1], kept)]
    return _best(shapes, kept)[1]


def _best(shapes, kept) -> tuple[int, list[tuple[int, int]]]:
    """Return the fewest products that it takes, and the order."""
    if len(shapes) == 1:
        return 0, []
    found = []
    for pair in itertools.combinations(range(len(shapes)), 2):
        work, left = _step(shapes, pair, kept)
        more, order = _best(left, kept)
        found.append((work + more, [pair, *order]))
    return min(found, key=lambda one: one[0])


def _step(shapes, pair, kept) -> tuple[int, tuple[Shape, ...]]:
    """Return the products and sums that a pair takes, and what is left afterwards."""
    others = tuple(shape for n, shape in enumerate(shapes) if n not in pair)
    sizes = dict(shapes[pair[0]]) | dict(shapes[pair[1]])
    needed = {axis for shape in others for axis, _ in shape} | kept
    result = tuple((axis, size) for axis, size in sizes.items() if axis in needed)
    work = math.prod(sizes.values()) + math.prod(size for _, size in result)
    return work, (*others, result)


def _product(one: Named, other: Named, needed: Collection[int]) -> Named:
    """Return the product of two factors, summed over the axes that nothing else has."""
    numbers = list(dict.fromkeys(one[1] + other[1]))
    axes = tuple(axis for axis in numbers if axis in needed)
    place = {axis: n for n, axis in enumerate(numbers)}
    sublists = [[place[axis] for axis in named] for named in (one[1], other[1], axes)]
    return torch.einsum(one[0], sublists[0], other[0], sublists[1], sublists[2]), axes
