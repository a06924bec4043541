"""The quantities asked for, from gradients of some inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fimsym.engine.classes import QUANTITIES, Classes
from fimsym.engine.head import SECOND_ORDER, Head
from fimsym.engine.precision import vanish, with_digits
from fimsym.engine.single import Single, single

OF_FIRST = QUANTITIES[:2]
"""I and V₁."""


class Values:
    """The quantities asked for of some inputs, by the fastest way that there is for their law.

    Args:
        head: The law of the labels.
        asked: Names of the quantities.
        h: What the network puts out, [batch, output].
        law: Whose mean is subtracted from gradients, if any: u and v below are then ũ and ṽ of
            its directions, [batch, direction, param].

    Attributes:
        first: Those of the quantities that need first derivatives only.
    """

    def __init__(self, head: Head, asked: tuple[str, ...], h: Tensor, law: Classes | None):
        self.first = tuple(quantity for quantity in asked if quantity not in SECOND_ORDER)
        self._head = head
        self._asked = asked
        self._h = h
        self._law = law
        self._bent_by_link = self.first != asked and not head.identity

    def of(self, u: Tensor, rows: slice | Tensor = slice(None)) -> dict[str, Tensor]:
        """Return the quantities where ∂²o/∂θ² vanishes, each [batch, param].

        Args:
            u: ∂o/∂θ of some examples, [batch, output, param].
            rows: Which examples these are.
        """
        h = self._h[rows]
        if self._bent_by_link:  # ∂²h/∂θ² does not vanish
            return self._head.values(self._asked, h, u, torch.zeros_like(u))
        if not self.first:
            return self._with_zeros({}, u[:, 0])
        if self._law is None:
            return self._with_zeros(self._head.values(self.first, h, u, None), u[:, 0])
        take = functools.partial(self._law[rows].of_precision, with_variance=self._two)
        return self.of_law(with_digits(take, h, u, None))

    def of_bent(self, u: Tensor, v: Tensor, rows: slice | Tensor) -> dict[str, Tensor]:
        """Return the quantities, each [batch, param].

        Args:
            u: ∂o/∂θ, [batch, output, param].
            v: ∂²o/∂θ², likewise.
            rows: Which examples these are.
        """
        if self._law is None:
            return self._head.values(self._asked, self._h[rows], u, v)
        return self.of_law(with_digits(self._law[rows].of_precision, self._h[rows], u, v))

    def used_up(
        self, u: Tensor, rows: slice, again: Callable[[], Tensor], summed: bool = False
    ) -> dict[str, Tensor]:
        """Return what `of` returns, and overwrite u.

        Args:
            u: ∂o/∂θ of some examples, [batch, output, param].
            rows: Which examples these are.
            again: Returns u once more, if that is needed.
            summed: V₁ may be summed over some examples, [any, param].
        """
        if self._fast is None:
            return self.of(u, rows)
        values = self._fast.used_up(u, rows, self._two, summed)
        return self.of(again(), rows) if vanish(values) else self.of_law(values)

    @property
    def stores(self) -> bool:
        """Whether `store` can be used."""
        return self._fast is not None

    def empty(self, batch: int, like: Tensor) -> dict[str, Tensor]:
        """Return where `store` writes to, each [batch, param], for as many parameters as `like`."""
        names = OF_FIRST if self._two else OF_FIRST[:1]
        return {name: like.new_empty(batch, like.shape[-1]) for name in names}

    def store(self, u: Tensor, rows: slice, found: Mapping[str, Tensor]) -> None:
        """Write I, and V₁ if that is asked for, of some examples, and overwrite u.

        Digits may underflow; `precision.vanish` tells.

        Args:
            u: ∂o/∂θ of the examples, [batch, output, param].
            rows: Which these are.
            found: What `empty` returned for all examples.
        """
        assert self._fast is not None
        out = {name: value[rows] for name, value in found.items()}
        self._fast.used_up(u, rows, self._two, out=out)

    def of_outputs(self) -> dict[str, Tensor]:
        """Return the quantities of a parameter that is added to one output, [batch, output]."""
        known = self._law or self._fast
        if known is not None:
            return self.of_law(known.moments_of_outputs())
        return self._head.of_outputs(self._asked, self._h)

    def of_law(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the quantities, [batch, param] each, from I and V₁ or all four."""
        return self._with_zeros(values, values["fisher"])

    @functools.cached_property
    def _fast(self) -> Classes | Single | None:
        """What takes I and V₁ without the evaluator, where that is all there is to take."""
        if not self.first or not set(self.first) <= set(OF_FIRST) or self._bent_by_link:
            return None
        if self._law is not None:
            return self._law if self._law.overwrites else None
        return single(self._head, self._h)

    @property
    def _two(self) -> bool:
        """Whether V₁ is asked for."""
        return self.first != ("fisher",)

    def _with_zeros(self, values: Mapping[str, Tensor], like: Tensor) -> dict[str, Tensor]:
        """Return the quantities asked for; those that are missing vanish."""
        if self._asked == self.first:
            return {quantity: values[quantity] for quantity in self._asked}
        zeros = like.new_zeros(()).expand_as(like)
        return {quantity: values.get(quantity, zeros) for quantity in self._asked}
