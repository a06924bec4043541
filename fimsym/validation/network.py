"""A network: its analysis against labels drawn from its own law."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.engine import analyze
from fimsym.engine.distributed import alone
from fimsym.engine.quantities import QUANTITIES, group_name
from fimsym.families import Family
from fimsym.laws import Law
from fimsym.validation.moments import Array
from fimsym.validation.montecarlo import Derivatives, derivatives
from fimsym.validation.streams import Stream
from fimsym.validation.subject import Description, Subject, digest

PARAMETERS = 2000
"""Parameters of a network that are tested, unless more are asked for."""

_MEMORY = 2**28  # fixed, so that chunks of the analysis do not depend on the machine


@dataclasses.dataclass(frozen=True)
class Question:
    """A network and its inputs.

    Attributes:
        name: Of the data set or the model.
        title: The network and data in words.
        family: The output family.
        constants: Values of its constants.
        model: The network, float64, in evaluation mode.
        inputs: [input, …].
        quality: How well it does on held-out data, or what the inputs are, in words.
        link: What the network puts out; None for natural parameters.
    """

    name: str
    title: str
    family: Family
    constants: dict[str, Any]
    model: nn.Module
    inputs: Tensor
    quality: str
    link: str | None = None


class OfNetwork(Subject):
    """A network at some inputs.

    Args:
        question: The network and its inputs.
        seed: Of the choice of parameters.
        parameters: How many of them to test; they are drawn at random where there are more,
            from every tensor in proportion.

    Attributes:
        kind: ``"network"``, or what a subclass is.
        places: Shape of each trainable parameter, and which of its entries are tested.
    """

    kind = "network"

    def __init__(self, question: Question, seed: int, parameters: int = PARAMETERS):
        super().__init__()
        self.family = question.family
        self.key = f"{question.family.name}/{question.name}"
        self.points = len(question.inputs)
        self._question = question
        self._law = Law(question.family, question.constants, question.link)
        named = {n: p for n, p in question.model.named_parameters() if p.requires_grad}
        rng = Stream(seed, self.key, "parameters").generator()
        sizes = [p.numel() for p in named.values()]
        self._positions = [torch.from_numpy(at) for at in _chosen(sizes, parameters, rng)]
        self.places = {
            name: (p.shape, at)
            for (name, p), at in zip(named.items(), self._positions, strict=True)
        }
        self.size = sum(map(len, self._positions))
        self.layers = _layers(list(named), self._positions)
        starts = np.cumsum([0, *sizes[:-1]])
        pairs = zip(starts, self._positions, strict=True)
        self._keys = np.concatenate([start + at.numpy() for start, at in pairs]).tolist()
        self.description = self._described(sum(sizes))

    def law(self, point: int) -> Law:
        """Return the law of the labels, the same for every input."""
        return self._law

    def outputs(self, point: int) -> Tensor:
        """Return what the network puts out for an input, [output]."""
        with torch.no_grad():
            return self._question.model(self._question.inputs[point : point + 1])[0]

    def where(self, point: int) -> slice:
        """Return all parameters."""
        return slice(0, self.size)

    def keys(self, point: int) -> Sequence[int]:
        """Return each parameter's place among all of the network's."""
        return self._keys

    def closed(self, points: Sequence[int]) -> dict[str, Array]:
        """Return what `analyze` gives for those inputs."""
        question = self._question
        with alone():
            analysis = analyze(
                question.model,
                question.inputs[list(points)],
                question.family,
                question.link,
                quantities="all",
                max_memory=_MEMORY,
                progress=False,
                input_variance=False,
                **question.constants,
            )
        found = {}
        for quantity in QUANTITIES:
            values = getattr(analysis, quantity)
            parts = [values[name].reshape(-1)[at] for name, (_, at) in self.places.items()]
            found[quantity] = torch.cat(parts)
        return {quantity: values.cpu().numpy() for quantity, values in found.items()}

    def identity(self) -> dict[str, Any]:
        """Return everything the numbers depend on, as plain data."""
        question, first = self._question, self.derivatives(0)
        state = question.model.state_dict()
        return {
            "family": question.family.canonical(),
            "link": question.link,
            "constants": dict(question.constants),
            "model": digest(*state.values()),
            "inputs": digest(question.inputs),
            "its derivatives": digest(first.h, first.u, first.v),
            "parameters": digest(*self._positions),
        }

    def _differentiated(self, point: int) -> Derivatives:
        return derivatives(self._question.model, self._question.inputs[point], self._positions)

    def _whole(self, point: int, position: int) -> tuple[nn.Module, Tensor, tuple[int, int]]:
        ends = np.cumsum([len(at) for at in self._positions])
        tensor = int(np.searchsorted(ends, position, side="right"))
        own = position - (int(ends[tensor - 1]) if tensor else 0)
        entry = int(self._positions[tensor][own])
        return self._question.model, self._question.inputs[point], (tensor, entry)

    def _described(self, parameters: int) -> Description:
        question, untested = self._question, []
        if self.size < parameters:
            untested.append(
                f"{parameters - self.size:,} of {parameters:,} parameters: {self.size:,} were "
                "drawn at random, from every tensor in proportion."
            )
        frozen = [n for n, p in question.model.named_parameters() if not p.requires_grad]
        if frozen:
            untested.append(f"{', '.join(frozen)}: these do not require grad.")
        return Description(
            kind=self.kind,
            name=question.name,
            title=question.title,
            family=question.family.name,
            constants=question.constants,
            link=question.link,
            inputs=len(question.inputs),
            quality=question.quality,
            parameters=parameters,
            untested=tuple(untested),
        )


def _chosen(sizes: list[int], wanted: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return positions in tensors of those sizes, at least one in each."""
    total = sum(sizes)
    if total <= wanted:
        return [np.arange(size) for size in sizes]
    shares = [max(1, min(size, round(wanted * size / total))) for size in sizes]
    return [
        np.sort(rng.choice(size, share, replace=False))
        for size, share in zip(sizes, shares, strict=True)
    ]


def _layers(names: list[str], positions: list[Tensor]) -> dict[str, slice]:
    """Return each layer's range in the vector over parameters, whose layers are contiguous."""
    ranges: dict[str, slice] = {}
    start = 0
    for name, at in zip(names, positions, strict=True):
        layer = group_name(name, "layer")
        first = ranges[layer].start if layer in ranges else start
        ranges[layer] = slice(first, start + len(at))
        start += len(at)
    return ranges
