"""What the options of ``validate`` ask for: checked against each other, and loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fimsym.cli.constants import read_constants, with_constants
from fimsym.errors import SpecError

if TYPE_CHECKING:
    from fimsym.validation import Validation

_SPELT = {"everything": "--all", "constants": "--constant"}
_OF_MODEL = ("weights", "data", "family", "link", "constants")
_OF_FAMILIES = ("points", "everything", "output_samples")
_OF_NETWORKS = ("samples", "inputs", "parameters")


def asked(
    names: tuple[str, ...], options: Mapping[str, Any], given: Collection[str]
) -> Callable[..., Validation]:
    """Return the call that the options ask for, with all that they name loaded.

    Args:
        names: The families named.
        options: Values of the options.
        given: Which of these the user has given.

    Raises:
        FimsymError: options do not go together, or what they name cannot be loaded.
    """
    from fimsym.validation.carried import RELATIVE_ERROR

    if names and "everything" in given:
        raise SpecError(
            f"expected families or --all; got {' '.join(names)} and --all. "
            "Leave out --all, or the names."
        )
    fixed = _spelt(given, ("samples", "output_samples"))
    if fixed and "relative_error" in given:
        raise SpecError(
            f"--relative-error chooses the number of labels, and {' and '.join(fixed)} gives it; "
            "expected one of them."
        )
    common = {name: options[name] for name in ("seed", "relative_error")}
    if "relative_error" not in given:
        common["relative_error"] = RELATIVE_ERROR
    if "model" in given:
        return _model(names, options, given, common)
    if stray := _spelt(given, _OF_MODEL):
        raise SpecError(f"{stray[0]} goes with --model; got it without.")
    if "points" in given:
        return _points(names, options, given, common)
    return _families(names, options, common)


def _families(names, options, common) -> Callable[..., Validation]:
    from fimsym.families.file import read
    from fimsym.validation import validate

    common |= {name: options[name] for name in ("output_samples", *_OF_NETWORKS)}
    return functools.partial(validate, [read(name) for name in names], **common)


def _points(names, options, given, common) -> Callable[..., Validation]:
    from fimsym.cli.points import load_points
    from fimsym.families.file import read
    from fimsym.validation import validate

    if len(names) != 1:
        raise SpecError(f"--points goes with one family; got {len(names)}.")
    if stray := _spelt(given, _OF_NETWORKS):
        raise SpecError(
            f"--points checks a family's law and no network, and {stray[0]} is about networks. "
            "Leave it out; --output-samples gives the number of labels of a law."
        )
    spec = read(names[0])
    points = load_points(options["points"], spec)
    labels = options["output_samples"]
    return functools.partial(validate, [spec], points=points, output_samples=labels, **common)


def _model(names, options, given, common) -> Callable[..., Validation]:
    from fimsym.cli.sources import load_data, load_model
    from fimsym.families.file import read
    from fimsym.validation import validate_model

    if extra := [*names, *_spelt(given, _OF_FAMILIES)]:
        raise SpecError(
            f"--model validates one network alone; got {extra[0]} too. Leave out one of them."
        )
    for name in ("data", "family"):
        if name not in given:
            raise SpecError(f"--model needs --{name}; got none.")
    spec = read(options["family"])
    bound = with_constants(validate_model, read_constants(options["constants"], spec), spec)
    model = load_model(options["model"], options["weights"])
    data = load_data(options["data"])
    common |= {name: options[name] for name in _OF_NETWORKS}
    named = {"name": options["model"], **common}
    return functools.partial(bound, model, data, spec, options["link"], **named)


def _spelt(given: Collection[str], names: Iterable[str]) -> list[str]:
    """Return those options of the names that were given, as they are typed."""
    return [_SPELT.get(n, f"--{n.replace('_', '-')}") for n in names if n in given]
