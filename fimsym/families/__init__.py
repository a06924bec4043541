"""What is known: one frozen specification per family. Data, no logic."""

from __future__ import annotations

from fimsym.errors import SpecError, nearest
from fimsym.families.bernoulli import bernoulli
from fimsym.families.beta import beta
from fimsym.families.binomial import binomial
from fimsym.families.categorical import categorical
from fimsym.families.dirichlet import dirichlet
from fimsym.families.exponential import exponential
from fimsym.families.gamma import gamma
from fimsym.families.gaussian import gaussian
from fimsym.families.gaussian_mean_variance import gaussian_mean_variance
from fimsym.families.geometric import geometric
from fimsym.families.inverse_gaussian import inverse_gaussian
from fimsym.families.multinomial import multinomial
from fimsym.families.multivariate_gaussian import multivariate_gaussian
from fimsym.families.negative_binomial import negative_binomial
from fimsym.families.poisson import poisson
from fimsym.families.spec import Constant, Density, Family, Limits, Link, Sampler, Theorem
from fimsym.families.von_mises import von_mises

__all__ = [
    "Constant",
    "Density",
    "Family",
    "Limits",
    "Link",
    "Sampler",
    "Theorem",
    "families",
    "family",
]

_REGISTRY: dict[str, Family] = {
    spec.name: spec
    for spec in (
        gaussian,
        categorical,
        bernoulli,
        binomial,
        multinomial,
        poisson,
        geometric,
        negative_binomial,
        exponential,
        gamma,
        beta,
        dirichlet,
        gaussian_mean_variance,
        multivariate_gaussian,
        inverse_gaussian,
        von_mises,
    )
}


def families() -> tuple[str, ...]:
    """Return the names of the built-in families."""
    return tuple(_REGISTRY)


def family(name: str | Family) -> Family:
    """Return the specification called `name`; a `Family` is returned as it is.

    Raises:
        SpecError: no family has that name; the message names the nearest one.
    """
    if isinstance(name, Family):
        return name
    if not isinstance(name, str):
        raise SpecError(
            f"expected a family's name or a Family; got {type(name).__name__}. "
            f"Names: {', '.join(_REGISTRY)}."
        )
    if name not in _REGISTRY:
        raise SpecError(
            f"unknown family {name!r}; expected one of {', '.join(_REGISTRY)}."
            + (
                " Load a file with fimsym.load_family(path)."
                if name.endswith(".toml")
                else nearest(name, _REGISTRY)
            )
        )
    return _REGISTRY[name]
