"""The law of the labels as its specification samples it: no log-partition, no evaluator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributions

from fimsym.errors import ShapeError, SpecError, UnsupportedError, nearest
from fimsym.families import Family, Link, Sampler
from fimsym.laws import distributions as own
from fimsym.laws.algebra import (
    Matrix,
    evaluate,
    lower_triangle,
    pack,
    packed_size,
    symmetric,
)

_MOST_LABELS = 2**17
_RARE = 1e-17
_MOST_MASS = 0.999

_OWN = {"InverseGaussian": own.InverseGaussian, "VonMises": own.VonMises}


@dataclasses.dataclass(frozen=True)
class Support:
    """The labels of a law on countably many.

    Attributes:
        labels: [label] and the label's own axes.
        finite: These are all; else those left out have a probability below 1e-17 each.
    """

    labels: Tensor
    finite: bool


class Law:
    """p(y|o) of a family for a network's outputs o, to sample and to differentiate log p.

    Args:
        family: Its sampler names a class of `torch.distributions`; without a sampler, a
            density on a line is tabulated.
        constants: Values of its constants.
        link: Name of the link from outputs to natural parameters; None when they are equal.

    Raises:
        SpecError: the family has no such link, or torch no such distribution.
        UnsupportedError: the family has neither a sampler nor such a density.
    """

    def __init__(self, family: Family, constants: Mapping[str, float], link: str | None = None):
        self.family = family
        self.constants = {
            constant.name: int(value) if constant.integer else value
            for constant in family.constants
            for value in [constants.get(constant.name, constant.default)]
        }
        self._link: Link | None = family.link(link)
        self._make = _sampled(family, family.sampler) if family.sampler else _tabulated(family)

    @property
    def independent(self) -> bool:
        """A label is a vector of independent targets."""
        return self.family.structure != "matrix" and not self.family.vector

    @property
    def of_classes(self) -> bool:
        """A label is one of several classes."""
        density = self.family.density
        return density is not None and density.support == "one_hot"

    def given(self, outputs: Tensor) -> Any:
        """Return the law of one label for outputs [*batch, output]."""
        law = self._make(self._natural(outputs), self.constants)
        return distributions.Independent(law, 1) if self.independent else law

    def natural(self, outputs: Tensor) -> Tensor:
        """Return the natural parameters of outputs, both [*batch, output]."""
        values = list(self._natural(outputs).values())
        if self.family.structure == "matrix":
            values[1] = pack(values[1])
        return torch.cat(values, dim=-1)

    def log_prob(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return log p(y|o), [*batch], for labels that broadcast against the batch."""
        return self.given(outputs).log_prob(labels)

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return ∂ log p(y|o)/∂o = g'(o)ᵀ (t(y) − η), [draw, batch, output], in float64.

        Args:
            outputs: o, [batch, output].
            labels: [draw, batch] and the label's own axes.
        """
        outputs = outputs.detach().double()
        if self._link is None and isinstance(self.given(outputs), distributions.Categorical):
            return _residuals(outputs, labels)
        with torch.enable_grad():
            if self.family.sampler is not None:
                at = outputs.repeat(len(labels), 1, 1).requires_grad_()
                return torch.autograd.grad(self.log_prob(at, labels).sum(), at)[0]
            # A table is made once, for all draws.
            law = self.given(outputs.requires_grad_())
            of_draws = [law.log_prob(one).sum() for one in labels]
            each = [torch.autograd.grad(x, outputs, retain_graph=True)[0] for x in of_draws]
        return torch.stack(each)

    def support(self, outputs: Tensor) -> Support | None:
        """Return the labels for outputs [output]; None where they are too many to list."""
        law = self.given(outputs)
        if self.independent:
            return _product(law.base_dist)
        if isinstance(law, distributions.Multinomial):
            return _compositions(law.total_count, outputs)
        if isinstance(law, distributions.Categorical):
            return Support(law.enumerate_support(expand=False), finite=True)
        return None

    def _natural(self, outputs: Tensor) -> dict[str, Any]:
        """Return each natural parameter, [*batch, target], or its matrix, by name."""
        names = self._link.outputs if self._link else self.family.natural
        parts = self._parts(outputs, names)
        if self._link is None:
            return parts
        known = {**self.constants, **parts}
        return {
            name: evaluate(formula, known)
            for name, formula in zip(self.family.natural, self._link.natural, strict=True)
        }

    def _parts(self, outputs: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
        count = outputs.shape[-1]
        if self.family.structure == "matrix":
            size = packed_size(count)
            if not size:
                raise ShapeError(
                    f"{self.family.name} takes D + D(D+1)/2 outputs, such as 5 or 9; got {count}."
                )
            vector, packed = outputs[..., :size], outputs[..., size:]
            matrix = _cholesky(packed, size) if self._link else symmetric(packed, size)
            return dict(zip(names, (vector, matrix), strict=True))
        if count % len(names):
            raise ShapeError(
                f"{self.family.name} takes {len(names)} outputs per target "
                f"({', '.join(names)}); got {count} in all."
            )
        return dict(zip(names, outputs.unflatten(-1, (len(names), -1)).unbind(-2), strict=True))


def _residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return e_y − p without cancellation next to p = 1, [draw, batch, class]."""
    top = logits.argmax(-1, keepdim=True)
    p = torch.softmax(logits, -1)
    rest = p.scatter(-1, top, 0.0).sum(-1, keepdim=True)
    at_label = torch.where(
        labels.unsqueeze(-1) == top, rest, 1 - p.gather(-1, labels.mT).mT[..., None]
    )
    at_top = rest - (labels.unsqueeze(-1) != top).to(rest)
    whole = (-p).expand(*labels.shape, -1).scatter(-1, top.expand(*labels.shape, 1), at_top)
    return whole.scatter(-1, labels.unsqueeze(-1), at_label)


