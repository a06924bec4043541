"""Tail probabilities that hold for any number of labels, and Holm's correction.

All are bounds, given as natural logarithms, since they are compared with levels of 1e-10.
"""

from __future__ import annotations

import math

import numpy as np

from fimsym.validation.moments import Array

FAMILY_WISE_ERROR = 1e-6
"""Probability of rejecting anything in a run whose closed forms are all right."""

_POWER = 2.326  # normal quantile of 0.99


def bernstein(z: Array, ratio: Array) -> Array:
    """Return the logarithm of a bound on P(|error| > |z| se).

        P ≤ 2 exp(−z²/2 / (1 + |z| r/3))

    Args:
        z: Error in units of its standard error.
        ratio: r, the largest effect of a single label on the error, likewise.

    Source: Bernstein's inequality, for sums of independent bounded terms.
    """
    size = np.abs(z)
    finite = np.where(np.isfinite(size), size, 0.0)
    bound = math.log(2) - finite**2 / 2 / (1 + finite * ratio / 3)
    return np.where(np.isfinite(size), np.minimum(bound, 0.0), -math.inf)


def detectable(threshold: float, ratio: float) -> float:
    """Return the true z that is rejected with probability 0.99 at a level's logarithm.

    That is where the bound reaches the level, and a normal quantile more.
    """
    level = math.log(2) - threshold
    slope = level * ratio / 3
    return slope + math.sqrt(slope**2 + 2 * level) + _POWER


def shape(z: Array, ratio: Array) -> float:
    """Return the logarithm of a bound on P of the distance of z-scores from N(0, 1).

    The largest gap D between their distribution function and the normal one satisfies
    P(D > ε) ≤ 2 exp(−2nε²) for n scores of that law. The law of a score over finitely many
    labels is the normal one up to 0.4748 r, as its third absolute moment is at most r, and to
    first order up to 0.13 r more where its error is estimated. D is reduced by both.

    Args:
        z: Independent scores, [score].
        ratio: r of each, as for `bernstein`.

    Source: Dvoretzky, Kiefer & Wolfowitz with Massart's constant (1990); Berry & Esseen with
    Shevtsova's constant (2011); Edgeworth's first term, whose skewness is at most r.
    """
    n = len(z)
    below = np.arange(n) / n
    normal = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in np.sort(z)])
    gap = max(float((normal - below).max()), float((below + 1 / n - normal).max()))
    gap = max(0.0, gap - (_BERRY_ESSEEN + _STUDENTISED) * float(ratio.mean()))
    return min(0.0, math.log(2) - 2 * n * gap**2)


def spread(z: Array, ratio: Array) -> float:
    """Return the logarithm of a bound on P of the sum of squares of n scores of N(0, 1).

    With x = −log P: Σz² ≥ n + 2√(nx) + 2x, or Σz² ≤ n − 2√(nx), each with probability P. The
    mean square of a score over finitely many labels is 1 up to 2r², which is allowed for.

    Source: Laurent & Massart (2000), Lemma 1.
    """
    n, slack = len(z), 2 * float(np.square(ratio).sum())
    excess = float(np.square(z).sum()) - n
    if not math.isfinite(excess):
        return -math.inf
    excess = math.copysign(max(0.0, abs(excess) - slack), excess)
    if excess < 0:
        exponent = excess**2 / (4 * n)
    else:
        exponent = ((math.sqrt(n + 2 * excess) - math.sqrt(n)) / 2) ** 2
    return min(0.0, math.log(2) - exponent)


def holm(logarithms: Array) -> Array:
    """Return the logarithm of every test's adjusted level, in the given order.

    A test is rejected where this is below the logarithm of the family-wise error; whatever
    the tests' dependence, a right one is then rejected with at most that probability.

    Source: Holm (1979).
    """
    order = np.argsort(logarithms, kind="stable")
    remaining = np.log(np.arange(len(logarithms), 0, -1))
    stepped = np.maximum.accumulate(logarithms[order] + remaining)
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 0.0)
    return adjusted


_BERRY_ESSEEN = 0.4748
_STUDENTISED = 0.13
