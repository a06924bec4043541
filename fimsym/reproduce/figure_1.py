"""Figure 1: natural gradient descent with Î₁ and Î₂ on two toys, from several seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fimsym.errors import DomainError
from fimsym.report.progress import progress
from fimsym.reproduce.record import Record
from fimsym.reproduce.toys import ESTIMATORS, TOYS, Settings, Toy, descend

_SHOWN = 5
"""Seeds whose paths are drawn."""
_PIXELS = 41
"""Points of a map of the test loss along each of θ₁ and θ₂."""


def measure(seeds: int, settings: Settings, show_progress: bool = True) -> Record:
    """Descend both toys with every estimator from every seed.

    Args:
        seeds: How many seeds, from 0.
        settings: Of the toys and the descents.
        show_progress: Show a progress bar on standard error when it is a terminal.

    Returns:
        A row for every step of every descent, with the test loss, the parameters, and the
        exact variance of the estimator there, summed over both parameters.

    Raises:
        DomainError: a descent left the floating-point numbers.
    """
    rows: list[dict[str, Any]] = []
    with progress("natural gradient", seeds * len(TOYS) * len(ESTIMATORS), show_progress) as done:
        for make in TOYS.values():
            for seed in range(seeds):
                toy = make(seed, settings)
                for estimator in ESTIMATORS:
                    rows += _rows(toy, estimator, settings, seed)
                    done()
    given = {"seeds": list(range(seeds)), **dataclasses.asdict(settings)}
    return Record("figure-1", given, {task: _findings(task, rows) for task in TOYS}, rows)


def maps(record: Record, settings: Settings) -> dict[tuple[str, int], tuple[Any, Any, Any]]:
    """Return the test loss over the parameters where paths run, by task and seed.

    Returns:
        θ₁ [pixel], θ₂ [pixel] and the loss [θ₂, θ₁], for the first few seeds.
    """
    import torch

    found = {}
    for task, make in TOYS.items():
        for seed in record.settings["seeds"][:_SHOWN]:
            path = [r for r in record.rows if (r["task"], r["seed"]) == (task, seed)]
            toy = make(seed, settings)
            axes = [_axis([r[name] for r in path]) for name in ("theta_1", "theta_2")]
            losses = toy.test_loss(torch.cartesian_prod(*axes)).view(_PIXELS, _PIXELS)
            found[task, seed] = (axes[0].numpy(), axes[1].numpy(), losses.T.numpy())
    return found


def _axis(values):
    import torch

    low, high = min(values), max(values)
    margin = 0.15 * max(high - low, 0.1)
    return torch.linspace(low - margin, high + margin, _PIXELS, dtype=torch.float64)


def _rows(toy: Toy, estimator: str, settings: Settings, seed: int) -> list[dict[str, Any]]:
    rows = []
    for epoch, theta in enumerate(descend(toy, estimator, settings, seed)):
        if not bool(theta.isfinite().all()):
            raise DomainError(
                f"the descent of {toy.name} by {estimator} from seed {seed} diverged. Use another "
                "number of seeds or epochs."
            )
        found = toy.variances(theta, settings.inputs)
        rows.append({
            "task": toy.name,
            "estimator": estimator,
            "seed": seed,
            "epoch": epoch,
            "test_loss": float(toy.test_loss(theta)),
            "theta_1": float(theta[0]),
            "theta_2": float(theta[1]),
            "variance": found.get(estimator, 0.0),
            "variance_from_inputs": 0.0 if estimator == "exact" else found["from_inputs"],
        })  # fmt: skip
    return rows


def _findings(task: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what Î₂ has less of than Î₁ in a task."""
    by = {
        name: [r for r in rows if (r["task"], r["estimator"]) == (task, name)]
        for name in ESTIMATORS
    }
    first, second = by["score_squared"], by["negative_hessian"]
    pairs = list(zip(first, second, strict=True))
    last = max(r["epoch"] for r in first)
    return {
        "variance_of_2_below_1": sum(b["variance"] < a["variance"] for a, b in pairs) / len(pairs),
        "median_variance_ratio_1_over_2": median(a["variance"] / b["variance"] for a, b in pairs),
        "largest_label_variance_of_2": max(
            r["variance"] - r["variance_from_inputs"] for r in second
        ),
        "median_final_test_loss": {
            name: median(r["test_loss"] for r in found if r["epoch"] == last)
            for name, found in by.items()
        },
        "path_length": {name: median(_lengths(found)) for name, found in by.items()},
    }


def _lengths(rows):
    """Return how long each seed's path is."""
    lengths: dict[int, float] = {}
    for one, other in itertools.pairwise(rows):
        if one["seed"] == other["seed"]:
            step = math.dist(*[(r["theta_1"], r["theta_2"]) for r in (one, other)])
            lengths[one["seed"]] = lengths.get(one["seed"], 0.0) + step
    return lengths.values()
