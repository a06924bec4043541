"""What every generated evaluator shares: checks of its arguments, and result types.

Inside an evaluator every tensor is a stack of columns, [*batch, output, param]; sums over
outputs are reductions over axis −2. Shapes and dtypes are always checked. Values are
checked where that costs no host synchronisation: on CPU tensors outside `torch.compile`
and `torch.func.vmap`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.utils import _pytree

from fimsym.errors import DomainError, ShapeError
from fimsym.families.spec import positive


@dataclasses.dataclass(frozen=True)
class Moments:
    """Every closed form of one call; each [*batch, param], per label.

    Attributes:
        fisher: I = Var(s) ≥ 0.
        variance_score_squared: V₁ = Var(Î₁) ≥ 0.
        third: κ₃₀ = E[s³], of either sign.
        variance_negative_hessian: V₂ = Var(Î₂) ≥ 0; None without v.
        covariance: Cov(Î₁, Î₂), of either sign; None without v.
    """

    fisher: Tensor
    variance_score_squared: Tensor
    third: Tensor
    variance_negative_hessian: Tensor | None = None
    covariance: Tensor | None = None


def _flatten(moments: Moments) -> tuple[list[Tensor], tuple[str, ...]]:
    present = {
        field.name: value
        for field in dataclasses.fields(moments)
        if (value := getattr(moments, field.name)) is not None
    }
    return list(present.values()), tuple(present)


def _unflatten(values, names) -> Moments:
    return Moments(**dict(zip(names, values, strict=True)))


# vmap accepts results that are trees of tensors, and a None is not a tensor.
_pytree.register_pytree_node(Moments, _flatten, _unflatten)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Theorem 4.1's constants, each [*batch].

    Attributes:
        fisher_min: λ with I ≥ λ‖u‖² and V₂ ≥ λ‖v‖².
        fisher_max: λ with I ≤ λ‖u‖² and V₂ ≤ λ‖v‖².
        quartic_min: λ with V₁ ≥ λ‖u‖⁴.
        quartic_max: λ with V₁ ≤ λ‖u‖⁴.
    """

    fisher_min: Tensor
    fisher_max: Tensor
    quartic_min: Tensor
    quartic_max: Tensor


_pytree.register_pytree_node(
    Bounds,
    lambda bounds: ([getattr(bounds, f.name) for f in dataclasses.fields(bounds)], None),
    lambda values, _: Bounds(*values),
)


def columns(minimum_outputs: int, h: Tensor, **directions: Tensor) -> tuple[Tensor, ...]:
    """Check the arguments of an evaluator and lay them out as columns.

    Args:
        minimum_outputs: Fewest outputs the family allows.
        h: Natural parameters, [*batch, output].
        **directions: u and v, each [*batch, output, param].

    Returns:
        h as [*batch, output, 1], then the directions, in one common dtype of at least
        32 bits.

    Raises:
        ShapeError: shapes do not fit.
        DomainError: an argument is no floating-point tensor, or h is not finite.
    """
    dtype = _common_dtype({"h": h, **directions})
    if h.ndim < 1 or h.shape[-1] < minimum_outputs:
        raise ShapeError(
            f"h must be [*batch, output] with at least {minimum_outputs} output(s); "
            f"got shape {list(h.shape)}. Put the outputs in the last axis."
        )
    for name, direction in directions.items():
        if direction.ndim != h.ndim + 1 or direction.shape[:-1] != h.shape:
            raise ShapeError(
                f"{name} must be [*batch, output, param] with the batch and output axes of h, "
                f"{[*h.shape, 'param']}; got {list(direction.shape)}. "
                f"For a single parameter, add the axis with {name}.unsqueeze(-1)."
            )
        if direction.shape[-1] != (first := next(iter(directions.items())))[1].shape[-1]:
            raise ShapeError(
                f"{first[0]} and {name} must have the same parameters; got "
                f"{first[1].shape[-1]} and {direction.shape[-1]} in the last axis."
            )
        if direction.device != h.device:
            raise DomainError(
                f"{name} is on {direction.device} and h on {h.device}; move one with .to(...)."
            )
    _require_finite("h", h)
    return h.to(dtype).unsqueeze(-1), *(value.to(dtype) for value in directions.values())


