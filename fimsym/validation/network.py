"""A network trained on real data: its analysis against labels drawn from its own law."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine import Analysis, analyze
from fimsym.engine.analysis import QUANTITIES
from fimsym.families import family
from fimsym.laws.law import Law
from fimsym.report.progress import progress as progress_bar
from fimsym.validation.measurement import (
    Measurement,
    Subject,
    autograd_gap,
    function_gap,
    natural_points,
)
from fimsym.validation.montecarlo import derivatives, simulate
from fimsym.validation.tasks import Task


def measure(task: Task, samples: int, seed: int, progress: bool = False) -> Measurement:
    """Measure both sides of a task.

    Args:
        task: The network and its held-out inputs.
        samples: Labels for each input and parameter.
        seed: Seed of the labels.
        progress: Show progress bars.
    """
    start = time.perf_counter()
    spec = family(task.family)
    law = Law(spec, task.constants, task.link)
    analysis = analyze(
        task.model,
        task.inputs,
        family=spec,
        link=task.link,
        quantities="all",
        progress=False,
        **task.constants,
    )
    points = []
    shown = f"{task.family}, {task.name}"
    with progress_bar(f"{shown}: derivatives", len(task.inputs), progress) as advance:
        for example in task.inputs:
            points.append(derivatives(task.model, example))
            advance()
    gap = autograd_gap(law, task.model, points, list(task.inputs), seed)
    with progress_bar(f"{shown}: Monte Carlo", len(points), progress) as advance:
        estimates = simulate(law, points, samples, seed, advance)
    closed = {quantity: _flat(getattr(analysis, quantity)) for quantity in QUANTITIES}
    at = natural_points(law, points)
    return Measurement(
        subject=_subject(task, samples),
        closed=closed,
        estimates=estimates,
        layers=_layers(analysis),
        autograd_gap=gap,
        function_gap=function_gap(spec, task.constants, closed, *at),
        seconds=time.perf_counter() - start,
    )


def _flat(named: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in named.values()])


def _layers(analysis: Analysis) -> dict[str, slice]:
    """Return each layer's range in the vector over parameters."""
    ranges, start = {}, 0
    for group in analysis.groups:
        ranges[group.name] = slice(start, start + group.size)
        start += group.size
    return ranges


def _subject(task: Task, samples: int) -> Subject:
    return Subject(
        name=task.name,
        title=task.title,
        family=task.family,
        constants=task.constants,
        link=task.link,
        inputs=len(task.inputs),
        quality=task.quality,
        samples=samples,
    )
