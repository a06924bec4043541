"""From findings to the record that people read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from fimsym.auditing.chance import ESTIMATES
from fimsym.auditing.evidence import Diagonal
from fimsym.auditing.given import Given
from fimsym.auditing.judge import Finding
from fimsym.auditing.record import Audit, Audited
from fimsym.engine import Analysis
from fimsym.engine.quantities import by_group


def audit_of(
    findings: list[Finding],
    given: Given,
    analysis: Analysis,
    probes: Diagonal,
    labels: int | None,
    note: str,
) -> Audit:
    """Return the record of an audit.

    Args:
        findings: Explanations, best first.
        given: The diagonal.
        analysis: Of the model and its data.
        probes: Variance of an estimate from one normal probe for each input.
        labels: Labels for each input, if they were stated.
        note: What could not be looked at, in a sentence; or empty.
    """
    first = findings[0]
    verdict, likely = _verdict(first)
    if (given.missing or given.misshapen) and verdict in ("fisher", "estimate"):
        verdict, likely = "incomplete", "missing_parameters"
    others = [causes[0].name for causes in first.others if causes]
    others += [_name(finding) for finding in findings[1:]]
    others = [name for name in others if name not in (likely, "fisher")]
    fitted = first.match.draws if first.match.fits else None
    count = labels or (round(fitted) if fitted and 1 <= fitted < 1e9 else 1)
    return Audit(
        verdict=verdict,
        likely=likely,
        summary=_summary(first, verdict, likely, given, analysis),
        evidence=tuple(_evidence(findings, likely, given, analysis, labels, note)),
        runner_up=next(iter(others), None),
        matches=tuple(finding.match for finding in findings),
        groups=_groups(given, analysis, _variances(analysis, probes), count),
        missing=given.missing,
        misshapen={name: tuple(value.shape) for name, value in given.misshapen.items()},
        unexpected=given.unexpected,
        inputs=analysis.inputs,
        labels_per_input=labels or fitted,
    )


def _verdict(first: Finding) -> tuple[str, str]:
    match = first.match
    if not match.fits:
        return "not_fisher", "unknown"
    if match.name == "fisher" and first.one:
        return "fisher", "fisher"
    if match.name in ESTIMATES:
        return "estimate", match.name
    return "not_fisher", _name(first)


def _name(finding: Finding) -> str:
    """Return the name of the mistake: the explanation's own, or where its factor comes from."""
    if finding.match.name != "fisher" or (finding.one and not finding.unexplained):
        return finding.match.name
    return finding.causes[0].name if finding.causes else "unexplained_factor"


def _summary(first: Finding, verdict: str, likely: str, given: Given, analysis: Analysis) -> str:
    match = first.match
    if verdict != "not_fisher":
        what = "the Fisher diagonal"
        if match.name in ESTIMATES:
            what = f"an unbiased estimate of the Fisher diagonal: {match.words}"
        if match.name == "other_estimate":
            what = (
                f"close to the Fisher diagonal, and may be an estimate of it: it has {match.words}"
            )
        if match.name == "score_squared":
            what += f", {_count(match.draws, 'label')} for each input"
        if verdict == "incomplete":
            absent = len(given.missing) + len(given.misshapen)
            return f"this is {what}, but {absent} parameter(s) are missing or misshapen."
        return f"this is {what}."
    if likely == "unknown":
        return (
            "this is not the Fisher diagonal, and no mistake that is known here explains it; it "
            "may belong to other weights, other inputs or another model."
        )
    words = [match.words] if match.name != "fisher" or match.draws else []
    words += [cause.words for cause in first.causes]
    if first.unexplained:
        words.append(_unexplained(match.scale, analysis))
    return f"this is not the Fisher diagonal: {'; '.join(words)}."


def _unexplained(scale: float, analysis: Analysis) -> str:
    words = f"{scale:.6g} times too large, for a reason that is not known here"
    if analysis.family == "gaussian":
        sigma = analysis.constants["sigma"]
        words += f", as if σ were {sigma / math.sqrt(scale):.4g} instead of {sigma:.4g}"
    return words


