"""What is validated: a network at some inputs, or a family's law at some points."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.families import Family
from fimsym.generated import evaluator
from fimsym.laws import Law, Support
from fimsym.validation.draws import draw
from fimsym.validation.moments import Array
from fimsym.validation.montecarlo import Derivatives, direct, estimators
from fimsym.validation.simulate import listed
from fimsym.validation.streams import Stream

GAP = 1e-8
"""Largest relative difference between two ways to the same number."""

_SPOT_CHECKS = 5
_KEPT = 2**24
"""Numbers of u and v that are kept from one stage of a run to the next."""


@dataclasses.dataclass(frozen=True)
class Description:
    """A subject in words and plain data.

    Attributes:
        kind: ``"law"``, ``"link"`` or ``"network"``.
        name: Of the data set, the link or the model, or ``"random h, u, v"``.
        title: In words.
        family: Name of the output family.
        constants: Values of its constants.
        link: Name of the link, None for natural parameters.
        inputs: Number of inputs, or of points.
        quality: How good the network is, or what was drawn, in words.
        parameters: Number of trainable parameters, or of directions.
        untested: What of it was not tested and why, in sentences.
    """

    kind: str
    name: str
    title: str
    family: str
    constants: Mapping[str, Any]
    link: str | None
    inputs: int
    quality: str
    parameters: int
    untested: tuple[str, ...] = ()


class Subject(abc.ABC):
    """A family's closed forms on one side, its law on the other.

    A point is an input of a network, or h, u and v themselves. Parameters of all points
    stand in one vector: the same ones for every input of a network, others for every point
    of a law.

    Attributes:
        key: Identifies the subject within a run and in its random streams.
        family: Its family.
        description: What it is, in words.
        layers: Range of each layer in the vector over parameters.
        size: Length of that vector.
        points: Number of points.
        slack: Factor by which the error that must be seen is larger than elsewhere.
    """

    key: str
    family: Family
    description: Description
    layers: Mapping[str, slice]
    size: int
    points: int
    slack: float = 1.0

    def __init__(self) -> None:
        self._derivatives: dict[int, Derivatives] = {}
        self._supports: dict[int, Support | None] = {}

    @abc.abstractmethod
    def law(self, point: int) -> Law:
        """Return the law of the labels at a point."""

    @abc.abstractmethod
    def outputs(self, point: int) -> Tensor:
        """Return what the network puts out there, [output]."""

    @abc.abstractmethod
    def where(self, point: int) -> slice:
        """Return which parameters of the vector the point has."""

    @abc.abstractmethod
    def keys(self, point: int) -> Sequence[int]:
        """Return a number for each of them that names its random stream."""

    @abc.abstractmethod
    def closed(self, points: Sequence[int]) -> dict[str, Array]:
        """Return closed forms by quantity, mean over those points, [param]."""

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return everything its numbers depend on, as plain data."""

    @abc.abstractmethod
    def _differentiated(self, point: int) -> Derivatives:
        """Return h, u and v of a point by double backward."""

    @abc.abstractmethod
    def _whole(self, point: int, position: int) -> tuple[nn.Module, Tensor, tuple[int, int]]:
        """Return the network, the input, and the place of a parameter in it."""

    def derivatives(self, point: int) -> Derivatives:
        """Return h [output], u and v [output, param] of a point; taken once where they fit."""
        found = self._derivatives.get(point)
        if found is None:
            found = self._differentiated(point)
            if self.points * found.u.numel() > _KEPT:
                self._derivatives.clear()
            self._derivatives[point] = found
        return found

    def support(self, point: int) -> Support | None:
        """Return the labels whose counts are drawn; None where labels are drawn one by one."""
        if point not in self._supports:
            self._supports[point] = listed(self.law(point), self.outputs(point))
        return self._supports[point]

    def functions(self, point: int) -> tuple[dict[str, Array], bool]:
        """Return what the evaluator's functions of one quantity give for autograd's u and v.

        Returns:
            Values by quantity, [param], and whether they lie within Theorem 4.1's bounds.
        """
        law, at = self.law(point), self.derivatives(point)
        h, u, v = (x.unsqueeze(0) for x in natural(law, at))
        module, constants = evaluator(self.family), law.constants
        found = {
            "fisher": module.fisher(h, u, **constants),
            "variance_score_squared": module.variance_score_squared(h, u, **constants),
            "variance_negative_hessian": module.variance_negative_hessian(h, v, **constants),
            "covariance": module.covariance(h, u, v, **constants),
        }
        inside = _bounded(module.bounds(h, **constants), found, u, v)
        return {name: value.squeeze(0).numpy() for name, value in found.items()}, inside

    def autograd_gap(self, point: int, streams: Callable[..., Stream]) -> float:
        """Return the largest relative gap between autograd along paths and through the network.

        Compared are Î₁ and Î₂ of one label for a few parameters.
        """
        law, at = self.law(point), self.derivatives(point)
        rng = streams("whole").generator()
        label = draw(law.given(at.h), rng, 1)[0]
        size, gap = at.u.shape[1], 0.0
        chosen = rng.choice(size, min(size, _SPOT_CHECKS), replace=False).tolist()
        along = estimators(law, at, label.reshape(1, 1, *label.shape))
        for position in chosen:
            model, example, place = self._whole(point, position)
            whole = direct(law, model, example, label, place)
            for one, other in zip((a[0] for a in along), whole, strict=True):
                gap = max(gap, abs(float(one[position]) - other) / largest(one.numpy()))
        return gap

    def density_gap(self, point: int, streams: Callable[..., Stream]) -> float:
        """Return how far log p is from log π + ⟨t, h⟩ − F of the specification; 0 if unknown."""
        return 0.0


