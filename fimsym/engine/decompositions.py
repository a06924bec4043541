"""Operations of torch written out in simpler ones, so that few need a rule of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


def _layer_norm(func, input, shape, weight, bias, eps):
    axes = tuple(range(-len(shape), 0))
    unit, mean, scale = _standardised(input, axes, eps)
    return _scaled(unit, weight, bias), mean, scale


def _group_norm(func, input, weight, bias, rows, channels, positions, groups, eps):
    unit, mean, scale = _standardised(input.reshape(rows, groups, -1), (-1,), eps)
    along = (-1, *[1] * (input.ndim - 2))
    weight, bias = (x if x is None else x.reshape(along) for x in (weight, bias))
    return _scaled(unit.reshape(input.shape), weight, bias), mean.squeeze(-1), scale.squeeze(-1)


def _batch_norm(func, input, weight, bias, mean, variance, training, momentum, eps):
    along = (-1, *[1] * (input.ndim - 2))
    weight, bias = (x if x is None else x.reshape(along) for x in (weight, bias))
    if training:  # of instances, which pass for channels
        axes = (0, *range(2, input.ndim))
        unit, mean, scale = _standardised(input, axes, eps)
        return _scaled(unit, weight, bias), mean.flatten(), scale.flatten()
    unit = (input - mean.reshape(along)) * (variance + eps).rsqrt().reshape(along)
    return _scaled(unit, weight, bias), input.new_empty(0), input.new_empty(0)


def _standardised(input: Tensor, axes: tuple[int, ...], eps: float):
    mean = input.mean(axes, keepdim=True)
    centred = input - mean
    scale = (centred.square().mean(axes, keepdim=True) + eps).rsqrt()
    return centred * scale, mean, scale


def _scaled(unit: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    found = unit if weight is None else unit * weight
    return found if bias is None else found + bias


def _log_sigmoid(func, input):
    # The side that is taken rounds neither the value nor its derivatives away.
    straight, flat = input - functional.softplus(input), -functional.softplus(-input)
    return torch.where(input < 0, straight, flat), input.new_empty(0)


def _glu(func, input, dim=-1):
    a, gate = input.chunk(2, dim)
    return a * gate.sigmoid()


def _stack(func, tensors, dim=0):
    return torch.cat([tensor.unsqueeze(dim) for tensor in tensors], dim)


DECOMPOSED: dict[Any, Callable] = {
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.native_batch_norm: _batch_norm,
    aten.log_sigmoid_forward: _log_sigmoid,
    aten.glu: _glu,
    aten.stack: _stack,
}
"""Each takes the operation and its arguments."""
