"""Unbiased estimates of v = ∂²h/∂θ² where every direction by itself would be too many.

With independent signs z_i = ±1, E z_i (H z)_i = H_ii, so that one Hessian-vector product for
each output estimates v of every parameter at once. V₂ is quadratic in v and takes two
independent estimates; Cov(Î₁, Î₂) is linear in v.

Source: Hutchinson (1990); Bekas, Kokiopoulou & Saad (2007), on diagonals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, jvp, vmap

from fimsym.engine.graph import pads
from fimsym.engine.network import Block, Network
from fimsym.errors import SpecError, UnsupportedError, reason

Product = Callable[[Network, Block, Tensor, Tensor], Tensor]
"""(network, block, inputs [batch, …], z [batch, param]) -> H_c z, [batch, output, param]."""

PAIRS = 8
"""Pairs of probes unless told otherwise."""
_SEEDS = 2**32


@dataclasses.dataclass(frozen=True)
class Probing:
    """How second derivatives are estimated.

    Attributes:
        pairs: Number of independent pairs of probes, at least 2.
        seed: Of the signs.
        rank: Number of this process.
        world: Number of processes, which take inputs in turn.
    """

    pairs: int = PAIRS
    seed: int = 0
    rank: int = 0
    world: int = 1


def probing(
    second_derivative: str, probes: int, seed: int, rank: int = 0, world: int = 1
) -> Probing | None:
    """Return how to estimate second derivatives, None to take them exactly.

    Raises:
        SpecError: an unknown way, fewer than two pairs of probes, or a seed that is none.
    """
    if second_derivative not in ("exact", "stochastic"):
        raise SpecError(
            f"second_derivative must be 'exact' or 'stochastic'; got {second_derivative!r}."
        )
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 2:
        raise SpecError(
            f"probes must be a whole number of at least 2, from which a standard error follows; "
            f"got {probes!r}."
        )
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < _SEEDS:
        raise SpecError(f"seed must be a whole number from 0 to {_SEEDS - 1}; got {seed!r}.")
    return Probing(probes, seed, rank, world) if second_derivative == "stochastic" else None


def forward_over_reverse(network: Network, block: Block, inputs: Tensor, z: Tensor) -> Tensor:
    """Return H_c z by one Jacobian-vector product of the reverse-mode Jacobian."""
    theta = network.theta[block.start : block.stop]

    def one(example, direction):
        gradient = jacrev(lambda values: network.of_block(block, values, example))
        return jvp(gradient, (theta,), (direction,))[1]

    return vmap(one)(inputs, z)


def double_backward(network: Network, block: Block, inputs: Tensor, z: Tensor) -> Tensor:
    """Return H_c z by two backward passes for each input and output."""
    return torch.stack(
        [
            torch.stack(
                [_along(network, block, x, d, row) for row in torch.eye(_outputs(network, x))]
            )
            for x, d in zip(inputs, z, strict=True)
        ]
    )


class Probes:
    """Draws estimates of v, by the faster way that agrees with double backward passes.

    The signs of an input depend on the seed and on its place in the data, not on the inputs
    and parameters that are taken with it.

    Args:
        network: The network.
        probing: Number of pairs, and seed.
    """

    def __init__(self, network: Network, probing: Probing):
        self.pairs = probing.pairs
        self._network = network
        self._double = network.double
        self._probing = probing
        self._product: Product = forward_over_reverse
        self._seen: set[tuple[Block, int]] = set()

    @property
    def way(self) -> str:
        """How second derivatives are taken, and how often."""
        return f"stochastic, {self.pairs} pairs of probes, {self._product.__name__}"

    def __call__(self, block: Block, inputs: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of independent estimates of v, [batch, output, param] each.

        Args:
            block: The parameters.
            inputs: Some inputs.
            count: How many this process has taken before.
        """
        self._choose(block, inputs)
        for pair in range(self.pairs):
            first, second = (self._estimate(block, inputs, count, 2 * pair + n) for n in range(2))
            yield first, second

    def _signs(self, block: Block, inputs: Tensor, count: int, draw: int) -> Tensor:
        """Return the signs of some inputs and parameters, [batch, param]."""
        own = torch.arange(count, count + len(inputs), device=inputs.device)
        upper = (int(self._probing.seed) << 32 ^ 2**63) - 2**63  # as a number with a sign
        key = _mixed(own * self._probing.world + self._probing.rank + upper)
        place = torch.arange(block.start, block.stop, device=inputs.device)
        bits = _mixed(_mixed(key + draw)[:, None] + place)
        return (1 - 2 * (bits & 1)).to(self._network.theta)

    def _estimate(self, block: Block, inputs: Tensor, count: int, draw: int) -> Tensor:
        z = self._signs(block, inputs, count, draw)
        return self._product(self._network, block, inputs, z).detach() * z.unsqueeze(1)

    def _choose(self, block: Block, inputs: Tensor) -> None:
        """Take the slower way for good where the faster one fails or is wrong."""
        key = block, len(inputs)
        if self._product is double_backward or key in self._seen:
            return
        self._seen.add(key)
        padded = pads(self._network.traced(inputs[:1])[0])
        if padded or not self._agrees(block, inputs):
            self._product = double_backward

    def _agrees(self, block: Block, inputs: Tensor) -> bool:
        z = self._signs(block, inputs, 0, 0)
        wide = inputs.double() if inputs.is_floating_point() else inputs
        r = torch.linspace(0.5, 1.5, _outputs(self._network, inputs[0]), dtype=torch.float64)
        truth = _along(self._double, block, wide[-1], z[-1].double(), r)
        try:
            found = forward_over_reverse(self._network, block, inputs, z)[-1]
        except (RuntimeError, NotImplementedError):
            return False
        found = r.to(found.device) @ found.double()
        rounding = (1e3 * torch.finfo(self._network.dtype).eps) ** 0.5
        return bool((found - truth).abs().max() <= rounding * truth.abs().max() + 1e-30)


def _mixed(x: Tensor) -> Tensor:
    """Return 64 bits that look random and depend on every bit of whole numbers.

    Source: Steele, Lea & Flood (2014), the finalizer of SplitMix64.
    """
    x = x * -7046029254386353131  # wraps around
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _outputs(network, example) -> int:
    return network.forward(example.unsqueeze(0)).shape[1]


def _along(network, block, example, z, r) -> Tensor:
    """Return ∂/∂θ of ⟨z, ∂⟨r, h⟩/∂θ⟩ over the block, [param]."""
    theta = network.theta[block.start : block.stop].clone().requires_grad_()
    given: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
    h = network.of_block(block, theta, example)
    if not h.requires_grad:
        return torch.zeros_like(theta)
    try:
        (first,) = torch.autograd.grad(h @ r.to(h), theta, create_graph=True, **given)
        if not first.requires_grad:
            return torch.zeros_like(theta)
        return torch.autograd.grad(first @ z, theta, **given)[0]
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(
            f"the model has no second derivatives: {reason(error)} "
            "Replace the operation named there, or ask for fisher and variance_score_squared "
            "alone, which need first derivatives only."
        ) from None
