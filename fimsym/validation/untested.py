"""What a run does not test, and why: said in its report."""

from __future__ import annotations

from collections.abc import Sequence

from fimsym.families import Family, families
from fimsym.validation.tasks import tasks

ALWAYS = (
    "Rounding in float32 and bfloat16: both sides are computed in float64. "
    "python -m benchmarks.accuracy measures the evaluators' digits at hard inputs.",
    "Devices other than the CPU.",
)
_LAYERS = (
    "Layers other than Linear, and activations other than the sigmoid and ReLU: networks here "
    "have no others. The project's tests compare the engine with enumeration on them; "
    "fimsym validate --model takes any network."
)


def left_out(chosen: Sequence[Family]) -> tuple[str, ...]:
    """Return sentences on the families and networks that a run leaves out."""
    names = [spec.name for spec in chosen]
    missing = [name for name in families() if name not in names]
    bare = [spec.name for spec in chosen if not tasks(spec)]
    found = []
    if missing:
        found.append(f"Families that were not asked for: {', '.join(missing)}.")
    if bare:
        found.append(
            f"Networks of {', '.join(bare)}: there is no data set for them. Their laws were "
            "tested at random points, and their links at random outputs."
        )
    return (*found, _LAYERS, *ALWAYS)
