"""Is the cost of a call linear in inputs, outputs and parameters?"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

from torch import nn

from benchmarks.contenders import copy_of, ours
from benchmarks.measure import Settings, start, timed
from benchmarks.networks import Case, perceptron


@dataclasses.dataclass(frozen=True)
class Axis:
    """A family of cases along which one size doubles.

    Attributes:
        name: The size.
        description: What is fixed.
        case: From the size to a case; one batch of it is analyzed.
        sizes: At least a factor 16.
    """

    name: str
    description: str
    case: Callable[[int], Case]
    sizes: tuple[int, ...]


def _inputs(size: int) -> Case:
    return perceptron("inputs", (784, 256, 256, 10), nn.Sigmoid, size)


def _outputs(size: int) -> Case:
    return perceptron("outputs", (256, 512, 512, size), nn.Sigmoid, 32)


def _parameters(size: int) -> Case:
    return perceptron("parameters", (size, 256, 256, 10), nn.Sigmoid, 128)


AXES = {
    axis.name: axis
    for axis in (
        Axis("inputs B", "784-256-256-10, sigmoid", _inputs, (128, 256, 512, 1024, 2048)),
        Axis("outputs C", "256-512-512-C, sigmoid, B = 32", _outputs, (64, 128, 256, 512, 1024)),
        Axis("parameters P", "W-256-256-10, sigmoid, B = 128, P by the input width W",
             _parameters, (512, 1024, 2048, 4096, 8192, 16384)),
    )
}  # fmt: skip


def time_axis(name: str, settings: Settings) -> list[list[float]]:
    """Return the seconds of each round for each size of an axis, the sizes taking turns."""
    start(settings)
    runs, batches = [], []
    for size in AXES[name].sizes:
        case = AXES[name].case(size)
        runs.append(ours()(copy_of(case, settings.device), case))
        batches.append([x.to(settings.device) for x in case.batches(1)])
    for run, inputs in zip(runs, batches, strict=True):
        timed(run, inputs, settings.device)
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(settings.rounds):
        for run, inputs, found in zip(runs, batches, times, strict=True):
            found.append(timed(run, inputs, settings.device)[0])
        if sum(map(sum, times)) * (1 + 1 / len(times[0])) > settings.seconds:
            break
    return times


def coordinates(name: str) -> list[int]:
    """Return the sizes of an axis, parameters counted."""
    if name != "parameters P":
        return list(AXES[name].sizes)
    cases = [AXES[name].case(size) for size in AXES[name].sizes]
    return [sum(p.numel() for p in case.model().parameters()) for case in cases]


def exponents(sizes: Sequence[int], times: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the log-log slope fitted to median times, and that over the last doubling."""
    x = [math.log(size) for size in sizes]
    y = [math.log(statistics.median(rounds)) for rounds in times]
    slope, _ = statistics.linear_regression(x, y)
    return slope, (y[-1] - y[-2]) / (x[-1] - x[-2])
