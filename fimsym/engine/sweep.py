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


def every_output(
    start: Start, graph: Graph, nodes: Sequence[Any], batched: bool
) -> dict[Any, Tensor]:
    """Return ∂h_c/∂(result of each node), [output, *shape of the result].

    Args:
        start: Where to begin.
        graph: The graph.
        nodes: Where to end.
        batched: Take all outputs in one batched backward pass.
    """
    if start.edge is None or not nodes:
        return {}
    batch, outputs = graph.h.shape
    if start.seeds is None:
        eye = torch.eye(outputs, dtype=graph.h.dtype, device=graph.h.device)
        seeds = eye.unsqueeze(1).expand(outputs, batch, outputs)
    else:
        seeds = start.seeds.expand(outputs, batch, start.seeds.shape[-1])
    edges = [GradientEdge(node, 0) for node in nodes]
    given = {"retain_graph": True, "allow_unused": True}
    if batched and outputs > 1:
        found = torch.autograd.grad([start.edge], edges, [seeds], is_grads_batched=True, **given)
        return {n: g for n, g in zip(nodes, found, strict=True) if g is not None}
    rows = [
        torch.autograd.grad([start.edge], edges, [seed.contiguous()], **given) for seed in seeds
    ]
    return {
        node: torch.stack(found)
        for node, found in zip(nodes, zip(*rows, strict=True), strict=True)
        if found[0] is not None
    }
