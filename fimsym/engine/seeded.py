"""One backward pass for a whole batch: sums over examples of powers of s_b = ∂⟨r_b, o_b⟩/∂θ.

r is the seed, one vector for each example: a score ∂ log p(y_b|o_b)/∂o_b, or a probe. A matrix
product used once per example has s_b(W_ij) = g_bi a_bj, so that Σ_b s_bᵏ is one product of
powers, (gᵏ)ᵀ aᵏ; a parameter used at several positions has s_b = Σ_t g_t a_tᵀ, which is built
for some of its rows at a time. Any other takes per-example gradients by `torch.func`.

Source: chain rule; Goodfellow (2015), on squared norms of per-example gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import grad, vmap

from fimsym.engine.backward import at_nodes
from fimsym.engine.graph import Graph
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Block, Network
from fimsym.engine.parts import device_of, unit_of
from fimsym.engine.uses import Lookup, Product, Use, split_rows

Uses = Mapping[str, list[Use]]
"""Every use of each parameter, its rows known to belong to examples."""

_ENTRIES = 2**21
"""Entries of s that are built at a time."""


def power_sums(
    network: Network,
    graph: Graph,
    uses: Uses,
    inputs: Tensor,
    seed: Tensor,
    powers: Collection[int] = (2,),
) -> dict[int, Tensor]:
    """Return Σ_b s_bᵏ over the examples b of a batch, for every parameter and power k.

    Args:
        network: The network.
        graph: Graph of its forward pass of the inputs; it stays usable.
        uses: As `Alignment.uses` returns them. Parameters without an entry are taken by
            `torch.func`, example by example at once.
        inputs: The batch, [batch, …].
        seed: r, [batch, output].
        powers: The k.

    Returns:
        For each power float64 sums over the flat vector of parameters, [param].
    """
    found = {k: torch.zeros_like(network.theta, dtype=torch.float64) for k in powers}
    seed = seed.to(graph.h)
    given = gradients(graph, uses, seed)
    blocks = dict(network.parameters())
    with torch.no_grad():
        for name, named in uses.items():
            live = [(use, given[use.node]) for use in named if given[use.node] is not None]
            if live:
                _add(found, blocks[name], live, len(seed))
    rest = [name for name in network.names if name not in uses]
    most = at_a_time(_ENTRIES, seed.device)
    for block in network.blocks(max(1, most // len(seed)), rest):
        s = per_example(network, block, inputs, seed).double()
        for k, total in found.items():
            total[block.start : block.stop] = s.pow(k).sum(0)
    return found


def gradients(graph: Graph, uses: Uses, seed: Tensor) -> dict[object, Tensor]:
    """Return Σ_b ∂⟨w_b, o_b⟩/∂z at the result z of every node of the uses, where there is one."""
    nodes = list({use.node: None for named in uses.values() for use in named})
    return at_nodes(graph.h, nodes, seed)


def by_position(use: Use, g: Tensor, batch: int) -> Tensor:
    """Return the gradient at a use's result as [1, batch, position, *channels]."""
    rows = use.rows(g[None])
    if use.order == "batch":
        return rows.unflatten(1, (batch, -1))
    return rows.unflatten(1, (-1, batch)).transpose(1, 2)


def row_parts(uses: Sequence[Use], batch: int) -> Iterator[slice]:
    """Yield ranges of a parameter's first axis, so small that s of each can be held."""
    shape = uses[0].shape
    height = shape[0] if shape else 1
    unit = unit_of(uses)
    each = batch * max(1, shape.numel() // max(1, height)) * unit
    size = max(1, at_a_time(_ENTRIES, device_of(uses)) // each) * unit
    for first in range(0, height, size):
        yield slice(first, min(first + size, height))


def per_example(network: Network, block: Block, inputs: Tensor, seed: Tensor) -> Tensor:
    """Return s of some parameters, [batch, param]: batched if that is right, else one by one."""
    theta = network.theta[block.start : block.stop]

    def along(values, example, w):
        return network.of_block(block, values, example) @ w

    row = int(seed.abs().amax(1).argmax())
    truth = _plain(along, theta, inputs[row], seed[row])
    try:
        found = vmap(lambda example, w: grad(along)(theta, example, w))(inputs, seed)
        limit = 10 * torch.finfo(theta.dtype).eps ** 0.5 * truth.abs().max()
        if bool((found[row] - truth).abs().max() <= limit):
            return found.detach()
    except (RuntimeError, NotImplementedError):
        pass  # not everything can be vmapped
    return torch.stack([_plain(along, theta, x, w) for x, w in zip(inputs, seed, strict=True)])


def _plain(along, theta, example, w) -> Tensor:
    theta = theta.detach().clone().requires_grad_()
    value = along(theta, example, w)
    if not value.requires_grad:
        return torch.zeros_like(theta)
    (found,) = torch.autograd.grad(value, theta, allow_unused=True, materialize_grads=True)
    return found


def _add(found, block: Block, live: list[tuple[Use, Tensor]], batch: int) -> None:
    """Add one parameter's sums of powers."""
    # Divided by its largest entry, so that no power of g falls below the smallest float32.
    size = functools.reduce(torch.maximum, (g.abs().max() for _, g in live)).double()
    small = size.clamp(min=torch.finfo(live[0][1].dtype).tiny)
    live = [(use, g / small.to(g.dtype)) for use, g in live]
    ((use, g), *others) = live
    for k, total in found.items():
        place = total[block.start : block.stop]
        if not others and isinstance(use, Product) and len(use.inputs) == batch:
            left, right = use.rows(g[None])[0].pow(k), use.inputs.pow(k)
            place += (left.T @ right if use.transposed else right.T @ left).flatten()
        elif not others and isinstance(use, Lookup):
            place += _looked_up(use, by_position(use, g, batch)[0], k).flatten()
        else:
            _add_built(place, live, batch, k)
        place *= small**k


def _add_built(place: Tensor, live, batch: int, k: int) -> None:
    """Add Σ_b s_bᵏ with s itself built, some rows of the parameter at a time."""
    uses = [use for use, _ in live]
    at = [by_position(use, g, batch) for use, g in live]
    row = uses[0].shape[1:].numel()
    for part in row_parts(uses, batch):
        parts = (use.jacobian(g, part) for use, g in zip(uses, at, strict=True))
        s = functools.reduce(torch.add, parts)
        place[part.start * row : part.stop * row] += s.double().pow(k).sum((0, 1))


def _looked_up(use: Lookup, g: Tensor, k: int) -> Tensor:
    """Return Σ_b s_bᵏ of a table, from the rows each example looks up; g [batch, position, …]."""
    batch = len(g)
    rows = split_rows(use.indices, batch, use.order)
    example, position = (rows != use.padding).nonzero(as_tuple=True)
    keys, inverse = (example * use.shape[0] + rows[example, position]).unique(return_inverse=True)
    s = g.new_zeros(len(keys), g.shape[-1], dtype=torch.float64)
    s.index_add_(0, inverse, g[example, position].double())
    total = s.new_zeros(use.shape)
    return total.index_add_(0, keys % use.shape[0], s.pow(k))
