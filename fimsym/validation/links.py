"""A family's links: `analyze` against labels at random outputs and directions, without data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.families import Family, Limits, Link
from fimsym.families.spec import limits
from fimsym.laws import Law
from fimsym.validation.network import OfNetwork, Question
from fimsym.validation.simulate import listed
from fimsym.validation.streams import Stream

_POINTS = 3
_TARGETS = 2
_ENTRIES = 4
_LISTED_DIRECTIONS = 32
_DRAWN_DIRECTIONS = 8
_FACTOR, _STEP = 1.3, 3
_CONCENTRATED = 0.7  # least distance of a natural parameter from a lower bound


class Paths(nn.Module):
    """A network whose output is o + Σ (oᵢ'θᵢ + oᵢ''θᵢ²/2) at θ = 0, for several o, o' and o''.

    Its inputs are rows of the identity matrix, which choose among them.

    Args:
        outputs: o, [point, output].
        first: o', [point, output, direction].
        second: o'', likewise.
    """

    outputs: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, outputs: Tensor, first: Tensor, second: Tensor):
        super().__init__()
        self.register_buffer("outputs", outputs)
        self.register_buffer("first", first)
        self.register_buffer("second", second)
        self.step = nn.Parameter(torch.zeros(first.shape[-1], dtype=outputs.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output for each input, [batch, output]."""
        all_of_them = self.outputs + self.first @ self.step + self.second @ self.step.square() / 2
        return inputs @ all_of_them


class OfLink(OfNetwork):
    """A link at random outputs.

    A wrong slope or curvature is no matter of per cents, and what the link's code gives is
    compared with autograd of its formula to rounding; labels have to see that they are one law.
    """

    kind = "link"
    slack = 2.5


def of_links(family: Family, seed: int) -> list[OfLink]:
    """Return what to validate of each link of a family."""
    return [OfLink(question, seed) for question in questions(family, seed)]


def questions(family: Family, seed: int) -> list[Question]:
    """Return what to ask of each link of a family."""
    return [_question(family, link, seed) for link in family.links if not link.identity]


def _question(family: Family, link: Link, seed: int) -> Question:
    name = f"link {link.name}"
    rng = Stream(seed, f"{family.name}/{name}", "where").generator()
    constants = {
        c.name: c.default + _STEP if c.integer else c.default * _FACTOR for c in family.constants
    }
    law = Law(family, constants, link.name)
    outputs = torch.stack([_moderate(law, link, rng) for _ in range(_POINTS)])
    few = listed(law, outputs[0]) is None
    shape = (*outputs.shape, _DRAWN_DIRECTIONS if few else _LISTED_DIRECTIONS)
    first, second = (torch.from_numpy(rng.standard_normal(shape)) for _ in range(2))
    return Question(
        name=name,
        title=f"{family.title}: link {link.name}, random outputs",
        family=family,
        constants=constants,
        model=Paths(outputs, first, second).eval(),
        inputs=torch.eye(_POINTS, dtype=torch.float64),
        quality=f"{_POINTS} points of {shape[1]} outputs, {shape[2]} directions",
        link=link.name,
    )


def _moderate(law: Law, link: Link, rng: np.random.Generator) -> Tensor:
    """Return random outputs of a law whose labels float64 can tell apart.

    Those of small concentrations lie within 1e-16 of an end with noticeable probability.
    """
    family = law.family
    while True:
        outputs = _outputs(family, link, rng)
        if family.structure == "matrix":
            return outputs
        h = law.natural(outputs).unflatten(0, (family.components, -1))
        away = [float((x - of_one.low).min()) for x, of_one in zip(h, family.limits, strict=True)]
        if min(away) > _CONCENTRATED:
            return outputs


def _outputs(family: Family, link: Link, rng: np.random.Generator) -> Tensor:
    """Return random outputs inside the domain of a link, [output]."""
    if family.structure == "matrix":
        size = family.minimum_outputs if family.minimum_outputs > 1 else 2
        return torch.from_numpy(0.5 * rng.standard_normal(size * (size + 3) // 2))
    if family.vector:
        (of_entry,) = limits(link.outputs, link.domain)
        return _within(of_entry, max(_ENTRIES, family.minimum_outputs), rng)
    targets = _TARGETS if family.structure == "independent" else 1
    return torch.cat(
        [_within(of_one, targets, rng) for of_one in limits(link.outputs, link.domain)]
    )


def _within(limits_of_one: Limits, count: int, rng: np.random.Generator) -> Tensor:
    """Return random numbers; less than one away from a bound, where there is one."""
    low, high = limits_of_one.low, limits_of_one.high
    if np.isfinite(low) or np.isfinite(high):
        inside = 0.2 + 0.6 * rng.random(count)
        return torch.from_numpy(low + inside if np.isfinite(low) else high - inside)
    return torch.from_numpy(0.5 * rng.standard_normal(count))
