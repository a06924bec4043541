"""The progression of diabetes, of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from fimsym.families import family
from fimsym.laws.law import Law
from fimsym.validation.tasks.task import (
    Question,
    chosen,
    described,
    divided,
    fitted,
    scikit,
    standardised,
    task,
)


def diabetes(seed: int, inputs: int) -> Question:
    """Train a sigmoid network with two Gaussian outputs.

    Targets are the disease's progression and the average blood pressure; inputs are the
    other nine measurements.
    """
    table = scikit("load_diabetes")
    pressure = table.feature_names.index("bp")
    features = standardised(np.delete(table.data, pressure, axis=1))
    target = standardised(np.column_stack([table.target, table.data[:, pressure]]))
    data = divided("diabetes", features, target, seed)
    held_out = chosen(data, inputs)
    x, y = data.features.numpy(), data.labels.numpy()
    design = np.column_stack([x, np.ones(len(x))])
    weights = np.linalg.lstsq(design, y, rcond=None)[0]
    sigma = round(float((y - design @ weights).std()), 3)
    constants = {"sigma": sigma}
    sizes = [9, 8, 2]
    spec = family("gaussian")
    model = fitted(data, Law(spec, constants), sizes, seed)
    with torch.no_grad():
        guess = sigma**2 * model(data.held_out)
    error = float((guess - data.held_out_labels).square().mean().sqrt())
    title = f"diabetes, sigmoid network {'-'.join(map(str, sizes))}, "
    title += described("gaussian", constants)
    quality = f"held-out error {error:.2f} of the targets' deviation"
    return Question("diabetes", title, spec, constants, model, held_out, quality)


def heteroscedastic(seed: int, inputs: int) -> Question:
    """Train a network that predicts the progression's mean and log-variance."""
    table = scikit("load_diabetes")
    target = standardised(table.target[:, None])
    data = divided("diabetes", standardised(table.data), target, seed)
    what, link = "diabetes, progression with its variance", "mean_log_variance"
    return task(data, what, "gaussian_mean_variance", [10, 5, 2], seed, inputs, link, steps=50)
