"""What a constant factor may come from: reductions, the loss, the likelihood's scale."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

_CONFIDENCE = 3.0
_MOST_LABELS = 1000


@dataclasses.dataclass(frozen=True)
class Cause:
    """One reason for a factor.

    Attributes:
        name: Of the mistake.
        factor: What the diagonal is multiplied by.
        words: What was done.
        kind: Causes of one kind exclude each other.
    """

    name: str
    factor: float
    words: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Numbers that turn up as factors.

    Attributes:
        inputs: Number of inputs n.
        outputs: Number of outputs m.
        batch: Inputs per batch B; None if it is not known.
        batches: Number of batches; None likewise.
        labels: Labels per input N; None if not known.
        trace: Sum of the Fisher diagonal.
        largest: Its largest entry.
        constants: Of the family.
    """

    inputs: int
    outputs: int
    batch: int | None = None
    batches: int | None = None
    labels: float | None = None
    trace: float | None = None
    largest: float | None = None
    constants: Mapping[str, float] = dataclasses.field(default_factory=dict)


def explained(scale: float, error: float, sizes: Sizes, most: int = 3) -> list[tuple[Cause, ...]]:
    """Return the combinations of causes whose factors give a scale, simplest first.

    Args:
        scale: Of the diagonal, relative to the right one.
        error: Its standard error, or how exactly it is known.
        sizes: The numbers that may come in.
        most: How many causes at most.
    """
    if not scale > 0:
        return []
    kinds: dict[str, list[tuple[int, Cause]]] = {}
    for place, cause in enumerate(_causes(sizes)):
        kinds.setdefault(cause.kind, []).append((place, cause))
    allowed = _CONFIDENCE * error / scale
    found = []
    for count in range(min(most, len(kinds)) + 1):
        fitting = []
        for taken in itertools.combinations(kinds.values(), count):
            for pairs in itertools.product(*taken):
                causes = tuple(cause for _, cause in pairs)
                away = abs(math.log(scale / math.prod(cause.factor for cause in causes)))
                if away <= allowed:
                    order = sum(place for place, _ in pairs)
                    fitting.append(((away > allowed / 2, order), causes))
        found += [causes for _, causes in sorted(fitting, key=lambda pair: pair[0])]
    return found


def _causes(sizes: Sizes) -> list[Cause]:
    """Return single causes, those that are met most often first."""
    found = [*_of_labels(sizes), *_of_reductions(sizes), *_of_the_loss(sizes)]
    for value, words in ((sizes.trace, "its sum"), (sizes.largest, "its largest entry")):
        if value:
            found.append(Cause("normalised", 1 / value, f"divided by {words}", "norm"))
    return [cause for cause in found if cause.factor > 0 and cause.factor != 1]


def _of_labels(sizes: Sizes) -> Iterator[Cause]:
    if sizes.labels and sizes.labels <= _MOST_LABELS:
        count = sizes.labels
        words = f"summed over the {count:.2g} labels of each input"
        yield Cause("label_count_factor", count, words, "labels")
        words = f"divided by the {count:.2g} labels once too often"
        yield Cause("label_count_factor", 1 / count, words, "labels")


def _of_reductions(sizes: Sizes) -> Iterator[Cause]:
    n, batch, batches = sizes.inputs, sizes.batch, sizes.batches
    yield Cause("sum_for_mean", n, f"summed over the {n} inputs, where a mean is due", "mean")
    if batch:
        of = f"the batch size {batch}"
        yield Cause("batch_size_factor", batch, f"multiplied by {of}", "mean")
        words = f"divided by {of}, as squares of an example's share in a mean over the batch are"
        yield Cause("batch_size_factor", 1 / batch, words, "mean")
        yield Cause("batch_size_factor", batch**-2, f"divided by the square of {of}", "mean")
        words = f"squares of an example's share in a mean over {of}, summed over all {n} inputs"
        yield Cause("batch_size_factor", n / batch**2, words, "mean")
    if batches:
        words = f"summed over the {batches} batches"
        yield Cause("batch_count_factor", batches, words, "mean")
        words = f"divided by the {batches} batches once too often"
        yield Cause("batch_count_factor", 1 / batches, words, "mean")
    yield Cause("sum_for_mean", 1 / n, f"divided by the {n} inputs once too often", "mean")
    yield Cause("sum_for_mean", n**-2, f"divided by the {n} inputs twice too often", "mean")


def _of_the_loss(sizes: Sizes) -> Iterator[Cause]:
    m = sizes.outputs
    twice = "twice the negative log-likelihood, as a squared error without ½ is"
    yield Cause("loss_factor", 2, f"the loss is {twice}", "loss")
    yield Cause("loss_factor", 4, f"squared gradients of {twice}", "loss")
    sigma = sizes.constants.get("sigma", 1.0)
    for power in (2, -2):
        words = f"multiplied by σ^{power} with σ = {sigma:g}"
        yield Cause("likelihood_scale", sigma**power, words, "likelihood")
    trials = sizes.constants.get("n", 1.0)
    yield Cause("likelihood_scale", 1 / trials, f"one trial instead of {trials:g}", "likelihood")
    yield Cause("likelihood_scale", trials, f"multiplied by the {trials:g} trials", "likelihood")
    yield Cause("averaged_over_classes", 1 / m, f"averaged over the {m} outputs", "outputs")
    yield Cause("loss_factor", 0.5, "half of the loss", "loss")
    yield Cause("loss_factor", 0.25, "squared gradients of half of the loss", "loss")
    words = f"squared gradients of a mean over the {m} outputs"
    yield Cause("averaged_over_classes", m**-2, words, "outputs")
    yield Cause("averaged_over_classes", m, f"multiplied by the {m} outputs", "outputs")
    for power in (4, -4):
        words = f"multiplied by σ^{power} with σ = {sigma:g}"
        yield Cause("likelihood_scale", sigma**power, words, "likelihood")
