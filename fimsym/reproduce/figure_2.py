"""Figure 2: Fisher, deviations of Î₁ and Î₂ and their bounds, layer by layer, over training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fimsym.datasets.mnist import Digits
from fimsym.engine import Analysis
from fimsym.report.progress import progress
from fimsym.reproduce.mnist import Settings, diagonal, held_out_quality, measured, train
from fimsym.reproduce.record import Record

QUANTITIES = ("fisher", "variance_score_squared", "variance_negative_hessian")


def measure(digits: Digits, seeds: int, settings: Settings, show_progress: bool = True) -> Record:
    """Train a network from every seed, and measure it before training and after every epoch.

    Args:
        digits: The images.
        seeds: How many seeds, from 0.
        settings: Of the network, its training and what is measured.
        show_progress: Show a progress bar on standard error when it is a terminal.

    Returns:
        A row for every seed, epoch, layer and quantity: the mean over the layer's parameters
        and the images, its upper bound, ln(bound / mean), and the largest value / bound of
        one parameter. A ratio is None where the value is zero.
    """
    rows: list[dict[str, Any]] = []
    steps = seeds * (settings.epochs + 1)
    with progress(f"MNIST, {settings.activation}", steps, show_progress) as done:
        for seed in range(seeds):
            inputs = measured(digits, settings, seed)
            for epoch, model in enumerate(train(digits, settings, seed)):
                quality = held_out_quality(model, digits)
                found = _rows(diagonal(model, inputs))
                rows += [{"seed": seed, "epoch": epoch, **row, **quality} for row in found]
                done()
    given = {
        "seeds": list(range(seeds)),
        "data": digits.source,
        "images": len(digits.images),
        "held_out": len(digits.held_out),
        **dataclasses.asdict(settings),
    }
    return Record("figure-2", given, _findings(rows, settings.epochs), rows)


def _rows(found: Analysis) -> list[dict[str, Any]]:
    rows = []
    for number, group in enumerate(found.groups, 1):
        for quantity in QUANTITIES:
            rows.append({
                "layer": number,
                "quantity": quantity,
                "mean": group.sums[quantity] / group.size,
                "bound": group.bounds[quantity][1] / group.size,
                "log_ratio": _finite(group.log_ratios[quantity]),
                "largest_part_of_bound": _largest_part(found, quantity, group.parameters),
            })  # fmt: skip
    return rows


def _largest_part(found: Analysis, quantity: str, parameters: Sequence[str]) -> float:
    """Return the largest value / upper bound of one parameter; 0 where all are zero."""
    largest = 0.0
    for name in parameters:
        value, bound = found.values[quantity][name], found.bounds[f"{quantity}_max"][name]
        part = value / bound.where((value != 0) | (bound != 0), 1.0)
        largest = max(largest, float(part.max()))
    return largest


def _findings(rows: Sequence[Mapping[str, Any]], epochs: int) -> dict[str, Any]:
    """Return what the paper says of its figure, in numbers of this one."""
    layers = sorted({row["layer"] for row in rows})

    def of(quantity: str, key: str, layer: int, epoch: int | None = None) -> list[Any]:
        return [
            row[key]
            for row in rows
            if (row["quantity"], row["layer"]) == (quantity, layer)
            and epoch in (None, row["epoch"])
        ]

    def deviations(layer: int, epoch: int) -> float | None:
        second, first = (of(quantity, "mean", layer, epoch) for quantity in QUANTITIES[:0:-1])
        return _ratio(second, first)

    return {
        "accuracy": median(row["accuracy"] for row in rows if row["epoch"] == epochs),
        "largest_variance_of_2_in_last_layer": max(of(QUANTITIES[-1], "mean", layers[-1])),
        "largest_part_of_bound": max(row["largest_part_of_bound"] for row in rows),
        "layers": [
            {
                "layer": layer,
                "deviation_2_over_1": {
                    str(epoch): deviations(layer, epoch) for epoch in (0, epochs)
                },
                "log_ratio_of_bound": {
                    quantity: _spread(of(quantity, "log_ratio", layer)) for quantity in QUANTITIES
                },
            }
            for layer in layers
        ],
    }


def _ratio(above, below):
    """Return the median ratio of deviations; None where a variance is divided by zero."""
    return (
        median(math.sqrt(a / b) for a, b in zip(above, below, strict=True)) if all(below) else None
    )


def _spread(values):
    """Return the least, the middle and the largest; None where there is no ratio."""
    known = [value for value in values if value is not None]
    return {"min": min(known), "median": median(known), "max": max(known)} if known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