def result(value: Tensor, **directions: Tensor) -> Tensor:
    """Return a reduced column [*batch, 1, param] as [*batch, param].

    Raises:
        DomainError: it is not finite because a direction holds a NaN or an infinity, or
            because it overflows.
    """
    value = value.squeeze(-2)
    if _all_finite(value) is False:
        for name, direction in directions.items():
            _require_finite(name, direction)
        largest = max(float(direction.abs().max()) for direction in directions.values())
        raise DomainError(
            f"the result overflows {value.dtype}: {' and '.join(directions)} reach {largest:.3g}. "
            "Expected derivatives whose fourth power is finite; use float64, or measure the "
            "parameter in smaller units."
        )
    return value


def constant(name: str, value: float | Tensor) -> float | Tensor:
    """Return a family's constant, or raise DomainError unless it is positive and finite.

    A tensor must have one element; it is used as it is, so that gradients flow.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ShapeError(
                f"{name} must be one number; got a tensor of shape {list(value.shape)}. "
                "One value holds for every output."
            )
        if _is_true(value.isfinite().all() & (value > 0).all()) is False:
            positive(name, value.item())
        return value.reshape(())
    return positive(name, value)


def two_largest(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the two largest outputs, each [*batch, 1, 1]."""
    order = h.topk(2, dim=-2).indices
    return order[..., :1, :], order[..., 1:, :]


def balance(h: Tensor) -> Tensor:
    """Return softmax(h) with the largest entry less the second, and zero for the second.

    The difference is accurate relative to itself, however close the two are.
    """
    top, second = two_largest(h)
    probability = torch.softmax(h, dim=-2)
    gap = torch.take_along_dim(h, second, dim=-2) - torch.take_along_dim(h, top, dim=-2)
    lead = -torch.expm1(gap) * torch.take_along_dim(probability, top, dim=-2)
    return probability.scatter(-2, top, lead).scatter(-2, second, torch.zeros_like(lead))


def others(values: Tensor) -> Tensor:
    """Return Σ_{j≠i} x_j for non-negative x, accurate relative to itself.

    Subtracting from the total cancels only for the largest entry, so that one alone is
    summed anew.
    """
    largest = values.argmax(dim=-2, keepdim=True)
    rest = values.scatter(-2, largest, 0.0).sum(dim=-2, keepdim=True)
    total = values.sum(dim=-2, keepdim=True)
    return (total - values).scatter(-2, largest, rest)


def rounded_up(value: Tensor, size: Tensor) -> Tensor:
    """Return an upper bound raised by the rounding of a sum of terms of that total size."""
    return value + 32 * torch.finfo(value.dtype).eps * size


def fill(value: float | Tensor, *likes: Tensor) -> Tensor:
    """Return a reduced column [*batch, 1, param] that holds `value` everywhere.

    Where one of `likes` is not finite the result is not either, as if it had been used.
    """
    zeros = [like.abs().amax(dim=-2, keepdim=True) * 0 for like in likes]
    return sum(zeros[1:], zeros[0]) + value


def _common_dtype(tensors: dict[str, Tensor]) -> torch.dtype:
    dtype = torch.float32
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise DomainError(
                f"{name} must be a torch tensor; got {type(tensor).__name__}. "
                "Convert it with torch.as_tensor(...)."
            )
        if not tensor.is_floating_point():
            raise DomainError(
                f"{name} must be a floating-point tensor; got {tensor.dtype}. "
                f"Convert it with {name}.double()."
            )
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def _require_finite(name: str, tensor: Tensor) -> None:
    if _all_finite(tensor) is False:
        where = (~tensor.isfinite()).nonzero()[0].tolist()
        raise DomainError(
            f"{name} must be finite; got {tensor[tuple(where)].item()} at index {where}. "
            "Find out where it arises: a diverged network, or a division by zero."
        )


def _all_finite(tensor: Tensor) -> bool | None:
    return _is_true(tensor.isfinite().all())


def _is_true(condition: Tensor) -> bool | None:
    """Return a condition's value, or None where reading it would cost a synchronisation."""
    if torch.compiler.is_compiling() or condition.device.type != "cpu":
        return None
    try:
        return bool(condition)
    except RuntimeError:  # inside vmap a tensor stands for many values and has no one truth
        return None