def _cholesky(packed: Tensor, size: int) -> Matrix:
    """Return lower triangular factors whose diagonal is given by its logarithm."""
    lower = lower_triangle(packed, size)
    return Matrix(lower.tril(-1) + torch.diag_embed(lower.diagonal(dim1=-2, dim2=-1).exp()))


def _sampled(family: Family, sampler: Sampler) -> Callable:
    found = _OWN.get(sampler.distribution) or getattr(distributions, sampler.distribution, None)
    if not (isinstance(found, type) and issubclass(found, distributions.Distribution)):
        raise SpecError(
            f"torch.distributions has no {sampler.distribution!r}, the sampler of {family.name}. "
            f"Name one of its classes.{nearest(sampler.distribution, distributions.__all__)}"
        )

    def law(natural: Mapping[str, Any], constants: Mapping[str, float]) -> Any:
        arguments = {}
        for name, formula in sampler.arguments.items():
            value = evaluate(formula, {**constants, **natural})
            arguments[name] = value.values if isinstance(value, Matrix) else value
        try:
            return found(**arguments, validate_args=False)
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"{sampler.distribution} of torch.distributions cannot be made from "
                f"{', '.join(arguments)}, the sampler of {family.name}: {error}"
            ) from None

    return law


def _tabulated(family: Family) -> Callable:
    density = family.density
    if density is None or family.vector or family.structure == "matrix":
        raise UnsupportedError(
            f"{family.name} has no sampler, and no density on a line to draw labels from. Add "
            "[sampler] with a class of torch.distributions, or [density] with base_measure and "
            "support."
        )

    def law(natural: Mapping[str, Any], constants: Mapping[str, float]) -> own.Tabulated:
        def log_weight(y: Tensor) -> Tensor:
            return log_base_measure(family, constants, y)

        def statistics(y: Tensor) -> Tensor:
            return sufficient_statistics(family, constants, y)

        largest = density.largest
        if largest is not None:
            largest = float(evaluate(largest, constants))
        return own.Tabulated(
            log_weight,
            statistics,
            density.support,
            torch.stack(list(natural.values()), dim=-1),
            largest,
        )

    return law


def log_base_measure(family: Family, constants: Mapping[str, Any], y: Tensor) -> Tensor:
    """Return log π(y) of labels of one target, in their shape."""
    value = evaluate(family.density.base_measure, {**constants, "y": y})  # type: ignore
    return torch.as_tensor(value, dtype=y.dtype).log() + torch.zeros_like(y)


def sufficient_statistics(family: Family, constants: Mapping[str, Any], y: Tensor) -> Tensor:
    """Return t(y) of labels of one target, the statistics in the last axis."""
    known = {**constants, "y": y}
    values = [evaluate(t, known) for t in family.sufficient_statistics]
    return torch.stack([value + torch.zeros_like(y) for value in values], dim=-1)


def _product(law: Any) -> Support | None:
    """Return the label vectors of independent targets, very rare ones left out."""
    listed = _values(law)
    if listed is None:
        return None
    values, logs, finite = listed
    labels, total = values[:0].reshape(1, 0), logs.new_zeros(1)
    for target in logs.unbind(-1):
        if len(labels) * len(values) > 64 * _MOST_LABELS:
            return None
        joint = (total.unsqueeze(1) + target).reshape(-1)
        both = torch.cat([labels.repeat_interleave(len(values), 0),
                          values.repeat(len(labels)).unsqueeze(1)], dim=1)  # fmt: skip
        kept = slice(None) if finite else joint.exp() >= _RARE
        labels, total = both[kept], joint[kept]
        if len(labels) > _MOST_LABELS:
            return None
    return Support(labels, finite)


def _values(law: Any) -> tuple[Tensor, Tensor, bool] | None:
    """Return the values of a target, log p [value, target], and whether these are all."""
    if isinstance(law, own.Tabulated):
        if not law.discrete or not bool((law.nodes == law.nodes[:1]).all()):
            return None
        return law.nodes[0], law.probabilities.log().T, False
    if law.has_enumerate_support:
        values = law.enumerate_support(expand=False)
        return values.reshape(-1), law.log_prob(values), True
    if not law.support.is_discrete:
        return None
    count = 64
    while count <= _MOST_LABELS:
        values = torch.arange(count, dtype=torch.float64)
        logs = law.log_prob(values.unsqueeze(-1))
        ended = bool((logs[-count // 4 :].exp() < _RARE * 1e-3).all())
        if ended and bool((logs.exp().sum(0) > _MOST_MASS).all()):  # else it has not begun
            return values, logs, False
        count *= 2
    return None


def _compositions(total: int, outputs: Tensor) -> Support | None:
    """Return every vector of counts with that sum."""
    classes = outputs.shape[-1]
    places = torch.combinations(torch.arange(total + classes - 1), classes - 1)
    if len(places) > _MOST_LABELS:
        return None
    edges = torch.nn.functional.pad(places, (1, 1), value=-1)
    edges[:, -1] = total + classes - 1
    return Support((edges.diff(dim=1) - 1).to(outputs.dtype), finite=True)
