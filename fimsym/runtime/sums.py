"""Sums over outputs with weights that follow from h."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from fimsym.runtime.arithmetic import rest
from fimsym.runtime.columns import is_true

_LONGEST = 256
"""Most outputs that are left to one matrix product, which adds them up in order."""
_FEWEST = 2**14
"""Fewest entries of a matrix product, which costs more to call."""


class Weights(NamedTuple):
    """Weights of a sum over outputs, in the dtype of what is summed.

    Attributes:
        near: [*batch, 1, output], zero where they would not be normal numbers.
        tail: Those that would not, over the smallest normal number; None if there are none.
        product: Take the sum as a matrix product, which needs no temporary.
    """

    near: Tensor
    tail: Tensor | None
    product: bool


def weights(
    log_probability: Tensor,
    others: Tensor,
    draws: float | Tensor,
    top: Tensor,
    second: Tensor,
    dtype: torch.dtype,
) -> Weights:
    """Return n p off the largest and the second output as weights of a sum.

    Args:
        log_probability: [*batch, output, 1].
        others: p, with zero at these two.
        draws: n.
        top: Position of the largest output, [*batch, 1, 1].
        second: That of the second.
        dtype: Of what is summed.
    """
    tiny = torch.finfo(dtype).tiny
    near = others.mT if isinstance(draws, int) and draws == 1 else (others * draws).mT
    product = _as_product(others)
    if not log_probability.numel() or is_true(log_probability.amin() > math.log(tiny)):
        return Weights(near.to(dtype), None, product)
    small = near < tiny
    log = rest(log_probability, top, second, -math.inf).mT - math.log(tiny)
    tail = torch.where(small, log, -math.inf).exp() * draws
    return Weights(torch.where(small, 0.0, near).to(dtype), tail.to(dtype), product)


def weighted_sum(weights: Tensor | Weights, values: Tensor) -> Tensor:
    """Return Σ_i w_i x_i over outputs, [*batch, 1, param]."""
    if not isinstance(weights, Weights):
        product = weights.dtype == values.dtype and _as_product(values)
        return _weighted_sum(weights.mT, values, product)
    near, tail, product = weights
    tiny = torch.finfo(values.dtype).tiny
    if tail is not None and torch.compiler.is_compiling():  # every sum would be a pass
        return (near.mT * values + tail.mT * values * tiny).sum(dim=-2, keepdim=True)
    found = _weighted_sum(near, values, product)
    if tail is None:
        return found
    return torch.add(found, _weighted_sum(tail, values, product), alpha=tiny)


def _weighted_sum(row: Tensor, values: Tensor, product: bool) -> Tensor:
    pieces = math.ceil(values.shape[-2] / _LONGEST)
    if not product or values.numel() < pieces * _FEWEST:
        return (row.mT * values).sum(dim=-2, keepdim=True)
    if pieces == 1:
        return row @ values
    parts = zip(row.chunk(pieces, -1), values.chunk(pieces, -2), strict=True)
    return functools.reduce(torch.add, (one @ other for one, other in parts))


def _as_product(values: Tensor) -> bool:
    """Tell whether a matrix product is as accurate as the sum, and faster."""
    device = values.device.type
    return (
        device in ("cpu", "cuda")
        and not torch.compiler.is_compiling()
        and _precise_products(device)
        and not torch.is_autocast_enabled(device)
    )


def _precise_products(device: str) -> bool:
    try:
        precise = torch.get_float32_matmul_precision() == "highest"
        return precise and not (device == "cuda" and torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # torch's older and newer settings contradict each other
        return False
