"""The autograd graph of a forward pass: which operations take which parameter.

Layers are not recognised by their modules but by what was computed: whatever module,
function or operator called it, a matrix product is an ``AddmmBackward0`` or ``MmBackward0``
node that holds its input. A parameter of which every use is known needs no weight gradient;
one that enters in any other way is left to the functional road.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fimsym.engine.layout import layout, ruled
from fimsym.engine.placement import ACTIVATIONS, kind_of
from fimsym.engine.uses import Affine, Convolution, Lookup, Product, Use
from fimsym.errors import UnsupportedError

_BATCHED_BADLY = {"CdistBackward0", "PreluKernelBackward0"}
_SAME = {"ReshapeAliasBackward0": "ViewBackward0"}
"""Which of the two a reshape becomes depends on who watches."""
_LOOPED = {"ConvolutionBackward0"}


@dataclasses.dataclass
class Graph:
    """What a forward pass computed.

    Attributes:
        h: Its result, [batch, output].
        nodes: Every operation, each before those it depends on.
        signature: The same for forward passes that computed the same things.
        consumers: For each operation those that take its result, and as which argument.
        uses: For each parameter every use of it; None if one of them is not known.
        others: Leaf tensors that require grad and are none of the parameters.
    """

    h: Tensor
    nodes: list[Any]
    signature: tuple
    consumers: Mapping[Any, list[tuple[Any, int]]]
    uses: dict[str, list[Use] | None]
    others: list[Tensor]

    def elementwise_after(self, node: Any) -> Any:
        """Return the only operation that takes a node's result, if it acts on each element."""
        consumers = self.consumers.get(node, [])
        if len(consumers) == 1 and kind_of(consumers[0][0]) in ACTIVATIONS:
            return consumers[0][0]
        return None

    def above(self, nodes: Iterable[Any]) -> set[Any]:
        """Return every operation that depends on the result of one of these."""
        found: set[Any] = set()
        stack = list(nodes)
        while stack:
            further = {node for node, _ in self.consumers.get(stack.pop(), [])} - found
            found |= further
            stack += further
        return found

    @functools.cached_property
    def positions(self) -> dict[str, tuple[int | None, ...]]:
        """How many rows every use of a parameter has for each example; None for no such number."""

        def each(use: Use) -> int | None:
            rows, batch = use.count(use.node._input_metadata[0].shape), len(self.h)
            return rows // batch if rows and rows % batch == 0 else None

        return {name: tuple(map(each, uses or ())) for name, uses in self.uses.items()}

    @functools.cached_property
    def outer(self) -> dict[tuple[Any, int], int] | None:
        """How many entries of every result examples come after, see `fimsym.engine.layout`.

        None where an operation has no rule.
        """
        return layout((self.nodes[0], self.h.output_nr), len(self.h))

    @property
    def layout(self) -> tuple[int, ...] | None:
        """Where examples lie in results; None where rows may belong to others the next time."""
        return None if self.outer is None else tuple(self.outer.values())

    @functools.cached_property
    def ruled(self) -> bool:
        """Whether all operations are known: batched passes through others may be wrong."""
        return ruled(self.nodes)

    @property
    def loops(self) -> bool:
        """Whether backward passes for several outputs are better taken one by one."""
        return any(node.name() in _LOOPED | _BATCHED_BADLY for node in self.nodes)


KEPT = "_fimsym_parameter"
"""Attribute of leaf tensors in place of parameters: the parameter's name."""


def read(h: Tensor, leaves: Mapping[str, Tensor]) -> Graph:
    """Return the graph of a forward pass that ended with h.

    Args:
        h: Result of the forward pass.
        leaves: The trainable parameters, leaf tensors that require grad.

    Raises:
        UnsupportedError: the graph reaches leaves of an earlier forward pass.
    """
    nodes = walk(h.grad_fn)
    names = {id(leaf): name for name, leaf in leaves.items()}
    places = {node: place for place, node in enumerate(nodes)}
    consumers: dict[Any, list[tuple[Any, int]]] = {}
    signature = []
    owners, others = {}, []
    for node in nodes:
        leaf = getattr(node, "variable", None)
        owner = names.get(id(leaf)) if leaf is not None else None
        if owner is not None:
            owners[owner] = node
        elif hasattr(leaf, KEPT):
            raise UnsupportedError(
                f"the model keeps what it has computed from parameter {getattr(leaf, KEPT)!r} "
                "for its next forward pass, as an attribute or inside of parametrize.cached(): "
                "derivatives would be missing there. Compute it anew in every forward pass."
            )
        elif leaf is not None:
            others.append(leaf)
        edges = []
        for index, (other, number) in enumerate(node.next_functions):
            if other is not None:
                consumers.setdefault(other, []).append((node, index))
                edges.append((places[other], number))
        name = _SAME.get(node.name(), node.name())
        signature.append((name, owner, tuple(edges)))
    uses = {name: _uses(owners.get(name), consumers, leaf.shape) for name, leaf in leaves.items()}
    return Graph(h, nodes, tuple(signature), consumers, uses, others)


def pads(h: Tensor) -> bool:
    """Tell whether an embedding on the way to h gives one of its rows no gradient."""
    nodes = walk(h.grad_fn) if h.requires_grad else []
    tables = [node for node in nodes if node.name() == "EmbeddingBackward0"]
    # Autograd hands −1 out as an unsigned number where there is no padding.
    return any(0 <= node._saved_padding_idx < 2**62 for node in tables)