def natural(law: Law, at: Derivatives) -> tuple[Tensor, Tensor, Tensor]:
    """Return the natural parameters h [output] of a network's outputs, with u and v.

    With a link h = g(o) they are u = g'[o'] and v = g''[o', o'] + g'[o''], the first two
    derivatives of g(o + εo' + ε²o''/2).
    """
    step = torch.zeros(at.u.shape[1], 1, dtype=at.h.dtype, requires_grad=True)
    h = law.natural(at.h + step * at.u.T + step.square() / 2 * at.v.T)
    first, second = [], []
    for output in h.unbind(-1):
        (u,) = torch.autograd.grad(output.sum(), step, create_graph=True)
        (v,) = torch.autograd.grad(u.sum(), step, allow_unused=True, retain_graph=True)
        first.append(u.detach().squeeze(-1))
        second.append(torch.zeros_like(first[-1]) if v is None else v.squeeze(-1))
    return law.natural(at.h).detach(), torch.stack(first), torch.stack(second)


def digest(*tensors: Tensor) -> str:
    """Return a hash of tensors' values, shapes and dtypes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def largest(values: Array) -> float:
    """Return the largest absolute value, above zero."""
    return max(float(np.abs(values).max(initial=0.0)), sys.float_info.min)


def _bounded(bounds: Any, values: Mapping[str, Tensor], u: Tensor, v: Tensor) -> bool:
    """Return whether every value lies within Theorem 4.1's bounds."""
    norm, norm_v = u.square().sum(1), v.square().sum(1)
    limits = (
        (values["fisher"], norm, bounds.fisher_min, bounds.fisher_max),
        (values["variance_negative_hessian"], norm_v, bounds.fisher_min, bounds.fisher_max),
        (values["variance_score_squared"], norm**2, bounds.quartic_min, bounds.quartic_max),
    )
    for value, size, low, high in limits:
        slack = GAP * size * high[:, None]
        low, high = size * low[:, None] - slack, size * high[:, None] + slack
        if not bool(((value >= low) & (value <= high)).all()):
            return False
    return True
