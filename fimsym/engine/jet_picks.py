"""Rules for operations that pick elements: maxima, sorting, max pooling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fimsym.engine.jet_table import refuse, rule, table
from fimsym.engine.jet_tensor import Jet, jet, parts

_THREE = (1, 2, 3)
_OPTIONS = {"input", "dim", "keepdim", "descending", "stable", "k", "largest", "sorted"}


def _largest(func, args, kwargs):
    """Max and min: of two tensors, along an axis, or of everything."""
    if len(args) == 1 and not kwargs:
        return _extreme(args[0], tuple(range(args[0].ndim)), False, getattr(torch, f"a{_n(func)}"))
    if any(isinstance(x, Tensor) for x in (*args[1:], *kwargs.values())):
        return getattr(torch, f"{_n(func)}imum")(*args, **kwargs)
    return _picked(func, args, kwargs)


def _n(func: Any) -> str:
    return func.__name__


def _picked(func, args, kwargs):
    """An operation that takes elements along an axis and says which (max, sort, topk)."""
    x = args[0] if args else kwargs.get("input")
    if not isinstance(x, Jet) or not set(kwargs) <= _OPTIONS:
        raise refuse(func, "was called in a form not in the table")
    found = func(x.value, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
    dim = _axis(func, args, kwargs)
    keep = found[1].ndim == x.ndim
    index = found[1] if keep else found[1].unsqueeze(dim)
    taken = [None if c is None else c.gather(dim, index) for c in (x.first, x.second)]
    taken = [c if c is None or keep else c.squeeze(dim) for c in taken]
    return type(found)((jet(found[0], *taken), found[1]))


def _axis(func, args, kwargs) -> int:
    place = 2 if _n(func) == "topk" else 1
    dim = kwargs.get("dim", args[place] if len(args) > place else -1)
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise refuse(func, "was called in a form not in the table")
    return dim


table("max min", _largest)
table("sort topk", _picked)


@rule("amax")
def _amax(input, dim=(), keepdim=False):
    return _extreme(input, dim, keepdim, torch.amax)


@rule("amin")
def _amin(input, dim=(), keepdim=False):
    return _extreme(input, dim, keepdim, torch.amin)


def _extreme(input, dim, keepdim, func):
    """Reduce to the extreme; equal elements share its derivative."""
    hit = (input == func(input.detach(), dim, keepdim=True)).to(input.dtype)
    axes = dim if isinstance(dim, int) or len(dim) else tuple(range(input.ndim))
    share = hit / hit.sum(axes, keepdim=True)
    taken = [c if c is None else (share * c).sum(axes, keepdim=keepdim) for c in parts(input)[1:]]
    return jet(func(input.detach(), dim, keepdim=keepdim), *taken)


def _pool(dimension: int, adaptive: bool):
    name = f"{'adaptive_' if adaptive else ''}max_pool{dimension}d"
    pool = getattr(F, f"{name}_with_indices")

    def pooled(func, args, kwargs):
        options = {k: v for k, v in kwargs.items() if k not in ("input", "return_indices")}
        input = args[0] if args else kwargs["input"]
        if not isinstance(input, Jet) or len(args) > (2 if adaptive else 6):
            raise refuse(func, "was called in a form not in the table")
        value, index = pool(input.value, *args[1:], **options)
        flat = index.flatten(-dimension)
        taken = [
            None if c is None else c.flatten(-dimension).gather(-1, flat).reshape(value.shape)
            for c in (input.first, input.second)
        ]
        output = jet(value, *taken)
        both = kwargs.get("return_indices") or _n(func).endswith("_with_indices")
        return (output, index) if both else output

    table(f"F.{name} F.{name}_with_indices", pooled)


for _dimension in _THREE:
    _pool(_dimension, adaptive=False)
    _pool(_dimension, adaptive=True)