def _evidence(
    findings: list[Finding], likely: str, given: Given, analysis: Analysis, labels, note: str
) -> Iterator[str]:
    first = findings[0].match
    times = "" if abs(first.scale - 1) < 1e-6 else f"{first.scale:.6g} times "
    if first.fits and first.draws is None:
        yield f"it agrees with {times}that to {max(first.residual, 1e-16):.0e} in every parameter"
    elif first.fits:
        yield (
            f"its noise is that of {_count(first.draws)}, and it deviates by at most "
            f"{first.deviation:.1f} of their standard deviations"
        )
        if labels and first.name == "score_squared" and not 0.5 < first.draws / labels < 2:
            yield f"{labels} label(s) for each input were stated"
    total = sum(float(v.sum()) for v in given.values.values())
    truth = sum(float(analysis.fisher[n].sum()) for n in given.values)
    if truth:
        yield f"its trace is {total:.5g}, {total / truth:.4g} times that of the Fisher information"
    yield from _next(findings, likely)
    if given.missing:
        yield f"missing: {', '.join(given.missing)}"
    for name, value in given.misshapen.items():
        shape = list(analysis.fisher[name].shape)
        yield f"{name} has shape {list(value.shape)}, the parameter {shape}"
    if given.unexpected:
        yield f"not a parameter: {', '.join(given.unexpected)}"
    if note:
        yield note


def _next(findings: list[Finding], likely: str) -> Iterator[str]:
    """Yield what else was looked at and comes closest."""
    first = findings[0]
    if first.causes and first.others:
        words = "; ".join(" and ".join(c.words for c in causes) for causes in first.others[:2])
        yield f"the factor may also be: {words}"
    if not first.match.fits:
        yield f"closest: {first.match.words}; {_apart(first)}"
    for finding in findings[1:]:
        if _name(finding) not in (likely, "fisher") and math.isfinite(finding.match.residual):
            less = first.match.log_likelihood - finding.match.log_likelihood
            yield (
                f"second best: {finding.match.words}; {_apart(finding)}, and the log-likelihood "
                f"changes by {-less:+.3g} per entry"
            )
            return


def _apart(finding: Finding) -> str:
    return f"it differs by up to {100 * finding.match.residual:.2g} % in a parameter tensor"


def _count(draws: float | None, what: str = "draw") -> str:
    """Return a number of draws in words."""
    if draws is None or not math.isfinite(draws) or draws > 1e6:
        return f"very many {what}s"
    return f"about {draws:.2g} {what}s" if draws >= 1.05 else f"about one {what}"


def _variances(analysis: Analysis, probes: Diagonal) -> dict[str, Diagonal]:
    """Return the variance of each estimator from one draw for each input, by its name."""
    found = {"gaussian_probe": probes}
    for estimator in ("score_squared", "negative_hessian"):
        variance = analysis.values.get(f"variance_{estimator}")
        if variance is not None:
            found[estimator] = {name: v / analysis.inputs for name, v in variance.items()}
    return dict(sorted(found.items(), key=lambda pair: pair[0] != "score_squared"))


def _groups(
    given: Given, analysis: Analysis, variances: Mapping[str, Diagonal], draws: int
) -> tuple[Audited, ...]:
    found = []
    for group, names in by_group(given.values, analysis.grouping).items():
        diagonal, fisher = _flat(given.values, names), _flat(analysis.fisher, names)
        errors = {k: _flat(variance, names) / draws for k, variance in variances.items()}
        found.append(_group(group, diagonal, fisher, errors))
    return tuple(found)


def _flat(values: Mapping[str, Tensor], names: list[str]) -> Tensor:
    return torch.cat([values[name].reshape(-1) for name in names])


def _group(name: str, diagonal: Tensor, fisher: Tensor, variances: Mapping[str, Tensor]) -> Audited:
    size, total = float(fisher.square().sum()), float(fisher.sum())
    apart = (diagonal - fisher).abs()
    deviations = {}
    for estimator, variance in variances.items():
        live = variance > 0
        ratio = (apart.square()[live] / variance[live]).mean()
        deviations[estimator] = float(ratio) ** 0.5
    return Audited(
        name=name,
        size=diagonal.numel(),
        given=float(diagonal.sum()),
        fisher=total,
        scale=float((diagonal * fisher).sum()) / size if size else math.nan,
        residual=float(apart.sum()) / total if total else math.nan,
        deviations=deviations,
    )
