"""Visits to a doctor in the RAND health insurance experiment, of statsmodels."""

from __future__ import annotations

import numpy as np

from fimsym.validation.tasks.task import Data, Question, divided, standardised, statsmodels, task

_ROWS = 4000
_SIZES = (9, 6, 1)


def poisson(seed: int, inputs: int) -> Question:
    """Train a network for the rate of visits; the output is its logarithm."""
    data = _visits(seed)
    return task(data, "randhie, doctor visits", "poisson", _SIZES, seed, inputs, "log_rate")


def negative_binomial(seed: int, inputs: int) -> Question:
    """Train a network for the mean of over-dispersed visits; r fits their variance."""
    data = _visits(seed)
    mean, variance = float(data.labels.mean()), float(data.labels.var())
    constants = {"r": round(mean**2 / (variance - mean), 2)}
    what = "randhie, doctor visits"
    return task(data, what, "negative_binomial", _SIZES, seed, inputs, "log_mean", constants)


def _visits(seed: int) -> Data:
    table = statsmodels("randhie")
    rows = np.random.default_rng(seed).permutation(len(table))[:_ROWS]
    features = standardised(table.drop(columns="mdvis").to_numpy(float)[rows])
    return divided("randhie", features, table["mdvis"].to_numpy(float)[rows, None], seed)
