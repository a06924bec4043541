"""Kinds of rules: constants, linear maps, products, elementwise functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from fimsym.engine.jet_table import refuse
from fimsym.engine.jet_tensor import (
    Column,
    Jet,
    jet,
    jets_in,
    parts,
    replaced,
    total,
    value_of,
)


def of_values(func, args, kwargs):
    """Apply an operation whose result does not move: shapes, comparisons, rounding."""
    return func(*replaced(args, value_of), **replaced(kwargs, value_of))


@dataclasses.dataclass(frozen=True)
class Linear:
    """y = f(x, …) linear or affine in some arguments taken together.

    Args:
        slots: Positions of those arguments.
        names: Their keywords.
        donors: Position of an argument that gives its shape or dtype only.
        component: The operation for the derivatives, where it differs.
    """

    slots: tuple[int, ...] = (0,)
    names: tuple[str, ...] = ("input", "self", "tensors")
    donors: tuple[int, ...] = ()
    component: Any = None

    def __call__(self, func, args, kwargs):
        """Apply the map to the value and to each derivative."""
        args = tuple(value_of(a) if i in self.donors else a for i, a in enumerate(args))
        moving = [args[i] for i in self.slots if i < len(args)]
        moving += [kwargs[name] for name in self.names if name in kwargs]
        if len(list(jets_in(moving))) != len(list(jets_in((args, kwargs)))):
            raise refuse(func, "depends on the direction through an argument not in the table")
        results = [self._order(func, args, kwargs, order, moving) for order in range(3)]
        value = results[0]
        if not isinstance(value, list | tuple):
            return _moving(*results)
        none = [None] * len(value)
        return type(value)(_moving(*one) for one in zip(*(r or none for r in results), strict=True))

    def _order(self, func, args, kwargs, order, moving):
        if order and all(parts(x)[order] is None for x in jets_in(moving)):
            return None
        args = tuple(_term(a, order) if i in self.slots else a for i, a in enumerate(args))
        kwargs = {k: _term(x, order) if k in self.names else x for k, x in kwargs.items()}
        return (self.component if order and self.component else func)(*args, **kwargs)


def _term(tree: Any, order: int) -> Any:
    """Return one Taylor coefficient of nested arguments; that of a constant is zero."""

    def coefficient(x):
        found = parts(x)[order]
        if order == 0 or found is not None or x is None:
            return found
        return torch.zeros_like(value_of(x)) if isinstance(x, Tensor) else 0.0

    return replaced(tree, coefficient)


def _moving(value, first, second):
    """Return a jet, or the value alone if it has become an integer."""
    return jet(value, first, second) if value.is_floating_point() else value


@dataclasses.dataclass(frozen=True)
class Product:
    """y = f(a, b, …) linear in each of several arguments."""

    slots: tuple[int, ...] = (0, 1)

    def __call__(self, func, args, kwargs):
        """Apply the product rule to second order."""
        args = list(args)
        moving = [i for i in self.slots if i < len(args) and isinstance(args[i], Jet)]
        if len(moving) != len(list(jets_in((args, kwargs)))):
            raise refuse(func, "depends on the direction through an argument not in the table")

        def term(orders):
            terms = {i: parts(args[i])[order] for i, order in orders.items()}
            if any(x is None for x in terms.values()):
                return None
            given = [terms[i] if i in terms else value_of(a) for i, a in enumerate(args)]
            return func(*given, **kwargs)

        pairs = [(i, j) for n, i in enumerate(moving) for j in moving[n + 1 :]]
        twice = total(*(term({i: 1, j: 1}) for i, j in pairs))
        return jet(
            func(*map(value_of, args), **kwargs),
            total(*(term({i: 1}) for i in moving)),
            total(*(term({i: 2}) for i in moving), None if twice is None else 2 * twice),
        )


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """y = φ(x) for each element; φ' and φ'' are autograd's, at the value alone.

    Args:
        smooth: False where φ'' vanishes off the kinks.
    """

    smooth: bool = True

    def __call__(self, func, args, kwargs):
        """Apply the chain rule to second order."""
        moving = list(jets_in((args, kwargs)))
        if any(x is not moving[0] for x in moving):
            raise refuse(func, "has two arguments that depend on the direction")
        x = moving[0]

        def at(z):
            change = lambda leaf: z if leaf is x else leaf  # noqa: E731
            return func(*replaced(args, change), **replaced(kwargs, change))

        value = at(x.value)
        if value.dtype != x.dtype:
            raise refuse(func, "changes the dtype")
        z = x.value.expand(value.shape)
        value, slope, curvature = _slopes(at, z, self.smooth and x.raw[0] is not None)
        if value.shape == x.shape and (column := only_column(x)):
            return jet(value, *_along_column(x, column.unit, slope, curvature))
        first, second = (_spread(component, value) for component in (x.first, x.second))
        curved = curvature is not None and first is not None
        return jet(
            value,
            _times(slope, first),
            _bent(curvature, first, slope, second) if curved else _times(slope, second),
        )


def only_column(x: Any) -> Column | None:
    """Return x' if x moves in one position of its last axis only."""
    first, second = x.raw if isinstance(x, Jet) else (None, None)
    return first if isinstance(first, Column) and not isinstance(second, Tensor) else None


def _along_column(x, unit, slope, curvature):
    """Return both derivatives of φ(x) at the one position where x moves."""
    first, second = (c and c.entries for c in x.raw)
    steep = slope.index_select(-1, unit.reshape(1)).squeeze(-1)
    bent = None
    if curvature is not None:
        bent = curvature.index_select(-1, unit.reshape(1)).squeeze(-1) * first.square()
    moving = steep * first, total(bent, _times(steep, second))
    return [None if c is None else Column(c, unit, x.value) for c in moving]


def _times(a, b):
    return None if b is None else a * b


def _bent(curvature, first, slope, second):
    """Return φ'' first² + φ' second in as few passes over memory as there are."""
    bent = (curvature * first).mul_(first)
    return bent if second is None else bent.add_(slope * second)


def _slopes(at, z, twice):
    """Return φ, φ' and, if asked for, φ'' at every element."""

    def slope(z):
        value, pull, *_ = vjp(at, z)
        return pull(torch.ones_like(value))[0], value

    if not twice:
        first, value = slope(z)
        return value, first, None
    first, pull, *value = vjp(slope, z, has_aux=True)
    return value[0], first, pull(torch.ones_like(first))[0]


def _spread(component, value):
    return component if component is None else component.expand(value.shape)
