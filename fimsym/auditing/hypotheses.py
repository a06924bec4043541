"""Explanations of a diagonal that leave nothing to chance: what would have been computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fimsym.auditing.evidence import Diagonal, Evidence
from fimsym.auditing.given import Reading

SIZES = (1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512, 1000, 1024)
"""Batch sizes that people choose."""
_NEGLIGIBLE = 1e-7
"""Mean of a parameter's entries relative to another's below which they are rounding."""
_LEAST_CONSTANT = 1e-4
"""Share of the trace that a constant makes up at least to be looked at."""


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One explanation.

    Attributes:
        name: Of the mistake; ``"fisher"`` for none.
        words: What would have been computed.
        prediction: The diagonal it gives, up to a factor.
        reading: The diagonal that was given, as it must then be read.
        whole: The factor is part of the prediction, and needs no explanation.
    """

    name: str
    words: str
    prediction: Diagonal
    reading: Reading
    whole: bool = False


def of_fisher(evidence: Evidence, readings: list[Reading]) -> Iterator[Hypothesis]:
    """Yield the Fisher information itself, for every way of reading the diagonal."""
    for reading in readings:
        name = "fisher" if reading is readings[0] else reading.name
        yield Hypothesis(name, reading.words or "the Fisher information", evidence.fisher, reading)


def of_labels(evidence: Evidence, reading: Reading, count: int) -> Iterator[Hypothesis]:
    """Yield what the data's labels give, if there are any.

    Args:
        evidence: Diagonals of the model and its data.
        reading: The diagonal.
        count: Number of inputs n.
    """
    if evidence.empirical is None:
        return
    words = "squared gradients of the data's own labels: the empirical Fisher"
    yield Hypothesis("empirical_labels", words, evidence.empirical, reading)
    for size in _batch_sizes(evidence, reading.values, count):
        if size > 1:
            words = (
                f"squares of the gradient of a mean over batches of {size} inputs"
                if size < count
                else f"the square of the gradient of the mean over all {count} inputs"
            )
            found = evidence.batch_squares(size)
            yield Hypothesis("squared_batch_mean_gradient", words, found, reading)
    words = "the mean gradient of the log-likelihood, which is not squared"
    yield Hypothesis("gradient", words, evidence.mean_gradient, reading)
    turned = {name: -value for name, value in evidence.mean_gradient.items()}
    yield Hypothesis("gradient", words, turned, reading)


def of_positions(evidence: Evidence, reading: Reading) -> Iterator[Hypothesis]:
    """Yield what comes of taking every position of a shared parameter for a sample."""
    if not evidence.shares:
        return
    apart, positions = evidence.positions
    words = "positions are taken for samples: (g_t a_t)² is added up over positions t, not g_t a_t"
    yield Hypothesis("positions_as_samples", words, apart, reading)
    averaged = {name: value / positions[name] for name, value in apart.items()}
    words = "positions are taken for samples, and averaged over"
    yield Hypothesis("positions_as_samples", words, averaged, reading)
    words = "gradients are averaged over positions before they are squared"
    mean = {name: value / positions[name] ** 2 for name, value in evidence.fisher.items()}
    yield Hypothesis("positions_averaged", words, mean, reading)
    if evidence.empirical is not None:
        words = "positions are taken for samples, with the data's own labels"
        yield Hypothesis("positions_as_samples", words, evidence.empirical_positions, reading)


def of_laws(evidence: Evidence, reading: Reading) -> Iterator[Hypothesis]:
    """Yield what other laws of the label give."""
    if evidence.uniform is not None:
        words = "squared gradients are averaged over all classes alike, not by their probabilities"
        yield Hypothesis("averaged_over_classes", words, evidence.uniform, reading)
    for family, diagonal in evidence.others.items():
        words = f"the Gauss–Newton matrix of another loss: the Fisher information of {family}"
        yield Hypothesis("other_loss", words, diagonal, reading)


