"""The specification of an exponential family: data, no logic beyond checking itself.

Formulas are strings in a small language (see `fimsym.families.formula`), so that a
specification needs neither SymPy nor torch. Every formula fimsym proves, prints or
runs is derived from these strings.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping
from typing import Literal

from fimsym.errors import DomainError, SpecError, nearest

LARGEST_CONSTANT = 1e75
"""Largest value of a constant: its fourth power is a finite float64."""

_RESERVED = {"h", "u", "v", "p", "y", "i", "j", "k", "l", "o", "N", "pi", "top", "second"}
_RESERVED |= {"exp", "log", "sqrt", "sum", "torch", "runtime"}


@dataclasses.dataclass(frozen=True)
class Constant:
    """A known positive constant of a family, such as the Gaussian's σ.

    Attributes:
        name: Identifier in formulas and keyword argument of every evaluator.
        meaning: One line for documentation.
        default: Value used when none is given.
    """

    name: str
    meaning: str
    default: float = 1.0


@dataclasses.dataclass(frozen=True)
class Density:
    """The density of one label, up to normalisation: π(y) exp(⟨t(y), h⟩).

    Attributes:
        base_measure: Formula for π(y), in ``y`` and the constants.
        support: ``"real"`` (Lebesgue measure on R, one `y` per output) or
            ``"one_hot"`` (counting measure on the C unit vectors).
    """

    base_measure: str
    support: Literal["real", "one_hot"]


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The law p(y|h) as a ``torch.distributions`` class, independent of F.

    Attributes:
        distribution: Name of the class.
        arguments: Its keyword arguments as formulas in ``h`` and the constants.
    """

    distribution: str
    arguments: Mapping[str, str] = dataclasses.field(hash=False)


@dataclasses.dataclass(frozen=True)
class Theorem:
    """A closed form worth stating, proven whenever the family is derived.

    Attributes:
        quantity: Name of the derived quantity on the left-hand side.
        formula: Right-hand side in ``h1, h2, …``, ``u1, …``, the constants, and
            the names of other quantities.
        outputs: Number of outputs at which it holds; None for every number.
    """

    quantity: str
    formula: str
    outputs: int | None = None


@dataclasses.dataclass(frozen=True)
class Family:
    """An exponential family p(y|h) = π(y) exp(⟨t(y), h⟩ − F(h)).

    Attributes:
        name: Identifier, also the name of the generated module.
        title: Name for people.
        natural: Symbol of the natural parameter, one entry per output.
        log_partition: Formula for F. With ``structure="independent"`` it is the F of
            one output and the outputs' values add up; with ``"joint"`` it is a formula
            in the whole vector, where ``sum(...)`` runs over the outputs.
        sufficient_statistic: t(y), for documentation.
        structure: ``"independent"`` or ``"joint"``.
        axis: Symbol of the number of outputs, such as C for classes.
        minimum_outputs: Smallest number of outputs for which the law is not trivial.
        domain: Set of h that is allowed, for documentation and messages.
        constants: Known constants.
        density: The density, from which moments are derived a second time.
        sampler: The law used by Monte Carlo validation.
        theorems: Named closed forms, proven with every derivation.
    """

    name: str
    title: str
    log_partition: str
    structure: Literal["independent", "joint"]
    sufficient_statistic: str
    density: Density
    sampler: Sampler
    natural: str = "h"
    axis: str = "m"
    minimum_outputs: int = 1
    domain: str = "R"
    constants: tuple[Constant, ...] = ()
    theorems: tuple[Theorem, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names that code or formulas could not use.

        Raises:
            SpecError: a name is no identifier, or already means something else.
        """
        names = [("name", self.name), ("natural", self.natural), ("axis", self.axis)]
        names += [("constant", constant.name) for constant in self.constants]
        for role, name in names:
            if not (isinstance(name, str) and name.isidentifier() and name.isascii()):
                raise SpecError(f"{role} must be a plain identifier; got {name!r}.")
            if name in _RESERVED and (role, name) != ("natural", "h"):
                raise SpecError(
                    f"{role} {name!r} already means something in formulas; choose a name other "
                    f"than {', '.join(sorted(_RESERVED))}."
                )
        if len({name for _, name in names}) < len(names):
            raise SpecError("name, natural, axis and constants must differ from each other.")

    def canonical(self) -> str:
        """Return the specification as canonical JSON, the input hash's text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    def bind(self, constants: Mapping[str, float]) -> dict[str, float]:
        """Return every constant's value, defaults filled in.

        Raises:
            SpecError: a name is not a constant of this family.
            DomainError: a value is not a positive finite number.
        """
        known = {constant.name: float(constant.default) for constant in self.constants}
        for name, value in constants.items():
            if name not in known:
                has = ", ".join(known) or "none"
                raise SpecError(
                    f"{name!r} is not a constant of {self.name} (its constants: {has})."
                    f"{nearest(name, known)}"
                )
            known[name] = positive(name, value)
        return known


def positive(name: str, value: float) -> float:
    """Return `value` as a float, or raise DomainError unless it is positive and finite."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = float(value) if real else math.nan
    if not 0 < number < LARGEST_CONSTANT:
        raise DomainError(
            f"{name} must be a positive finite number, at most {LARGEST_CONSTANT:g}; got "
            f"{value!r}. Pass {name} as a number greater than zero."
        )
    return number
