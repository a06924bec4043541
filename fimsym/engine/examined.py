"""Which second derivatives by tangents hold, found out on one or two inputs in float64.

The rules of single operations are compared with double backward in the tests; what a network
makes of them is compared with it here, at some entries of every parameter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.allocations import Allocations, out_of_memory
from fimsym.engine.classes import Classes
from fimsym.engine.expansion import Expansion
from fimsym.engine.network import Network
from fimsym.engine.tape import Plans
from fimsym.engine.tiles import Cost, measured

_TOLERANCE = 1e-10
_ROUNDED = 1e-2
"""How closely derivatives in float32 must agree with those in float64."""
_NEGLIGIBLE = 1e-12
"""Of the largest derivative that is seen: smaller ones may be rounding."""
_ROUNDED_AWAY = 1e-5
"""The same in float32."""
_COPIES = 2
_LITTLE = 4_000_000
"""Bytes that are not worth measuring: every direction holds a few times what there is."""
_UNTAPED = (RuntimeError, AttributeError, ValueError)
"""What is raised, beside `NoTape`, where an operation is unlike those that are known."""


@dataclasses.dataclass
class Examined:
    """What is known of networks that do the same things.

    Attributes:
        right: Parameters whose second derivatives agree with double backward.
        zero: Those of them whose second derivatives vanish, off the kinks of what is
            piecewise linear.
        base: Numbers that an expansion holds for one input.
        shape: Of this input.
        plans: Of their tapes; None if there is none.
    """

    right: frozenset[str] = frozenset()
    zero: frozenset[str] = frozenset()
    base: float = 0.0
    shape: torch.Size | None = None
    plans: Plans | None = None
    _costs: dict[tuple[str, torch.Size], Cost] = dataclasses.field(default_factory=dict)

    def share_costs(self, other: Examined | None) -> None:
        """Take over what is known of the costs of networks that do the same things."""
        if other and self.plans and other.plans and self.plans.signature == other.plans.signature:
            self._costs = other._costs

    def cost(self, name: str, shape: torch.Size, expansion: Expansion) -> Cost:
        """Return what rows and columns of a parameter take for one input.

        Args:
            name: The parameter.
            shape: Shape of an input.
            expansion: Of inputs of this shape, where it is measured the first time.
        """
        if name in self.zero:
            return Cost()
        sizes = expansion.height(name), expansion.width(name)
        most = Cost(fixed=_COPIES * self.base, both=_COPIES * self.base)
        held = most.of(*sizes) * len(expansion.h) * expansion.h.element_size()
        if shape == self.shape and held <= _LITTLE:
            return most
        if (name, shape) not in self._costs:
            expansion.prepare()
            run = lambda r, c: expansion.rows(name, range(r), range(c))  # noqa: E731
            size = expansion.h.element_size() * len(expansion.h)
            run(1, 1)  # keeps what all directions share
            self._costs[name, shape] = measured(run, *sizes, size)
        return self._costs[name, shape]


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Derivatives of Σ_b ⟨r, h_b⟩ at some entries of a parameter.

    Attributes:
        places: Rows and columns of the entries.
        first: First derivatives there.
        second: Second ones.
    """

    places: list[tuple[int, int]]
    first: Tensor
    second: Tensor


def expanded(network: Network, inputs: Tensor, law: Classes | None = None) -> Expansion | None:
    """Return the expansion of some inputs, or None if there is none.

    Raises:
        RuntimeError: memory ran out.
    """
    try:
        return Expansion(network, inputs, law)
    except _UNTAPED as error:
        _unless_out_of_memory(error)
        return None


def _unless_out_of_memory(error: Exception) -> None:
    """Raise an error that says nothing about a network."""
    if out_of_memory(error):
        raise error


