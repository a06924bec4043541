"""How a parameter enters the network, and u of it from gradients at that place.

A use is one operation of the autograd graph that takes the parameter: a matrix product, a
convolution, a lookup, a scale or a shift. The gradient g of an output c with respect to the
operation's result gives that use's part of u = ∂h_c/∂θ; u is the sum over all uses and over
the positions (time steps, pixels) of one example.

Source: chain rule; for a matrix product z = W a, ∂h/∂W = Σ_t g_t a_tᵀ.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

ALL = slice(None)


@dataclasses.dataclass
class Use:
    """One operation that takes a parameter.

    Attributes:
        node: The operation in the autograd graph.
        shape: Shape of the parameter.
        order: ``"batch"`` or ``"position"``, whichever axis its rows run over first.
    """

    node: Any
    shape: torch.Size
    order: str = dataclasses.field(default="batch", kw_only=True)

    @property
    def data(self) -> Tensor | None:
        """What it knows of every row, [row, …], if anything."""
        return None

    @property
    def unit(self) -> int:
        """The parameter's first axis is cut at multiples of it."""
        return 1

    @property
    def patches(self) -> int:
        """Number of entries that are built next to g and u."""
        return 0

    def count(self, shape: Sequence[int]) -> int:
        """Return how many rows a result of a shape has."""
        return shape[0]

    def rows(self, g: Tensor) -> Tensor:
        """Return g [output, *shape of the result] as [output, row, *channels]."""
        return g

    def release(self) -> None:
        """Give back what `jacobian` keeps from one part to the next."""
        return

    def jacobian(self, g: Tensor, part: slice, examples: slice = ALL) -> Tensor:
        """Return u of this use for part of the parameter's first axis.

        Args:
            g: Gradients at the result, [output, batch, position, *channels].
            part: Range of the first axis.
            examples: Range of the batch.

        Returns:
            [batch, output, param], a tensor of its own.
        """
        raise NotImplementedError


@dataclasses.dataclass
class Product(Use):
    """A matrix product a W or a Wᵀ, [row, in] to [row, out].

    Attributes:
        inputs: a, [row, in].
        transposed: The parameter is [out, in], as in a linear layer.
    """

    inputs: Tensor
    transposed: bool

    @property
    @override
    def data(self) -> Tensor | None:
        return self.inputs

    @override
    def jacobian(self, g: Tensor, part: slice, examples: slice = ALL) -> Tensor:
        a = split_rows(self.inputs, g.shape[1], self.order)[examples]
        g = g[:, examples]
        outputs, batch, positions, _ = g.shape
        if self.transposed:
            g = g[..., part]
        else:
            a = a[..., part]
        left = g.permute(1, 2, 0, 3).reshape(batch, positions, -1).mT
        u = torch.bmm(left, a) if positions > 1 else left * a
        u = u.reshape(batch, outputs, g.shape[-1], a.shape[-1])
        return (u if self.transposed else u.mT).flatten(2)


@dataclasses.dataclass
class Convolution(Use):
    """A convolution over any number of axes, [row, in, *positions] to [row, out, *positions].

    Attributes:
        inputs: a, [row, in, *positions].
        stride: Steps along each axis; likewise padding and dilation.
        groups: Number of groups of channels.
    """

    inputs: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    _patches: Tensor | None = None

    @property
    @override
    def data(self) -> Tensor | None:
        return self.inputs

    @property
    @override
    def unit(self) -> int:
        return self.shape[0] // self.groups if self.groups > 1 else 1

    @property
    @override
    def patches(self) -> int:
        window = self.shape[2:].numel()
        return window * self.inputs.numel()

    @override
    def release(self) -> None:
        self._patches = None

    @override
    def jacobian(self, g: Tensor, part: slice, examples: slice = ALL) -> Tensor:
        if self._patches is None:
            self._patches = self._unfolded(g.shape[1])
        patches = self._patches[examples]
        g = g[:, examples, :, part].flatten(4)
        outputs, batch, repeats, channels, places = g.shape
        groups = 1
        if self.groups > 1:
            groups = channels // self.unit
            first = part.start // self.unit
            patches = patches[:, first : first + groups]
        g = g.reshape(outputs, batch, repeats, groups, -1, places)
        left = g.permute(1, 3, 0, 4, 2, 5).reshape(batch * groups, -1, repeats * places)
        u = torch.bmm(left, patches.reshape(batch * groups, -1, repeats * places).mT)
        u = u.reshape(batch, groups, outputs, -1, u.shape[-1])
        return u.transpose(1, 2).reshape(batch, outputs, -1)

    def _unfolded(self, batch: int) -> Tensor:
        """Return what each position sees, [batch, group, window, repeat · position]."""
        axes = self.inputs.ndim - 2
        padding = [size for pad in reversed(self.padding) for size in (pad, pad)]
        a = functional.pad(self.inputs, padding)
        for axis in range(axes):
            span = self.dilation[axis] * (self.shape[2 + axis] - 1) + 1
            a = a.unfold(2 + axis, span, self.stride[axis])[..., :: self.dilation[axis]]
        a = split_rows(a, batch, self.order)  # batch, repeat, in, *positions, *window
        a = a.unflatten(2, (self.groups, -1))
        places = range(4, 4 + axes)
        windows = range(4 + axes, 4 + 2 * axes)
        a = a.permute(0, 2, 3, *windows, 1, *places)
        return a.reshape(batch, self.groups, self.shape[1:].numel(), -1)


