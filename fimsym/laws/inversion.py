"""Labels from uniform numbers, one label for the same numbers on every device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions

from fimsym.laws.distributions import Tabulated

_SMALLEST = 2.0**-54


def width(law: Any) -> int | None:
    """Return how many uniform numbers a label takes; None if it is not drawn by inversion.

    Args:
        law: A law as `Law.given` returns it, for outputs [batch, output].
    """
    if isinstance(law, distributions.Categorical):
        return 1
    if isinstance(law, distributions.MultivariateNormal):
        return law.event_shape[0]
    if not isinstance(law, distributions.Independent):
        return None
    half = torch.full(law.base_dist.batch_shape, 0.5, dtype=torch.float64)
    return None if _quantile(law.base_dist, half) is None else law.event_shape[0]


def labels(law: Any, uniform: Tensor) -> Tensor:
    """Return the labels at uniform numbers between 0 and 1, [draw, batch] and their own axes.

    Args:
        law: As for `width`, which is not None.
        uniform: [draw, batch, width], in float64.
    """
    if isinstance(law, distributions.Categorical):
        return _class(law.logits, uniform.squeeze(-1))
    if isinstance(law, distributions.MultivariateNormal):
        standard = torch.special.ndtri(uniform)
        return law.loc + (law.scale_tril @ standard.unsqueeze(-1)).squeeze(-1)
    found = _quantile(law.base_dist, uniform)
    if found is None:
        raise NotImplementedError(f"{type(law.base_dist).__name__} has no inverse")
    return found


def _class(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return classes [draw, batch] of logits [batch, class] at uniform numbers [draw, batch]."""
    cumulative = torch.softmax(logits, -1).cumsum(-1)
    levels = uniform.mT.contiguous() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, levels).clamp_(max=logits.shape[-1] - 1).mT


def _quantile(law: Any, uniform: Tensor) -> Tensor | None:
    """Return the labels [draw, batch, target] of a law of one target; None without a rule."""
    uniform = uniform.clamp(min=_SMALLEST)
    if isinstance(law, Tabulated):
        return law.quantile(uniform)
    if isinstance(law, distributions.Bernoulli):
        return (uniform < torch.sigmoid(law.logits)).to(uniform.dtype)
    if isinstance(law, distributions.Geometric):
        return (uniform.log() / torch.log1p(-law.probs)).floor()
    try:
        return law.icdf(uniform)
    except NotImplementedError:
        return None
