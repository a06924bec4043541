"""Party identification in the American election study of 1996, of statsmodels."""

from __future__ import annotations

import numpy as np

from fimsym.validation.tasks.task import Question, divided, standardised, statsmodels, task

_FEATURES = ("logpopul", "selfLR", "age", "educ", "income")
_GROUP = 10
_PARTIES = ((0, 1), (2, 3, 4), (5, 6))


def categorical(seed: int, inputs: int) -> Question:
    """Train a network for each respondent's party identification, seven classes."""
    table = statsmodels("anes96")
    features = standardised(table[list(_FEATURES)].to_numpy(float))
    data = divided("anes96", features, table["PID"].to_numpy(int), seed)
    what = "anes96, party identification"
    return task(data, what, "categorical", [5, 6, 7], seed, inputs)


def multinomial(seed: int, inputs: int) -> Question:
    """Train a network for the parties of ten respondents of like education and income."""
    table = statsmodels("anes96").sort_values(["educ", "income", "age"])
    groups = len(table) // _GROUP
    table = table.iloc[: groups * _GROUP]
    features = table[list(_FEATURES)].to_numpy(float).reshape(groups, _GROUP, -1).mean(1)
    party = table["PID"].to_numpy(int).reshape(groups, _GROUP)
    counts = np.stack([np.isin(party, members).sum(1) for members in _PARTIES], axis=1)
    data = divided("anes96", standardised(features), counts.astype(np.float64), seed)
    what = f"anes96, Democrats, others and Republicans among {_GROUP} alike"
    return task(data, what, "multinomial", [5, 4, 3], seed, inputs, constants={"n": _GROUP})
