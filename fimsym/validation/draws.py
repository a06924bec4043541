"""Labels of torch's laws from NumPy's generators, whose streams are addressed by counter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions

from fimsym.laws import distributions as own


def draw(law: Any, rng: np.random.Generator, count: int) -> Tensor:
    """Return labels of one law, [label] and the label's own axes, in float64.

    A class of torch that is not in the table here is sampled by torch itself, seeded from
    `rng`; torch keeps 32 bits of a seed.

    Args:
        law: As `Law.given` returns it for one vector of outputs.
        rng: Where random numbers come from.
        count: How many labels.
    """
    base = law.base_dist if isinstance(law, distributions.Independent) else law
    rule = _RULES.get(type(base))
    if rule is None:
        return _by_torch(law, rng, count)
    values = rule(base, rng, (count, *base.batch_shape))
    return torch.from_numpy(np.asarray(values, np.float64))


def _by_torch(law, rng, count):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**32)))
        return law.sample((count,)).double()


def _of(value: Tensor) -> np.ndarray:
    return value.detach().numpy()


def _categorical(law, rng, shape):
    cumulative = _of(law.probs).cumsum(-1)
    places = np.searchsorted(cumulative, rng.random(shape) * cumulative[-1], side="right")
    return np.minimum(places, len(cumulative) - 1)


def _dirichlet(law, rng, shape):
    gammas = rng.standard_gamma(_of(law.concentration), (*shape, *law.event_shape))
    return gammas / gammas.sum(-1, keepdims=True)


def _normal_vector(law, rng, shape):
    standard = rng.standard_normal((*shape, *law.event_shape))
    return _of(law.loc) + standard @ _of(law.scale_tril).T


def _multinomial(law, rng, shape):
    p = _of(law.probs)
    return rng.multinomial(law.total_count, p / p.sum(), shape)


def _inverse_gaussian(law, rng, shape):
    return _of(
        law.transformed(*map(torch.from_numpy, (rng.standard_normal(shape), rng.random(shape))))
    )


def _tabulated(law, rng, shape):
    return _of(law.quantile(torch.from_numpy(rng.random(shape))))


_RULES: dict[type, Callable[[Any, np.random.Generator, tuple[int, ...]], Any]] = {
    distributions.Normal: lambda law, rng, shape: (
        _of(law.loc) + _of(law.scale) * rng.standard_normal(shape)
    ),
    distributions.Exponential: lambda law, rng, shape: (
        rng.standard_exponential(shape) / _of(law.rate)
    ),
    distributions.Gamma: lambda law, rng, shape: (
        rng.standard_gamma(_of(law.concentration), shape) / _of(law.rate)
    ),
    distributions.Beta: lambda law, rng, shape: rng.beta(
        _of(law.concentration1), _of(law.concentration0), shape
    ),
    distributions.Bernoulli: lambda law, rng, shape: rng.random(shape) < _of(law.probs),
    distributions.Binomial: lambda law, rng, shape: rng.binomial(
        _of(law.total_count).astype(np.int64), _of(law.probs), shape
    ),
    distributions.Poisson: lambda law, rng, shape: rng.poisson(_of(law.rate), shape),
    distributions.Geometric: lambda law, rng, shape: rng.geometric(_of(law.probs), shape) - 1,
    # torch counts successes before the failures that NumPy counts.
    distributions.NegativeBinomial: lambda law, rng, shape: rng.negative_binomial(
        _of(law.total_count), 1 - _of(law.probs), shape
    ),
    distributions.Categorical: _categorical,
    distributions.Multinomial: _multinomial,
    distributions.Dirichlet: _dirichlet,
    distributions.MultivariateNormal: _normal_vector,
    own.InverseGaussian: _inverse_gaussian,
    own.VonMises: lambda law, rng, shape: rng.vonmises(_of(law.loc), _of(law.concentration), shape),
    own.Tabulated: _tabulated,
}
"""How labels [*shape] of each class are drawn."""
