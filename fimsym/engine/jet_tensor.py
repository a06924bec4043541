"""Second-order Taylor expansions that pass for tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fimsym.engine.jet_table import BY_FUNCTION, IN_PLACE, refuse


class _Carrier(Tensor):
    """A tensor without data of its own; every operation on it goes through the table.

    What slips past ``__torch_function__`` reaches ``__torch_dispatch__`` and is refused, so
    that an expansion is never mistaken for its value.
    """

    value: Tensor

    @staticmethod
    def carry(kind: type, value: Tensor) -> Any:
        """Return an empty tensor that looks like `value`."""
        return Tensor._make_wrapper_subclass(
            kind, value.shape, dtype=value.dtype, device=value.device
        )

    @property
    def shape(self) -> torch.Size:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.value.shape

    @property
    def dtype(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.value.dtype

    def __repr__(self, **_: Any) -> str:
        return f"{type(self).__name__}(shape={list(self.shape)}, dtype={self.dtype})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return _dispatch(func, types, args, dict(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise refuse(func, "was reached past the table")


@dataclasses.dataclass(frozen=True)
class Column:
    """A derivative that is zero outside one position of the last axis.

    Attributes:
        entries: Its values at that position, or their number where they are all alike.
        unit: The position, an integer scalar; both may be batched by ``torch.vmap``.
        like: A tensor of the shape of the whole.
    """

    entries: Tensor
    unit: Tensor
    like: Tensor

    def dense(self) -> Tensor:
        """Return the whole."""
        places = torch.arange(self.like.shape[-1], device=self.like.device)
        whole = self.entries.unsqueeze(-1) * (places == self.unit).to(self.like.dtype)
        return whole.expand(self.like.shape)


class Jet(_Carrier):
    """x(t) = value + t·first + t²/2·second up to O(t³).

    Args:
        value: x(0), an ordinary tensor.
        first: x'(0), of the same shape, or None where it vanishes identically. May be batched
            by an enclosing ``torch.vmap`` over directions while `value` is not.
        second: x''(0), likewise.
    """

    raw: tuple[Tensor | Column | None, Tensor | Column | None]
    aliased: bool

    def __new__(
        cls,
        value: Tensor,
        first: Tensor | Column | None = None,
        second: Tensor | Column | None = None,
    ):
        """Build the expansion."""
        jet = _Carrier.carry(cls, value)
        jet.value = value
        jet.raw = _spread(first, value), _spread(second, value)
        jet.aliased = True  # what the caller made shares memory with what the caller holds
        return jet

    @property
    def first(self) -> Tensor | None:
        """x'(0)."""
        return self._dense(0)

    @property
    def second(self) -> Tensor | None:
        """x''(0)."""
        return self._dense(1)

    def _dense(self, which: int) -> Tensor | None:
        found = self.raw[which]
        if not isinstance(found, Column):
            return found
        whole = found.dense()
        self.raw = (whole, self.raw[1]) if which == 0 else (self.raw[0], whole)
        return whole


class Shifted(_Carrier):
    """The weight W of one linear layer whose output is to move: z(t) = Wa + b + t·direction.

    Args:
        weight: W, [out, in].
        direction: Where the pre-activation moves, [out] for every row alike, or anything
            that broadcasts to the layer's output; or the position of one output, an integer
            scalar, which is cheaper: the layer above sees one column of its weight alone.
    """

    direction: Tensor
    used: bool

    def __new__(cls, weight: Tensor, direction: Tensor):
        """Build the marker."""
        marker = _Carrier.carry(cls, weight)
        marker.value = weight
        marker.direction = direction
        marker.used = False
        return marker


def jet(value: Tensor, first: Any, second: Any) -> Tensor:
    """Return a jet, or the value alone where both derivatives vanish identically."""
    if first is None and second is None:
        return value
    made = Jet(value, first, second)
    made.aliased = False
    return made


def parts(x: Any) -> tuple[Any, Tensor | None, Tensor | None]:
    """Return value, first and second derivative of a jet or of a constant."""
    return (x.value, x.first, x.second) if isinstance(x, Jet) else (x, None, None)


def value_of(x: Any) -> Any:
    """Return the value of a jet, and anything else as it is."""
    return x.value if isinstance(x, Jet) else x


def total(*terms: Tensor | None) -> Tensor | None:
    """Return the sum of the terms that do not vanish identically."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None


def jets_in(tree: Any) -> Iterator[Jet]:
    """Yield every jet among nested arguments."""
    if isinstance(tree, Jet):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from jets_in(item)
    elif isinstance(tree, dict):
        yield from jets_in(list(tree.values()))


def replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested arguments with every leaf changed."""
    if isinstance(tree, list | tuple):
        items = [replaced(item, change) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {name: replaced(item, change) for name, item in tree.items()}
    return change(tree)


def _dispatch(func, types, args, kwargs):
    """Apply the rule of an operation; in-place operations rebind what they write to."""
    if Shifted in types:
        return _shifted(func, args, kwargs)
    in_place = func in IN_PLACE or kwargs.pop("inplace", False)
    func = IN_PLACE.get(func, func)
    if func not in BY_FUNCTION or kwargs.pop("out", None) is not None:
        raise refuse(func)
    result = BY_FUNCTION[func](func, args, kwargs)
    if in_place:
        return _rebind(func, args[0], result)
    _mark_aliases(result, (args, kwargs))
    return result


def _shifted(func, args, kwargs):
    if func is not F.linear:
        raise refuse(func, "was reached by a shifted weight; only linear takes one")

    def linear(input, weight, bias=None):
        if isinstance(weight, Shifted) and not any(isinstance(x, _Carrier) for x in (input, bias)):
            if weight.used:
                raise refuse(func, "uses a shifted weight a second time")
            weight.used = True
            value = F.linear(input, weight.value, bias)
            if weight.direction.dtype == torch.int64:
                one = torch.ones((), dtype=value.dtype, device=value.device)
                return jet(value, Column(one, weight.direction, value), None)
            return jet(value, weight.direction, None)
        raise refuse(func, "met a shifted weight together with another moving argument")

    return linear(*args, **kwargs)


def _rebind(func, target, result):
    """Give an in-place operation's result to its target, unless something else would see it."""
    if not isinstance(target, Jet) or target.aliased:
        raise refuse(func, "writes in place into memory that is shared, or into a constant")
    value, first, second = parts(result)
    if value.shape != target.shape or value.dtype != target.dtype:
        raise refuse(func, "changes the shape or dtype of what it writes into")
    target.value, target.raw = value, (first, second)
    return target


def _mark_aliases(result, arguments) -> None:
    """Remember which jets share memory, so that none of them is written in place."""
    outputs = result if isinstance(result, list | tuple) else [result]
    outputs = [x for x in outputs if isinstance(x, Tensor)]
    memory = {_memory(value_of(x)) for x in outputs}
    for source in jets_in(arguments):
        itself = len(outputs) == 1 and outputs[0] is source
        if _memory(source.value) in memory | {None} and not itself:
            for one in (source, *jets_in(outputs)):
                one.aliased = True


def _memory(value: Tensor) -> int | None:
    try:
        return value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return None


def _spread(component: Any, value: Tensor) -> Any:
    if component is None or isinstance(component, Column) or component.shape == value.shape:
        return component
    return component.expand(value.shape)
