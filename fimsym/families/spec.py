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
from fimsym.families.inequalities import read_inequality
from fimsym.families.rules import check

LARGEST_CONSTANT = 1e75
"""Largest value of a constant: its fourth power is a finite float64."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """A known positive constant of a family, such as the Gaussian's σ.

    Attributes:
        name: Identifier in formulas and keyword argument of every evaluator.
        meaning: One line for documentation.
        default: Value used when none is given.
        integer: Only whole numbers are allowed.
    """

    name: str
    meaning: str
    default: float = 1.0
    integer: bool = False


@dataclasses.dataclass(frozen=True)
class Density:
    """The density of one label, up to normalisation: π(y) exp(⟨t(y), h⟩).

    Attributes:
        base_measure: Formula for π(y), in ``y`` and the constants.
        support: Where y lies, and the measure: Lebesgue on ``"real"`` R, ``"positive"``
            (0, ∞), ``"unit"`` (0, 1) and ``"angle"`` (−π, π]; counting on ``"counts"``
            {0, 1, 2, …}, ``"one_hot"`` the C unit vectors and ``"count_vectors"`` the
            vectors of counts with sum `largest`; Lebesgue on the ``"simplex"`` of
            probability vectors and on ``"vector"`` R^D.
        largest: Formula for the largest count, in the constants; None without one.
    """

    base_measure: str
    support: Literal[
        "real",
        "positive",
        "unit",
        "angle",
        "counts",
        "one_hot",
        "count_vectors",
        "simplex",
        "vector",
    ]
    largest: str | None = None


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The law p(y|h) as a ``torch.distributions`` class, independent of F.

    Attributes:
        distribution: Name of the class.
        arguments: Its keyword arguments as formulas in the natural parameters and the
            constants.
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
class Link:
    """A map h = g(o) from what a network puts out to natural parameters.

    Attributes:
        name: Identifier, such as ``"mean_log_variance"``.
        outputs: Name of each output of one target, in the network's order.
        natural: Formula of each natural parameter, in those names and the constants. For
            a family whose parameter is a whole vector it holds for every entry.
        domain: Inequalities for the outputs, such as ``"variance > 0"``.
    """

    name: str
    outputs: tuple[str, ...]
    natural: tuple[str, ...]
    domain: tuple[str, ...] = ()

    @property
    def identity(self) -> bool:
        """The network's output is the natural parameter itself."""
        return self.outputs == self.natural


@dataclasses.dataclass(frozen=True)
class Limits:
    """An open interval, the domain of one named parameter."""

    name: str
    low: float
    high: float

    def __str__(self) -> str:
        low = f"{self.low:g} < " if math.isfinite(self.low) else ""
        high = f" < {self.high:g}" if math.isfinite(self.high) else ""
        if low and not high:
            return f"{self.name} > {self.low:g}"
        return f"{low}{self.name}{high}" if low or high else f"{self.name} in R"


