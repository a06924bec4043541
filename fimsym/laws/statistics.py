"""Sufficient statistics t(y) of labels, one entry for every natural parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fimsym.errors import SpecError
from fimsym.families import Family
from fimsym.laws.algebra import evaluate


def statistics(
    family: Family, constants: Mapping[str, Any], labels: Tensor, outputs: int
) -> Tensor | None:
    """Return t(y), [label, output] in the layout of h; None where no formula says what it is.

    Args:
        family: The law of the labels.
        constants: Values of its constants.
        labels: [label] and the label's own axes.
        outputs: Number of natural parameters.
    """
    support = family.density.support if family.density is not None else None
    if support == "one_hot":
        return functional.one_hot(labels.long(), outputs).double()
    if support == "count_vectors":
        return labels.double()
    if family.structure == "matrix":
        return _products(labels)
    names = {**constants, "y": labels}
    try:
        found = [evaluate(t, names) for t in family.sufficient_statistics]
    except SpecError:
        return None
    whole = [torch.as_tensor(t).to(labels).expand_as(labels) for t in found]
    return torch.cat(whole, dim=-1) if len(whole) > 1 else whole[0]


def _products(y: Tensor) -> Tensor:
    """Return (y, yyᵀ), where an entry beside the diagonal stands for both of its places."""
    each = y.unbind(-1)
    rows, columns = torch.tril_indices(len(each), len(each)).tolist()
    products = [
        each[i] * each[j] if i == j else 2 * each[i] * each[j]
        for i, j in zip(rows, columns, strict=True)
    ]
    return torch.stack([*each, *products]).movedim(0, -1)
