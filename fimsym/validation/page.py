"""The validation's HTML page."""

from __future__ import annotations

from typing import Any

import numpy as np

from fimsym.report import plots
from fimsym.report.page import render
from fimsym.validation import table
from fimsym.validation.estimates import ESTIMATES
from fimsym.validation.result import Validation
from fimsym.validation.sizes import MOST_DRAWN
from fimsym.validation.verdict import ModelReport, near_normal

_EXPLANATION = (
    "Closed forms come from the generated evaluators, and for networks through analyze. The "
    "Monte Carlo side draws labels from the law and differentiates log p by autograd: at random "
    "points of each family's domain, at random outputs through each link, and on networks trained "
    "on real data. How many labels was fixed before they were drawn.",
    "Sums over all directions or over each layer are shown; every parameter is tested as well. "
    "“Detectable” is the relative error of all closed forms of a row that this run catches with "
    "probability 0.99. “Exact” rows have no randomness: the estimator is constant there. A test "
    "is rejected by Bernstein's bound and Holm's correction over all tests of the run.",
)


def page(validation: Validation, command: str) -> str:
    """Return the self-contained HTML report."""
    families: dict[str, list[ModelReport]] = {}
    for model in validation.models:
        families.setdefault(model.description.family, []).append(model)
    context = {
        "agrees": validation.agrees,
        "verdict": "agreed" if validation.agrees else "disagreed",
        "summary": table.summary(validation) + ".",
        "weakest": table.weakest(validation),
        "explanation": _EXPLANATION,
        "overview_header": table.OVERVIEW,
        "overview": [
            {"cells": table.overview(model)[1:-1], "family": model.description.family,
             "agrees": model.agrees}
            for model in validation.models
        ],
        "fits_header": table.FITS,
        "fits": [{"cells": table.fit_row(f), "agrees": f.agrees} for f in validation.fits],
        "z_figures": _of_scores(validation.models),
        "header": table.HEADER,
        "families": [
            {"name": name, "models": [_model(model) for model in models]}
            for name, models in families.items()
        ],
        "untested": validation.untested,
        "settings": _settings(validation, command),
    }  # fmt: skip
    return render("validation.html.jinja", context)


def _settings(validation: Validation, command: str) -> list[tuple[str, str]]:
    chosen = validation.relative_error
    labels = (
        "given"
        if chosen is None
        else f"chosen from a pilot for a detectable error of {chosen:.3g}, with at most "
        f"{MOST_DRAWN:,} labels of a subject drawn one by one; the pilot's were not used again"
    )
    versions = ", ".join(f"{name} {version}" for name, version in validation.environment.items())
    return [
        ("command", command),
        ("number of labels", labels),
        ("seed", f"{validation.seed}; Philox, keyed by seed, subject, input and parameter"),
        ("versions", versions),
    ]


def _model(model: ModelReport) -> dict[str, Any]:
    return {
        "title": table.title(model),
        "agrees": model.agrees,
        "rows": [
            {"cells": table.row(c)[:-1], "agrees": c.agrees, "verdict": table.verdict(c)}
            for c in model.comparisons
        ],
        "checks": [
            {"text": table.check_in_words(check), "agrees": check.passes} for check in model.checks
        ],
        "power": [text for c in model.comparisons if (text := table.power(c))],
        "untested": model.description.untested,
        "figures": _of_network(model) if _trained(model) else [],
    }


def _trained(model: ModelReport) -> bool:
    """Whether the subject has layers; a law at points is said by its table alone."""
    return len({c.layer for c in model.comparisons}) > 1


def _of_scores(models: tuple[ModelReport, ...]) -> list[dict[str, str]]:
    """Return the figures of all z-scores."""
    found = {}
    for name in ESTIMATES:
        parts = [near_normal(model.scores[name])[0] for model in models]
        z = np.concatenate(parts) if parts else np.zeros(0)
        if len(z):
            found[name] = z.tolist()
    if not found:
        return []
    everything = [score for scores in found.values() for score in scores]
    return _drawn(
        (
            plots.z_histogram(everything, "z-scores of all parameters"),
            "Differences in units of their standard error, against the normal law they follow "
            "when the closed forms and the errors are right.",
        ),
        (
            plots.z_quantiles(found, "Quantiles of z-scores"),
            "Below the line on the right or above it on the left, errors are too small; beyond "
            "it, too large.",
        ),
    )


def _of_network(model: ModelReport) -> list[dict[str, str]]:
    scores = model.scores
    z = np.concatenate([scores[n].z[scores[n].tested] for n in ESTIMATES]).clip(-1e3, 1e3)
    pairs = {
        name: (scores[name].closed_form.tolist(), scores[name].monte_carlo.tolist())
        for name in ("fisher_score_squared", *ESTIMATES[2:])
    }
    layers = list(dict.fromkeys(c.layer for c in model.comparisons))
    sums = {
        quantity: [c.closed_form for c in model.comparisons if c.quantity == quantity]
        for quantity in ("variance_score_squared", "variance_negative_hessian")
    }
    return _drawn(
        (
            plots.z_histogram(z.tolist(), "z-scores of every parameter"),
            "Differences in units of their standard error, rare labels included.",
        ),
        (
            plots.agreement(pairs, "Every parameter"),
            "Magnitudes, mean over the inputs; the line is equality.",
        ),
        (
            plots.grouped_bars([f"layer {name}" for name in layers], sums, "variance, one label"),
            "Variance of each estimator, summed over the layer. In a last layer that is linear "
            "in its parameters Î₂ has none.",
        ),
    )


def _drawn(*figures: tuple[Any, str]) -> list[dict[str, str]]:
    return [{"svg": plots.svg(figure), "caption": caption} for figure, caption in figures]
