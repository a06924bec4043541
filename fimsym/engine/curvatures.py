"""Exact ∂²h/∂θ² of any parameter: down a chain of layers, or by tangents through a tape."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fimsym.engine import graph as graphs
from fimsym.engine.allocations import out_of_memory
from fimsym.engine.chain import Chain, start_of
from fimsym.engine.classes import Classes
from fimsym.engine.derivatives import curvatures_along
from fimsym.engine.examined import Examined, examine, expanded
from fimsym.engine.expansion import Expansion
from fimsym.engine.graph import Graph
from fimsym.engine.network import Network
from fimsym.engine.recording import NoTape
from fimsym.engine.tiles import Cost, tiles
from fimsym.engine.uses import Affine, Product, Use


class Second:
    """Second derivatives of some inputs, and which of them hold.

    Args:
        network: The network.
        inputs: The inputs, [batch, …].
        law: Take v less its mean under this law.
        record: What is known of such networks.
    """

    def __init__(self, network: Network, inputs: Tensor, law: Classes | None, record: Examined):
        self.record = record
        self._given = network, inputs, law

    @property
    def zero(self) -> frozenset[str]:
        """Parameters whose second derivatives vanish."""
        return self.record.zero

    @functools.cached_property
    def expansion(self) -> Expansion | None:
        """Where they are taken; None if there is no way."""
        plans = self.record.plans
        if plans is None:
            return None
        try:
            found = expanded(*self._given)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return None
        if found is None or found.tape.signature != plans.signature:
            return None
        found.tape.plans = plans
        return found

    def cost(self, name: str) -> Cost:
        """Return what rows and columns of a parameter take for one input."""
        assert self.expansion is not None
        return self.record.cost(name, self._given[1].shape[1:], self.expansion)

    @functools.cached_property
    def right(self) -> frozenset[str]:
        """Parameters for which they hold, for these inputs."""
        expansion, record = self.expansion, self.record
        if expansion is None:
            return record.zero
        try:
            expansion.prepare()
        except (NoTape, RuntimeError):
            return record.zero
        bent = {name: expansion.plan_of(name).bent for name in record.right - record.zero}
        return record.zero | {name for name, at in bent.items() if at <= expansion.owned}


class Curvatures:
    """Second derivatives of a network, compared with double backward passes.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        self._network = network
        self._blocks = dict(network.parameters())
        self._records: dict[tuple, Examined] = {}
        self._holds: dict[str, bool] = {}
        self._neurons: dict[tuple, bool] = {}

    def of(self, graph: Graph, inputs: Tensor, law: Classes | None = None) -> Second:
        """Return the second derivatives of some inputs.

        Where memory runs out there are none, for these inputs.

        Args:
            graph: Graph of a forward pass of the inputs.
            inputs: The inputs, [batch, …].
            law: Take v less its mean under this law.
        """
        key = graph.signature, min(len(inputs), 2)
        several = self._records.get((graph.signature, 2))
        if key not in self._records and several is not None and several.plans is not None:
            alone = Second(self._network, inputs, law, several)
            if alone.expansion is not None:  # a single input does the same things
                return alone
        if key not in self._records:
            try:
                self._records[key] = examine(self._network, inputs[:2])
                self._records[key].share_costs(self._records.get((graph.signature, 1)))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                return Second(self._network, inputs, law, Examined())
        return Second(self._network, inputs, law, self._records[key])

    def distrust(self, second: Second) -> None:
        """Take no second derivatives of such networks by tangents any more."""
        for key, record in self._records.items():
            if record is second.record:
                self._records[key] = Examined(zero=record.zero, right=record.zero)

    def of_neurons(
        self, names: Sequence[str], uses: Mapping[str, list[Use]], second: Second, limit: float
    ) -> Tensor | None:
        """Return v of the neurons that parameters feed, [batch, output, neuron].

        Args:
            names: Parameters of one layer, each used once per example.
            uses: The use of each.
            second: Of some inputs.
            limit: Bytes that may be held at once.

        Returns:
            None if there is no way that holds.
        """
        expansion = second.expansion
        if expansion is None or not second.right.issuperset(names):
            return None
        shifts = [name for name in names if isinstance(uses[name][0], Affine)]
        name = shifts[0] if shifts else names[0]
        use = uses[name][0]
        width = use.shape[0] if not isinstance(use, Product) or use.transposed else use.shape[1]
        h = expansion.h.detach()
        cost = second.cost(name).times(len(h), both=h.shape[1])
        whole = h.new_zeros(len(h), expansion.outputs, width)
        try:
            for rows, column in tiles(cost, width, 1, limit, h.element_size(), h.device):
                if shifts:
                    v = expansion.rows(name, rows, column)
                    v = v if v is None else v.squeeze(-1)
                else:
                    v = expansion.neurons(name, rows)
                if v is not None:
                    whole[..., rows] = v
            return whole if shifts or self._fits(name, use, expansion, whole) else None
        except NoTape:
            return None

    def _fits(self, name: str, use: Use, expansion: Expansion, v: Tensor) -> bool:
        """Compare neurons' v with that of an entry of the weight: it is v a² there."""
        assert isinstance(use, Product)
        key = expansion.tape.signature, name
        if key not in self._neurons:
            a = use.inputs[0].detach()
            row, column = int(v[0].abs().amax(0).argmax()), int(a.abs().argmax())
            pair = (row, column) if use.transposed else (column, row)
            truth = expansion.rows(name, *([n] for n in pair))
            truth = torch.zeros_like(v[0, :, row]) if truth is None else truth[0, :, 0, 0]
            found = v[0, :, row] * a[column].square()
            rounding = 1e3 * torch.finfo(v.dtype).eps
            self._neurons[key] = bool((found - truth).abs().max() <= rounding * found.abs().max())
        return self._neurons[key]

    def of_chain_hold(self, name: str, uses: Mapping[str, list[Use]], inputs: Tensor) -> bool:
        """Tell whether a chain of layers gives a parameter's neurons their second derivatives.

        Args:
            name: Parameter of a layer in a chain, a product's weight or a shift.
            uses: The single use of each.
            inputs: Some inputs, [batch, …].
        """
        if name not in self._holds:
            self._holds[name] = self._agrees(name, uses[name][0], inputs)
        return self._holds[name]

    def _of_chain(self, name: str, inputs: Tensor, neurons: Tensor) -> Tensor | None:
        h, leaves = self._network.double.traced(inputs)
        graph = graphs.read(h, leaves)
        found = graph.uses[name]
        start = start_of(graph)
        chain = Chain(start, len(start.links), h.detach(), None, True)
        for node, _, v in chain.along(slice(None)):
            if found and node is found[0].node and v is not None:
                return v[..., neurons]
        return None

    def _agrees(self, name: str, use: Use, inputs: Tensor) -> bool:
        """Compare the chain for one example with double backward passes in float64."""
        example = inputs[:1].double() if inputs.is_floating_point() else inputs[:1]
        along = isinstance(use, Product) and not use.transposed
        count = use.shape[1] if along else use.shape[0]
        neurons = torch.arange(0, count, max(1, count // 3), device=inputs.device)
        rule = self._of_chain(name, example, neurons)
        if rule is None:
            return False
        rule, places = rule[0], neurons
        if isinstance(use, Product):
            a = use.inputs[0].detach().double()
            column = int(a.abs().argmax())
            rule = rule * a[column] ** 2
            places = neurons + column * count if along else neurons * len(a) + column
        w = torch.linspace(0.5, 1.5, len(rule), dtype=torch.float64, device=rule.device)
        block = self._blocks[name]
        truth = curvatures_along(self._network.double, block, example, w[None], places.tolist())
        size = max(float(truth.abs().max()), float((w @ rule.abs()).max()))
        rounding = 1e3 * torch.finfo(self._network.dtype).eps
        return bool((w @ rule - truth).abs().max() <= rounding * size)
