"""How many labels a wanted power takes, from a pilot whose labels are not used again."""

from __future__ import annotations

import math

from fimsym.errors import DomainError
from fimsym.validation.agreement import compare
from fimsym.validation.cells import Sampled, pilot_labels
from fimsym.validation.subject import Subject
from fimsym.validation.tails import FAMILY_WISE_ERROR, detectable

FEWEST = 1000
"""Labels without which standard errors mean little."""
MOST = 10**10
"""Labels at most for each point and parameter."""

_COUNTED = 10**6
"""Labels at least where only their counts are drawn, which costs the same for any number."""
MOST_DRAWN = 2**34
"""Labels of a subject that are drawn one by one, at most, unless more are asked for."""
_MARGIN = 1.25  # what a pilot's standard errors may be off by


def threshold(tests: int) -> float:
    """Return the logarithm of the level of the first test of so many."""
    return math.log(FAMILY_WISE_ERROR / tests)


def labels_for(subject: Subject, pilot: Sampled, relative_error: float, tests: int) -> int:
    """Return how many labels catch a relative error with probability 0.99 in every row.

    Args:
        subject: What is validated.
        pilot: What `pilot_labels` for each point and parameter gave.
        relative_error: The error, of all closed forms of a layer's quantity.
        tests: Number of tests that share the family-wise error.
    """
    exact = bool(pilot.exact)
    rows, _ = compare(pilot.functions, pilot.estimates, subject.layers, exact=exact)
    supports = [subject.support(point) for point in range(subject.points)]
    drawn = [point for point, support in enumerate(supports) if support is None]
    level, needed = threshold(tests), float(FEWEST if drawn else _COUNTED)
    for row in rows:
        if math.isfinite(row.noise) and row.tested:
            share = _share(level, row.noise, row.ratio, relative_error * subject.slack)
            needed = max(needed, pilot_labels(subject) / share**2)
    if not all(support is not None and support.finite for support in supports):
        needed *= _MARGIN
    width = sum(subject.where(p).stop - subject.where(p).start for p in drawn)
    most = max(FEWEST, MOST_DRAWN / width) if drawn else MOST
    return _rounded(min(needed, most))


def _share(level: float, noise: float, ratio: float, wanted: float) -> float:
    """Return √(pilot labels / labels) at which an error of that size is caught.

    Both the noise and the ratio are proportional to it.
    """
    low, high = 1e-9, 1e3
    for _ in range(100):
        middle = math.sqrt(low * high)
        if detectable(level, ratio * middle) * noise * middle > wanted:
            high = middle
        else:
            low = middle
    return low


def _rounded(labels: float) -> int:
    """Return a number of labels rounded up to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(labels)) - 1)
    return min(MOST, math.ceil(labels / unit) * unit)


def check_labels(name: str, labels: int) -> None:
    """Raise DomainError unless a number of labels is allowed."""
    if isinstance(labels, bool) or not (isinstance(labels, int) and FEWEST <= labels <= MOST):
        raise DomainError(
            f"{name} must be an integer from {FEWEST:,}, so that standard errors mean something, "
            f"to {MOST:,}; got {labels!r}."
        )


def check_relative_error(value: float) -> None:
    """Raise DomainError unless a relative error is one that can be asked for."""
    if not (isinstance(value, int | float) and 1e-4 <= value <= 0.5):
        raise DomainError(
            f"relative_error must be between 0.0001 and 0.5, such as 0.01 for 1%; got {value!r}."
        )
