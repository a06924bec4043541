"""Labels of the data, which Monte Carlo does not use: are they labels of the law at all?"""

from __future__ import annotations

import torch
from torch import Tensor, distributions

from fimsym.errors import DomainError, ShapeError
from fimsym.laws import Law
from fimsym.laws.distributions import Tabulated


def check_labels(law: Law, outputs: Tensor, labels: Tensor) -> None:
    """Raise unless all labels could be drawn from the law.

    Args:
        law: The law of the labels.
        outputs: What the network puts out for one input, [output].
        labels: [row] and the label's own axes.

    Raises:
        ShapeError: they are not of the law's shape.
        DomainError: a label lies outside the law's support; rows are named.
    """
    given = law.given(outputs)
    event = tuple(given.event_shape)
    if event == (1,) and labels.ndim == 1:
        labels = labels.unsqueeze(1)
    if tuple(labels.shape[1:]) != event:
        raise ShapeError(
            f"labels of {law.family.name} with {len(outputs)} outputs have shape "
            f"{['row', *event]}; got {list(labels.shape)}."
        )
    inside = _inside(law, given, labels)
    if not bool(inside.all()):
        rows = (~inside).nonzero().flatten().tolist()
        shown = ", ".join(map(str, rows[:10])) + (" and more" if len(rows) > 10 else "")
        raise DomainError(
            f"labels outside the support of {law.family.name}: rows {shown}, such as "
            f"{labels[rows[0]].tolist()}. Drop these rows, or choose the family that has them."
        )


def _inside(law: Law, given: distributions.Distribution, labels: Tensor) -> Tensor:
    """Return which labels lie in the support, [row]."""
    base = given.base_dist if isinstance(given, distributions.Independent) else given
    labels = labels.double()
    if isinstance(base, Tabulated):
        density = law.family.density
        found = _ON_A_LINE[density.support](labels)  # type: ignore
    else:
        found = torch.as_tensor(base.support.check(labels))  # type: ignore
    found = found & labels.isfinite() if found.shape == labels.shape else found
    return found.reshape(len(labels), -1).all(1)


_ON_A_LINE = {
    "real": torch.isfinite,
    "positive": lambda y: y > 0,
    "unit": lambda y: (y > 0) & (y < 1),
    "angle": torch.isfinite,
    "counts": lambda y: (y >= 0) & (y == y.round()),
}
