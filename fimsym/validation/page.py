"""The validation's table and HTML page."""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from fimsym.report import plots
from fimsym.report.page import render
from fimsym.validation.agreement import FAMILY_WISE_ERROR, Agreement, Comparison
from fimsym.validation.measurement import GAP
from fimsym.validation.montecarlo import ESTIMATES
from fimsym.validation.output import NAME
from fimsym.validation.validate import ModelReport, Validation

HEADER = (
    "layer",
    "quantity",
    "closed form",
    "Monte Carlo",
    "± s.e.",
    "largest |z|",
    "detectable",
    "verdict",
)
"""Columns of the table."""

NAMES = {
    "fisher_score_squared": "I  (mean of Î₁)",
    "fisher_negative_hessian": "I  (mean of Î₂)",
    "variance_score_squared": "V₁ (Var Î₁)",
    "variance_negative_hessian": "V₂ (Var Î₂)",
    "covariance": "Cov(Î₁, Î₂)",
}

OVERVIEW = ("family", "labels from", "largest |z|", *NAMES.values(), "time", "verdict")
"""Columns of the page's first table; its percentages are detectable errors."""


def row(comparison: Comparison) -> tuple[str, ...]:
    """Return one row of the table as text."""
    random = comparison.tested > 0
    return (
        comparison.layer,
        NAMES[comparison.quantity],
        _number(comparison.closed_form),
        _number(comparison.monte_carlo) if random or comparison.closed_form else "0",
        _number(comparison.standard_error) if random else "0",
        f"{comparison.largest_z:.2f}" if random else "–",
        _percent(comparison.detectable) if random else "–",
        verdict(comparison),
    )


def verdict(comparison: Comparison) -> str:
    """Return ``agrees``, ``exact`` where nothing is random, or ``DISAGREES``."""
    if not comparison.agrees:
        return "DISAGREES"
    return "agrees" if comparison.tested else "exact"


def summary(validation: Validation) -> str:
    """Return the verdict's reason in a sentence."""
    rejected = sum(not c.agrees for m in validation.models for c in m.agreement.comparisons)
    broken = [_name(m) for m in validation.models if m.autograd_gap > GAP]
    apart = [_name(m) for m in validation.models if m.function_gap > GAP]
    networks = any(m.subject.name != NAME for m in validation.models)
    text = (
        f"{validation.tests:,} tests at a family-wise error of {FAMILY_WISE_ERROR:g}, "
        f"{validation.output_samples:,} labels per random point and direction"
    )
    if networks:
        text += f", {validation.samples:,} per input and parameter of a network"
    if rejected:
        text += f"; {rejected} row(s) rejected"
    if broken:
        text += f"; autograd along paths and through the network differ in {', '.join(broken)}"
    if apart:
        text += f"; an evaluator's single functions or bounds are wrong in {', '.join(apart)}"
    return text


def title(model: ModelReport) -> str:
    """Return the title of a model's table."""
    return f"{model.subject.title}; {model.subject.quality}"


def page(validation: Validation, command: str) -> str:
    """Return the self-contained HTML report."""
    families: dict[str, list[ModelReport]] = {}
    for model in validation.models:
        families.setdefault(model.subject.family, []).append(model)
    context = {
        "agrees": validation.agrees,
        "verdict": "agreed" if validation.agrees else "disagreed",
        "summary": summary(validation) + ".",
        "explanation": (
            "Closed forms come from the generated evaluators. The Monte Carlo side draws labels "
            "from the law and differentiates log p by autograd, first at random points of each "
            "family's domain, then on networks trained on real data. Sums over all directions "
            "or over each layer are shown; every parameter is tested as well. “Detectable” is "
            "the relative error of a closed form that this run catches with probability 0.99. "
            "“Exact” rows have no randomness: the estimator is constant there."
        ),
        "overview_header": OVERVIEW,
        "overview": [_overview(model) for model in validation.models],
        "header": HEADER,
        "families": [
            {"name": name, "models": [_model(model) for model in models]}
            for name, models in families.items()
        ],
        "settings": [
            ("command", command),
            ("labels per random point and direction", f"{validation.output_samples:,}"),
            ("labels per input and parameter", f"{validation.samples:,}"),
            ("seed", str(validation.seed)),
            ("time", f"{validation.seconds:.0f} s"),
            ("fimsym", version("fimsym")),
            ("torch, NumPy, Python", f"{torch.__version__}, {np.__version__}, "
                                     f"{platform.python_version()}"),
        ],
    }  # fmt: skip
    return render("validation.html.jinja", context)


def _name(model: ModelReport) -> str:
    return f"{model.subject.family} ({model.subject.name})"


def _overview(model: ModelReport) -> dict[str, Any]:
    rows = model.agreement.comparisons
    largest = max(c.largest_z for c in rows)
    seen = [_percent(max((c.detectable for c in rows if c.quantity == q and _shown(c)),
                         default=math.inf)) for q in ESTIMATES]  # fmt: skip
    return {
        "family": model.subject.family,
        "cells": (model.subject.name, f"{largest:.2f}", *seen, f"{model.seconds:.1f} s"),
        "agrees": model.agrees,
    }


def _shown(comparison: Comparison) -> bool:
    return math.isfinite(comparison.detectable)


def _model(model: ModelReport) -> dict[str, Any]:
    inputs = "" if model.subject.name == NAME else f"{model.subject.inputs} held-out inputs, "
    return {
        "title": model.subject.title,
        "quality": inputs + model.subject.quality,
        "agrees": model.agrees,
        "rows": [
            {"cells": row(c)[:-1], "agrees": c.agrees, "verdict": verdict(c)}
            for c in model.agreement.comparisons
        ],
        "figures": [] if model.subject.name == NAME else _figures(model.agreement),
    }


def _figures(agreement: Agreement) -> list[dict[str, str]]:
    """Return a network's figures; random points have none, where the table says it all."""
    scores = torch.cat([agreement.z[name] for name in ESTIMATES]).clamp(-1e3, 1e3)
    pairs = {
        name: (agreement.closed_form[name].tolist(), agreement.monte_carlo[name].tolist())
        for name in ("fisher_score_squared", *ESTIMATES[2:])
    }
    layers = list(dict.fromkeys(c.layer for c in agreement.comparisons))
    sums = {
        quantity: [c.closed_form for c in agreement.comparisons if c.quantity == quantity]
        for quantity in ("variance_score_squared", "variance_negative_hessian")
    }
    figures = [
        (plots.z_histogram(scores.tolist(), "z-scores of every parameter"),
         "Differences in units of their standard error, against the normal law they follow "
         "when the closed forms are right."),
        (plots.agreement(pairs, "Every parameter"),
         "Magnitudes, mean over the inputs; the line is equality."),
        (plots.grouped_bars([f"layer {name}" for name in layers], sums, "variance, one label"),
         "Variance of each estimator, summed over the layer. In a last layer that is linear "
         "in its parameters Î₂ has none."),
    ]  # fmt: skip
    return [{"svg": plots.svg(figure), "caption": caption} for figure, caption in figures]


def _number(value: float) -> str:
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "–"
