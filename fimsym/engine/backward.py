"""Backward passes from given seeds.

`torch.autograd.grad` compares the shapes of seeds in Python, by functions that import SymPy:
54 MB and half a second that no network needs. The pass itself compares them, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, _engine_run_backward

Place = Tensor | GradientEdge


def vjp(
    outputs: Sequence[Place],
    inputs: Sequence[Place],
    seeds: Sequence[Tensor],
    create_graph: bool = False,
) -> tuple[Any, ...]:
    """Return Σ_k ∂⟨seed_k, output_k⟩/∂input for every input; the graph stays.

    Args:
        outputs: Tensors, or places in their graph.
        inputs: Where gradients are wanted; None comes back where no output depends on one.
        seeds: One for each output, of its shape.
        create_graph: Let the gradients be differentiated again.
    """
    keep, missing = True, True
    return _engine_run_backward(
        tuple(outputs), tuple(seeds), keep, create_graph, tuple(inputs), missing,
        accumulate_grad=False,
    )  # fmt: skip


def batched_vjp(output: Place, inputs: Sequence[Place], seeds: Tensor) -> list[Any]:
    """Return ∂⟨seed, output⟩/∂input for every input and seed in one pass, [seed, …].

    Args:
        output: A tensor, or a place in its graph.
        inputs: Where gradients are wanted; None comes back where the output depends on none.
        seeds: [seed, *shape of the output].
    """
    reached: list[bool] = []

    def pull(seed: Tensor) -> list[Tensor]:
        rows = vjp([output], inputs, [seed])
        reached[:] = [g is not None for g in rows]
        return [g for g in rows if g is not None]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        held = iter(torch.vmap(pull)(seeds))
    return [next(held) if is_reached else None for is_reached in reached]


def at_nodes(h: Tensor, nodes: Sequence[Any], seed: Tensor) -> dict[Any, Any]:
    """Return ∂⟨seed, h⟩/∂(result) for every node of the graph of h."""
    if not nodes:
        return {}
    edges = [GradientEdge(node, 0) for node in nodes]
    return dict(zip(nodes, vjp([h], edges, [seed]), strict=True))
