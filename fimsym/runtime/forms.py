"""Bounds and a square root of I for any law, from the values of its forms on few directions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fimsym.runtime.quartics import largest_of_targets, smallest_of_targets

LARGEST = 12
"""Most natural parameters of a target whose quartic form is unfolded."""
_ROUNDING = 2.0**-30
"""Of an eigenvalue, relative to the largest, when a form's values are right to ten digits."""

Form = Callable[..., Tensor]


def bounds_of_forms(
    h: Tensor, fisher: Form, quartic: Form, components: int | None, **constants: Any
) -> tuple[Tensor, ...]:
    """Return Theorem 4.1's constants as columns [*batch, 1, 1].

    I is the matrix of its values at unit vectors and their sums. M is unfolded to the
    quadratic form of symmetric matrices W that is M(u, u, u, u) at W = uuᵀ, whose largest
    and smallest eigenvalues bound it. Of more than `LARGEST` parameters, the trace bounds I,
    and by Minkowski's inequality V₁ ≤ (Σ_a √(M_aaaa + I_aa²))² ‖u‖⁴.

    Args:
        h: Natural parameters as a column, [*batch, output, 1].
        fisher: The evaluator's function of h and u.
        quartic: Its V₁, likewise.
        components: Natural parameters of one of several independent targets; None if all
            outputs are one law.
        **constants: Those of the family.
    """
    each = _targets(h, components)
    size = each.shape[-1]
    units = torch.eye(size, dtype=h.dtype, device=h.device)
    diagonal = _values(fisher, each, units, constants)
    if size > LARGEST:
        fourth = _values(quartic, each, units, constants) + diagonal**2
        largest = diagonal.sum(dim=-1)
        low = torch.zeros_like(largest)
        values = (low, largest, low, fourth.sqrt().sum(dim=-1) ** 2)
    else:
        scale = _scale(diagonal)
        values = (
            *_of_information(fisher, each, scale, constants),
            *_of_quartic(quartic, each, scale, constants),
        )
    low, high, low_quartic, high_quartic = (value.unsqueeze(-1) for value in values)
    return (
        low.amin(dim=-2, keepdim=True),
        high.amax(dim=-2, keepdim=True),
        smallest_of_targets(low, low_quartic),
        largest_of_targets(high, high_quartic),
    )


def root_of_form(h: Tensor, fisher: Form, components: int | None, **constants: Any) -> Tensor:
    """Return the symmetric square root of I of each target, [*batch, target, p, p].

    Arguments are those of `bounds_of_forms`.
    """
    each = _targets(h, components)
    units = torch.eye(each.shape[-1], dtype=h.dtype, device=h.device)
    scale = _scale(_values(fisher, each, units, constants))
    correlation = _correlation(fisher, each, scale, constants)
    information = correlation / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    values, vectors = torch.linalg.eigh(information)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def times_root(root: Tensor, direction: Tensor) -> Tensor:
    """Return the square root of each target's I times directions [*batch, output, param]."""
    targets, size = root.shape[-3], root.shape[-1]
    parts = direction.unflatten(-2, (size, targets)).transpose(-3, -2)
    return (root.to(direction.dtype) @ parts).transpose(-3, -2).flatten(-3, -2)


def _targets(h: Tensor, components: int | None) -> Tensor:
    """Return the natural parameters of each target, [*batch, target, p]."""
    column = h.squeeze(-1)
    if components is None:
        return column.unsqueeze(-2)
    return column.unflatten(-1, (components, -1)).mT


def _scale(diagonal: Tensor) -> Tensor:
    """Return 1/√I_aa, by which directions of ordinary size are multiplied."""
    return 1 / torch.where(diagonal > 0, diagonal, 1.0).sqrt()


def _values(form: Form, each: Tensor, directions: Tensor, constants: dict[str, Any]) -> Tensor:
    """Return a form at directions […, p, n] of each target, [*batch, target, n]."""
    spread = directions.expand(*each.shape, directions.shape[-1])
    return form(each, spread, **constants)


def _correlation(fisher: Form, each: Tensor, scale: Tensor, constants: dict[str, Any]) -> Tensor:
    """Return the correlation matrix of t, from I at sums of two scaled unit vectors."""
    size = each.shape[-1]
    row, column = torch.triu_indices(size, size, offset=1, device=each.device)
    units = torch.diag_embed(scale)
    matrix = torch.eye(size, dtype=each.dtype, device=each.device).expand(*units.shape)
    if not len(row):
        return matrix
    above = _values(fisher, each, units[..., row] + units[..., column], constants)
    below = _values(fisher, each, units[..., row] - units[..., column], constants)
    place = row * size + column
    flat = torch.zeros_like(matrix).flatten(-2).index_copy(-1, place, (above - below) / 4)
    beside = flat.unflatten(-1, (size, size))
    return matrix + beside + beside.mT


def _of_information(fisher, each, scale, constants) -> tuple[Tensor, Tensor]:
    correlation = _correlation(fisher, each, scale, constants)
    return _extremes(correlation / (scale.unsqueeze(-1) * scale.unsqueeze(-2)))


def _of_quartic(quartic, each, scale, constants) -> tuple[Tensor, Tensor]:
    """Unfold M over pairs of places, an off-diagonal pair weighted √2."""
    size = each.shape[-1]
    points, subsets, entry = _polarisation(size)
    directions = torch.tensor(points, dtype=each.dtype, device=each.device).mT
    values = _values(quartic, each, scale.unsqueeze(-1) * directions, constants)
    signs = [sign / 24 for _, sign in _SUBSETS]
    of_entry = values[..., torch.tensor(subsets, device=each.device)] @ values.new_tensor(signs)
    matrix = of_entry[..., torch.tensor(entry, device=each.device)]
    off = math.sqrt(2)
    weights = [(1.0 if a == b else off) / (scale[..., a] * scale[..., b]) for a, b in _pairs(size)]
    weight = torch.stack(weights, -1)
    return _extremes(matrix * weight.unsqueeze(-1) * weight.unsqueeze(-2))


def _extremes(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounds of the eigenvalues of a symmetric matrix that has none below zero on uuᵀ."""
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    rounding = _ROUNDING * values.abs().amax(dim=-1)
    return (values[..., 0] - rounding).clamp(min=0), values[..., -1] + rounding


_SUBSETS = tuple(
    (chosen, (-1) ** len(chosen))
    for n in range(1, 5)
    for chosen in itertools.combinations(range(4), n)
)
"""Of four places, with the sign (−1)^(4 − |S|)."""


def _pairs(size: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(size) for b in range(a, size)]


def _polarisation(size: int) -> tuple[list, list, list]:
    """Return points, the points of the subsets of each entry of M, and entries by pairs.

    24 M_abcd = Σ over subsets S of the four places of (−1)^(4 − |S|) M(Σ_S e, …). An entry has
    one value in every order of its places, a point one in every order of its terms.
    """
    points: dict[tuple[int, ...], int] = {}
    pairs = _pairs(size)
    entries = [(a, b, c, d) for a, b in pairs for c in range(b, size) for d in range(c, size)]
    subsets = []
    for places in entries:
        row = []
        for chosen, _ in _SUBSETS:
            point = [0] * size
            for n in chosen:
                point[places[n]] += 1
            row.append(points.setdefault(tuple(point), len(points)))
        subsets.append(row)
    number: dict[tuple[int, ...], int] = {places: n for n, places in enumerate(entries)}
    entry = [[number[tuple(sorted((*one, *other)))] for other in pairs] for one in pairs]
    return list(points), subsets, entry
