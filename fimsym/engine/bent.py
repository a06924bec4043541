"""Shared parameters in which h is not affine: u and v of some rows and columns at a time."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fimsym.engine.chunk import Chunk
from fimsym.engine.curvatures import Second
from fimsym.engine.tiles import Tile, tiles
from fimsym.engine.uses import Lookup, Use, split_rows
from fimsym.engine.work import Unit

_COPIES = 8
"""Tensors of the size of u that are held where closed forms are evaluated."""


class Bent:
    """Adds the quantities of shared parameters, tile by tile.

    Args:
        chunk: Some inputs, and gradients at every use of a parameter.
        second: Second derivatives of the same inputs.
        limit: Bytes that a tile may take.
    """

    def __init__(self, chunk: Chunk, second: Second, limit: float):
        self._chunk = chunk
        self._second = second
        assert second.expansion is not None
        self._expansion = second.expansion
        self._limit = limit
        self._jacobian: tuple[tuple[str, int], Tensor] | None = None

    def units(self, name: str, uses: list[Use]) -> list[Unit]:
        """Return the work that a parameter takes."""
        uses = [use for use in uses if self._chunk.reaches(use)]
        if not uses:
            return []
        if len(uses) == 1 and isinstance(uses[0], Lookup):
            return self._units_of_table(name, uses[0])
        unit = max(use.unit for use in uses)
        height, width = self._expansion.height(name), self._expansion.width(name)
        cut = self._tiles(name, height, width, unit)
        places = functools.cache(lambda: self._chunk.places(uses))
        return [functools.partial(self._add, name, places, tile) for tile in cut]

    def _tiles(self, name: str, rows: int, columns: int, unit: int = 1) -> list[Tile]:
        batch, outputs = self._chunk.h.shape
        held = self._second.record.cost(name).times(
            batch, row=outputs * columns, both=_COPIES * outputs
        )
        return tiles(held, rows, columns, self._limit, self._chunk.h.element_size(), unit)

    def _add(self, name: str, places, tile: Tile) -> None:
        with torch.no_grad():
            chunk, (rows, columns) = self._chunk, tile
            u = self._first(name, places, rows)[..., columns].flatten(2)
            v = self._expansion.rows(name, rows, columns)
            v = torch.zeros_like(u) if v is None else v.flatten(2)
            block = chunk.blocks[name]
            whole = torch.arange(block.start, block.stop, device=u.device)
            where = whole.reshape(self._expansion.height(name), -1)[tile].flatten()
            chunk.sums.add(where, chunk.count, chunk.values_of_bent(slice(None), u, v))

    def _first(self, name: str, places, rows: slice) -> Tensor:
        """Return u of some rows, [batch, output, row, column]; kept for their next columns."""
        key = name, rows.start
        if self._jacobian is None or self._jacobian[0] != key:
            self._jacobian = None
            u = functools.reduce(torch.add, (use.jacobian(g, rows) for use, g in places()))
            self._jacobian = key, u.unflatten(2, (rows.stop - rows.start, -1))
        return self._jacobian[1]

    def _units_of_table(self, name: str, use: Lookup) -> list[Unit]:
        """Cut what each example looks up, not the table."""
        chunk = self._chunk
        places = split_rows(use.indices, chunk.batch, use.order)
        looked = places.sort(1).values
        new = torch.ones_like(looked, dtype=torch.bool)
        new[:, 1:] = looked[:, 1:] != looked[:, :-1]
        slots = torch.where(new & (looked != use.padding), looked, -1)
        slots = slots.sort(1, descending=True).values
        slots = slots[:, : max(1, int((slots >= 0).sum(1).max()))]
        examples = torch.arange(chunk.batch, device=slots.device).unsqueeze(1)
        owner = torch.empty_like(use.indices)
        flat = split_rows(torch.arange(len(owner), device=slots.device), chunk.batch, use.order)
        owner[flat] = examples.expand_as(flat)
        cut = self._tiles(name, slots.shape[1], use.shape[1])
        g = functools.cache(lambda: chunk.places([use])[0][1])
        return [
            functools.partial(self._add_looked_up, name, use, g, owner, slots, tile) for tile in cut
        ]

    def _add_looked_up(self, name, use, g, owner, slots, tile: Tile) -> None:
        with torch.no_grad():
            chunk, (some, columns) = self._chunk, tile
            slots = slots[:, some]
            example, slot = (slots >= 0).nonzero(as_tuple=True)
            v = self._expansion.looked_up(name, owner, slots, columns)
            hits = (split_rows(use.indices, chunk.batch, use.order).unsqueeze(1)
                    == slots.unsqueeze(2)).to(chunk.h.dtype)  # fmt: skip
            u = torch.einsum("obsf,brs->borf", g()[..., columns], hits)[example, :, slot]
            v = torch.zeros_like(u) if v is None else v[example, :, slot]
            values = chunk.values_of_bent(example, u, v)
            block = chunk.blocks[name]
            chunk.put_looked_up(block, use, slots[example, slot], columns, values)
