"""The structured road: linear layers by the rank-one rule, without weight Jacobians.

A linear layer used once per example, z = W a + b, has u(W_ij) = (∂h/∂z_i) a_j and
v(W_ij) = (∂²h/∂z_i²) a_j². So I of a weight is that of its neuron times a_j², and V₁, V₂ and
Cov(Î₁, Î₂) those of its neuron times a_j⁴: the closed forms are evaluated once per neuron,
and one matrix product per quantity sums over inputs.

Which layers are used once, and nowhere else, is not guessed: on every chunk of inputs the
rule is compared with plain gradients in float64, and a layer where they differ is left to
the functional road.

Source: Soen & Sun (2024), section 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimsym.engine.analysis import Accumulator
from fimsym.engine.head import Head
from fimsym.engine.layers import Layer, linear_layers, trace
from fimsym.engine.network import Network

_TOLERANCE = 1e-9
_POWERS = {
    "fisher": 2,
    "variance_score_squared": 4,
    "variance_negative_hessian": 4,
    "covariance": 4,
}
"""Degree of every quantity in u, of which v counts two."""


class Structured:
    """Adds up I and V₁ of the linear layers that the rank-one rule holds for.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
    """

    def __init__(self, network: Network, head: Head, asked: tuple[str, ...]):
        self.network = network
        self.head = head
        self.asked = asked
        self._double = network.double()
        self.layers = linear_layers(network)
        _, self._second = head.orders(asked)
        self._limit = 0

    @property
    def names(self) -> set[str]:
        """The parameters on this road."""
        blocks = {block for layer in self.layers for block in layer.blocks}
        return {name for name, block in self.network.parameters() if block in blocks}

    @property
    def size(self) -> int:
        """Number of scalars on this road."""
        return sum(block.size for layer in self.layers for block in layer.blocks)

    def rows(self, outputs: int, limit: int, width: int) -> int:
        """Return how many inputs fit into a budget of bytes."""
        self._limit = limit
        neurons = sum(layer.module.out_features for layer in self.layers)
        features = sum(layer.module.in_features for layer in self.layers)
        size = outputs * neurons * width * (1 + self._second) + 32 * features
        return max(1, limit // max(1, size))

    def keep_what_holds(self, inputs: Tensor) -> bool:
        """Drop the layers that the rule does not hold for on these inputs; tell if any was."""
        if not self.layers:
            return False
        kept: list[Layer] = []
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        try:
            traced = trace(self._double, self.layers, inputs)
            if traced is not None:
                h, taken = traced
                usable = [layer for layer in self.layers if layer.name in taken]
                kept = self._agreeing(usable, h, taken, inputs)
        except (RuntimeError, NotImplementedError):
            kept = []  # the functional road says what such a model lacks
        dropped = len(kept) < len(self.layers)
        self.layers = kept
        return dropped

    def _agreeing(self, layers, h, taken, inputs):
        """Compare the rule with plain gradients of Σ_b r_b ⟨w, h_b⟩ for random r and w.

        The rule is linear in both, so that random ones see every input and output. Slopes
        of row b must also be r_b times those without r: then row b is example b.
        """
        if not layers:
            return []
        w, r = _random(h.shape[1], h), _random(h.shape[0], h)
        shifts = [taken[layer.name].shift for layer in layers]
        slopes = _gradients(r @ (h @ w), shifts, create=self._second)
        alone = _gradients((h @ w).sum(), shifts)
        blocks = [block for layer in layers for block in layer.blocks]
        theta = self._double.theta
        leaves = [theta[b.start : b.stop].clone().requires_grad_() for b in blocks]
        plain = r @ (self._double.of_blocks(blocks, leaves, inputs) @ w)
        truth = dict(zip(blocks, _gradients(plain, leaves, create=self._second), strict=True))
        found = dict(zip(blocks, leaves, strict=True))
        kept = []
        for layer, slope, single in zip(layers, slopes, alone, strict=True):
            given, shift = taken[layer.name].inputs, taken[layer.name].shift
            ruled = _by_rule(layer, slope.detach(), given)
            agrees = _close(slope.detach(), r[:, None] * single) and all(
                _close(one, truth[block].detach())
                for block, one in zip(layer.blocks, ruled, strict=True)
            )
            if agrees and self._second:
                agrees = all(
                    _curvature_agrees(kind, block, truth[block], found[block], slope, shift, given)
                    for kind, block in (("weight", layer.weight), ("bias", layer.bias))
                    if block is not None
                )
            if agrees:
                kept.append(layer)
        return kept

    def add(self, inputs: Tensor, count: int, sums: Accumulator) -> bool:
        """Add the quantities of a batch of inputs, with `count` inputs already added.

        Returns False, and no layer is left on this road, if the network runs another way in
        its own dtype than in float64, in which it was checked.
        """
        traced = trace(self.network, self.layers, inputs)
        h, taken = traced if traced is not None else (inputs, {})
        if any(layer.name not in taken for layer in self.layers):
            self.layers = []
            return False
        shifts = [taken[layer.name].shift for layer in self.layers]
        rows = [
            _gradients(h[:, output].sum(), shifts, create=self._second)
            for output in range(h.shape[1])
        ]
        for place, layer in enumerate(self.layers):
            slopes = torch.stack([row[place].detach() for row in rows], dim=1)
            curvatures = None
            if self._second:
                found = [self._diagonal(row[place], shifts[place]) for row in rows]
                curvatures = torch.stack(found, dim=1)
            values = self.head.values(self.asked, h.detach(), slopes, curvatures)
            self._add_layer(layer, values, taken[layer.name].inputs, count, sums)
        return True

    def _diagonal(self, slope: Tensor, shift: Tensor) -> Tensor:
        """Return ∂slope_i/∂z_i of every example and neuron, [batch, neuron].

        Many neurons share a batched backward pass; one of them is compared with a plain
        one, and where they differ every neuron gets its own.
        """
        if not slope.requires_grad:
            return torch.zeros_like(shift)
        batch, neurons = shift.shape
        width = max(1, self._limit // (8 * batch * neurons * shift.element_size()))
        found = []
        for start in range(0, neurons, width):
            places = torch.arange(start, min(start + width, neurons), device=shift.device)
            directions = shift.new_zeros(len(places), batch, neurons)
            directions[torch.arange(len(places), device=shift.device), :, places] = 1
            try:
                (rows,) = torch.autograd.grad(
                    slope,
                    shift,
                    directions,
                    retain_graph=True,
                    is_grads_batched=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
            except RuntimeError:  # some operations have no batched derivative
                return _each(slope, shift)
            found.append(rows[torch.arange(len(places), device=shift.device), :, places].T)
        diagonal = torch.cat(found, dim=1).detach()
        probe = int(diagonal[0].abs().argmax())
        plain = _along(slope, shift, probe)
        size = plain.abs().max() + torch.finfo(plain.dtype).tiny
        if bool((diagonal[:, probe] - plain).abs().max() <= 1e-4 * size):
            return diagonal
        return _each(slope, shift)

    def _add_layer(self, layer, values, inputs, count, sums):
        """Sum value · a^degree over the batch: one matrix product for each quantity."""
        ones = inputs.new_ones(inputs.shape[0], 1)
        for block, features in ((layer.weight, inputs), (layer.bias, ones)):
            if block is None:
                continue
            features = features.double()
            totals, spread = {}, None
            for quantity, value in values.items():
                value = value.double()
                totals[quantity] = (value.T @ features ** _POWERS[quantity]).flatten()
                if quantity == "fisher":
                    spread = _spread(value, features.square()).flatten()
            where = slice(block.start, block.stop)
            sums.add_totals(where, count, inputs.shape[0], totals, spread)


def _by_rule(layer: Layer, slope: Tensor, inputs: Tensor) -> list[Tensor]:
    """Return the gradients Σ_b slope_b a_bᵀ and Σ_b slope_b of a layer, flattened."""
    found = []
    if layer.weight is not None:
        found.append((slope.T @ inputs).flatten())
    if layer.bias is not None:
        found.append(slope.sum(0))
    return found


def _curvature_agrees(kind, block, gradient, leaf, slope, shift, inputs):
    """Compare second derivatives along a random direction of one parameter tensor."""
    direction = _random(block.size, leaf)
    (plain,) = _gradients(gradient @ direction, [leaf]) if gradient.requires_grad else (leaf * 0,)
    if kind == "weight":
        moved = inputs @ direction.reshape(shift.shape[1], -1).T
    else:
        moved = direction.expand_as(shift)
    ruled = torch.zeros_like(shift)
    if slope.requires_grad:
        (ruled,) = _gradients((slope * moved).sum(), [shift])
    one, other = (ruled * moved).sum(), plain.detach() @ direction
    size = (ruled * moved).abs().sum() + (gradient.detach() * direction).abs().sum()
    return bool((one - other).abs() <= _TOLERANCE * size)


def _spread(value: Tensor, squares: Tensor) -> Tensor:
    """Return Σ_b (x_b − x̄)² of x_b = f_b a_b², each product of small deviations."""
    f, a = value.mean(0), squares.mean(0)
    df, da = value - f, squares - a
    about = df.square().T @ squares.square()
    about += 2 * f[:, None] * (df.T @ (squares * da)) + f.square()[:, None] * da.square().sum(0)
    return (about - (df.T @ da).square() / len(value)).clamp(min=0)


def _random(size: int, like: Tensor) -> Tensor:
    """Return fixed random numbers away from 0, on the device of a tensor."""
    generator = torch.Generator().manual_seed(size)
    draws = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    signs = torch.rand(size, generator=generator, dtype=torch.float64) - 0.5
    return (draws * signs.sign()).to(like.device, like.dtype)


def _close(one: Tensor, other: Tensor) -> bool:
    """Tell whether two gradients agree relative to the largest entry."""
    size = other.abs().max() + torch.finfo(other.dtype).tiny
    return bool((one - other).abs().max() <= _TOLERANCE * size)


def _each(slope: Tensor, shift: Tensor) -> Tensor:
    """Return ∂slope_i/∂z_i by one backward pass per neuron, [batch, neuron]."""
    return torch.stack([_along(slope, shift, i) for i in range(shift.shape[1])], dim=1)


def _gradients(value: Tensor, leaves: list[Tensor], create: bool = False) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            value,
            leaves,
            retain_graph=True,
            create_graph=create,
            allow_unused=True,
            materialize_grads=True,
        )
    )


def _along(slope: Tensor, shift: Tensor, neuron: int) -> Tensor:
    """Return ∂slope_i/∂z_i of one neuron, [batch]; examples do not depend on each other."""
    if not slope.requires_grad:
        return torch.zeros_like(shift[:, 0])
    (row,) = _gradients(slope[:, neuron].sum(), [shift])
    return row[:, neuron].detach()
