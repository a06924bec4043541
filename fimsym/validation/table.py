"""A validation in words and tables of text."""

from __future__ import annotations

import math

from fimsym.validation.estimates import ESTIMATES
from fimsym.validation.result import Validation
from fimsym.validation.tails import FAMILY_WISE_ERROR
from fimsym.validation.verdict import CHECKS, Check, Comparison, Fit, ModelReport

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
"""Columns of the table of one subject."""

NAMES = {
    "fisher_score_squared": "I  (mean of Î₁)",
    "fisher_negative_hessian": "I  (mean of Î₂)",
    "variance_score_squared": "V₁ (Var Î₁)",
    "variance_negative_hessian": "V₂ (Var Î₂)",
    "covariance": "Cov(Î₁, Î₂)",
}

OVERVIEW = (
    "family",
    "labels from",
    "labels",
    "largest |z|",
    "I (Î₁)",
    "I (Î₂)",
    "V₁",
    "V₂",
    "Cov",
    "verdict",
)
"""Columns of the table of all subjects; its percentages are detectable errors."""

FITS = ("quantity", "z-scores", "mean", "mean square", "adjusted level", "verdict")
"""Columns of the table of z-scores."""


def row(comparison: Comparison) -> tuple[str, ...]:
    """Return one row of a subject's table."""
    random = comparison.tested > 0
    return (
        comparison.layer,
        NAMES[comparison.quantity],
        number(comparison.closed_form),
        number(comparison.monte_carlo) if random or comparison.closed_form else "0",
        number(comparison.standard_error) if random else "0",
        f"{comparison.largest_z:.2f}" if random else "–",
        percent(comparison.detectable) if random else "–",
        verdict(comparison),
    )


def verdict(comparison: Comparison) -> str:
    """Return ``agrees``, ``exact`` where nothing is random, or ``DISAGREES``."""
    if not comparison.agrees:
        return "DISAGREES"
    return "agrees" if comparison.tested else "exact"


def overview(model: ModelReport) -> tuple[str, ...]:
    """Return one subject's row of the table of all subjects."""
    rows = model.comparisons
    return (
        model.description.family,
        model.description.name,
        f"{model.samples:,}",
        f"{max(c.largest_z for c in rows):.2f}",
        *(percent(worst(model, quantity)) for quantity in ESTIMATES),
        "agrees" if model.agrees else "DISAGREES",
    )


def worst(model: ModelReport, quantity: str) -> float:
    """Return the largest detectable error of a quantity over layers; infinite without any."""
    found = [c.detectable for c in model.comparisons if c.quantity == quantity and c.tested]
    return max((x for x in found if math.isfinite(x)), default=math.inf)


def title(model: ModelReport) -> str:
    """Return the title of a subject's table."""
    points = "point" if model.description.kind == "law" else "input"
    return (
        f"{model.description.title}; {model.description.quality}; "
        f"{model.samples:,} labels per {points} and parameter"
    )


def power(comparison: Comparison) -> str:
    """Return in words what error of a row would have been caught; ``""`` if none is random."""
    if not math.isfinite(comparison.detectable) or not comparison.tested:
        return ""
    name = NAMES[comparison.quantity].partition(" (")[0].strip()
    return (
        f"An error of {percent(comparison.detectable)} or more in {name} of layer "
        f"{comparison.layer} would have been caught with probability 0.99."
    )


def weakest(validation: Validation) -> str:
    """Return in words the error that every row of a run would have caught."""
    found = {}
    for kinds, words in (
        (("law", "network"), "any row of a law or network"),
        (("link",), "any row of a link"),
    ):
        rows = [
            (comparison.detectable, model, comparison)
            for model in validation.models
            for comparison in model.comparisons
            if power(comparison) and model.description.kind in kinds
        ]
        if rows:
            value, model, comparison = max(rows, key=lambda row: row[0])
            name = NAMES[comparison.quantity].partition(" (")[0].strip()
            where = f"{model.description.family}, {model.description.name}"
            found[f"{percent(value)} or more in {words}"] = f"{name} of {where}"
    if not found:
        return "Nothing in this run is random."
    return (
        f"An error of {', or of '.join(found)} would have been caught with probability 0.99. "
        f"The weakest: {'; '.join(found.values())}."
    )


def summary(validation: Validation) -> str:
    """Return the verdict's reason in a sentence."""
    rejected = [
        f"{NAMES[c.quantity].strip()} of {m.description.family}, {m.description.name}, {c.layer}"
        for m in validation.models
        for c in m.comparisons
        if not c.agrees
    ]
    text = f"{validation.tests:,} tests at a family-wise error of {FAMILY_WISE_ERROR:g}"
    if validation.interrupted:
        done, total = validation.progress
        text += f"; interrupted after {done} of {total} parts, so that this is no verdict"
    if rejected:
        text += f"; {len(rejected)} row(s) rejected: {listed(rejected)}"
    failed = [
        f"{m.description.family}, {m.description.name}: not {check_in_words(check)}"
        for m in validation.models
        for check in m.checks
        if not check.passes
    ]
    if failed:
        text += f"; {listed(failed)}"
    odd = [fit for m in validation.models for fit in m.fits if not fit.agrees]
    odd += [fit for fit in validation.fits if not fit.agrees]
    if odd:
        text += "; z-scores are not those of N(0, 1)"
    return text


def check_in_words(check: Check) -> str:
    """Return what a check says when it passes, with what was found."""
    gap = f"{check.gap:.1e}" if math.isfinite(check.gap) else "not equal"
    return f"{CHECKS[check.name]} ({gap})"


def fit_row(fit: Fit) -> tuple[str, ...]:
    """Return one row of the table of z-scores."""
    return (
        NAMES[fit.quantity],
        f"{fit.scores:,}",
        f"{fit.mean:+.3f}",
        f"{fit.variance:.3f}",
        f"{min(fit.shape_level, fit.spread_level):.2g}",
        "agrees" if fit.agrees else "DISAGREES",
    )


def listed(texts: list[str], most: int = 3) -> str:
    """Return the first few texts joined by commas, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def number(value: float) -> str:
    """Return a number with four digits."""
    return f"{value:.4g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def percent(value: float) -> str:
    """Return a share in percent; ``–`` for infinity."""
    return f"{value:.2%}" if math.isfinite(value) else "–"