def examine(network: Network, inputs: Tensor) -> Examined:
    """Compare second derivatives by every parameter with double backward.

    Args:
        network: The network.
        inputs: One or two inputs.

    Raises:
        RuntimeError: memory ran out.
    """
    wide = inputs.double() if inputs.is_floating_point() else inputs
    with Allocations() as counted:
        exact = expanded(network.double, wide)
        if exact is not None:
            try:
                exact.prepare()
            except _UNTAPED as error:
                _unless_out_of_memory(error)
                return Examined()
    own = exact if network.dtype == torch.float64 else expanded(network, inputs)
    if exact is None or own is None or exact.tape.signature != own.tape.signature:
        return Examined()
    r = torch.linspace(0.5, 1.5, exact.h.shape[1], dtype=torch.float64).to(inputs.device)
    try:
        truth = _sampled(network.double, wide, r)
    except RuntimeError as error:
        _unless_out_of_memory(error)
        return Examined()
    floor = _floor(truth.values(), float(exact.h.detach().abs().max()))
    still = {name for name in network.names if not exact.plan_of(name).steps}
    zero = {name for name in still if not truth[name].second.any()}
    right = {
        n for n, one in truth.items() if n not in still and _agree(n, exact, own, one, r, floor)
    }
    base = counted.peak / exact.h.element_size() / len(inputs)
    shape, plans = inputs.shape[1:], own.tape.plans
    return Examined(frozenset(right | zero), frozenset(zero), base, shape, plans)


def _sampled(network: Network, inputs: Tensor, r: Tensor) -> dict[str, Sampled]:
    """Return derivatives at some entries of every parameter, by double backward."""
    h, leaves = network.traced(inputs)
    given: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    gradients = list(
        torch.autograd.grad((h @ r).sum(), list(leaves.values()), create_graph=True, **given)
    )
    generator, chosen = torch.Generator().manual_seed(0), {}
    for name, leaf in leaves.items():  # what is large is let go of before more is taken
        table = gradients.pop(0).reshape(leaf.shape[0] if leaf.ndim else 1, -1)
        places = _chosen(table.detach(), generator)
        chosen[name] = places, [table[place].clone() for place in places], table.shape
        del table
    found = {}
    for name, (places, entries, shape) in chosen.items():
        bent = [_bend(entry, leaves[name]).reshape(shape)[place].clone()
                for entry, place in zip(entries, places, strict=True)]  # fmt: skip
        found[name] = Sampled(places, torch.stack(entries).detach(), torch.stack(bent))
    return found


def _chosen(table: Tensor, generator: torch.Generator) -> list[tuple[int, int]]:
    """Return the row and column of the largest entry of a gradient, and others."""
    ends = int(table.argmax()), int(table.argmin())
    row, column = divmod(max(ends, key=lambda k: abs(float(table.flatten()[k]))), table.shape[1])
    other = [int(torch.randint(n, (), generator=generator)) for n in table.shape]
    return list(dict.fromkeys([(row, column), (other[0], other[1])]))


def _bend(entry: Tensor, leaf: Tensor) -> Tensor:
    if not entry.requires_grad:
        return torch.zeros_like(leaf)
    given: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    return torch.autograd.grad(entry, leaf, retain_graph=True, **given)[0].detach()


def _floor(truth: Collection[Sampled], size: float) -> tuple[float, float]:
    """Return what first and second derivatives may be off by, where they vanish but rounded.

    Second derivatives that are seen may all be such; then u²/h says how large others are.
    """
    first = max(float(one.first.abs().max()) for one in truth)
    second = max(float(one.second.abs().max()) for one in truth)
    return _NEGLIGIBLE * first, _NEGLIGIBLE * max(second, 1e-3 * first**2 / max(size, 1e-300))


def _agree(name, exact: Expansion, own: Expansion, truth: Sampled, r: Tensor, floor) -> bool:
    try:
        pairs = list(zip(_at(exact, name, truth), (truth.first, truth.second), floor, strict=True))
        for found, one, least in pairs:
            along = torch.einsum("o,bon->n", r, found)
            size = max(
                float(one.abs().max()), float(torch.einsum("o,bon->n", r, found.abs()).max())
            )
            if not bool((along - one).abs().max() <= _TOLERANCE * size + least):
                return False
        if own is exact:
            return True
        for rounded, (found, _, least) in zip(_at(own, name, truth), pairs, strict=True):
            limit = _ROUNDED * float(found.abs().max()) + least / _NEGLIGIBLE * _ROUNDED_AWAY
            if not bool((rounded.double() - found).abs().max() <= limit):
                return False
        return True
    except _UNTAPED as error:
        _unless_out_of_memory(error)
        return False


def _at(expansion: Expansion, name: str, truth: Sampled) -> tuple[Tensor, Tensor]:
    """Return u and v at some entries of a parameter, [batch, output, entry]."""
    rows, columns = (list(numbers) for numbers in zip(*truth.places, strict=True))
    u, v = expansion.slopes(name, rows, columns)
    return u.diagonal(dim1=2, dim2=3), v.diagonal(dim1=2, dim2=3)
