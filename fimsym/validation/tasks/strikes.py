"""How long strikes last, of statsmodels."""

from __future__ import annotations

from fimsym.validation.tasks.task import Question, divided, standardised, statsmodels, task

_DAYS = 30


def strikes(seed: int, inputs: int) -> Question:
    """Train a network for a gamma law of durations given unexpected industrial production."""
    table = statsmodels("strikes")
    months = table["duration"].to_numpy(float)[:, None] / _DAYS
    data = divided("strikes", standardised(table[["iprod"]].to_numpy(float)), months, seed)
    what, link = "strikes, durations in months", "log_shape_log_rate"
    return task(data, what, "gamma", [1, 4, 2], seed, inputs, link, steps=50)
