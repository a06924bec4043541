"""Check every closed form against Monte Carlo: at points of a law, and on networks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fimsym.engine import analyze
from fimsym.engine.data import Data, Rows
from fimsym.engine.distributed import alone
from fimsym.errors import DomainError, SpecError
from fimsym.families import Family, families, family
from fimsym.laws import Law
from fimsym.validation.carried import RELATIVE_ERROR, Plan, carry_out
from fimsym.validation.labels import check_labels
from fimsym.validation.links import of_links
from fimsym.validation.network import PARAMETERS, OfNetwork, Question
from fimsym.validation.output import (
    GIVEN,
    RANDOM,
    AtPoints,
    Point,
    check_points,
    random_points,
)
from fimsym.validation.result import Validation
from fimsym.validation.streams import Stream
from fimsym.validation.subject import Subject
from fimsym.validation.tasks import tasks
from fimsym.validation.untested import ALWAYS, left_out

INPUTS = 16
"""Inputs of a network that are taken, unless more are asked for."""


def validate(
    names: str | Family | Sequence[str | Family] = (),
    samples: int | None = None,
    seed: int = 0,
    inputs: int = INPUTS,
    output_samples: int | None = None,
    progress: bool = True,
    relative_error: float = RELATIVE_ERROR,
    parameters: int = PARAMETERS,
    points: Sequence[Point] | None = None,
    checkpoint: str | Path | None = None,
    command: str = "validate(...)",
) -> Validation:
    """Compare I, V₁, V₂ and Cov(Î₁, Î₂) with Monte Carlo for every parameter.

    Every family's law is checked at random points of its domain and in random directions
    u and v. For families with real data, small networks are trained besides, and
    the closed forms of `analyze` are checked on held-out inputs. The other side are labels
    drawn from the law and autograd of log p, which share no code with the closed forms.

    The number of labels is fixed before they are drawn. Results depend on the arguments alone:
    not on the number of processes, nor on whether a run was ended and resumed.

    With an initialised process group of torch.distributed, all its processes must call this
    with the same arguments; they share the work, and all return the same.

    Args:
        names: Families to validate, by name or as `Family`; all built-in ones when empty.
            A family of the user's own has no networks.
        samples: Labels for each input and parameter of a network; chosen if None.
        seed: Seed of the random points, data split, training and labels.
        inputs: Number of held-out inputs of each network.
        output_samples: Labels for each point and direction of a law; chosen if None.
        progress: Show progress bars on standard error when it is a terminal.
        relative_error: Error of a layer's closed forms that is caught with probability 0.99;
            numbers of labels follow from it and from a pilot, unless they are given.
        parameters: Parameters of a network to test, at most.
        points: Where to check the law of the one family named, instead of at random points
            and on networks.
        checkpoint: Folder in which to keep what is done, and to go on from.
        command: How the run was started, for messages about its checkpoint.

    Returns:
        The verdict; a true closed form is rejected with probability below 1e-6 per run.

    Raises:
        SpecError: an unknown family.
        DomainError: an argument out of range, or a checkpoint that is damaged, of another run,
            or cannot be written; points outside the family's domain.
        UnsupportedError: scikit-learn or statsmodels is missing, or a family has neither a
            sampler nor a density to draw labels from.
        FimsymError: another process of the group failed, or ended.
        KeyboardInterrupt: Ctrl-C before any point was covered, or a second time.
    """
    names = (names,) if isinstance(names, str | Family) else names
    chosen = list(dict.fromkeys(family(name) for name in names or families()))
    plan = Plan(seed, samples, output_samples, relative_error, checkpoint, command, progress)
    _check_count("parameters", parameters)
    if points is not None and len(chosen) != 1:
        raise SpecError(f"points are of one family; got {len(chosen)}. Name it.")
    if points is not None:
        return carry_out(plan, lambda: [_at_points(chosen[0], points)], ALWAYS)
    if len({spec.name for spec in chosen}) < len(chosen):
        raise SpecError("two families to validate have the same name. Rename one of them.")

    def build() -> list[Subject]:
        found: list[Subject] = []
        for spec in chosen:
            found.append(AtPoints(spec, random_points(spec, seed), RANDOM))
            found += of_links(spec, seed)
            found += [OfNetwork(task(seed, inputs), seed, parameters) for task in tasks(spec)]
        return found

    return carry_out(plan, build, left_out(chosen))


def validate_model(
    model: nn.Module,
    data: Data,
    family: str | Family,
    link: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    inputs: int = INPUTS,
    progress: bool = True,
    relative_error: float = RELATIVE_ERROR,
    parameters: int = PARAMETERS,
    checkpoint: str | Path | None = None,
    command: str = "validate_model(...)",
    name: str = "model",
    **constants: float,
) -> Validation:
    """Compare what `analyze` says of a model with Monte Carlo, parameter by parameter.

    The model is copied and computed in float64 on the CPU. Inputs are drawn at random from the
    data, without replacement; where a model has more parameters than are tested, so are these.

    Args:
        model: Any module that `analyze` takes, in evaluation mode. It is not changed.
        data: A tensor, an array, a DataLoader or an iterable of batches, of inputs or of
            (inputs, labels); or one tuple (inputs, labels). Labels are only checked.
        family: Name or specification of the output family.
        link: What the model puts out instead of natural parameters.
        samples: Labels for each input and parameter; chosen if None.
        seed: Seed of the choice of inputs and parameters, and of the labels.
        inputs: Number of inputs.
        progress: As for `validate`, like the four that follow.
        relative_error: Error that is caught with probability 0.99 in every row.
        parameters: Parameters to test, at most.
        checkpoint: Folder in which to keep what is done, and to go on from.
        command: How the run was started.
        name: What to call the model.
        **constants: Constants of the family, such as ``sigma=0.5``.

    Returns:
        The verdict; a true closed form is rejected with probability below 1e-6 per run.

    Raises:
        FimsymError: as `analyze` and `validate` do.
    """
    plan = Plan(seed, samples, None, relative_error, checkpoint, command, progress)
    _check_count("parameters", parameters)

    def build() -> list[Subject]:
        question = _question(model, data, family, link, constants, seed, inputs, name)
        return [OfNetwork(question, seed, parameters)]

    return carry_out(plan, build, ALWAYS)


def _check_count(name: str, count: int) -> None:
    if not (isinstance(count, int) and count >= 1):
        raise DomainError(f"{name} must be a positive integer; got {count!r}.")


def _at_points(spec: Family, points: Sequence[Point]) -> AtPoints:
    check_points(spec, points)
    return AtPoints(spec, points, GIVEN)


def _question(
    model: nn.Module,
    data: Data,
    name_or_family: str | Family,
    link: str | None,
    constants: dict[str, Any],
    seed: int,
    wanted: int,
    name: str,
) -> Question:
    """Check a model and data, and choose the inputs."""
    spec = family(name_or_family)
    examples, labels = _all_rows(data)
    if not (isinstance(wanted, int) and 1 <= wanted <= len(examples)):
        raise DomainError(
            f"inputs must be between 1 and {len(examples)}, the rows of the data; got {wanted!r}."
        )
    rng = Stream(seed, "inputs").generator()
    rows = sorted(rng.choice(len(examples), wanted, replace=False).tolist())
    with alone():
        analyze(model, examples[rows[:2]], spec, link, quantities="all", device="cpu",
                progress=False, **constants)  # fmt: skip
    copied = copy.deepcopy(model).cpu().double()
    if examples.is_floating_point():
        examples = examples.double()
    law = Law(spec, spec.bind(constants), link)
    if labels is not None:
        with torch.no_grad():
            check_labels(law, copied(examples[rows[:1]])[0], labels)
    shown = ", ".join(map(str, rows[:8])) + (", …" if wanted > 8 else "")
    return Question(
        name=name,
        title=f"{name}, {spec.name}" + (f", link {link}" if link else ""),
        family=spec,
        constants=dict(constants),
        model=copied,
        inputs=examples[rows].contiguous(),
        quality=f"{wanted} of {len(examples)} inputs, drawn at random: rows {shown}",
        link=link,
    )


def _all_rows(data: Data) -> tuple[Tensor, Tensor | None]:
    """Return all inputs, and all labels if there are any."""
    batches = list(Rows(data))
    inputs = torch.cat([batch.cpu() for batch, _ in batches])
    labels = [own for _, own in batches if own is not None]
    return inputs, torch.cat([own.cpu() for own in labels]) if labels else None
