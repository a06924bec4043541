"""Gradients of every output at chosen operations of the autograd graph.

m vector-Jacobian products give ∂h_c/∂z of every output c and example at once, since an
example's output depends on its own rows alone; weights need no gradient. They start at the
input of the output layer where there is one, so that no m×m identity is ever seeded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine import classes
from fimsym.engine.graph import ELEMENTWISE, Graph

_PRODUCTS = ("AddmmBackward0", "MmBackward0")


@dataclasses.dataclass
class Start:
    """Where backward passes begin, with ∂h_c/∂(there) known.

    Attributes:
        edge: The place in the graph; None if nothing trainable is below it.
        seeds: Its derivative by output, [output, batch or 1, features]; None for h itself,
            whose derivative is the identity.
        last: The output layer's node, if it is one.
        below: The node whose result elementwise functions turn into the layer's input.
    """

    edge: GradientEdge | None
    seeds: Tensor | None
    last: Any = None
    below: Any = None


def start_of(graph: Graph) -> Start:
    """Return where to begin: at the input of the output layer if h comes from one."""
    root = graph.nodes[0]
    if not _is_output_layer(root):
        return Start(GradientEdge(root, 0), None)
    fn, number = root.next_functions[1 if root.name() == "AddmmBackward0" else 0]
    if fn is None:
        return Start(None, None, root)
    seeds = root._saved_mat2.detach().T.unsqueeze(1)
    below = fn
    while below.name() in ELEMENTWISE and below.next_functions[0][0] is not None:
        below = below.next_functions[0][0]
    is_layer = below.name() in _PRODUCTS and below is not fn
    return Start(GradientEdge(fn, number), seeds, root, below if is_layer else None)


def _is_output_layer(root) -> bool:
    """Tell whether a node is a product with a parameter, plus a parameter or nothing.

    Its rows are those of h, so that they are examples.
    """
    if root.name() == "AddmmBackward0":
        (bias, _), _, (weight, _) = root.next_functions
        if not root._saved_alpha == root._saved_beta == 1:
            return False
    elif root.name() == "MmBackward0":
        (bias, (weight, _)) = None, root.next_functions[1]
    else:
        return False
    if weight is not None and weight.name() == "TBackward0":
        weight = weight.next_functions[0][0]
    return all(fn is None or hasattr(fn, "variable") for fn in (bias, weight))


@dataclasses.dataclass
class Gradient:
    """∂h_c/∂z at a place z: the derivative by what an elementwise function makes of it, and φ'.

    Attributes:
        outer: [output, *shape of z].
        slope: φ'(z), [*shape of z]; None for 1.
    """

    outer: Tensor
    slope: Tensor | None = None

    @property
    def whole(self) -> Tensor:
        """∂h_c/∂z itself, [output, *shape of z]."""
        return self.outer if self.slope is None else self.outer * self.slope


def every_output(
    start: Start, graph: Graph, nodes: Sequence[Any], batched: bool, centred: bool = False
) -> dict[Any, Gradient]:
    """Return ∂h_c/∂(result of each node).

    Args:
        start: Where to begin.
        graph: The graph.
        nodes: Where to end.
        batched: Take all outputs in one batched backward pass.
        centred: Return ∂(h_c − Σ_j p_j h_j)/∂(result) instead, p held fixed, except at the
            layer below the output layer.
    """
    if start.edge is None or not nodes:
        return {}
    batch, outputs = graph.h.shape
    seeds = start.seeds
    if seeds is None:
        seeds = torch.eye(outputs, dtype=graph.h.dtype, device=graph.h.device).unsqueeze(1)
    seeds = seeds.expand(outputs, batch, seeds.shape[-1])
    known = {}
    if start.below in nodes:
        known[start.below] = Gradient(seeds, _slope(start.edge, start.below, seeds[0]))
    rest = [node for node in nodes if node is not start.below]
    if centred and rest:
        seeds = classes.centred(graph.h.detach(), seeds[:, :1])
    after = [graph.elementwise_after(node) or node for node in rest]
    found = _swept(start.edge, [GradientEdge(node, 0) for node in after], seeds, batched)
    for node, place, outer in zip(rest, after, found, strict=True):
        if outer is None:
            continue
        slope = None if place is node else _slope(GradientEdge(place, 0), node, outer[0])
        known[node] = Gradient(outer, slope)
    return known


def _slope(edge: GradientEdge, node: Any, like: Tensor) -> Tensor:
    """Return φ' of the elementwise functions between a node and what they end in."""
    ones = torch.ones_like(like, memory_format=torch.contiguous_format)
    (slope,) = torch.autograd.grad([edge], [GradientEdge(node, 0)], [ones], retain_graph=True)
    return slope


def _swept(edge, ends, seeds, batched) -> Sequence[Tensor | None]:
    """Return the gradients at every end for every seed, [seed, …]."""
    if not ends:
        return []
    given = {"retain_graph": True, "allow_unused": True}
    if batched and len(seeds) > 1:
        return torch.autograd.grad([edge], ends, [seeds], is_grads_batched=True, **given)
    rows = [torch.autograd.grad([edge], ends, [seed.contiguous()], **given) for seed in seeds]
    return [
        None if found[0] is None else torch.stack([g for g in found if g is not None])
        for found in zip(*rows, strict=True)
    ]
