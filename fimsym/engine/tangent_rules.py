"""Tangents of factors through elementwise operations, products, sums and what normalises."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.contraction import Named
from fimsym.engine.sites import INNER, Moving, Site, Whole, of_value, rule, value_of
from fimsym.engine.tangents import (
    LEAD,
    Tangent,
    along,
    full,
    picked,
    plus,
    product,
    summed,
    take,
)

aten = torch.ops.aten


def total(*tangents: Tangent | None) -> Tangent | None:
    """Return the sum of those that are not zero."""
    found = [tangent for tangent in tangents if tangent is not None]
    return None if not found else found[0] if len(found) == 1 else plus(*found)


def elementwise(
    site: Site, at: Callable[[Mapping[int, Tensor]], Tensor], moving: Mapping[int, Moving]
) -> Tangent | None:
    """Carry tangents through φ(x, y, …) of every element.

    The tangent is Σ φ_x ẋ, and Q(ẋ) = Σ φ_xx ẋ² + 2 Σ φ_xy ẋ ẏ.

    Args:
        site: The operation.
        at: Carries it out with some of its arguments replaced.
        moving: The arguments that move, by their places.
    """
    shape = site.value.shape
    tangents = {place: one.tangent.broadcast(shape) for place, one in moving.items()}
    known = tuple(moving)
    slopes, bends = site.once(
        known, lambda: _slopes(at, {p: one.value.expand(shape) for p, one in moving.items()})
    )
    for (one, other), bend in bends.items():
        twice = 1 if one == other else 2
        weight = site.weight(lambda g, c=bend, n=twice: g * (n * c), (known, one, other))
        if one == other:
            squares = [factor.square() for factor in tangents[one].factors]
            site.bend(weight, of_value(squares), tangents[one].picks)
        else:
            pair = (tangents[p].unpicked().factors for p in (one, other))
            site.bend(weight, of_value(itertools.chain(*pair)))
    if not site.live:
        return None
    moved = (
        tangents[place] if slope is None else tangents[place].scaled(slope)
        for place, slope in slopes.items()
    )  # fmt: skip
    return total(*moved)


def _slopes(at, values: Mapping[int, Tensor]):
    """Return φ_x, None for 1, and φ_xy, without axes along which they are the same."""
    with torch.enable_grad():
        given = {place: value.detach().requires_grad_() for place, value in values.items()}
        result = at(given)
        ones = torch.ones_like(result)
        moved = {"create_graph": True, "allow_unused": True, "materialize_grads": True}
        first = torch.autograd.grad(result, list(given.values()), ones, **moved)
        slopes = {p: _unless_one(s.detach()) for p, s in zip(given, first, strict=True)}
        bends = {}
        for n, (place, slope) in enumerate(zip(given, first, strict=True)):
            if not slope.requires_grad:
                continue
            others = list(given)[n:]
            kept = {"retain_graph": True, "allow_unused": True}
            found = torch.autograd.grad(slope, [given[p] for p in others], ones, **kept)
            for other, bend in zip(others, found, strict=True):
                if bend is not None and bool(bend.any()):
                    bends[place, other] = shrunk(bend)
    return slopes, bends


def _unless_one(slope: Tensor) -> Tensor | None:
    slope = shrunk(slope)
    return None if slope.numel() == 1 and bool(slope == 1) else slope


def shrunk(coefficient: Tensor) -> Tensor:
    """Return a coefficient one long along axes where it is the same."""
    for axis in range(coefficient.ndim):
        if coefficient.shape[axis] > 1:
            first = coefficient.narrow(axis, 0, 1)
            if torch.equal(first, coefficient.narrow(axis, 1, 1)) and bool(
                (coefficient == first).all()
            ):
                coefficient = first
    return coefficient


@rule(aten.sum)
def _sum(site: Site, input, dim=None, keepdim=False, *, dtype=None):
    return _reduced(site, input, dim, keepdim, 1.0)


@rule(aten.mean)
def _mean(site: Site, input, dim=None, keepdim=False, *, dtype=None):
    return _reduced(site, input, dim, keepdim, site.value.numel() / input.value.numel())


def _reduced(site, input, dim, keepdim, scale):
    if site.value.dtype != input.value.dtype:
        raise Whole
    ndim = input.value.ndim
    dims = range(ndim) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    return over_axes(site, input.tangent, {axis % ndim for axis in dims}, scale, keepdim)


def over_axes(site: Site, tangent: Tangent, axes: set[int], scale: float, keepdim: bool):
    """Return the tangent of a sum over axes, times a number."""
    shape = tangent.shape
    kept, rest = tangent.split(axes)
    for axis in axes:
        if tangent.pick_along(axis) is None and all(f.shape[LEAD + axis] == 1 for f in rest):
            scale *= shape[axis]
    whole = summed(rest, axes) * scale if rest else kept[0].new_full([1] * kept[0].ndim, scale)
    picks = tuple(pick for pick in tangent.picks if pick.axis not in axes)
    ones = torch.Size(1 if axis in axes else size for axis, size in enumerate(shape))
    found = Tangent(ones, (*kept, whole), picks)
    if keepdim:
        return found
    places = [axis for axis in range(len(shape)) if axis not in axes]
    factors = tuple(f.squeeze([LEAD + axis for axis in axes]) for f in found.factors)
    moved = tuple(dataclasses.replace(pick, axis=places.index(pick.axis)) for pick in picks)
    return Tangent(site.value.shape, factors, moved)


def swapped(matrix: Any) -> Any:
    """Return the transpose of an argument."""
    if not isinstance(matrix, Moving):
        return matrix.mT
    return Moving(matrix.value.mT, exchanged(matrix.tangent))


def exchanged(tangent: Tangent) -> Tangent:
    """Return the tangent of the transpose."""
    ndim = len(tangent.shape)
    other = {ndim - 1: ndim - 2, ndim - 2: ndim - 1}
    picks = (dataclasses.replace(p, axis=other.get(p.axis, p.axis)) for p in tangent.picks)
    shape = torch.Size((*tangent.shape[:-2], tangent.shape[-1], tangent.shape[-2]))
    return Tangent(shape, tuple(factor.mT for factor in tangent.factors), tuple(picks))


@rule(aten.addmm, aten.baddbmm)
def _addmm(site: Site, input, left, right, *, beta=1, alpha=1):
    if beta != 1 or alpha != 1:
        raise Whole
    shifted = input.tangent.broadcast(site.value.shape) if isinstance(input, Moving) else None
    if not isinstance(left, Moving) and not isinstance(right, Moving):
        return shifted
    return total(_matmul(site, left, right), shifted)


@rule(aten.mm, aten.bmm)
def _matmul(site: Site, left, right):
    if isinstance(left, Moving) and isinstance(right, Moving):
        _bend_product(site, left, right)
        if not site.live:
            return None
    shape, found = site.value.shape, []
    if isinstance(left, Moving):
        found.append(_times_constant(left, value_of(right), shape))
    if isinstance(right, Moving):
        turned = torch.Size((*shape[:-2], shape[-1], shape[-2]))
        moved = _times_constant(swapped(right), value_of(left).mT, turned)
        found.append(exchanged(moved))
    return total(*found)


def _times_constant(left: Moving, right: Tensor, shape: torch.Size) -> Tangent:
    """Return the tangent of left @ right, whose shape is given."""
    last = len(shape) - 1
    tangent = left.tangent.unpicked(range(last - 1) if right.ndim > 2 else ())
    pick = tangent.pick_along(last)
    if pick is None:
        return along(tangent, {last}, lambda factor: torch.matmul(factor, right), shape)
    row = take(picked(right, last + 1, ()), last - 1, pick.lead, pick.index)
    kept = tuple(p for p in tangent.picks if p is not pick)
    return Tangent(shape, tangent.factors, kept).times(row)


def _bend_product(site: Site, left: Moving, right: Moving) -> None:
    """Add the bend of a product of two that move, 2 ẋ ẏ."""
    ndim = site.value.ndim
    row, column = LEAD + ndim - 2, LEAD + ndim - 1
    batch = range(LEAD, LEAD + ndim - 2)
    factors: list[Named] = []
    for side, axes in ((left, (row, INNER)), (right, (INNER, column))):
        for factor in side.tangent.unpicked().factors:
            factors.append((factor, (0, 1, *batch, *axes)))
    if all(f.shape[axes.index(INNER)] == 1 for f, axes in factors):
        factors.append((site.value.new_ones(left.value.shape[-1]), (INNER,)))
    site.bend(site.weight(lambda g: 2 * g), factors)


@rule(aten._softmax, aten._safe_softmax)
def _softmax(site: Site, input, dim, dtype=None):
    y = site.value
    axis, kept, centred = _of_softmax(input, dim, dtype, y)
    weight = site.weight(lambda g: (g - (g * y).sum(axis + 1, keepdim=True)) * y)
    site.bend(weight, of_value([factor.square() for factor in (*kept, centred)]))
    return Tangent(y.shape, (*kept, centred)).scaled(y) if site.live else None


@rule(aten._log_softmax)
def _log_softmax(site: Site, input, dim, dtype=None):
    y = site.once("softmax", lambda: site.value.exp())
    axis, kept, centred = _of_softmax(input, dim, dtype, y)
    weight = site.weight(lambda g: -y * g.sum(axis + 1, keepdim=True))
    site.bend(weight, of_value([factor.square() for factor in (*kept, centred)]))
    return Tangent(y.shape, (*kept, centred)) if site.live else None


def _of_softmax(input: Moving, dim: int, dtype: Any, y: Tensor):
    """Return the axis, the factors that are constant along it, the others less their mean."""
    if dtype:
        raise Whole
    axis = dim % input.value.ndim
    kept, rest = input.tangent.unpicked().split({axis})
    whole = product(rest) if rest else y.new_ones([1] * (LEAD + y.ndim))
    whole = full(whole, {axis}, y.shape)
    return axis, kept, whole - (whole * y).sum(LEAD + axis, keepdim=True)
