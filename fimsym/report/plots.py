"""The plots of every report, from plain numbers, in one style."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from fimsym.errors import UnsupportedError

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette, legible to the colour-blind."""

LABELS = {
    "fisher": "Fisher information $I$",
    "variance_score_squared": "$V_1$, squared score",
    "variance_negative_hessian": "$V_2$, negative Hessian",
    "covariance": "covariance",
    "fisher_score_squared": "mean of $\\hat I_1$",
    "fisher_negative_hessian": "mean of $\\hat I_2$",
}

_LETTERS = 40
"""Of names below an axis, from which on they are slanted."""
_SHOWN = 400
"""Points of a curve of quantiles."""

STYLE: Any = {
    "figure.figsize": (5.2, 3.4),
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "fimsym",
    "svg.fonttype": "path",
}
"""Of every figure, for `matplotlib.style.use` too; on white, which dark pages frame."""


def require_matplotlib(otherwise: str = "") -> None:
    """Raise UnsupportedError unless plots can be drawn; `otherwise` says how to do without."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            "plots need matplotlib, which is not installed. Run: pip install matplotlib"
            + (f", {otherwise}." if otherwise else ".")
        ) from None


def _styled(draw: Callable) -> Callable:
    """Run a drawing function in the one style of all plots."""

    @functools.wraps(draw)
    def drawn(*arguments, **options):
        require_matplotlib()
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


@_styled
def z_histogram(z: Sequence[float], title: str) -> Any:
    """Return a figure of z-scores against the standard normal density."""
    figure, axes = _figure(title)
    values = np.asarray(z)
    reach = max(4.0, float(np.abs(values).max(initial=0)) + 0.25) if values.size else 4.0
    bins = np.linspace(-min(reach, 10), min(reach, 10), 49)
    axes.hist(np.clip(values, bins[0], bins[-1]), bins=bins.tolist(), density=True, color=COLORS[5],
              label=f"{values.size:,} z-scores")  # fmt: skip
    grid = np.linspace(-4, 4, 200)
    normal = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    axes.plot(grid, normal, color=COLORS[1], label="N(0, 1)")
    axes.set_xlabel("(closed form − Monte Carlo) / standard error")
    axes.set_ylabel("density")
    axes.legend()
    return figure


@_styled
def z_quantiles(series: Mapping[str, Sequence[float]], title: str) -> Any:
    """Return a figure of the quantiles of z-scores against those of N(0, 1), one colour each."""
    figure, axes = _figure(title)
    reach = 4.0
    for color, (name, z) in zip(COLORS, series.items(), strict=False):
        shares = (np.arange(len(z)) + 0.5) / len(z)
        shown = np.unique(np.linspace(0, len(z) - 1, _SHOWN).round().astype(int))
        normal = [NormalDist().inv_cdf(share) for share in shares[shown]]
        values = np.clip(np.sort(np.asarray(z))[shown], -10, 10)
        reach = max(reach, float(np.abs(values).max()) + 0.25)
        axes.plot(normal, values, ".", markersize=3, color=color,
                  label=f"{LABELS.get(name, name)} ({len(z):,})")  # fmt: skip
    axes.plot([-4, 4], [-4, 4], color="black", linewidth=0.8)
    axes.set(xlabel="quantile of N(0, 1)", ylabel="quantile of the z-scores", ylim=(-reach, reach))
    axes.legend(markerscale=3)
    return figure


@_styled
def agreement(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    axes_labels: tuple[str, str] = ("closed form", "Monte Carlo"),
) -> Any:
    """Return a figure of |Monte Carlo| against |closed form|, one colour per quantity."""
    figure, axes = _figure(title)
    low, high = np.inf, 0.0
    for color, (name, (closed, sampled)) in zip(COLORS, pairs.items(), strict=False):
        x, y = np.abs(np.asarray(closed)), np.abs(np.asarray(sampled))
        shown = (x > 1e-14 * x.max(initial=0)) & (y > 0) & (x > 0)
        if not shown.any():
            continue
        low, high = min(low, x[shown].min()), max(high, x[shown].max())
        axes.scatter(x[shown], y[shown], s=5, color=color, alpha=0.6, linewidths=0,
                     label=LABELS.get(name, name), rasterized=x.size > 300)  # fmt: skip
    if high > 0:
        axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    xlabel, ylabel = axes_labels
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.legend(markerscale=2)
    return figure


@_styled
def grouped_bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], label: str) -> Any:
    """Return a figure with one cluster of bars per group, on a logarithmic axis."""
    figure, axes = _figure("")
    figure.set_figwidth(max(figure.get_figwidth(), 0.45 * len(groups)))
    width = 0.8 / max(1, len(series))
    positive = [v for values in series.values() for v in values if v > 0]
    floor = min(positive, default=1.0) / 10
    for n, (color, (name, values)) in enumerate(zip(COLORS, series.items(), strict=False)):
        places = np.arange(len(groups)) + (n - (len(series) - 1) / 2) * width
        heights = [max(value, floor) if value > 0 else 0.0 for value in values]
        axes.bar(places, heights, width, color=color, label=LABELS.get(name, name))
        for place, value in zip(places, values, strict=True):
            if value == 0:
                axes.text(place, floor, "0", ha="center", va="bottom", color=color)
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor)
    slanted = sum(map(len, groups)) > _LETTERS
    if slanted:
        figure.set_figheight(figure.get_figheight() + 0.05 * max(map(len, groups)))
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(groups)), groups, **turned)
    axes.set_ylabel(label)
    axes.set_xlabel("group of parameters")
    figure.legend(loc="outside upper center", ncols=min(2, len(series)))
    return figure


@_styled
def svg(figure: Any) -> str:
    """Return a figure as an inline SVG element, the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    head, _, body = text[text.index("<svg") :].partition(">")
    # The page decides how large a figure is; its viewBox keeps the proportions.
    return re.sub(r' (width|height)="[^"]*"', "", head) + ">" + body


def _figure(title):
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    if title:
        axes.set_title(title)
    return figure, axes
