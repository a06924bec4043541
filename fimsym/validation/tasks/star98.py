"""Pupils above the national median in mathematics, of statsmodels."""

from __future__ import annotations

import numpy as np

from fimsym.validation.tasks.task import Question, divided, standardised, statsmodels, task

_DRAWN = 50
_FEATURES = ("LOWINC", "PERASIAN", "PERBLACK", "PERHISP", "PERMINTE", "AVYRSEXP", "AVSALK",
             "PERSPENK", "PTRATIO", "PCTAF", "PCTCHRT", "PCTYRRND")  # fmt: skip


def star98(seed: int, inputs: int) -> Question:
    """Train a network for the share of pupils above the median in 303 districts.

    The number of pupils n must be the same everywhere, so 50 of each district's are drawn
    without replacement; the few districts with fewer are left out.
    """
    table = statsmodels("star98")
    table = table[table["NABOVE"] + table["NBELOW"] >= _DRAWN]
    counts = np.random.default_rng(seed).hypergeometric(
        table["NABOVE"].astype(int), table["NBELOW"].astype(int), _DRAWN
    )
    features = standardised(table[list(_FEATURES)].to_numpy(float))
    data = divided("star98", features, counts[:, None].astype(np.float64), seed)
    what = f"star98, pupils above the median of {_DRAWN} drawn in each district"
    return task(data, what, "binomial", [12, 5, 1], seed, inputs, constants={"n": _DRAWN})