@dataclasses.dataclass
class Lookup(Use):
    """Rows of a table, as in an embedding: indices [row] to [row, feature].

    Attributes:
        indices: Which row of the table each row takes.
        padding: A row of the table that has no gradient, or −1.
    """

    indices: Tensor
    padding: int

    @property
    @override
    def data(self) -> Tensor | None:
        return self.indices

    @override
    def count(self, shape: Sequence[int]) -> int:
        return math.prod(shape[:-1])

    @override
    def rows(self, g: Tensor) -> Tensor:
        return g.reshape(g.shape[0], -1, self.shape[1])

    @override
    def jacobian(self, g: Tensor, part: slice, examples: slice = ALL) -> Tensor:
        places = split_rows(self.indices, g.shape[1], self.order)[examples]
        g = g[:, examples]
        outputs, batch, _, features = g.shape
        height = part.stop - part.start
        inside = (places >= part.start) & (places < part.stop) & (places != self.padding)
        example, position = inside.nonzero(as_tuple=True)
        u = g.new_zeros(batch * height, outputs, features)
        rows = example * height + places[example, position] - part.start
        u.index_add_(0, rows, g[:, example, position].transpose(0, 1).contiguous())
        return u.reshape(batch, height, outputs, features).transpose(1, 2).flatten(2)


@dataclasses.dataclass
class Affine(Use):
    """A scale or a shift along some axes: [row, *channels] to the same.

    Attributes:
        factor: What the parameter is multiplied by, [row, *channels] or broadcast to it;
            None for a shift.
        sign: Multiplies g, −1 where the parameter is subtracted.
        along: The parameter's shape next to channels, 1 where it is broadcast.
    """

    factor: Tensor | None
    sign: float
    along: tuple[int, ...]

    @property
    @override
    def data(self) -> Tensor | None:
        return self.factor

    @override
    def count(self, shape: Sequence[int]) -> int:
        return math.prod(shape[: len(shape) - len(self.along)])

    @override
    def rows(self, g: Tensor) -> Tensor:
        kept = len(self.along)
        return g.reshape(g.shape[0], -1, *g.shape[g.ndim - kept :])

    @override
    def jacobian(self, g: Tensor, part: slice, examples: slice = ALL) -> Tensor:
        whole, g = g.shape[1], g[:, examples]
        outputs, batch = g.shape[:2]
        if self.factor is not None:
            g = g * split_rows(self.factor, whole, self.order)[examples]
        broadcast = [3 + axis for axis, size in enumerate(self.along) if size == 1]
        u = g.sum([2, *broadcast], keepdim=True).reshape(outputs, batch, *self.shape)
        if self.sign != 1:
            u = u * self.sign
        u = u[:, :, part] if self.shape else u
        return u.reshape(outputs, batch, -1).transpose(0, 1)


def split_rows(rows: Tensor, batch: int, order: str) -> Tensor:
    """Return rows [row, …] as [batch, position, …]."""
    if order == "batch":
        return rows.reshape(batch, -1, *rows.shape[1:])
    return rows.reshape(-1, batch, *rows.shape[1:]).transpose(0, 1)
