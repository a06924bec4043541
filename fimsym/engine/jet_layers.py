"""Rules for the operations of network layers, most of them written out in elementary ones."""

from __future__ import annotations

import math
import types
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fimsym.engine.jet_rules import Product, only_column
from fimsym.engine.jet_tensor import Jet, jet, parts, refuse, rule, table, total

_THREE = (1, 2, 3)


@rule("F.linear")
def _linear(input, weight, bias=None):
    column = only_column(input)
    if column is None or isinstance(weight, Jet):
        return _shift(Product()(F.linear, (input, weight), {}), bias)
    value = F.linear(input.value, weight)
    seen = weight.index_select(1, column.unit.reshape(1)).squeeze(1)
    moving = (None if c is None else c.entries.unsqueeze(-1) * seen for c in input.raw)
    return _shift(jet(value, *moving), bias)


@rule("F.bilinear")
def _bilinear(input1, input2, weight, bias=None):
    return _shift(Product((0, 1, 2))(F.bilinear, (input1, input2, weight), {}), bias)


def _shift(output, bias):
    return output if bias is None else output + bias


def _convolution(func, args, kwargs):
    names = ("input", "weight", "bias")
    given = dict(zip(names, args, strict=False)) | {n: kwargs[n] for n in names if n in kwargs}
    rest = {name: x for name, x in kwargs.items() if name not in names}
    input, weight, bias = given["input"], given["weight"], given.get("bias")
    without = lambda input, weight: func(input, weight, None, *args[3:], **rest)  # noqa: E731
    output = Product()(without, (input, weight), {})
    return output if bias is None else output + bias.reshape(-1, *[1] * (weight.ndim - 2))


for _dimension in _THREE:
    table(f"F.conv{_dimension}d F.conv_transpose{_dimension}d", _convolution)


@rule("F.embedding")
def _embedding(
    input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False,
    sparse=False,
):  # fmt: skip
    if max_norm is not None or scale_grad_by_freq:
        raise refuse(F.embedding, "renormalises its rows or rescales its gradient")
    value, *moving = parts(weight)
    if padding_idx is None:
        looked_up = [c if c is None else F.embedding(input, c) for c in moving]
    else:
        # Like autograd, which leaves the row of the padding out.
        kept = (input != padding_idx % value.shape[0]).unsqueeze(-1)
        looked_up = [c if c is None else F.embedding(input, c) * kept for c in moving]
    return jet(F.embedding(input, value), *looked_up)


def _dropout(func, args, kwargs):
    p = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
    training = args[2] if len(args) > 2 else kwargs.get("training", True)
    if training and p > 0:
        raise refuse(func, "is random in training mode")
    return args[0] if args else kwargs["input"]


table("F.dropout F.dropout1d F.dropout2d F.dropout3d F.alpha_dropout", _dropout)


@rule("F.glu")
def _glu(input, dim=-1):
    a, gate = input.chunk(2, dim)
    return a * gate.sigmoid()


@rule("prelu")
def _prelu(input, weight):
    slope = weight if weight.numel() == 1 else weight.reshape(-1, *[1] * (input.ndim - 2))
    return torch.where(input > 0, input, slope * input)


@rule("softmax")
def _softmax(input, dim, *, dtype=None, _stacklevel=3):
    x, first, second = _cast(torch.softmax, input, dim, dtype)
    y = x.softmax(dim)
    bend, first = _centred(y, first, second, dim)
    spread = None if first is None else first.square()
    excess = _minus(spread, None if spread is None else (y * spread).sum(dim, keepdim=True))
    second = total(bend, excess)
    return jet(y, None if first is None else y * first, None if second is None else y * second)


@rule("log_softmax")
def _log_softmax(input, dim, *, dtype=None, _stacklevel=3):
    x, first, second = _cast(torch.log_softmax, input, dim, dtype)
    y = x.softmax(dim)
    bend, first = _centred(y, first, second, dim)
    bow = None if first is None else -(y * first.square()).sum(dim, keepdim=True)
    return jet(x.log_softmax(dim), first, total(bend, bow))


@rule("F.softmin")
def _softmin(input, dim, *, dtype=None, _stacklevel=3):
    return _softmax(-input, dim, dtype=dtype)


@rule("logsumexp")
def _logsumexp(input, dim, keepdim=False):
    top = input.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    summed = (input - top).exp().sum(dim, keepdim=keepdim).log()
    return summed + top.reshape(summed.shape)


def _cast(func, input, dim, dtype):
    if not isinstance(dim, int):
        raise refuse(func, "was called without a dim")
    return parts(input if dtype is None else input.to(dtype))