def of_batches(evidence: Evidence, reading: Reading, count: int) -> Iterator[Hypothesis]:
    """Yield what comes of giving batches wrong weights."""
    size = evidence.batch
    if size is None or size >= count:
        return
    rest = count % size or size
    last = evidence.part(count - rest, count)
    whole = evidence.fisher

    def mixed(a: float, b: float) -> Diagonal:
        return {name: a * value + b * last[name] for name, value in whole.items()}

    words = f"the last batch, of {rest} inputs, is counted twice"
    yield Hypothesis("last_batch_twice", words, mixed(1, rest / count), reading, True)
    both = count + rest
    yield Hypothesis("last_batch_twice", words, mixed(count / both, rest / both), reading)
    words = f"the last batch, of {rest} inputs, is left out"
    yield Hypothesis("last_batch_left_out", words, mixed(1, -rest / count), reading, True)
    without = count - rest
    yield Hypothesis("last_batch_left_out", words, mixed(count / without, -rest / without), reading)
    if rest < size:
        batches = -(-count // size)
        words = (
            f"means of batches are averaged, though the last one has {rest} inputs and not {size}"
        )
        found = mixed(count / (batches * size), (1 - rest / size) / batches)
        yield Hypothesis("mean_of_batch_means", words, found, reading)
    words = "one batch alone is taken"
    yield Hypothesis("one_batch_alone", words, last, reading)
    yield Hypothesis("one_batch_alone", words, evidence.part(0, size), reading)


def of_functions(evidence: Evidence, reading: Reading) -> Iterator[Hypothesis]:
    """Yield functions of the Fisher information: with damping, inverted, the root."""
    given = reading.values
    flat, fisher = _flat(given, given), _flat(evidence.fisher, given)
    fitted = _line(flat, fisher)
    if fitted is not None:
        scale, constant = fitted
        words = (
            f"a constant of {constant:.4g} is added, as damping or a prior, to {scale:.6g} times it"
        )
        shifted = {name: value - constant for name, value in given.items()}
        found = {name: scale * value for name, value in evidence.fisher.items()}
        turned = dataclasses.replace(reading, values=shifted)
        yield Hypothesis("damping", words, found, turned, True)
    if bool((flat > 0).all()):
        inverse = {name: 1 / value for name, value in given.items()}
        fitted = _line(1 / flat, fisher)
        scale, constant = fitted or (1.0, 0.0)
        shifted = {name: value - constant for name, value in inverse.items()}
        words = f"the reciprocal of {scale:.6g} times it plus {constant:.4g}: a variance"
        slope = -2 * float(flat.log().mean())
        turned = dataclasses.replace(reading, values=shifted, log_slope=slope)
        found = {name: scale * value for name, value in evidence.fisher.items()}
        yield Hypothesis("reciprocal", words, found, turned, fitted is not None)
    if bool((flat >= 0).all()):
        squared = {name: value.square() for name, value in given.items()}
        slope = float((2 * flat.clamp(min=1e-300)).log().mean())
        turned = dataclasses.replace(reading, values=squared, log_slope=slope)
        yield Hypothesis("square_root", "the square root of it", evidence.fisher, turned)


def of_scales(evidence: Evidence, reading: Reading) -> Iterator[Hypothesis]:
    """Yield the Fisher information with a factor of its own for every parameter tensor."""
    found, factors = {}, {}
    whole = max(float(evidence.fisher[name].mean()) for name in reading.values)
    for name, value in reading.values.items():
        fisher = evidence.fisher[name]
        if float(fisher.mean()) > _NEGLIGIBLE * whole:
            factors[name] = float((value * fisher).sum() / fisher.square().sum())
            found[name] = factors[name] * fisher
    reading = dataclasses.replace(reading, values={n: reading.values[n] for n in found})
    if sum(value.numel() for value in found.values()) < 3 * len(found):
        return  # too few entries to see a shape in
    live = [factor for factor in factors.values() if factor]
    if not live or max(live) <= 1.001 * min(live):
        return  # one factor for all
    yield Hypothesis("normalised", _normaliser(evidence, factors), found, reading, True)


def _normaliser(evidence: Evidence, factors: Mapping[str, float]) -> str:
    """Return in words what a factor for every parameter may be."""
    for words, size in (("largest entry", torch.max), ("sum", torch.sum), ("mean", torch.mean),
                        ("norm", torch.linalg.vector_norm)):  # fmt: skip
        product = [f * float(size(evidence.fisher[n])) for n, f in factors.items() if f]
        if product and max(product) <= 1.001 * min(product):
            return f"every parameter tensor is divided by its {words}"
    shown = ", ".join(f"{f:.4g} in {n}" for n, f in list(factors.items())[:4])
    return f"every parameter tensor has a factor of its own: {shown}"


def _batch_sizes(evidence: Evidence, given: Mapping[str, Tensor], count: int) -> list[int]:
    """Return sizes of batches worth trying: the known one, or those near the one that fits."""
    if evidence.batch:
        return [evidence.batch, count] if evidence.batch < count else [count]
    empirical = evidence.empirical
    assert empirical is not None
    mean = {name: value.square() for name, value in evidence.mean_gradient.items()}
    parts = [_flat(part, given) for part in (empirical, mean, given)]
    sizes = {name: max(float(empirical[name].mean()), 1e-300) for name in given}
    weights = torch.cat([1 / torch.full_like(v, sizes[n]).reshape(-1) for n, v in given.items()])
    left, right, target = (part * weights for part in parts)
    found = torch.linalg.lstsq(torch.stack([left, right], 1), target[:, None]).solution.flatten()
    alpha, beta = float(found[0]), float(found[1])
    ratio = beta / alpha if alpha > 0 else float("inf")
    size = count if ratio > count**2 else max(1.0, count * (ratio + 1) / (count + max(ratio, 0.0)))
    near = sorted((s for s in SIZES if s < count), key=lambda s: abs(s / size - size / s))
    return [*dict.fromkeys([*near, round(size), count])]


def _line(flat: Tensor, fisher: Tensor) -> tuple[float, float] | None:
    """Return c > 0 and λ > 0 with D = cI + λ in the least squares of relative errors."""
    weights = 1 / flat.abs().clamp(min=1e-300)
    columns = torch.stack([fisher, torch.ones_like(fisher)], 1) * weights[:, None]
    found = torch.linalg.lstsq(columns, (flat * weights)[:, None]).solution.flatten()
    scale, constant = float(found[0]), float(found[1])
    seen = constant * len(flat) > _LEAST_CONSTANT * float(flat.sum())
    return (scale, constant) if scale > 0 and seen else None


def _flat(values: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([values[name].reshape(-1) for name in names])
