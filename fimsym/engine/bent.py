"""Shared parameters in which h is not affine: u and v of some rows and columns at a time."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fimsym.engine.chunk import Chunk
from fimsym.engine.curvatures import Second
from fimsym.engine.parts import unit_of
from fimsym.engine.tables import put, seen, slots_of
from fimsym.engine.tiles import Tile, tiles
from fimsym.engine.uses import Lookup, Use, split_rows
from fimsym.engine.work import Unit

_COPIES = 8
"""Tensors of the size of u that are held where closed forms are evaluated."""


class Bent:
    """Adds the quantities of shared parameters, tile by tile.

    Gradients, and what is made of them, are kept for one parameter at a time.

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
        self._held: tuple[str, list[tuple[Use, Tensor]]] | None = None
        self._jacobian: tuple[int, Tensor] | None = None

    def units(self, name: str, uses: list[Use]) -> list[Unit]:
        """Return the work that a parameter takes."""
        uses = [use for use in uses if self._chunk.reaches(use)]
        if len(uses) == 1 and isinstance(uses[0], Lookup):
            return self._units_of_table(name, uses[0])
        unit = unit_of(uses)
        height, width = self._expansion.height(name), self._expansion.width(name)
        cut = self._tiles(name, height, width, unit)
        return [functools.partial(self._add, name, uses, tile, tile is cut[-1]) for tile in cut]

    def _places(self, name: str, uses: list[Use]) -> list[tuple[Use, Tensor]]:
        if self._held is None or self._held[0] != name:
            self._release()
            self._held = name, self._chunk.places(uses)
        return self._held[1]

    def _release(self) -> None:
        for use, _ in () if self._held is None else self._held[1]:
            use.release()
        self._held = self._jacobian = None

    def _tiles(self, name: str, rows: int, columns: int, unit: int = 1) -> list[Tile]:
        batch, outputs = self._chunk.h.shape
        held = self._second.cost(name).times(batch, row=outputs * columns, both=_COPIES * outputs)
        h = self._chunk.h
        return tiles(held, rows, columns, self._limit, h.element_size(), h.device, unit)

    def _add(self, name: str, uses: list[Use], tile: Tile, last: bool) -> None:
        with torch.no_grad():
            chunk, (rows, columns) = self._chunk, tile
            u = self._first(name, uses, rows)[..., columns].flatten(2)
            v = self._expansion.rows(name, rows, columns)
            v = torch.zeros_like(u) if v is None else v.flatten(2)
            block = chunk.blocks[name]
            whole = torch.arange(block.start, block.stop, device=u.device)
            where = whole.reshape(self._expansion.height(name), -1)[tile].flatten()
            chunk.sums.add(where, chunk.count, chunk.values.of_bent(u, v, slice(None)))
            if last:
                self._release()

    def _first(self, name: str, uses: list[Use], rows: slice) -> Tensor:
        """Return u of some rows, [batch, output, row, column]; kept for their next columns."""
        places = self._places(name, uses)
        if self._jacobian is None or self._jacobian[0] != rows.start:
            self._jacobian = None
            u = functools.reduce(torch.add, (use.jacobian(g, rows) for use, g in places))
            self._jacobian = rows.start, u.unflatten(2, (rows.stop - rows.start, -1))
        return self._jacobian[1]

    def _units_of_table(self, name: str, use: Lookup) -> list[Unit]:
        """Cut what each example looks up, not the table."""
        chunk = self._chunk
        slots = slots_of(use, chunk.batch)
        examples = torch.arange(chunk.batch, device=slots.device).unsqueeze(1)
        owner = torch.empty_like(use.indices, dtype=torch.long)
        flat = split_rows(torch.arange(len(owner), device=slots.device), chunk.batch, use.order)
        owner[flat] = examples.expand_as(flat)
        cut = self._tiles(name, slots.shape[1], use.shape[1])
        add = self._add_looked_up
        return [
            functools.partial(add, name, use, owner, slots, tile, tile is cut[-1]) for tile in cut
        ]

    def _add_looked_up(self, name, use, owner, slots, tile: Tile, last: bool) -> None:
        with torch.no_grad():
            chunk, (some, columns) = self._chunk, tile
            ((_, g),) = self._places(name, [use])
            block, height = chunk.blocks[name], use.shape[0]
            held = chunk.sums.held(slice(block.start, block.stop), height, chunk.count)
            now = None if held is None else held + seen(slots[:, : some.start], height)
            if held is not None and last:
                held += seen(slots, height)
            slots = slots[:, some]
            example, slot = (slots >= 0).nonzero(as_tuple=True)
            v = self._expansion.looked_up(name, owner, slots, columns)
            hits = (split_rows(use.indices, chunk.batch, use.order).unsqueeze(1)
                    == slots.unsqueeze(2)).to(chunk.h.dtype)  # fmt: skip
            u = torch.einsum("obsf,brs->borf", g[..., columns], hits)[example, :, slot]
            v = torch.zeros_like(u) if v is None else v[example, :, slot]
            values = chunk.values.of_bent(u, v, example)
            row = slots[example, slot]
            put(chunk.sums, block, use.shape, row, columns, values, now)
            if last:
                self._release()
