"""What speed and memory should be, and whether they are."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.contenders import ALL, FLOOR, OURS, UNIT
from benchmarks.measure import Result

Results = Mapping[str, Mapping[str, Result]]
AGAINST_PEER = {
    "mlp": 0.5,
    "gaussian": 0.6,
    "cnn": 0.65,
    "wide": 0.005,
    "wide2": 0.2,
    "transformer": 0.75,
}
ALL_FOUR = 60.0
MEMORY = 1.0
EXPONENT = 1.1
FIXED_MILLISECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Goal:
    """A number that should not exceed another.

    Attributes:
        text: What is measured.
        limit: What it should be at most.
        measured: What it is; None if it could not be measured.
        note: Against what, or why not.
    """

    text: str
    limit: float
    measured: float | None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if not measured."""
        return None if self.measured is None else self.measured <= self.limit


def fastest_peer(results: Mapping[str, Result]) -> Result | None:
    """Return the fastest peer whose diagonal is right and complete."""
    right = [r for r in results.values() if r.kind == "peer" and r.status == "ok" and r.typical]
    return min(right, key=lambda result: result.typical or 0.0, default=None)


def ratio(one: Result, other: Result) -> float | None:
    """Return the median over common rounds of their ratio; of typical times without rounds."""
    if one.seconds and other.seconds:
        pairs = zip(one.seconds, other.seconds, strict=False)
        return statistics.median(a / b for a, b in pairs)
    if one.typical is None or not other.typical:
        return None
    return one.typical / other.typical


def all_goals(
    results: Results, fixed: Mapping | None, linear: Mapping[str, Mapping] | None
) -> list[Goal]:
    """Return every goal with what was measured of it; those of parts not run are left out."""
    found = [_speed(name, results[name]) for name in AGAINST_PEER if name in results]
    if "mlp" in results:
        found.append(_all_four(results["mlp"]))
    found += [_memory(name, results[name]) for name in results]
    if linear is not None:
        found += [
            Goal(f"exponent of time in {axis}", EXPONENT, record["exponent"], record["message"])
            for axis, record in linear.items()
        ]
    if fixed is not None:
        text = "fixed cost of a call, ms"
        found.append(Goal(text, FIXED_MILLISECONDS, fixed["milliseconds"], fixed["message"]))
    return found


def _pair(results: Mapping[str, Result]) -> tuple[Result | None, Result | None, str]:
    """Return fimsym, the fastest peer and a note; fimsym must be right as well."""
    mine, peer = results.get(OURS), fastest_peer(results)
    if mine is None or mine.status != "ok":
        return None, peer, f"fimsym: {mine.status if mine else 'not run'}"
    if peer is None:
        return mine, None, "no peer is right and complete"
    return mine, peer, f"against {peer.name}"


def _speed(name: str, results: Mapping[str, Result]) -> Goal:
    mine, peer, note = _pair(results)
    measured = ratio(mine, peer) if mine and peer else None
    floor = _share(results.get(FLOOR), peer)
    if floor is not None:
        note += f"; the bare products take {floor:.2f} of its time"
    text = f"{name}: time of I and V₁ / time of the fastest peer's I"
    return Goal(text, AGAINST_PEER[name], measured, note)


def _share(least: Result | None, peer: Result | None) -> float | None:
    """Return the time of a right floor as a part of the peer's."""
    return ratio(least, peer) if least and peer and least.status == "ok" else None


def _memory(name: str, results: Mapping[str, Result]) -> Goal:
    mine, peer, note = _pair(results)
    text = f"{name}: peak memory / that of the fastest peer"
    if not mine or not peer or mine.peak is None or not peer.peak:
        return Goal(text, MEMORY, None, note if not (mine and peer) else "memory not measured")
    return Goal(text, MEMORY, mine.peak / peer.peak, note)


def _all_four(results: Mapping[str, Result]) -> Goal:
    text = "mlp: time of all four quantities / forward + backward"
    mine: Sequence[Result | None] = (results.get(ALL), results.get(UNIT))
    if not all(mine) or mine[0].status != "ok":
        return Goal(text, ALL_FOUR, None, mine[0].status if mine[0] else "not run")
    return Goal(text, ALL_FOUR, ratio(mine[0], mine[1]))
