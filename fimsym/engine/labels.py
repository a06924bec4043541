"""What labels from the data say: their sufficient statistics t(y), and the score at the output.

The score of a parameter is s = ⟨u, t(y) − η⟩ with u = ∂h/∂θ; by the chain rule it is a backward
pass seeded with ∂ log p(y|o)/∂o = g′(o)ᵀ (t(y) − η), with h = g(o) the link.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fimsym.engine import classes
from fimsym.engine.data import check_labels
from fimsym.engine.head import Head
from fimsym.errors import DomainError, ShapeError, SpecError, UnsupportedError
from fimsym.families import family
from fimsym.laws.algebra import evaluate
from fimsym.laws.statistics import statistics as of_labels

MISSING = (
    "the empirical Fisher needs labels, and the data holds inputs alone; expected (inputs, "
    "labels): a tuple, or a DataLoader or iterable of such pairs. Leave out empirical, or pass "
    "the labels."
)


def scores(head: Head, outputs: Tensor, labels: Tensor, first_row: int = 0) -> Tensor:
    """Return ∂ log p(y|o)/∂o of one label per example, [batch, output], in float64.

    Args:
        head: The law of the labels.
        outputs: o, [batch, output].
        labels: [batch] or [batch, target], as the family takes them.
        first_row: Position of the first example in the data, for messages.

    Raises:
        DomainError: t(y) is not finite, or y not among the labels of the law.
        UnsupportedError: the family does not say what t is.
    """
    outputs = outputs.detach().double().requires_grad_()
    h = head.natural(outputs)
    with torch.no_grad():
        residual = _residual(head, h, statistics(head, labels, h.shape[1], first_row))
    return torch.autograd.grad(h, outputs, residual)[0]


def several(head: Head, labels: Tensor | None, outputs: int, first_row: int) -> list[Tensor]:
    """Return the labels of some inputs, one tensor for each label of an input.

    Args:
        head: The law of the labels.
        labels: [batch] or [batch, target]; or [batch, label, target] with several for each
            input, where target is 1 for classes.
        outputs: Number of outputs.
        first_row: Position of the first input in the data, for messages.

    Raises:
        SpecError: there are no labels.
        ShapeError: they do not fit the law.
    """
    if labels is None:
        raise SpecError(MISSING)
    columns = head.targets(outputs)
    if labels.ndim != 3:
        check_labels(labels, outputs, first_row, columns)
        return [labels]
    if labels.shape[1] == 0 or labels.shape[2] != max(1, columns):
        raise ShapeError(
            f"labels of shape {list(labels.shape)} do not fit the model; expected [batch, label, "
            f"{max(1, columns)}] with several labels for each input."
        )
    found = [one.squeeze(1) if columns == 0 else one for one in labels.unbind(1)]
    for one in found:
        check_labels(one, outputs, first_row, columns)
    return found


def statistics(head: Head, labels: Tensor, outputs: int, first_row: int = 0) -> Tensor:
    """Return t(y), [batch, output], in float64.

    Raises:
        DomainError: it is not finite, or a label is not one of the law's.
        UnsupportedError: the family gives no formula of t.
    """
    spec = head.spec
    support = spec.density.support if spec.density is not None else None
    if support == "one_hot":
        y = labels
    else:
        y = labels.double().reshape(len(labels), -1)
        _check_support(head, support, y, first_row)
    t = of_labels(spec, head.constants, y, outputs)
    if t is None:
        raise UnsupportedError(
            f"{spec.name} does not say what t(y) is in a formula. Give the family "
            'sufficient_statistics in y, such as ("log(y)", "y").'
        )
    if not bool(t.isfinite().all()):
        row = int((~t.isfinite()).any(1).nonzero()[0, 0])
        raise DomainError(
            f"the statistics {', '.join(spec.sufficient_statistics)} of the label "
            f"{y[row].tolist()} of input {first_row + row} are not finite; expected labels of "
            f"{spec.name}."
        )
    return t


def _residual(head: Head, h: Tensor, t: Tensor) -> Tensor:
    """Return t − η, without cancellation where a label was almost certain."""
    spec = head.spec
    if spec.name not in _COUNTING or spec != family(spec.name):
        return t - head.module.mean(h, **head.constants)
    if spec.vector:
        odds, total = h - classes.log_sum_of_others(h), t.sum(-1, keepdim=True)
    else:
        odds, total = h, torch.full_like(t, head.constants.get("n", 1.0))
    return t * torch.sigmoid(-odds) - (total - t) * torch.sigmoid(odds)


_COUNTING = {"categorical", "multinomial", "bernoulli", "binomial"}


def _check_support(head: Head, support: str | None, y: Tensor, first_row: int) -> None:
    """Raise DomainError unless every label is one of the law's."""
    if support is None or support not in _SUPPORTS:
        return
    words, holds = _SUPPORTS[support]
    largest = head.spec.density.largest if head.spec.density is not None else None
    fine = holds(y) & y.isfinite()
    if largest is not None:
        largest = float(evaluate(largest, head.constants))
        words += f", {'of sum' if support == 'count_vectors' else 'at most'} {largest:g}"
        fine &= y.sum(1, keepdim=True) == largest if support == "count_vectors" else y <= largest
    if not bool(fine.all()):
        row = int((~fine).any(1).nonzero()[0, 0])
        raise DomainError(
            f"{y[row].tolist()}, the label of input {first_row + row}, is none of "
            f"{head.spec.name}; expected {words}."
        )


def _is_count(y: Tensor) -> Tensor:
    return (y >= 0) & (y == y.round())


_SUPPORTS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "positive": ("numbers above 0", lambda y: y > 0),
    "unit": ("numbers between 0 and 1", lambda y: (y > 0) & (y < 1)),
    "counts": ("whole numbers from 0", _is_count),
    "count_vectors": ("whole numbers from 0", _is_count),
    "simplex": (
        "positive proportions of sum 1",
        lambda y: (y > 0) & ((y.sum(1, keepdim=True) - 1).abs() < 1e-4),
    ),
    "real": ("finite numbers", lambda y: y.isfinite()),
    "vector": ("finite numbers", lambda y: y.isfinite()),
    "angle": ("angles", lambda y: y.isfinite()),
}
"""What labels are, in words, and whether they are."""
