"""The pictures of the figures, from their rows, in the style of every plot of fimsym."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fimsym.report.plots import COLORS, STYLE
from fimsym.reproduce.record import Record

_FIRST, _SECOND, _EXACT = COLORS[0], COLORS[1], "black"
_OF_ESTIMATOR = {
    "score_squared": (_FIRST, "-", "$\\hat I_1$, squared score"),
    "negative_hessian": (_SECOND, "-", "$\\hat I_2$, negative Hessian"),
    "exact": (_EXACT, ":", "$I$ itself"),
}
_OF_QUANTITY = {
    "fisher": (COLORS[2], "$I$"),
    "variance_score_squared": (_FIRST, "of $\\hat I_1$"),
    "variance_negative_hessian": (_SECOND, "of $\\hat I_2$"),
}
_Row = Mapping[str, Any]


def style() -> Any:
    """Return the context in which figures are drawn and saved."""
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def figure_1(record: Record, maps: Mapping[tuple[str, int], Any]) -> Any:
    """Return test loss with paths of the first seed, and summed variance, for both tasks."""
    from matplotlib.figure import Figure

    tasks = list(record.findings)
    with style():
        figure = Figure(figsize=(8.2, 5.4), layout="constrained")
        axes = figure.subplots(2, len(tasks), squeeze=False)
        for column, task in enumerate(tasks):
            top, bottom = axes[:, column]
            _over_epochs(top, record.rows, task, "test_loss")
            _over_epochs(bottom, record.rows, task, "variance", leave_out="exact")
            _room_above(top, record.rows, task)
            _paths(top.inset_axes((0.42, 0.36, 0.56, 0.6)), record.rows, task, 0, maps[task, 0])
            top.set_title(task)
            bottom.set(yscale="log", xlabel="epoch")
            _plain_ticks(bottom.yaxis)
            for part in (top, bottom):
                part.xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].set_ylabel("test loss")
        axes[1, 0].set_ylabel("variance, summed over $\\theta$")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def figure_1_seeds(record: Record, maps: Mapping[tuple[str, int], Any]) -> Any:
    """Return the paths from several seeds, one map of the test loss each."""
    from matplotlib.figure import Figure

    tasks = list(record.findings)
    seeds = sorted({seed for _, seed in maps})
    with style():
        figure = Figure(
            figsize=(2 * len(seeds) + 0.6, 2.1 * len(tasks) + 0.6), layout="constrained"
        )
        axes = figure.subplots(len(tasks), len(seeds), squeeze=False)
        for row, task in enumerate(tasks):
            for column, seed in enumerate(seeds):
                _paths(axes[row, column], record.rows, task, seed, maps[task, seed])
            axes[row, 0].set_ylabel(f"{task}\n$\\theta_2$")
        for column, seed in enumerate(seeds):
            axes[0, column].set_title(f"seed {seed}")
            axes[-1, column].set_xlabel("$\\theta_1$")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def figure_2(record: Record) -> Any:
    """Return mean Fisher, deviations and bounds over log-ratios, a column for every layer."""
    from matplotlib.figure import Figure

    layers = sorted({row["layer"] for row in record.rows})
    with style():
        figure = Figure(figsize=(2.5 * len(layers), 5.2), layout="constrained")
        axes = figure.subplots(2, len(layers), squeeze=False, sharex=True, sharey="row")
        for column, layer in enumerate(layers):
            rows = [row for row in record.rows if row["layer"] == layer]
            for quantity, (color, label) in _OF_QUANTITY.items():
                chosen = [row for row in rows if row["quantity"] == quantity]
                _magnitudes(axes[0, column], chosen, color, label)
                _log_ratios(axes[1, column], chosen, color)
            axes[0, column].set_title(f"layer {layer}" + " (last)" * (layer == layers[-1]))
            axes[1, column].set_xlabel("epoch")
            axes[1, column].xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_ylabel("mean over the layer's parameters")
        axes[1, 0].set_ylabel("ln(bound / value)")
        axes[1, 0].set_ylim(bottom=0)
        _legend_2(figure)
    return figure


def _over_epochs(axes: Any, rows: Sequence[_Row], task: str, key: str, leave_out: str = "") -> None:
    """Draw every seed thin and the median over them thick."""
    for estimator, (color, line, label) in _OF_ESTIMATOR.items():
        if estimator == leave_out:
            continue
        curves = _curves([r for r in rows if (r["task"], r["estimator"]) == (task, estimator)], key)
        if estimator != "exact":
            axes.plot(curves.T, color=color, linewidth=0.6, alpha=0.3)
        axes.plot(np.median(curves, 0), line, color=color, linewidth=1.6, label=label)


def _plain_ticks(axis: Any) -> None:
    """Label 1, 2 and 5 of every decade as plain numbers."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _room_above(axes: Any, rows: Sequence[_Row], task: str) -> None:
    """Leave out of the picture what only a few seeds reach once they have started."""
    losses = [r["test_loss"] for r in rows if r["task"] == task]
    low, start = (
        min(losses),
        max(r["test_loss"] for r in rows if (r["task"], r["epoch"]) == (task, 0)),
    )
    axes.set_ylim(low - 0.05 * (start - low), start + 0.05 * (start - low))


