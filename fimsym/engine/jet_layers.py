"""Rules for the operations of network layers, most of them written out in elementary ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from fimsym.engine.jet_rules import Product, only_column
from fimsym.engine.jet_table import refuse, rule, table
from fimsym.engine.jet_tensor import Jet, jet, parts, total

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
    return _shift(torch.einsum("...i,kij,...j->...k", input1, weight, input2), bias)


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


@rule("F.hardsigmoid")
def _hardsigmoid(input):
    return F.relu6(input + 3) / 6  # torch's own derivative is rounded to float32


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
    along = isinstance(dim, int) or (dim is None and input.ndim == 1)
    if (ord if p is None else p) not in (2, "fro") or dtype is not None or not along:
        raise refuse(torch.norm, "is known for the Euclidean norm along an axis only")
    return input.square().sum(dim, keepdim=keepdim).sqrt()
