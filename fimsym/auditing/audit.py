"""Is this diagonal, from somebody else's code, the Fisher's? And if not, which mistake was made?"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from fimsym.auditing.chance import ESTIMATES, FEWEST_DRAWS, Chance
from fimsym.auditing.evidence import Evidence
from fimsym.auditing.factors import Sizes
from fimsym.auditing.given import Given, laid_out, readings
from fimsym.auditing.judge import Finding, Judge, best, every_exact
from fimsym.auditing.noise import Noise
from fimsym.auditing.passes import Passes
from fimsym.auditing.record import Audit
from fimsym.auditing.words import audit_of
from fimsym.engine import Analysis, analyze
from fimsym.engine import data as inputs_of
from fimsym.engine.distributed import sharing
from fimsym.engine.head import Head
from fimsym.engine.kernels import differentiating, exact_kernels
from fimsym.engine.memory import budget
from fimsym.engine.network import Network
from fimsym.engine.quantities import check_grouping
from fimsym.errors import ShapeError, SpecError
from fimsym.families import Family

TOLERANCE = 1e-3
"""Relative error that counts as rounding; more for coarse dtypes."""
_LIKELY = 0.05
"""Probability of the data's labels as draws from which on nobody can tell them apart."""
_MOST_CURVED = 20_000
"""Parameters up to which second derivatives are taken unasked, where an entry is negative."""


def audit(
    diagonal: Any,
    model: nn.Module,
    data: inputs_of.Data,
    family: str | Family | None = None,
    link: str | None = None,
    labels_per_input: int | None = None,
    batch_size: int | None = None,
    groups: str = "layer",
    negative_hessian: bool | None = None,
    tolerance: float | None = None,
    max_memory: int | str | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    seed: int = 0,
    draws: int = 40,
    **constants: float,
) -> Audit:
    """Tell whether a diagonal is that of the Fisher information, and name the mistake if not.

    The diagonal is compared with the closed form of I, the mean over the inputs for one label;
    then with what is easily computed instead, up to rounding; then with draws of the
    estimators, whose noise a right estimate must have.

    Args:
        diagonal: What somebody's code computed: a dict from parameter name to tensor, a list of
            tensors or one vector in the order of ``model.parameters()``, a file
            (.safetensors, .pt, .npz, .npy), or an object with a dict ``fisher``.
        model: The network, in evaluation mode.
        data: The inputs it was computed on, as `analyze` takes them; with labels more mistakes
            can be told. All of it is held in memory.
        family: Output family.
        link: What the model puts out.
        labels_per_input: Labels N that the estimate is said to have drawn for each input.
        batch_size: Of the batches it was computed in; that of the loader if None.
        groups: ``"layer"``, ``"parameter"`` or ``"model"``.
        negative_hessian: Also compare with Î₂, which takes second derivatives; None where
            an entry is negative and the model small.
        tolerance: Relative error that counts as rounding; None for 1e-3, or more if the dtype
            of the diagonal is coarser.
        max_memory: Budget of the chunks.
        device: Where to compute.
        progress: Show progress bars.
        seed: Of the draws.
        draws: How many draws of every estimator to compare with, at least 10.
        **constants: Constants of the family.

    Returns:
        The finding.

    Raises:
        ShapeError: a vector has the wrong length, or there is no input.
        DomainError: the diagonal cannot be read or is not finite.
        SpecError: an unknown family, link, grouping or constant; a count that is no positive
            whole number.
        FimsymError: another process of the group failed, or ended.
        KeyboardInterrupt: Ctrl-C, as a part of the inputs has another Fisher than all of them.
    """
    _check_counts(labels_per_input=labels_per_input, batch_size=batch_size, draws=draws)
    if draws < FEWEST_DRAWS:
        raise SpecError(f"draws must be at least {FEWEST_DRAWS}; got {draws}.")
    check_grouping(groups)
    with sharing() as ranks:
        network = Network(model, device)
        head = Head(family, link, constants)
        given = laid_out(diagonal, network)
        batches = list(inputs_of.Rows(data))
        ranks.exchange(None)  # a file may be missing in one process alone
    shared = {"groups": groups, "max_memory": max_memory, "device": device, "progress": progress}
    with exact_kernels(), differentiating():
        analysis = _analysed(model, batches, head, given, negative_hessian, shared)
        passes = Passes(network, head, batches, budget(max_memory, network.device))

        def run(data=None, family=head.spec, link=head.link, constants=head.constants):
            rows = data if data is not None else [x for x, _ in batches]
            options = {"progress": False, "quantities": "fisher", "input_variance": False}
            options = {**shared, **options}
            return _whole(analyze(model, rows, family, link, **options, **constants))

        size = batch_size or _batch_size(data, batches)
        evidence = Evidence(passes, analysis, size, run)
        noise = Noise(passes, draws, seed)
        case = _Case(network, passes, evidence, noise, given, analysis, labels_per_input, tolerance)
        findings = case.findings()
    probes = evidence.noise_of_probes
    return audit_of(findings, given, analysis, probes, labels_per_input, case.note)


