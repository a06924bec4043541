"""From a model and data to its Fisher diagonal and the variances of the estimators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import torch
from torch import nn

from fimsym.engine import data as inputs_of
from fimsym.engine import empirical
from fimsym.engine.accumulate import ERROR, Accumulator
from fimsym.engine.analysis import Analysis
from fimsym.engine.bounded import bounds_of
from fimsym.engine.distributed import sharing
from fimsym.engine.head import SECOND_ORDER, Head
from fimsym.engine.kernels import differentiating, exact_kernels
from fimsym.engine.memory import budget, keep_freed_memory
from fimsym.engine.network import Network
from fimsym.engine.quantities import QUANTITIES, by_group, check_grouping, check_quantities
from fimsym.engine.run import Run
from fimsym.engine.stochastic import PAIRS, probing
from fimsym.errors import SpecError, nearest
from fimsym.families import Family, families
from fimsym.families import family as family_of


def analyze(
    model: nn.Module,
    data: inputs_of.Data,
    family: str | Family | None = None,
    link: str | None = None,
    quantities: str | tuple[str, ...] = ("fisher", "variance_score_squared"),
    groups: str = "layer",
    max_memory: int | str | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    input_variance: bool = True,
    second_derivative: str = "exact",
    probes: int = PAIRS,
    seed: int = 0,
    **constants: float,
) -> Analysis:
    """Return a network's exact Fisher diagonal with the variances of its estimators.

    For every trainable scalar θ_i and input x, with u = ∂h/∂θ_i and v = ∂²h/∂θ_i², the
    closed forms of the output family give I = Var⟨u, t−η⟩ and, for one label, V₁, V₂ and
    Cov(Î₁, Î₂); they are averaged over the inputs. Batches are merged and cut to what fits
    into memory, so that their size does not matter.

    The first Ctrl-C ends the computation: what is returned covers those chunks that are complete,
    the first in any case, ``Analysis.inputs`` inputs, and says so in ``Analysis.interrupted``.

    With an initialised process group of torch.distributed, all its processes must call this
    with the same model and data, which they share out by rows; all return the same.

    Args:
        model: Any module that maps inputs [batch, …] to natural parameters h, or what the
            link expects, [batch, output], in evaluation mode. It is not changed.
        data: A tensor, an array, a DataLoader or an iterable of batches, of inputs or of
            (inputs, labels); or one tuple (inputs, labels).
        family: Name or specification of the output family.
        link: What the model puts out instead of h: a name in ``family(...).links``, such as
            ``"mean_log_variance"``; None or ``"natural"`` for h itself. With d targets the
            first d outputs are the first parameter of every target, and so on.
        quantities: Some of ``fisher``, ``variance_score_squared``,
            ``variance_negative_hessian``, ``covariance``; or ``"all"`` of these, which may
            stand beside others. Without the last two no second derivative is taken.
            ``empirical`` takes the data's labels and one more backward pass; labels [batch,
            label, target] are several for each input. ``bounds`` are Theorem 4.1's, of those
            of I, V₁ and V₂ that are asked for.
        groups: ``"layer"``, ``"parameter"`` or ``"model"``.
        max_memory: Budget of the chunks, in bytes or as ``"2GB"``; None for a quarter of
            the free memory, on a processor at most 1 GB.
        device: Where to compute; the model's own device if None.
        progress: Show a progress bar on standard error when it is a terminal.
        input_variance: Compute the variance of I over the inputs, too.
        second_derivative: ``"exact"``, or ``"stochastic"`` for unbiased estimates of V₂ and
            Cov(Î₁, Î₂) with ``Analysis.standard_errors`` where one direction for every
            parameter would be too many; what has a closed form stays exact.
        probes: Number of pairs of independent probes for each input, at least 2.
        seed: Of the probes.
        **constants: Constants of the family, such as ``sigma=0.5``.

    Returns:
        The analysis; tensors are float64 and shaped like the parameters.

    Raises:
        SpecError: an unknown family, constant, quantity, link or grouping; or ``empirical``
            without labels.
        ShapeError: empty data, or an output that does not fit the family.
        DomainError: values that are not finite, or a model in training mode with dropout
            or batch statistics.
        UnsupportedError: second derivatives are asked of a model that has none.
        FimsymError: another process of the group failed, or ended.
        KeyboardInterrupt: Ctrl-C before any input was covered, or a second time.

    Source:
        Soen & Sun (2024), Lemma 3.1; formulas from ``fimsym derive``.
    """
    keep_freed_memory()
    with sharing() as ranks, exact_kernels(), differentiating():
        check_keywords(analyze, family, constants)
        head = Head(family, link, constants)
        asked = check_quantities(quantities)
        grouping = check_grouping(groups)
        network = Network(model, device)
        estimated = probing(second_derivative, probes, seed, ranks.rank, ranks.world)
        closed = tuple(quantity for quantity in asked if quantity in QUANTITIES)
        closed += bounds_of(asked)
        errors = [ERROR + name for name in closed if estimated and name in SECOND_ORDER]
        summed = (*closed, *empirical.of_labels(asked), *errors)
        number = len(by_group(network.names, grouping))
        sums = Accumulator(summed, network.size, network.device, input_variance, number)
        limit = budget(max_memory, network.device)
        held = max_memory is not None
        run = Run(network, head, closed, limit, held, sums, ranks, grouping, estimated)
        return run.analyze(data, progress)


def check_keywords(
    function: Callable, family: str | Family | None, constants: Mapping[str, float]
) -> None:
    """Refuse a misspelt argument, which Python takes for a constant of the family.

    Raises:
        SpecError: a constant that no family has is spelt like an argument of the function.
    """
    if not constants:
        return
    specs = [family_of(name) for name in (*families(), *(() if family is None else (family,)))]
    known = {constant.name for spec in specs for constant in spec.constants}
    arguments = [name for name in inspect.signature(function).parameters if name != "constants"]
    for name in constants:
        if name not in known and (hint := nearest(name, arguments)):
            raise SpecError(f"{function.__name__} has no argument {name!r}.{hint}")
