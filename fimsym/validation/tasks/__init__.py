"""The real data and small networks that validation runs on, by family."""

from __future__ import annotations

from collections.abc import Callable

from fimsym.families import Family, families, family
from fimsym.validation.network import Question
from fimsym.validation.tasks import anes96, diabetes, randhie
from fimsym.validation.tasks.breast_cancer import breast_cancer
from fimsym.validation.tasks.digits import digits, digits_and_ink
from fimsym.validation.tasks.star98 import star98
from fimsym.validation.tasks.strikes import strikes

__all__ = ["TASKS", "tasks"]

_REAL: dict[str, tuple[Callable[[int, int], Question], ...]] = {
    "gaussian": (diabetes.diabetes,),
    "categorical": (digits, digits_and_ink, anes96.categorical),
    "bernoulli": (breast_cancer,),
    "binomial": (star98,),
    "multinomial": (anes96.multinomial,),
    "poisson": (randhie.poisson,),
    "negative_binomial": (randhie.negative_binomial,),
    "gamma": (strikes,),
    "gaussian_mean_variance": (diabetes.heteroscedastic,),
}

TASKS: dict[str, tuple[Callable[[int, int], Question], ...]] = {
    name: _REAL.get(name, ()) for name in families()
}
"""What trains each family's networks, from a seed and a number of inputs; none without data."""


def tasks(spec: Family) -> tuple[Callable[[int, int], Question], ...]:
    """Return what trains a family's networks; nothing for a user's family of the same name."""
    return TASKS[spec.name] if spec.name in families() and spec == family(spec.name) else ()
