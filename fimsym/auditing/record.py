"""What an audit finds, as plain data and in words."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

VERDICTS = ("fisher", "estimate", "incomplete", "not_fisher")


@dataclasses.dataclass(frozen=True)
class Audited:
    """One group of parameters.

    Attributes:
        name: Module, parameter or ``"model"``.
        size: Number of scalars that were given.
        given: Their sum.
        fisher: Σ I.
        scale: ⟨D, I⟩/⟨I, I⟩, NaN where I vanishes.
        residual: Σ|D − I|/Σ I.
        deviations: For each estimator the root mean square of (D − I)/√(V/nN), where D is taken
            for an estimate from N labels for each of n inputs.
    """

    name: str
    size: int
    given: float
    fisher: float
    scale: float
    residual: float
    deviations: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Match:
    """How well one explanation fits.

    Attributes:
        name: Of the explanation.
        words: What would have been computed.
        fits: It agrees, up to rounding or up to the draws it is made of.
        scale: The factor by which it has to be multiplied.
        residual: Largest Σ|D − cμ|/Σ|cμ| of a parameter tensor.
        log_likelihood: Per entry, in nats, with the noise of an estimate of the size that fits
            best.
        draws: N for which noise of this kind is as large as it is; None where nothing is random.
        deviation: From a mean of draws, in standard deviations, at most 5 where it fits.
    """

    name: str
    words: str
    fits: bool
    scale: float
    residual: float
    log_likelihood: float
    draws: float | None = None
    deviation: float = 0.0


@dataclasses.dataclass(frozen=True, repr=False)
class Audit:
    """Whether a diagonal is the Fisher's, and which mistake was made if it is not.

    Attributes:
        verdict: ``"fisher"``, up to rounding; ``"estimate"``, an unbiased estimate of it with
            the noise that estimators have; ``"incomplete"``, where one of these holds for
            what was given, but parameters are missing; ``"not_fisher"``.
        likely: Name of the explanation that fits, ``"unknown"`` if none does.
        summary: The finding in one sentence.
        evidence: What it rests on, in sentences.
        runner_up: Name of the next best explanation, None without one.
        matches: Every explanation that was looked at, best first.
        groups: One record for each group of parameters.
        missing: Parameters of which there is nothing.
        misshapen: Parameters whose entries have another shape, with that shape.
        unexpected: Names that belong to no parameter.
        inputs: Number of inputs n.
        labels_per_input: N that was stated, or that fits; None for an exact diagonal.
    """

    verdict: str
    likely: str
    summary: str
    evidence: tuple[str, ...]
    runner_up: str | None
    matches: tuple[Match, ...]
    groups: tuple[Audited, ...]
    missing: tuple[str, ...]
    misshapen: dict[str, tuple[int, ...]]
    unexpected: tuple[str, ...]
    inputs: int
    labels_per_input: float | None

    @property
    def is_fisher(self) -> bool:
        """Whether it is the whole Fisher diagonal, or an unbiased estimate of it."""
        return self.verdict in ("fisher", "estimate")

    def __bool__(self) -> bool:
        return self.is_fisher

    def __repr__(self) -> str:
        lines = [f"Audit: {self.summary}"]
        lines += [f"  - {sentence}" for sentence in self.evidence]
        width = max(len(group.name) for group in self.groups)
        lines.append(f"  {'':{width}} {'size':>8} {'scale':>11} {'residual':>9}" + "".join(
            f"{name:>18}" for name in self.groups[0].deviations
        ))  # fmt: skip
        for group in self.groups:
            cells = f"{group.size:8} {group.scale:11.5g} {group.residual:9.2g}"
            cells += "".join(f"{value:18.3g}" for value in group.deviations.values())
            lines.append(f"  {group.name:{width}} {cells}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON, None for what is not finite."""
        return _plain({**dataclasses.asdict(self), "is_fisher": self.is_fisher})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
