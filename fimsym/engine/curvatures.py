"""∂²h/∂z² of neurons, by second-order Taylor series along every neuron at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fimsym.engine import graph as graphs
from fimsym.engine.chain import Chain, start_of
from fimsym.engine.derivatives import curvatures_along
from fimsym.engine.graph import Graph
from fimsym.engine.jets import Jet, NoJetRule, Shifted, is_affine_along, second_order
from fimsym.engine.network import Network
from fimsym.engine.uses import Affine, Product, Use
from fimsym.errors import UnsupportedError

DIRECTIONS = 64
"""How many neurons are taken at a time."""


class Curvatures:
    """Second derivatives along pre-activations, compared with double backward passes.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        self._network = network
        self._double = network.double
        self._blocks = dict(network.parameters())
        self._holds: dict[str, bool] = {}
        self._affine: dict[tuple[str, tuple], bool] = {}

    def vanish(self, name: str, graph: Graph, inputs: Tensor) -> bool:
        """Tell whether h is affine in a parameter, off the kinks of what is piecewise linear.

        It is proven by one sweep along a direction that moves every entry, and compared with
        double backward passes at some entries.

        Args:
            name: The parameter.
            graph: Graph of a forward pass of the inputs.
            inputs: Some inputs, [batch, …].
        """
        key = name, graph.signature
        if key not in self._affine:
            self._affine[key] = self._is_affine(name, inputs[:1])
        return self._affine[key]

    def _is_affine(self, name: str, inputs: Tensor) -> bool:
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        network, block = self._double, self._blocks[name]
        value = network.split(network.theta)[name]

        def run(direction):
            return network.replaced(name, Jet(value, direction), inputs)

        try:
            if not is_affine_along(run, torch.ones_like(value)):
                return False
            outputs = network.forward(inputs).shape[1]
            along = torch.linspace(0.5, 1.5, outputs, dtype=torch.float64, device=value.device)
            places = sorted({0, block.size // 2, block.size - 1})
            found = curvatures_along(network, block, inputs[0], along, places)
            return not bool(found.any())
        except (NoJetRule, UnsupportedError):
            return False

    def of_neurons(
        self, names: list[str], uses: dict[str, list[Use]], inputs: Tensor
    ) -> Tensor | None:
        """Return v of the neurons that parameters feed, [batch, output, neuron].

        Args:
            names: Parameters of one layer, a product's weight or a shift.
            uses: The single use of each.
            inputs: Some inputs, [batch, …].

        Returns:
            None if the layer has no exact rule, or the rule disagrees.
        """
        for name in sorted(names, key=lambda name: isinstance(uses[name][0], Affine)):
            use = uses[name][0]
            if isinstance(use, Product) and not use.transposed:
                continue
            try:
                if name not in self._holds:
                    self._holds[name] = self._agrees(name, use, inputs, self._curved)
                if self._holds[name]:
                    neurons = torch.arange(use.shape[0], device=inputs.device)
                    return self._curved(self._network, name, use, inputs, neurons)
            except NoJetRule:
                self._holds[name] = False
        return None

    def of_chain_hold(self, name: str, uses: dict[str, list[Use]], inputs: Tensor) -> bool:
        """Tell whether a chain of layers gives a parameter's neurons their second derivatives.

        Args:
            name: Parameter of a layer in a chain, a product's weight or a shift.
            uses: The single use of each.
            inputs: Some inputs, [batch, …].
        """
        key = f"{name} in a chain"
        if key not in self._holds:
            self._holds[key] = self._agrees(name, uses[name][0], inputs, self._of_chain)
        return self._holds[key]

    def _of_chain(self, network, name, use, inputs, neurons) -> Tensor:
        h, leaves = network.traced(inputs)
        graph = graphs.read(h, leaves)
        found = graph.uses[name]
        if not found:
            raise NoJetRule(name)
        start = start_of(graph)
        chain = Chain(start, len(start.links), h.detach(), None, True)
        for node, _, v in chain.along(slice(None)):
            if node is found[0].node and v is not None:
                return v[..., neurons]
        raise NoJetRule(name)

    def _curved(self, network: Network, name: str, use: Use, inputs: Tensor, neurons: Tensor):
        """Return v of some neurons, [batch, output, neuron]."""
        value = network.split(network.theta)[name]

        by_position = isinstance(use, Product)

        def run(direction):
            moving = (Shifted if by_position else Jet)(value, direction)
            return network.replaced(name, moving, inputs)

        found = []
        for chosen in neurons.split(DIRECTIONS):
            along = chosen if by_position else functional.one_hot(chosen, len(value)).to(value)
            _, second = second_order(run, along)
            if second is None:  # proven to vanish
                h = network.forward(inputs)
                return h.new_zeros(1, 1, 1).expand(*h.shape, len(neurons))
            found.append(second)
        return torch.cat(found).permute(1, 2, 0)

    def _agrees(self, name: str, use: Use, inputs: Tensor, way) -> bool:
        """Compare a way for one example with double backward passes in float64."""
        example = inputs[:1].double() if inputs.is_floating_point() else inputs[:1]
        count = use.shape[0]
        neurons = torch.arange(0, count, max(1, count // 3), device=inputs.device)
        rule = way(self._double, name, use, example, neurons)[0]
        places = neurons
        if isinstance(use, Product):
            a = use.inputs[0].detach().double()
            column = int(a.abs().argmax())
            rule, places = rule * a[column] ** 2, neurons * len(a) + column
        w = torch.linspace(0.5, 1.5, len(rule), dtype=torch.float64, device=rule.device)
        block = self._blocks[name]
        truth = curvatures_along(self._double, block, example[0], w, places.tolist())
        size = max(float(truth.abs().max()), float((w @ rule.abs()).max()))
        rounding = 1e3 * torch.finfo(self._network.dtype).eps
        return bool((w @ rule - truth).abs().max() <= rounding * size)
