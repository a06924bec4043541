"""Moments of Î₁ and Î₂ over labels drawn from the law: counted, or one by one.

Every parameter draws labels of its own, so that errors of different parameters are
independent. For a law on few labels only how often each occurs matters, and these counts are
one draw of the multinomial law; for others labels are drawn in blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fimsym.errors import UnsupportedError
from fimsym.laws import Law, Support
from fimsym.laws.statistics import statistics
from fimsym.validation.draws import draw
from fimsym.validation.moments import FIELDS, Array, Moments, merged, of_counts, of_labels
from fimsym.validation.montecarlo import (
    Affine,
    Derivatives,
    affine,
    estimators,
    labels_to_fit,
    scores,
)
from fimsym.validation.streams import Stream, blocks

_ELEMENTS = 2**17
_MOST_COUNTED = 4096

Streams = Callable[..., Stream]
"""Returns the stream of what its arguments name, such as a parameter's key."""


def listed(law: Law, outputs: Tensor) -> Support | None:
    """Return the labels of a law whose counts are drawn; None where labels are drawn one by one."""
    support = law.support(outputs)
    if support is None or not (law.of_classes or len(support.labels) <= _MOST_COUNTED):
        return None
    return support


def counted(
    law: Law,
    at: Derivatives,
    support: Support,
    samples: int,
    streams: Streams,
    keys: Sequence[int],
) -> tuple[Moments, Moments]:
    """Return moments of `samples` labels of each parameter, and those of the law itself.

    Args:
        law: The law of the labels.
        at: h, u and v of one input.
        support: All its labels, as `listed` returns them.
        samples: Labels of each parameter.
        streams: Random numbers for each key.
        keys: Key of each parameter.
    """
    probability = law.log_prob(at.h, support.labels).exp()
    p = (probability / probability.sum()).detach().numpy()
    width = max(1, _ELEMENTS // len(p))
    samples_of, laws = [], []
    for start in range(0, len(keys), width):
        part = slice(start, start + width)
        counts = [streams(key).generator().multinomial(samples, p) for key in keys[part]]
        times = np.stack(counts, axis=1)
        found = estimators(law, at.of(part), support.labels.unsqueeze(1))
        first, second = (values.numpy() for values in found)
        seen = np.broadcast_to(True, times.shape) if support.finite else times > 0
        weights = np.broadcast_to(p[:, None], times.shape)
        samples_of.append(of_counts(first, second, times / samples, samples, times > 0))
        laws.append(of_counts(first, second, weights, 1, seen))
    return _side_by_side(samples_of), _side_by_side(laws)


class Drawing:
    """Labels of one input drawn one by one.

    Args:
        law: The law of the labels.
        at: h, u and v of the input.
        streams: Random numbers for each key; ``"fit"`` is one of them.
        fitted: Take derivatives of log p as affine functions of t(y), where a formula says
            what that is; False differentiates at every label.
    """

    def __init__(self, law: Law, at: Derivatives, streams: Streams, fitted: bool = True):
        self._law, self._at, self._streams = law, at, streams
        self._given = law.given(at.h)
        self._outputs = law.natural(at.h).shape[-1]
        self.affine: Affine | None = None
        if fitted:
            rng = streams("fit").generator()
            labels = self._drawn(rng, labels_to_fit(self._outputs))
            if not bool(law.log_prob(at.h, labels).isfinite().all()):
                raise self._at_the_edge()
            self.affine = affine(law, at, labels)

    def block(self, position: int, key: int, block: int, count: int) -> Array:
        """Return the fields of one block of one parameter's labels, [field]."""
        labels = self._drawn(self._streams(key).generator(block), count)
        t = None
        if self.affine is not None:
            t = statistics(self._law.family, self._law.constants, labels, self._outputs)
        if self.affine is not None and t is not None:
            first, second = self.affine.estimators(t, position)
        else:
            own = slice(position, position + 1)
            score, curvature = scores(self._law, self._at.of(own), labels.unsqueeze(1))
            first, second = score.square().squeeze(1), -curvature.squeeze(1)
        with np.errstate(invalid="ignore"):
            fields = of_labels(first.numpy(), second.numpy())
        if not np.isfinite(fields).all():
            raise self._at_the_edge()
        return fields

    def moments(self, samples: int, part: range, keys: Sequence[int]) -> Moments:
        """Return moments of some blocks of the labels of every parameter.

        Args:
            samples: Labels of each parameter in all.
            part: Numbers of the blocks.
            keys: Key of each parameter.
        """
        sizes = dict(blocks(samples))
        found = np.empty((len(part), FIELDS, len(keys)))
        for place, number in enumerate(part):
            for position, key in enumerate(keys):
                found[place, :, position] = self.block(position, key, number, sizes[number])
        return Moments(merged(found))

    def _at_the_edge(self) -> UnsupportedError:
        return UnsupportedError(
            f"a label of {self._law.family.name} was drawn at which log p is not finite, at "
            f"outputs {self._at.h.tolist()[:5]}: float64 cannot hold labels so close to the edge. "
            "Validate at inputs where the law is less extreme."
        )

    def _drawn(self, rng: np.random.Generator, count: int) -> Tensor:
        with torch.no_grad():
            return draw(self._given, rng, count)


def _side_by_side(parts: list[Moments]) -> Moments:
    return Moments(np.concatenate([part.values for part in parts], axis=1))
