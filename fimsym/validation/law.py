"""The law of the labels as its specification samples it: `torch.distributions`, no F."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributions

from fimsym.errors import SpecError
from fimsym.families import Family
from fimsym.families.formula import interpret

_FUNCTIONS = {
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sum": lambda values: values.sum(dim=-1, keepdim=True),
}


class Law:
    """p(y|h) of a family, for sampling and for differentiating log p.

    Args:
        family: Its sampler names a class of `torch.distributions`.
        constants: Values of its constants.
    """

    def __init__(self, family: Family, constants: Mapping[str, float]):
        self.family = family
        self.constants = dict(constants)
        found = getattr(distributions, family.sampler.distribution, None)
        if found is None:
            raise SpecError(
                f"torch.distributions has no {family.sampler.distribution!r}, the sampler of "
                f"{family.name}. Name one of its classes."
            )
        self._class = found

    def given(self, h: Tensor) -> distributions.Distribution:
        """Return the law of one label vector for natural parameters h [*batch, output]."""
        constants = {name: h.new_tensor(value) for name, value in self.constants.items()}
        arguments = {
            name: interpret(formula, {self.family.natural: h, **constants}, _FUNCTIONS, float)
            for name, formula in self.family.sampler.arguments.items()
        }
        law = self._class(**arguments, validate_args=False)
        return distributions.Independent(law, 1) if self._independent else law

    def log_prob(self, h: Tensor, labels: Tensor) -> Tensor:
        """Return log p(y|h), [*batch], for labels that broadcast against the batch."""
        return self.given(h).log_prob(labels)

    def support(self, h: Tensor) -> Tensor | None:
        """Return every label of a law with finitely many, [label]; None for other laws."""
        law = self.given(h)
        if self._independent or not law.has_enumerate_support:
            return None
        return law.enumerate_support(expand=False)

    @property
    def _independent(self) -> bool:
        return self.family.structure == "independent"
