"""When to stop: looks at fixed numbers of draws, with the error of looking often paid for.

The draws double from look to look. Look j may be wrong with probability δ/(j(j + 1)), whose sum
is at most δ, so that with probability 1 − δ no look is wrong, whichever it stops at. What was
drawn before a look is kept; draws are never thrown away because they look bad.
"""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist

from fimsym.errors import SpecError

MOST_LABELS = 4096
"""Most draws per input unless told otherwise."""

TRUSTED = 0.25
"""Relative error at the output, known in closed form, above which a scatter is not believed.

A confident classifier's squared score is that of rare labels; before some were drawn, the
scatter of what was drawn says nothing. A relative error of 1/4 is that of 16 rare labels.
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """A relative error to be reached by every group of parameters.

    Attributes:
        relative_error: ‖Î − I‖/‖I‖ over the parameters of a group.
        confidence: Probability with which it is not exceeded.
        most: Draws per input at which to give up.
    """

    relative_error: float
    confidence: float
    most: int = MOST_LABELS

    def quantile(self, look: int) -> float:
        """Return how many standard errors the error is below at a look, from 1."""
        return quantile(1 - (1 - self.confidence) / (look * (look + 1)))


def quantile(confidence: float) -> float:
    """Return z with P(|Z| ≤ z) = confidence for a standard normal Z.

    It is safe for the norm over a group, too: among normal errors of any correlation
    P(‖Î − I‖² > z² Σ Var) is largest for a single parameter, where z² > 1.54.

    Source: Székely & Bakirov (2003), on extremal quadratic forms of normal variables.
    """
    return NormalDist().inv_cdf((1 + confidence) / 2)


def check_target(relative_error: float | None, confidence: float, most: int) -> Target | None:
    """Return the target, None without one.

    Raises:
        SpecError: a number is out of its range.
    """
    check_confidence(confidence)
    if isinstance(most, bool) or not isinstance(most, int) or most < 2:
        raise SpecError(f"max_labels must be a whole number of at least 2; got {most!r}.")
    if relative_error is None:
        return None
    return Target(check_relative_error(relative_error), confidence, most)


def check_relative_error(relative_error: float) -> float:
    """Return it, or raise SpecError unless it is positive and finite."""
    number = not isinstance(relative_error, bool) and isinstance(relative_error, int | float)
    if not number or not (0 < relative_error < math.inf):
        raise SpecError(
            f"the relative error asked for must be a positive number, such as 0.05 for 5%; got "
            f"{relative_error!r}. For no error at all take the estimator 'exact'."
        )
    return float(relative_error)


def check_confidence(confidence: float) -> float:
    """Return it, or raise SpecError unless it lies between 0.8 and 1."""
    number = not isinstance(confidence, bool) and isinstance(confidence, int | float)
    if not number or not 0.8 <= confidence < 1:
        raise SpecError(
            f"confidence must be at least 0.8 and less than 1, such as 0.95; got {confidence!r}."
        )
    return float(confidence)