@dataclasses.dataclass(frozen=True)
class Family:
    """An exponential family p(y|h) = π(y) exp(⟨t(y), h⟩ − F(h)).

    Attributes:
        name: Identifier, also the name of the generated module.
        log_partition: Formula for F in the natural parameters. With
            ``structure="independent"`` it is the F of one target and the targets' values
            add up; with ``"joint"`` and a single symbol it is a formula in the whole
            vector of outputs, where ``sum(...)`` runs over them.
        title: Name for people.
        natural: Symbol of each natural parameter of one target. A network with d targets
            puts out the first parameter of every target, then the second, and so on.
        sufficient_statistics: t(y), one formula per natural parameter.
        structure: ``"independent"``, ``"joint"``, or ``"matrix"``, where the second
            natural parameter is a symmetric matrix, packed by rows of its lower triangle.
        axis: Symbol of the number of targets or outputs, such as C for classes.
        minimum_outputs: Smallest number of outputs for which the law is not trivial.
        domain: Inequalities such as ``"h1 > -1"``; none for all of R.
        constants: Known constants.
        density: The density, from which moments are derived a second time.
        sampler: The law used by Monte Carlo validation.
        theorems: Named closed forms, proven with every derivation.
        links: What a network may put out instead of the natural parameters.
    """

    name: str
    log_partition: str
    title: str = ""
    natural: tuple[str, ...] = ("h",)
    sufficient_statistics: tuple[str, ...] = ("y",)
    structure: Literal["independent", "joint", "matrix"] = "independent"
    axis: str = "m"
    minimum_outputs: int = 1
    domain: tuple[str, ...] = ()
    constants: tuple[Constant, ...] = ()
    density: Density | None = None
    sampler: Sampler | None = None
    theorems: tuple[Theorem, ...] = ()
    links: tuple[Link, ...] = ()

    def __post_init__(self) -> None:
        """Complete the fields and refuse what code or formulas could not use.

        Raises:
            SpecError: a field has the wrong type, a name is no identifier or already
                means something else, or an inequality cannot be read.
        """
        check(self)

    @property
    def vector(self) -> bool:
        """One symbol stands for the whole vector of outputs."""
        return self.structure == "joint" and len(self.natural) == 1

    @property
    def components(self) -> int:
        """Number of natural parameters of one target; 1 for a vector family."""
        return len(self.natural)

    @property
    def limits(self) -> tuple[Limits, ...]:
        """The open interval of each natural parameter."""
        return limits(self.natural, self.domain)

    def canonical(self) -> str:
        """Return the specification as canonical JSON, the input hash's text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)

    def link(self, name: str | None) -> Link | None:
        """Return the link called `name`; None for the natural parameters themselves.

        Raises:
            SpecError: the family has no such link.
        """
        known = {link.name: link for link in self.links}
        if name is None or name == "natural":
            return None
        if not isinstance(name, str) or name not in known:
            raise SpecError(
                f"{name!r} is not a link of {self.name}; its links: "
                f"{', '.join(['natural', *known])}.{nearest(str(name), known)} Let the model "
                f"return what one of them expects, or natural parameters with link=None."
            )
        return None if known[name].identity else known[name]

    def bind(self, constants: Mapping[str, float]) -> dict[str, float]:
        """Return every constant's value, defaults filled in.

        Raises:
            SpecError: a name is not a constant of this family.
            DomainError: a value is not a positive finite number, or no whole number where
                one is needed.
        """
        known = {constant.name: constant for constant in self.constants}
        for name in constants:
            if name not in known:
                has = ", ".join(known) or "none"
                raise SpecError(
                    f"{name!r} is not a constant of {self.name} (its constants: {has})."
                    f"{nearest(name, known)}"
                )
        return {
            name: positive(name, constants.get(name, constant.default), constant.integer)
            for name, constant in known.items()
        }


def limits(names: tuple[str, ...], inequalities: tuple[str, ...]) -> tuple[Limits, ...]:
    """Return the open interval of each name, from inequalities such as ``"0 < p < 1"``.

    Raises:
        SpecError: an inequality does not compare one of the names with a number.
    """
    found = dict.fromkeys(names, (-math.inf, math.inf))
    for inequality in inequalities:
        name, low, high = read_inequality(inequality, names)
        found[name] = (max(low, found[name][0]), min(high, found[name][1]))
    for name, (low, high) in found.items():
        if not low < high:
            raise SpecError(f"the domain of {name} is empty: {low:g} < {name} < {high:g}.")
    return tuple(Limits(name, *bounds) for name, bounds in found.items())


def positive(name: str, value: float, integer: bool = False) -> float:
    """Return `value` as a float, or raise DomainError unless it is positive and finite."""
    if getattr(value, "shape", None) == ():
        value = getattr(value, "item", lambda: math.nan)()
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = float(value) if real else math.nan
    if not 0 < number < LARGEST_CONSTANT:
        raise DomainError(
            f"{name} must be a positive finite number, at most {LARGEST_CONSTANT:g}; got "
            f"{value!r}. Pass {name} as one number greater than zero, for every target."
        )
    if integer and number != int(number):
        raise DomainError(
            f"{name} must be a whole number, such as {math.ceil(number)}; got {value!r}."
        )
    return number
