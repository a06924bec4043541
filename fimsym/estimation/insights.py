"""What the variances of a group of parameters say, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from fimsym.estimation.curved import Curved

_EQUAL = 1e-6
"""Relative difference below which two variances count as the same."""


def of_group(
    fisher: Tensor, variances: Mapping[str, Tensor], method: Curved, names: Collection[str]
) -> tuple[str, ...]:
    """Return sentences about a group.

    Args:
        fisher: I, [param].
        variances: Of one draw by estimator, [param] each.
        method: What it found out about second derivatives.
        names: Parameters of the group.
    """
    zeros = int((fisher == 0).sum())
    if zeros == fisher.numel():
        return ("the Fisher information is zero, and a relative error undefined",)
    found = []
    if zeros:
        found.append(f"{zeros} of {fisher.numel()} entries are zero and have no relative error")
    if method.lacking.keys() & set(names):
        found.append("there are no second derivatives, so that Î₂ and mixtures do not apply")
    elif not bool(variances["negative_hessian"].any()):
        if method.last.issuperset(names):
            found.append("last layer: Î₂ is exact, as the output is linear in it")
        elif method.kinked:
            found.append("ReLU: Î₂ is exact almost everywhere, as the output is piecewise linear")
        else:
            found.append("Î₂ is exact, as the output is linear in each of these parameters")
    labels, noise = (float(variances[n].sum()) for n in ("score_squared", "gaussian_probe"))
    if labels > noise * (1 + _EQUAL):
        found.append("κ₄ > 0: probe with noise, not with labels")
    elif labels < noise * (1 - _EQUAL):
        found.append("κ₄ < 0: labels beat normal noise")
    if labels and float(variances["score_squared_cv"].sum()) < _EQUAL * labels:
        found.append("the control variate takes all error away: a label moves it in two ways only")
    return tuple(found)
