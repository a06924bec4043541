"""Uses of parameters: whose are their rows, proven or tried, and do they give the gradient?"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine.backward import at_nodes, vjp
from fimsym.engine.chain import start_of
from fimsym.engine.graph import Graph
from fimsym.engine.memory import at_a_time
from fimsym.engine.parts import unit_of
from fimsym.engine.precision import largest
from fimsym.engine.uses import Use, split_rows

_TOLERANCE = 1e-9
_BLOCK = 2**18
"""Entries of a gradient that are compared at a time."""


@dataclasses.dataclass
class Sizes:
    """How many numbers one input takes.

    Attributes:
        activations: Entries of the results of all uses.
        swept: Those of them at which a gradient of every output is held.
        patches: Entries of what convolutions see at every position.
    """

    activations: int = 0
    swept: int = 0
    patches: int = 0


@dataclasses.dataclass
class Known:
    """What has been found out about graphs of one signature.

    Attributes:
        orders: For each parameter the order of rows of each use.
        sizes: What one input takes.
        sure: Whether the inputs that were tried show it for others: gradients that vanish show
            nothing.
        compared: How many chunks of each kind could have been compared with examples run apart.
        looped: Whether batched backward passes have been found wrong.
    """

    orders: dict[str, list[str]]
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    sure: bool = True
    compared: dict[Hashable, int] = dataclasses.field(default_factory=dict)
    looped: bool = False


def agreeing(graph: Graph, leaves) -> Known:
    """Return the orders of rows of the parameters for which plain gradients agree."""
    h = graph.h
    batch, outputs = h.shape
    w, r = random_weights(outputs, h), random_weights(batch, h)
    known = {name: uses for name, uses in graph.uses.items() if uses is not None}
    nodes = list({use.node for uses in known.values() for use in uses})
    if not nodes:
        return Known({name: [] for name in known})
    seed = w.expand(batch, outputs)
    plain = at_nodes(h, nodes, seed) if graph.outer is None else {}
    names = list(known)
    places = [*(GradientEdge(node, 0) for node in nodes), *(leaves[name] for name in names)]
    found = vjp([h], places, [r[:, None] * seed])
    weighted = dict(zip(nodes, found, strict=False))
    truth = dict(zip(names, found[len(nodes) :], strict=True))
    agreeing, sure = {}, True
    for name, uses in known.items():
        if graph.outer is None:
            orders = [_tried(use, plain[use.node], weighted[use.node], r) for use in uses]
        else:
            orders = [_proven(use, graph.outer, weighted[use.node], batch) for use in uses]
        if not all(orders):
            continue
        try:
            if not _give(uses, weighted, truth[name]):
                continue
        except (RuntimeError, ValueError, IndexError):
            continue
        agreeing[name] = [fitting[0] for fitting in orders]
        shown = [truth[name], *(weighted[use.node] for use in uses)]
        sure &= all(map(_shows, shown))
        sure &= all(len(fitting) == 1 for fitting in orders)
    taken = [use for name in agreeing for use in known[name]]
    return Known(agreeing, _sizes(graph, taken, weighted), sure)


def _sizes(graph: Graph, taken: list[Use], found: Mapping[Any, Tensor | None]) -> Sizes:
    batch = len(graph.h)
    nodes = {use.node for use in taken}
    held = {node: g.numel() // batch for node in nodes if (g := found[node]) is not None}
    start = start_of(graph)
    chained = {start.last, *(link.node for link in start.links)}
    swept = sum(size for node, size in held.items() if node not in chained)
    patches = sum(use.patches for use in taken) // batch
    return Sizes(sum(held.values()), swept, patches)


def _proven(use: Use, outers: Mapping[Any, int], weighted: Tensor | None, batch: int) -> list[str]:
    """Return which axis rows run over first, from where examples lie in the use's result."""
    if weighted is None or batch == 1:
        return ["batch"]
    rows, outer = use.count(weighted.shape), outers.get((use.node, 0))
    if outer == 1 and rows and rows % batch == 0:
        return ["batch"]
    return ["position"] if outer is not None and outer * batch == rows else []


def _tried(use: Use, plain: Tensor | None, weighted: Tensor | None, r: Tensor) -> list[str]:
    """Return which axis rows may run over first; nothing if they belong to no single example."""
    if plain is None or weighted is None:
        return ["batch"]
    try:
        one, other = use.rows(plain[None])[0], use.rows(weighted[None])[0]
    except RuntimeError:
        return []
    if not len(one) or len(one) % len(r):
        return []
    fitting = []
    for order in ("batch", "position") if len(one) > len(r) else ("batch",):
        many = split_rows(one, len(r), order)
        scale = r.reshape(-1, *[1] * (many.ndim - 1))
        if near(scale * many, split_rows(other, len(r), order), _TOLERANCE):
            fitting.append(order)
    return fitting


def _shows(g: Tensor | None) -> bool:
    """Tell whether a gradient, if there is one, differs from 0 somewhere."""
    return g is None or bool(g.numel() and largest(g) > 0)


def _give(uses: list[Use], weighted: Mapping[Any, Tensor | None], truth: Tensor | None) -> bool:
    """Tell whether the uses of a parameter add up to its gradient, some rows at a time."""
    given = [
        (use, use.rows(g[None]).unsqueeze(1))
        for use in uses
        if (g := weighted[use.node]) is not None
    ]
    if truth is None or not given:
        return truth is None
    if not truth.numel():
        return True
    height = truth.shape[0] if truth.ndim else 1
    flat = truth.reshape(height, -1)
    unit = unit_of(use for use, _ in given)
    most = at_a_time(_BLOCK, flat.device)
    size = max(1, most // max(1, flat.shape[1] * unit)) * unit
    limit = _TOLERANCE * (largest(flat) + torch.finfo(flat.dtype).tiny)
    for first in range(0, height, size):
        part = slice(first, min(first + size, height))
        ruled = functools.reduce(torch.add, (use.jacobian(rows, part) for use, rows in given))
        gap = ruled.flatten().sub_(flat[part].flatten())
        if not bool(largest(gap) <= limit):
            return False
    return True


def ordered(uses: Iterable[Use] | None, orders: Iterable[str]) -> list[Use]:
    """Return known uses with their orders."""
    uses = uses or ()
    return [dataclasses.replace(use, order=order) for use, order in zip(uses, orders, strict=True)]


def near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Tell whether two tensors agree relative to the largest entry."""
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return bool((one == other).all())
    other = other.to(one.dtype)
    if not other.numel():
        return True
    size = largest(other) + torch.finfo(one.dtype).tiny
    return bool(largest(one - other) <= tolerance * size)


def loose(dtype: torch.dtype) -> float:
    """Return how closely gradients agree that were rounded at every layer."""
    return (1e3 * torch.finfo(dtype).eps) ** 0.5


def random_weights(size: int, like: Tensor) -> Tensor:
    """Return fixed random numbers away from 0, like a tensor."""
    generator = torch.Generator().manual_seed(size)
    draws = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    signs = torch.rand(size, generator=generator, dtype=torch.float64) - 0.5
    return (draws * signs.sign()).to(like.device, like.dtype)