def walk(root: Any) -> list[Any]:
    """Return every node below the root, in an order that depends on the graph alone."""
    seen, found, stack = {root}, [], [root]
    while stack:
        node = stack.pop()
        found.append(node)
        for other, _ in reversed(node.next_functions):
            if other is not None and other not in seen:
                seen.add(other)
                stack.append(other)
    return found


def _uses(leaf, consumers, shape) -> list[Use] | None:
    """Return every use of a parameter, or None if one is not known."""
    found: list[Use] = []
    for node, index in consumers.get(leaf, []):
        if node.name() == "TBackward0":
            parts = [_product(other, i, shape, True) for other, i in consumers.get(node, [])]
        else:
            rule = _RULES.get(node.name(), _unknown)
            parts = [rule(node, index, shape)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        found += known
    return found


def _unknown(node, index, shape) -> Use | None:
    return None


def _product(node, index, shape, transposed=False) -> Use | None:
    name = node.name()
    if name == "AddmmBackward0" and node._saved_alpha == node._saved_beta == 1:
        if index == 2:
            return Product(node, shape, node._saved_mat1, transposed)
        if index == 0 and not transposed:
            return Affine(node, shape, None, 1.0, tuple(shape))
    if name == "MmBackward0" and index == 1:
        return Product(node, shape, node._saved_self, transposed)
    return None


def _shift(node, shape, sign=1.0) -> Use:
    return Affine(node, shape, None, sign, _along(shape))


def _along(shape) -> tuple[int, ...]:
    """Return a shape without its leading axes of length one."""
    sizes = list(shape)
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return tuple(sizes)


def _convolution(node, index, shape) -> Use | None:
    if index == 2:
        axes = len(node._saved_stride)
        return Affine(node, shape, None, 1.0, (shape[0], *[1] * axes))
    if index != 1 or node._saved_transposed:
        return None
    return Convolution(
        node,
        shape,
        node._saved_input,
        tuple(node._saved_stride),
        tuple(node._saved_padding),
        tuple(node._saved_dilation),
        node._saved_groups,
    )


def _embedding(node, index, shape) -> Use | None:
    if node._saved_scale_grad_by_freq or node._saved_sparse:
        return None
    indices = node._saved_indices.reshape(-1)
    padding = node._saved_padding_idx
    # Autograd hands −1 out as an unsigned number where there is no padding.
    return Lookup(node, shape, indices, padding if padding < shape[0] else -1)


def _layer_norm(node, index, shape) -> Use | None:
    if index == 2:
        return Affine(node, shape, None, 1.0, tuple(shape))
    if index != 1:
        return None
    x, mean, scale = node._saved_input, node._saved_result1, node._saved_result2
    factor = ((x - mean) * scale).reshape(-1, *shape)
    return Affine(node, shape, factor, 1.0, tuple(shape))


def _group_norm(node, index, shape) -> Use | None:
    x = node._saved_input
    along = (shape[0], *[1] * (x.ndim - 2))
    if index == 2:
        return Affine(node, shape, None, 1.0, along)
    if index != 1:
        return None
    rows, groups = x.shape[0], node._saved_group
    mean, scale = node._saved_result1, node._saved_result2
    grouped = x.reshape(rows, groups, -1)
    factor = (grouped - mean.reshape(rows, groups, 1)) * scale.reshape(rows, groups, 1)
    return Affine(node, shape, factor.reshape(x.shape), 1.0, along)


def _batch_norm(node, index, shape) -> Use | None:
    if node._saved_training:
        return None
    x = node._saved_input
    along = (shape[0], *[1] * (x.ndim - 2))
    if index == 2:
        return Affine(node, shape, None, 1.0, along)
    if index != 1:
        return None
    mean, variance = node._saved_running_mean, node._saved_running_var
    epsilon = node._saved_epsilon if hasattr(node, "_saved_epsilon") else node._saved_eps
    scale = (variance + epsilon).rsqrt()
    factor = (x - mean.reshape(along)) * scale.reshape(along)
    return Affine(node, shape, factor, 1.0, along)


def _add(node, index, shape) -> Use | None:
    return _shift(node, shape, float(node._saved_alpha) if index == 1 else 1.0)


def _sub(node, index, shape) -> Use | None:
    return _shift(node, shape, -float(node._saved_alpha) if index == 1 else 1.0)


def _mul(node, index, shape) -> Use | None:
    other = node._saved_self if index == 1 else node._saved_other
    if other is None or other.ndim < len(shape):
        return None
    along = _along(shape)
    if other.ndim == len(along):
        return None  # the result may be the parameter's own size, without examples
    factor = other.reshape(-1, *other.shape[other.ndim - len(along) :])
    return Affine(node, shape, factor, 1.0, along)


_RULES = {
    "AddmmBackward0": _product,
    "MmBackward0": _product,
    "ConvolutionBackward0": _convolution,
    "EmbeddingBackward0": _embedding,
    "NativeLayerNormBackward0": _layer_norm,
    "NativeGroupNormBackward0": _group_norm,
    "NativeBatchNormBackward0": _batch_norm,
    "CudnnBatchNormBackward0": _batch_norm,
    "AddBackward0": _add,
    "SubBackward0": _sub,
    "MulBackward0": _mul,
}
