"""The estimators by name: what each draws, and what it costs."""

from __future__ import annotations

import dataclasses

from fimsym.errors import SpecError, nearest


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How one estimator goes about it.

    Attributes:
        name: Its name.
        draws: What is drawn for each input: ``"labels"``, ``"probes"``, or ``""``.
        curved: Takes first and second derivatives of every output.
        meaning: One line for tables.
    """

    name: str
    draws: str
    curved: bool
    meaning: str


ESTIMATORS: dict[str, Estimator] = {
    found.name: found
    for found in (
        Estimator("score_squared", "labels", False, "Î₁, the squared score of drawn labels"),
        Estimator("negative_hessian", "labels", True, "Î₂, minus the second derivative"),
        Estimator("mixed", "labels", True, "the best mixture of Î₁ and Î₂"),
        Estimator("score_squared_cv", "labels", False, "Î₁ with the score as control variate"),
        Estimator("gaussian_probe", "probes", False, "squared gradients of normal noise"),
        Estimator("rademacher_probe", "probes", False, "squared gradients of random signs"),
        Estimator("exact", "", False, "every output differentiated"),
        Estimator("empirical", "", False, "squared scores of the data's labels; biased"),
    )
}


def check_estimator(name: str) -> Estimator:
    """Return the estimator of a name.

    Raises:
        SpecError: there is none of that name.
    """
    if name not in ESTIMATORS:
        raise SpecError(
            f"unknown estimator {name!r}; expected one of {', '.join(ESTIMATORS)}."
            f"{nearest(str(name), ESTIMATORS)}"
        )
    return ESTIMATORS[name]


def check_labels_per_input(labels_per_input: int, estimator: Estimator) -> int:
    """Return it.

    Raises:
        SpecError: it is no whole number from 1, or more than the data's own label.
    """
    number = labels_per_input
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise SpecError(
            f"labels_per_input must be a whole number of at least 1; got {labels_per_input!r}. "
            "It is the number of labels, or probes, to draw for every input."
        )
    if number > 1 and estimator.name == "empirical":
        raise SpecError(
            f"the empirical Fisher has the data's one label per input; got labels_per_input="
            f"{number}. Leave it out, or choose an estimator that draws labels."
        )
    return number
