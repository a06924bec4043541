"""Linear layers inside a network: where their parameters are, and what they see and say."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fimsym.engine.network import Block, Network


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer and the ranges of its trainable parameters in the flat vector."""

    name: str
    module: nn.Linear
    weight: Block | None
    bias: Block | None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The ranges of its trainable parameters."""
        return tuple(block for block in (self.weight, self.bias) if block is not None)


@dataclasses.dataclass
class Taken:
    """What a forward pass saw of a layer: its inputs, and a zero added to its outputs."""

    inputs: Tensor
    shift: Tensor


def linear_layers(network: Network) -> list[Layer]:
    """Return the linear layers that have trainable parameters."""
    blocks = dict(network.parameters())
    found = []
    for name, module in network.model.named_modules():
        if type(module) is not nn.Linear:
            continue
        prefix = f"{name}." if name else ""
        layer = Layer(name, module, blocks.get(f"{prefix}weight"), blocks.get(f"{prefix}bias"))
        if layer.blocks:
            found.append(layer)
    return found


def trace(
    network: Network, layers: list[Layer], inputs: Tensor
) -> tuple[Tensor, dict[str, Taken]] | None:
    """Run the network, shifting every layer's output by a zero that has a gradient.

    A layer that is called twice, or not once per example, is left out; None if no output
    depends on a layer.
    """
    taken: dict[str, Taken] = {}
    calls: dict[str, int] = {}
    names = {id(layer.module): layer.name for layer in layers}

    def shifted(module, arguments, output):
        name = names[id(module)]
        calls[name] = calls.get(name, 0) + 1
        once = calls[name] == 1 and len(arguments) == 1
        if not once or output.ndim != 2 or output.shape[0] != inputs.shape[0]:
            taken.pop(name, None)
            return None
        shift = torch.zeros_like(output, requires_grad=True)
        taken[name] = Taken(arguments[0].detach(), shift)
        return output + taken[name].shift

    with _hooked([layer.module for layer in layers], shifted), torch.enable_grad():
        h = network.forward(inputs)
    return (h, taken) if h.requires_grad else None


@contextlib.contextmanager
def _hooked(modules: list[nn.Linear], hook) -> Iterator[None]:
    """Register a forward hook for the time being."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