def _centred(y, first, second, dim):
    """Return the second and first derivatives less their means under y."""
    mean = lambda c: None if c is None else (y * c).sum(dim, keepdim=True)  # noqa: E731
    return _minus(second, mean(second)), _minus(first, mean(first))


def _minus(a, b):
    return None if a is None else a - b


@rule("F.layer_norm")
def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    axes = tuple(range(-len(normalized_shape), 0))
    return _affine(_standardised(input, axes, eps), weight, bias)


@rule("F.group_norm")
def _group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    grouped = input.reshape(input.shape[0], num_groups, -1)
    return _per_channel(_standardised(grouped, -1, eps).reshape(input.shape), weight, bias)


@rule("F.instance_norm")
def _instance_norm(
    input, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
    momentum=0.1, eps=1e-5,
):  # fmt: skip
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    if running_mean is not None:
        raise refuse(F.instance_norm, "updates its statistics")
    axes = tuple(range(2, input.ndim))
    return _per_channel(_standardised(input, axes, eps), weight, bias)


@rule("F.batch_norm")
def _batch_norm(
    input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1,
    eps=1e-5,
):  # fmt: skip
    if training:
        raise refuse(F.batch_norm, "uses the batch's statistics")
    scale = (running_var + eps).rsqrt()
    centred = _per_channel(input, None, -running_mean)
    return _per_channel(centred, scale if weight is None else scale * weight, bias)


@rule("F.rms_norm")
def _rms_norm(input, normalized_shape, weight=None, eps=None):
    axes = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    return _affine(input * (input.square().mean(axes, keepdim=True) + eps).rsqrt(), weight, None)


def _standardised(input, axes, eps):
    centred = input - input.mean(axes, keepdim=True)
    return centred * (centred.square().mean(axes, keepdim=True) + eps).rsqrt()


def _affine(input, weight, bias):
    return _shift(input if weight is None else input * weight, bias)


def _per_channel(input, weight, bias):
    shape = (-1, *[1] * (input.ndim - 2))
    return _affine(input, *(x if x is None else x.reshape(shape) for x in (weight, bias)))


@rule("var")
def _var(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = tuple(range(input.ndim)) if dim is None else dim
    correction = int(unbiased) if correction is None else correction
    squares = (input - input.mean(axes, keepdim=True)).square()
    kept = squares.sum(axes, keepdim=keepdim)
    return kept / (squares.numel() // max(kept.numel(), 1) - correction)


@rule("std")
def _std(input, dim=None, unbiased=True, keepdim=False, *, correction=None):
    return _var(input, dim, unbiased, keepdim, correction=correction).sqrt()


@rule("norm linalg.norm linalg.vector_norm")
def _norm(input, ord=2, dim=None, keepdim=False, *, p=None, dtype=None):
    if (p or ord) not in (2, "fro") or dtype is not None or dim is None and input.ndim > 1:
        raise refuse(torch.norm, "is known for the Euclidean norm along an axis only")
    return input.square().sum(dim, keepdim=keepdim).sqrt()


def _largest(func, args, kwargs):
    """max and min: of two tensors, along an axis, or of everything."""
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
    if not isinstance(x, Jet):
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


@rule("F.scaled_dot_product_attention")
def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if dropout_p > 0 or enable_gqa:
        raise refuse(F.scaled_dot_product_attention, "drops weights or groups its queries")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        return scores.softmax(-1) @ value
    boolean = attn_mask.dtype == torch.bool
    blocked = ~attn_mask if boolean else attn_mask.detach() == -math.inf
    idle = blocked.all(-1, keepdim=True)  # a query that may look nowhere sees zero
    scores = scores if boolean else scores + attn_mask
    scores = scores.masked_fill(blocked & ~idle, -math.inf).masked_fill(idle, 0.0)
    return scores.softmax(-1).masked_fill(idle, 0.0) @ value


def _opened(function):
    """Return torch's own Python function with its gate open, so that the operations inside
    it meet the jets one by one."""  # noqa: D205, D209
    closed = {"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"}
    scope = dict(function.__globals__) | {name: lambda *_: False for name in closed}
    copy = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    if not closed & set(function.__code__.co_names):
        return lambda *_, **__: _raise(function)
    return lambda func, args, kwargs: copy(*args, **kwargs)


def _raise(function):
    raise refuse(function, "cannot be looked into in this version of torch")


for _name in ("multi_head_attention_forward", "normalize"):
    table(f"F.{_name}", _opened(getattr(F, _name)))
