"""Worst error of every evaluator against derivatives of F to 80 digits.

Run ``python -m benchmarks.accuracy`` from the project's folder; ``--points`` sets how many random
points each cell of the table rests on. The table in ``docs/accuracy.md`` is its output.
"""

from __future__ import annotations

import itertools
import sys

import click
import mpmath as mp
import torch

import fimsym
from fimsym.report.progress import progress
from tests.cases import CASES, Case, points
from tests.reference import highprecision

QUANTITIES = (
    "fisher",
    "variance_score_squared",
    "variance_negative_hessian",
    "third",
    "covariance",
)
_PARAMETERS = 3


def worst_errors(
    case: Case, outputs: int, scale: float, constants: dict, dtype: torch.dtype, count: int
) -> dict[str, float]:
    """Return the worst relative error of each quantity over `count` random points.

    Third cumulants and covariances change sign; their errors are relative to the largest
    they can be, √(I V₁) and √(V₁ V₂). A difference below the smallest normal number is none.
    """
    batch = -(-count // _PARAMETERS)
    h, u, v = (x.to(dtype) for x in points(case, outputs, scale, seed=17, batch=batch))
    got = fimsym.evaluator(case.family).moments(h, u, v, **constants)
    bound = fimsym.family(case.family).bind(constants)
    tiny = torch.finfo(dtype).tiny
    worst = dict.fromkeys(QUANTITIES, 0.0)
    for b, k in itertools.product(range(batch), range(_PARAMETERS)):
        point = (h[b].tolist(), u[b, :, k].tolist(), v[b, :, k].tolist())
        truth = highprecision.moments(case.family, *point, **bound)
        sizes = {name: abs(truth[name]) for name in QUANTITIES}
        first, second = truth["variance_score_squared"], truth["variance_negative_hessian"]
        sizes["third"] = max(sizes["third"], mp.sqrt(truth["fisher"] * first))
        sizes["covariance"] = max(sizes["covariance"], mp.sqrt(first * second))
        for name in QUANTITIES:
            error = abs(float(getattr(got, name)[b, k]) - truth[name])
            if error > 10 * tiny:
                worst[name] = max(worst[name], float(error / max(sizes[name], tiny)))
    return worst


@click.command()
@click.option("--points", "count", default=300, show_default=True, help="Points for each cell.")
def main(count: int) -> None:
    """Print the worst error of every family, dtype and size of h as a Markdown table."""
    cells = [
        (case, dtype, scale, outputs, constants)
        for case in CASES.values()
        for dtype in (torch.float64, torch.float32)
        for scale in case.scales
        for outputs in case.outputs
        for constants in case.constants
    ]
    rows: dict[tuple, dict[str, float]] = {}
    with progress("measuring", len(cells), True) as advance:
        for case, dtype, scale, outputs, constants in cells:
            worst = worst_errors(case, outputs, scale, constants, dtype, count)
            key = (case.family, str(dtype).removeprefix("torch."), f"{scale:g}")
            old = rows.setdefault(key, worst)
            rows[key] = {name: max(old[name], worst[name]) for name in QUANTITIES}
            advance()
    header = ("family", "dtype", "size of h", "I", "V₁", "V₂", "κ₃₀", "Cov")
    click.echo("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for key, worst in rows.items():
        cells_of_row = [f"{worst[name]:.0e}" for name in QUANTITIES]
        click.echo("| " + " | ".join((*key, *cells_of_row)) + " |")
    sys.exit(0)


if __name__ == "__main__":
    main()
