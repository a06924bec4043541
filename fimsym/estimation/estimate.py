"""An estimate of the Fisher diagonal, with a standard error, by any estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fimsym.engine import data as inputs_of
from fimsym.engine.alignment import Alignment
from fimsym.engine.analysis import Analysis
from fimsym.engine.analyze import analyze, check_keywords
from fimsym.engine.distributed import sharing
from fimsym.engine.head import Head
from fimsym.engine.kernels import differentiating, exact_kernels
from fimsym.engine.memory import budget
from fimsym.engine.network import Network
from fimsym.engine.quantities import check_grouping
from fimsym.errors import SpecError
from fimsym.estimation.curved import Curved
from fimsym.estimation.drawn import Drawn
from fimsym.estimation.estimators import Estimator, check_estimator, check_labels_per_input
from fimsym.estimation.hessians import ESTIMATES, FISHER, FISHER_SQUARED, VARIANCES, FromLabels
from fimsym.estimation.moments import INPUTS, NOTHING
from fimsym.estimation.notes import of_zeros
from fimsym.estimation.result import Estimate
from fimsym.estimation.rounds import Rounds
from fimsym.estimation.run import Method, Run
from fimsym.estimation.schedule import MOST_LABELS, check_target
from fimsym.estimation.seeds import Labels, Probes
from fimsym.families import Family


def estimate(
    model: nn.Module,
    data: inputs_of.Data,
    family: str | Family | None = None,
    estimator: str = "score_squared",
    labels_per_input: int = 1,
    target_relative_error: float | None = None,
    seed: int = 0,
    link: str | None = None,
    groups: str = "layer",
    random_inputs: bool = False,
    confidence: float = 0.95,
    max_labels: int = MOST_LABELS,
    max_memory: int | str | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    **constants: float,
) -> Estimate:
    """Return an estimate of a network's Fisher diagonal, and its standard error.

    What one draw is, and its variance:

    * ``score_squared``: s² of a label of the network's own law, s = ⟨u, t − η⟩; V₁.
    * ``score_squared_cv``: s² + c s with c ≈ −κ₃₀/κ₂₀; V₁ − κ₃₀²/κ₂₀ at best.
    * ``gaussian_probe``: ⟨Lᵀu, g⟩² with I(h) = LLᵀ and g normal; 2I².
    * ``rademacher_probe``: the same with g = ±1; 2(I² − Σa⁴) with a = Lᵀu.
    * ``negative_hessian``: minus the second derivative of log p by the parameter; V₂.
    * ``mixed``: the best mixture of s² and that; (V₁V₂ − Cov²)/(V₁ + V₂ − 2 Cov).
    * ``exact``: every output differentiated, as by `analyze`; 0.
    * ``empirical``: s² of the data's label; biased unless labels follow the model's law.

    A draw of the first four takes one backward pass for all inputs. ``negative_hessian`` and
    ``mixed`` differentiate every output, so that ``exact`` costs less; they are for studying.

    The standard error of a mean over n inputs with N draws each is that of the draws, the
    inputs being given, from their own scatter or, for ``negative_hessian`` and ``mixed``,
    from closed forms. With one label per input the scatter of labels and that of inputs
    cannot be told apart: the standard error then covers both, as ``Estimate.covers`` says.

    The first Ctrl-C ends the computation after the inputs in hand; what is returned covers
    them, or all inputs with the draws of the rounds that were complete.

    Args:
        model: As for `analyze`.
        data: As for `analyze`; labels are used by ``empirical`` alone. With a target error it
            is read several times.
        family: Name or specification of the output family.
        estimator: One of the above.
        labels_per_input: Labels, or probes, for every input. With a target error, at the
            first look, two at least.
        target_relative_error: Draw until ‖Î − I‖/‖I‖ of every group is at most this with
            the given confidence. Draws are doubled from look to look; each look is held to
            a stricter level, so that looking often does not raise the probability of error.
        seed: Of all that is drawn. Labels and probes of an input depend on the seed and on
            its row alone, not on batches or memory; see `docs/estimating.md`.
        link: What the model puts out instead of h.
        groups: ``"layer"``, ``"parameter"`` or ``"model"``.
        random_inputs: Let the standard error cover the inputs as a sample, too.
        confidence: With which the target error is reached.
        max_labels: Draws per input at which to give up reaching it.
        max_memory: Budget, in bytes or as ``"2GB"``.
        device: Where to compute; the model's own device if None.
        progress: Show a progress bar on standard error when it is a terminal.
        **constants: Constants of the family, such as ``sigma=0.5``.

    Returns:
        The estimate; tensors are float64 and shaped like the parameters.

    Raises:
        SpecError: an unknown family, constant, estimator or link; a target error that is not
            positive; no label to draw; or ``empirical`` without labels.
        ShapeError, DomainError, UnsupportedError, FimsymError, KeyboardInterrupt: as `analyze`.

    Source:
        Soen & Sun (2024), equations 4 to 7 and Theorem 4.7.
    """
    chosen = check_estimator(estimator)
    draws = check_labels_per_input(labels_per_input, chosen)
    target = check_target(target_relative_error, confidence, max_labels)
    check_keywords(estimate, family, constants)
    if target is not None and chosen.name == "empirical":
        raise SpecError(
            "the empirical Fisher draws nothing, so that no target error can be reached; "
            "choose an estimator that draws labels or probes."
        )
    if chosen.name == "exact":
        given: dict[str, Any] = {"progress": progress, "input_variance": random_inputs, **constants}
        found = analyze(model, data, family, link, "fisher", groups, max_memory, device, **given)
        return _of_analysis(found, random_inputs, seed, target_relative_error)
    with sharing() as ranks, exact_kernels(), differentiating():
        head = Head(family, link, constants)
        grouping = check_grouping(groups)
        network = Network(model, device)
        limit = budget(max_memory, network.device)
        alignment = Alignment(network)
        alone = draws == 1 and target is None and not chosen.curved
        second, aimed = random_inputs or alone, target is not None
        method = _method(chosen, network, head, alignment, seed, second, aimed)
        run = Run(network, head, alignment, method, limit, ranks)
        rounds = Rounds(run, chosen, target, grouping, random_inputs, seed)
        return rounds.estimate(_repeatable(data, target is not None), draws, progress)


def _method(
    chosen: Estimator,
    network: Network,
    head: Head,
    alignment: Alignment,
    seed: int,
    second: bool,
    aimed: bool,
) -> Method:
    """Return what is done with the inputs.

    Args:
        chosen: The estimator.
        network: The network.
        head: The law of the labels.
        alignment: Of the network.
        seed: Of what is drawn.
        second: Whether the scatter over inputs is wanted.
        aimed: Whether a target error is to be reached.
    """
    given = (network, head, alignment)
    if chosen.curved:
        labels = Labels(head, seed)
        wanted = ("negative_hessian", "variance_negative_hessian")
        if chosen.name == "mixed":
            wanted = (*ESTIMATES, *VARIANCES)
        if second or aimed:
            wanted = (*wanted, FISHER)
        if second:
            wanted = (*wanted, FISHER_SQUARED)
        return Curved(*given, wanted, lambda *at: FromLabels(head, labels, wanted, *at))
    if chosen.draws == "probes":
        source = Probes(head, seed, chosen.name == "rademacher_probe")
        return Drawn(*given, source, second=second)
    labels = Labels(head, seed)
    if chosen.name == "empirical":
        return Drawn(*given, None, labels.of_data, second=True)
    return Drawn(*given, labels, controlled=chosen.name == "score_squared_cv", second=second)


def _repeatable(data: inputs_of.Data, again: bool) -> inputs_of.Data:
    """Return data that can be read several times, if that is needed."""
    if again and isinstance(data, Iterator):
        return [x if y is None else (x, y) for x, y in inputs_of.Rows(data)]
    return data


def _of_analysis(found: Analysis, random_inputs: bool, seed: int, target: float | None) -> Estimate:
    """Return an exact result as an estimate without an error, or with that of its inputs."""
    errors = {name: torch.zeros_like(value) for name, value in found.fisher.items()}
    if random_inputs:
        errors = {name: (x / found.inputs).sqrt() for name, x in found.input_variance.items()}
    notes = of_zeros(found.fisher, found.grouping)
    return Estimate(
        fisher=found.fisher,
        standard_error=errors,
        covers=INPUTS if random_inputs else NOTHING,
        estimator="exact",
        family=found.family,
        constants=found.constants,
        link=found.link,
        inputs=found.inputs,
        outputs=found.outputs,
        labels_per_input=0,
        passes=found.outputs,
        seed=seed,
        grouping=found.grouping,
        roads=found.roads,
        ways=found.ways,
        frozen=found.frozen,
        notes=(*((found.coverage,) if found.interrupted else ()), *notes),
        target=target,
        interrupted=found.interrupted,
        expected_inputs=found.expected_inputs,
    )
