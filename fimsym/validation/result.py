"""The result of `validate`: verdicts, and what each parameter's numbers are."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fimsym.report.files import draft
from fimsym.validation.tails import FAMILY_WISE_ERROR
from fimsym.validation.verdict import Fit, ModelReport

FORMAT = 1
"""Version of the JSON record."""


@dataclasses.dataclass(frozen=True, repr=False)
class Validation:
    """The verdict on every subject of a run.

    Attributes:
        models: One report for each subject: a family's law at points, or a network.
        fits: All z-scores of each quantity against N(0, 1).
        tests: Number of tests that share the family-wise error of 1e-6.
        seed: Seed of the points, data split, training and labels.
        relative_error: What numbers of labels were chosen for; None if they were given.
        untested: What was not tested and why, in sentences.
        interrupted: Whether Ctrl-C ended the run; the verdict is then no verdict.
        progress: Number of cells that were covered, and of all.
        environment: Versions of what the numbers depend on.
        seconds: How long this process took.
        places: Where each parameter of a network stands, by name of the subject: names,
            shapes and positions.
    """

    models: tuple[ModelReport, ...]
    fits: tuple[Fit, ...]
    tests: int
    seed: int
    relative_error: float | None
    untested: tuple[str, ...]
    interrupted: bool
    progress: tuple[int, int]
    environment: Mapping[str, str]
    seconds: float
    places: Mapping[str, Mapping[str, tuple[torch.Size, Tensor]]]

    @property
    def agrees(self) -> bool:
        """No closed form was rejected, and z-scores are normal."""
        parts = (*self.models, *self.fits)
        return not self.interrupted and all(part.agrees for part in parts)

    def __repr__(self) -> str:
        verdicts = ", ".join(
            f"{model.description.family}, {model.description.name}: "
            f"{'agreed' if model.agrees else 'disagreed'}"
            for model in self.models
        )
        return f"Validation({verdicts}; {self.tests} tests)"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data; ``fimsym/report/validation.schema.json`` describes it.

        Nothing in it depends on when, where or by how many processes it was computed.
        """
        return {
            "format": FORMAT,
            "agrees": self.agrees,
            "interrupted": self.interrupted,
            "cells": {"covered": self.progress[0], "total": self.progress[1]},
            "family_wise_error": FAMILY_WISE_ERROR,
            "tests": self.tests,
            "seed": self.seed,
            "relative_error": self.relative_error,
            "environment": dict(self.environment),
            "untested": list(self.untested),
            "z_scores": [_plain(fit) for fit in self.fits],
            "models": [_record(model) for model in self.models],
        }

    def save(self, path: str | Path) -> None:
        """Write every parameter's numbers to a safetensors file, whole or not at all.

        Tensors are called ``family/subject/number/quantity/parameter``, where number is one of
        closed_form, monte_carlo, standard_error and z. They are shaped like the parameters of a
        network, with NaN where a parameter was not tested.

        Raises:
            UnsupportedError: safetensors is not installed.
            DomainError: the path cannot be written.
        """
        save_file = _safetensors().save_file
        tensors = {
            f"{model.description.family}/{model.description.name}/{name}": tensor
            for model in self.models
            for name, tensor in self._tensors(model).items()
        }
        metadata = {"fimsym": json.dumps({**self.to_dict(), "models": len(self.models)})}
        with draft(Path(path)) as place:
            save_file(tensors, str(place), metadata=metadata)

    def _tensors(self, model: ModelReport) -> dict[str, Tensor]:
        found = {}
        places = self.places.get(f"{model.description.family}/{model.description.name}")
        for quantity, scores in model.scores.items():
            for number in ("closed_form", "monte_carlo", "standard_error", "z"):
                values = torch.tensor(getattr(scores, number))
                if places is None:
                    found[f"{number}/{quantity}"] = values
                    continue
                start = 0
                for name, (shape, at) in places.items():
                    whole = torch.full((shape.numel(),), math.nan, dtype=torch.float64)
                    whole[at] = values[start : start + len(at)]
                    found[f"{number}/{quantity}/{name}"] = whole.reshape(shape)
                    start += len(at)
        return found


def _safetensors() -> Any:
    from fimsym.errors import UnsupportedError

    try:
        import safetensors.torch
    except ImportError:
        raise UnsupportedError(
            "writing tensors needs safetensors, which is not installed. Run: pip install "
            "safetensors."
        ) from None
    return safetensors.torch


def _record(model: ModelReport) -> dict[str, Any]:
    return {
        **dataclasses.asdict(model.description),
        "untested": list(model.description.untested),
        "samples": model.samples,
        "covered": model.covered,
        "agrees": model.agrees,
        "checks": [{**_plain(check), "agrees": check.passes} for check in model.checks],
        "z_scores": [_plain(fit) for fit in model.fits],
        "comparisons": [_plain(comparison) for comparison in model.comparisons],
    }


def _plain(record: Any) -> dict[str, Any]:
    """Return a record as JSON can hold it, which has no infinity."""
    return {
        key: (value if math.isfinite(value) else None) if isinstance(value, float) else value
        for key, value in dataclasses.asdict(record).items()
    }
