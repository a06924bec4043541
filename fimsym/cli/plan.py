"""The ``plan`` command: which estimator, and how many labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fimsym.cli.options import network_options, opened
from fimsym.cli.printing import console, echo, plain, print_json, writing

if TYPE_CHECKING:
    from fimsym.estimation import Plan


@click.command("plan", short_help="Which estimator, and how many labels.")
@network_options
@click.option("--relative-error", default=0.1, show_default=True, help="To be reached everywhere.")
@click.option("--confidence", default=0.95, show_default=True, help="With which it is reached.")
@click.option("--pilot", default=32, show_default=True, help="Inputs to look at.")
def plan_command(relative_error: float, confidence: float, pilot: int, **shared: Any) -> None:
    """Say which estimator reaches an error with the fewest backward passes.

    A few inputs are looked at in closed form. For each group of parameters the table holds the
    relative standard deviation of one draw for every input, the labels (or probes) needed for
    each, by the normal law and by Chebyshev's inequality, and what these take.
    """
    with opened(**shared) as given:
        from fimsym.estimation import plan

        result = given.call(
            plan,
            relative_error=relative_error,
            confidence=confidence,
            pilot=pilot,
        )
        if not given.first:
            return
        if given.as_json:
            print_json(result.to_dict())
        else:
            _show(result)


@writing()
def _show(result: Plan) -> None:
    from rich import box
    from rich.table import Table

    from fimsym.estimation.planned import number, shown

    echo(
        f"{result.family}, {result.inputs:,} inputs, {result.outputs} outputs: relative error "
        f"{result.relative_error:g} at confidence {result.confidence:g}, from {result.pilot} inputs"
    )
    table = Table(box=box.SIMPLE_HEAD)
    headings = ("group", "estimator", "deviation", "labels", "Chebyshev", "passes", "")
    for name in headings:
        table.add_column(name, justify="left" if name in ("group", "estimator", "") else "right")
    for group in result.groups:
        for name, option in group.options.items():
            deviation = f"{option.deviation:.2%}" if option.deviation == option.deviation else "–"
            chebyshev = "–" if option.labels_chebyshev is None else f"{option.labels_chebyshev:,}"
            first = name == next(iter(group.options))
            best = name == group.recommended
            table.add_row(
                plain(group.name if first else ""),
                name,
                deviation,
                shown(option),
                chebyshev if option.labels else "",
                number(option.passes),
                "← fewest passes here" if best else "",
                style="bold" if best else None,
                end_section=name == list(group.options)[-1],
            )
    console().print(table)
    echo(result.sentence)
    for insight in result.insights:
        echo(f"· {insight}")
