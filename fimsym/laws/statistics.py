"""Sufficient statistics t(y) of labels, one entry for every natural parameter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fimsym.errors import SpecError
from fimsym.laws.algebra import evaluate
from fimsym.laws.law import Law


def statistics(law: Law, labels: Tensor, outputs: int) -> Tensor | None:
    """Return t(y), [label, output] in the layout of h; None where no formula says what it is.

    Args:
        law: The law of the labels.
        labels: [label] and the label's own axes.
        outputs: Number of natural parameters.
    """
    family = law.family
    support = family.density.support if family.density is not None else None
    if support == "one_hot":
        return functional.one_hot(labels.long(), outputs).double()
    if support == "count_vectors":
        return labels.double()
    if family.structure == "matrix":
        return _products(labels)
    names = {**law.constants, "y": labels}
    try:
        found = [evaluate(t, names) for t in family.sufficient_statistics]
    except SpecError:
        return None
    return torch.cat([t + torch.zeros_like(labels) for t in found], dim=-1)


def _products(y: Tensor) -> Tensor:
    """Return (y, yyᵀ), where an entry beside the diagonal stands for both of its places."""
    rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1])
    twice = 2.0 - (rows == columns).double()
    return torch.cat([y, twice * y[..., rows] * y[..., columns]], dim=-1)