class _Case:
    """One diagonal next to one network.

    Attributes:
        note: What could not be looked at, in a sentence; or empty.
    """

    def __init__(
        self,
        network: Network,
        passes: Passes,
        evidence: Evidence,
        noise: Noise,
        given: Given,
        analysis: Analysis,
        labels: int | None,
        tolerance: float | None,
    ):
        self._readings = [r for r in readings(given, network) if r.values]
        if not self._readings:
            shapes = ", ".join(f"{n} {list(v.shape)}" for n, v in given.misshapen.items())
            raise ShapeError(
                f"no parameter has the shape that was given ({shapes}); expected the shapes of "
                "model.parameters()."
            )
        self.note = ""
        self._given = given
        self._passes = passes
        self._evidence = evidence
        n, size = passes.count, evidence.batch
        values = analysis.fisher.values()
        self._sizes = Sizes(
            inputs=n,
            outputs=passes.outputs,
            batch=size,
            batches=-(-n // size) if size else None,
            constants=passes.head.constants,
            labels=labels,
            trace=sum(float(value.sum()) for value in values),
            largest=max(float(value.max()) for value in values),
        )
        if tolerance is None:
            tolerance = max(TOLERANCE, torch.finfo(given.dtype).eps)
        self._noise = noise
        self._judge = Judge(network.names, evidence, self._sizes, tolerance)
        second = analysis.values.get("variance_negative_hessian")
        self._second = None if second is None else {k: v / n for k, v in second.items()}

    def findings(self) -> list[Finding]:
        """Return every explanation that was looked at, best first."""
        exact = []
        for hypothesis in every_exact(self._evidence, self._readings, self._passes.count):
            exact += self._judge.exactly([hypothesis])
            if exact[0].match.fits and exact[0].one:
                return exact
        found = best(exact)
        if found[0].match.fits:
            return [*self._drawn_alike(found[0]), *found]
        if self._noise.why:
            self.note = f"estimates were not looked at: {self._noise.why}"
            return found
        chance = Chance(
            self._judge, self._evidence, self._noise, self._readings, self._sizes, self._second
        )
        estimates = chance.estimates()
        if estimates[0].match.fits:
            gaps = bool(self._given.misshapen)
            return [*chance.read_otherwise(estimates[0], gaps), *estimates, *found]
        every = best([*estimates, *found, *chance.mistakes()])
        self.note = chance.note
        return every

    def _drawn_alike(self, finding: Finding) -> list[Finding]:
        """Return the finding that it is an estimate, where draws are likely the data's labels."""
        if finding.match.name != "empirical_labels" or not finding.one:
            return []
        chance = self._noise.chance_of_labels()
        if chance < _LIKELY:
            return []
        self.note = (
            f"labels drawn from the model, one for each input, are the data's own with probability "
            f"{chance:.2g}, so that the empirical Fisher would be the same: draw more labels"
        )
        name = "score_squared"
        match = dataclasses.replace(finding.match, name=name, words=ESTIMATES[name], draws=1.0)
        return [Finding(match)]


def _analysed(model, batches, head, given: Given, negative_hessian, shared) -> Analysis:
    quantities = ["fisher", "variance_score_squared"]
    values = [*given.values.values(), *given.misshapen.values()]
    if negative_hessian is None:
        entries = sum(p.numel() for p in model.parameters())
        negative_hessian = entries <= _MOST_CURVED and any(bool((v < 0).any()) for v in values)
    if negative_hessian:
        quantities.append("variance_negative_hessian")
    if all(labels is not None for _, labels in batches):
        quantities.append("empirical")
    given_rows = [x if y is None else (x, y) for x, y in batches]
    return _whole(analyze(
        model, given_rows, head.spec, head.link, quantities=tuple(quantities),
        **shared, **head.constants,
    ))  # fmt: skip


def _whole(analysis: Analysis) -> Analysis:
    """Return an analysis, unless Ctrl-C left inputs out."""
    if analysis.interrupted:
        raise KeyboardInterrupt
    return analysis


def _batch_size(data, batches) -> int | None:
    """Return the size of the batches the data came in; None if it came as one."""
    if isinstance(data, DataLoader) and data.batch_size is not None:
        return data.batch_size
    return len(batches[0][0]) if len(batches) > 1 else None


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        wrong = isinstance(count, bool) or not isinstance(count, int) or count < 1
        if count is not None and wrong:
            raise SpecError(f"{name} must be a positive whole number; got {count!r}.")