def _paths(axes: Any, rows: Sequence[_Row], task: str, seed: int, surface: Any) -> None:
    """Draw the paths of one seed over levels of the test loss."""
    theta_1, theta_2, losses = surface
    low, high = np.min(losses), np.max(losses)
    levels = low + (high - low) * np.linspace(0.2, 1, 8) ** 2
    axes.contour(theta_1, theta_2, losses, levels, colors="0.8", linewidths=0.6)
    for estimator, (color, line, label) in _OF_ESTIMATOR.items():
        key = (task, estimator, seed)
        path = [r for r in rows if (r["task"], r["estimator"], r["seed"]) == key]
        x, y = [r["theta_1"] for r in path], [r["theta_2"] for r in path]
        mark = {} if estimator == "exact" else {"marker": ".", "markersize": 3}
        axes.plot(x, y, line, color=color, linewidth=1, label=label, **mark)
        axes.plot(x[0], y[0], "o", color="black", markersize=4)
    axes.set_facecolor("white")
    axes.tick_params(labelsize=7)


def _magnitudes(axes: Any, rows: Sequence[_Row], color: str, label: str) -> None:
    """Draw a mean, or the root of a variance's mean with its bound."""
    value, bound = _curves(rows, "mean"), _curves(rows, "bound")
    if not value.any():
        axes.text(0.97, 0.03, "$V_2 = 0$, exactly", color=color, ha="right", va="bottom",
                  transform=axes.transAxes)  # fmt: skip
        return
    if rows[0]["quantity"] == "fisher":
        _banded(axes, value, color, "-", label)
        return
    _banded(axes, np.sqrt(value), color, "-", label)
    _banded(axes, np.sqrt(bound), color, "--", None)


def _log_ratios(axes: Any, rows: Sequence[_Row], color: str) -> None:
    if any(row["log_ratio"] is not None for row in rows):
        _banded(axes, _curves(rows, "log_ratio"), color, "-", None)


def _banded(axes: Any, curves: Any, color: str, line: str, label: str | None) -> None:
    """Draw the median over the seeds and the range they have."""
    axes.plot(np.median(curves, 0), line, color=color, label=label)
    axes.fill_between(range(curves.shape[1]), curves.min(0), curves.max(0), color=color,
                      alpha=0.15, linewidth=0)  # fmt: skip


def _legend_2(figure: Any) -> None:
    from matplotlib.lines import Line2D

    entries = [
        Line2D([], [], color=color, label=text)
        for (color, _), text in zip(
            _OF_QUANTITY.values(),
            ("Fisher $I$", "$\\hat I_1$, deviation $\\sqrt{V_1}$",
             "$\\hat I_2$, deviation $\\sqrt{V_2}$"),
            strict=True,
        )
    ]  # fmt: skip
    entries.append(Line2D([], [], color="0.3", linestyle="--", label="bound of a deviation"))
    figure.legend(handles=entries, loc="outside upper center", ncols=len(entries))


def _curves(rows: Sequence[_Row], key: str) -> Any:
    """Return values as [seed, epoch]."""
    seeds = sorted({row["seed"] for row in rows})
    values = [[row[key] for row in rows if row["seed"] == seed] for seed in seeds]
    return np.array(values, dtype=float)  # None is NaN
