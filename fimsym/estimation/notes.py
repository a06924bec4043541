"""What a reader of an estimate should know, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fimsym.engine.quantities import by_group
from fimsym.estimation.schedule import TRUSTED


def of_zeros(fisher: Mapping[str, Tensor], grouping: str) -> tuple[str, ...]:
    """Say how many entries are exactly zero, so that they have no relative error."""
    words = []
    for group, names in by_group(fisher, grouping).items():
        zeros = sum(int((fisher[name] == 0).sum()) for name in names)
        if zeros:
            words.append(f"{zeros} of {sum(fisher[name].numel() for name in names)} in {group}")
    if not words:
        return ()
    return (
        f"entries that are exactly zero, whose relative error is undefined: {', '.join(words)}",
    )


def of_lacking(lacking: Mapping[str, str], estimator: str) -> tuple[str, ...]:
    """Say for which parameters there is no second derivative, and what was done there."""
    if not lacking:
        return ()
    done = "they are NaN" if estimator == "negative_hessian" else "Î₁ alone is taken there"
    (reason, *_) = lacking.values()
    return (f"no second derivative of {', '.join(lacking)}, so that {done}: {reason}",)


def of_predictable(error: float) -> tuple[str, ...]:
    """Say that the labels are too predictable for the scatter of those drawn.

    Args:
        error: Relative error of the Fisher information of the outputs, in closed form.
    """
    if not error > TRUSTED:
        return ()
    return (
        f"the labels are so predictable that those drawn leave a relative error of {error:.0%} at "
        "the outputs themselves, by its closed form; standard errors from their scatter may be "
        "far too small. Draw more labels, or take gaussian_probe or exact",
    )


def of_target(
    reached: Mapping[str, bool],
    errors: Mapping[str, float],
    target: float,
    confidence: float,
    labels: int,
) -> tuple[str, ...]:
    """Say for which groups the target error was not reached.

    Args:
        reached: For each group whether it was.
        errors: Relative error of each, at that confidence.
        target: What was asked for.
        confidence: Probability with which it is not exceeded.
        labels: Draws per input.
    """
    missed = [
        f"{group} ({errors[group]:.1%})" if errors[group] == errors[group] else f"{group} (zero)"
        for group, there in reached.items()
        if not there
    ]
    if not missed:
        return ()
    return (
        f"relative error {target:g} at confidence {confidence:g} was not reached with {labels} "
        f"draws per input: {', '.join(missed)}",
    )


def of_cost(passes: float, outputs: int, estimator: str) -> tuple[str, ...]:
    """Say that the exact diagonal would have been cheaper."""
    if passes <= outputs or estimator in ("exact", "empirical"):
        return ()
    return (
        f"the exact diagonal would have taken less: at most {outputs} backward passes, one for "
        "each output",
    )
