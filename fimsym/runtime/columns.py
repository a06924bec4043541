"""Checks of an evaluator's arguments, and their layout as columns.

Inside an evaluator every tensor is a stack of columns, [*batch, output, param]; sums over
outputs are reductions over axis −2. Shapes and dtypes are always checked. Values are
checked where that costs no host synchronisation: on CPU tensors outside `torch.compile`
and `torch.func.vmap`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fimsym.errors import DomainError, ShapeError
from fimsym.families.spec import positive


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the last axis of an argument holds.

    Attributes:
        names: The parameters of one target; with d targets, the last axis holds the first
            parameter of every target, then the second, and so on.
        minimum_outputs: Fewest outputs that are allowed.
        limits: Open interval of each parameter, with −∞ and ∞ where it has no bound.
        precise: Compute with u and v in float64, not only with h.
        role: What the parameters are, for messages.
    """

    names: tuple[str, ...]
    minimum_outputs: int
    limits: tuple[tuple[float, float], ...]
    precise: bool = False
    role: str = "h"

    @property
    def limited(self) -> bool:
        """Whether any parameter has a bound."""
        return any(math.isfinite(limit) for limits in self.limits for limit in limits)


def columns(
    layout: Layout, h: Tensor, **directions: Tensor
) -> tuple[torch.dtype, *tuple[Tensor, ...]]:
    """Check arguments and lay them out as columns of the dtype that is computed with.

    Args:
        layout: What the last axis of h holds.
        h: Natural parameters, [*batch, output].
        **directions: u and v, each [*batch, output, param].

    Returns:
        The dtype of results, of at least 32 bits; h as [*batch, output, 1]; then the
        directions.

    Raises:
        ShapeError: shapes do not fit.
        DomainError: an argument is no floating-point tensor, or h is not finite or not in
            the family's domain.
    """
    dtype, column = checked(layout, h, **directions)
    working = column.dtype if layout.precise else dtype
    return dtype, column, *(x.to(working) for x in directions.values())


def checked(layout: Layout, h: Tensor, **directions: Tensor) -> tuple[torch.dtype, Tensor]:
    """Check the arguments of an evaluator.

    Args:
        layout: What the last axis of h holds.
        h: Natural parameters, [*batch, output].
        **directions: u and v, each [*batch, output, param].

    Returns:
        The dtype of results, of at least 32 bits, and h as [*batch, output, 1].

    Raises:
        ShapeError: shapes do not fit.
        DomainError: an argument is no floating-point tensor, or h is not finite or not in
            the family's domain.
    """
    role, components = layout.role, len(layout.names)
    dtype = _common_dtype({role: h, **directions})
    if h.ndim < 1 or h.shape[-1] < layout.minimum_outputs:
        raise ShapeError(
            f"{role} must be [*batch, output] with at least {layout.minimum_outputs} output(s); "
            f"got shape {list(h.shape)}. Put the outputs in the last axis."
        )
    if h.shape[-1] % components:
        raise ShapeError(
            f"{role} must hold {', '.join(layout.names)} of every target, so a multiple of "
            f"{components} outputs; got {h.shape[-1]}. With d targets, the first d outputs are "
            f"{layout.names[0]}."
        )
    for name, direction in directions.items():
        if direction.ndim != h.ndim + 1 or direction.shape[:-1] != h.shape:
            last = "probe" if name == "probe" else "param"
            raise ShapeError(
                f"{name} must be [*batch, output, {last}] with the batch and output axes of "
                f"{role}, {[*h.shape, last]}; got {list(direction.shape)}. "
                f"For a single {'probe' if last == 'probe' else 'parameter'}, add the axis with "
                f"{name}.unsqueeze(-1)."
            )
        if direction.shape[-1] != (first := next(iter(directions.items())))[1].shape[-1]:
            raise ShapeError(
                f"{first[0]} and {name} must have the same parameters; got "
                f"{first[1].shape[-1]} and {direction.shape[-1]} in the last axis."
            )
        if direction.device != h.device:
            raise DomainError(
                f"{name} is on {direction.device} and {role} on {h.device}; move one with .to(...)."
            )
    _require_finite(role, h)
    _require_inside(layout, h)
    # h is small and what follows from it needs the digits; u and v are large.
    wide = dtype if h.device.type == "mps" else torch.float64
    return dtype, _poisoned(layout, h.to(wide)).unsqueeze(-1)


def narrow(column: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what was computed from h in the dtype that it meets u and v in."""
    return column.to(dtype)


def derivatives(first: Tensor | None, second: Tensor | None) -> dict[str, Tensor]:
    """Return the derivatives of a network's output that are given.

    Raises:
        ShapeError: second derivatives came without first ones.
    """
    if first is None and second is not None:
        raise ShapeError(
            "expected first derivatives with second ones, since v = g''[o', o'] + g'[o'']; got "
            "first=None. Pass both."
        )
    given = {"first": first, "second": second}
    return {name: value for name, value in given.items() if value is not None}


def components(column: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return the columns [*batch, target, param] of each parameter of the targets."""
    return column.chunk(count, dim=-2)


def joined(*parts: Tensor) -> Tensor:
    """Return the columns of all targets, the first parameter of each and then the next."""
    return torch.cat(parts, dim=-2)


def require_finite_results(values: Sequence[Tensor], directions: Mapping[str, Tensor]) -> None:
    """Check results.

    Raises:
        DomainError: one is not finite because a direction holds a NaN or an infinity, or
            because it overflows.
    """
    if _all_finite(*values) is not False:
        return
    for name, direction in directions.items():
        _require_finite(name, direction)
    largest = max(float(direction.abs().max()) for direction in directions.values())
    raise DomainError(
        f"the result overflows {values[0].dtype}: {' and '.join(directions)} reach {largest:.3g}. "
        "Expected natural parameters of moderate size, and derivatives whose fourth power is "
        "finite; use float64, or measure the parameter in smaller units."
    )


def constant(name: str, value: float | Tensor, integer: bool = False) -> Tensor:
    """Return a family's constant, or raise DomainError unless it is positive and finite.

    It is returned as a tensor without axes. A tensor that is given must have one element and
    is used as it is, so that gradients flow.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ShapeError(
                f"{name} must be one number; got a tensor of shape {list(value.shape)}. "
                "One value holds for every output."
            )
        if is_true(value.isfinite().all() & (value > 0).all()) is False:
            positive(name, value.item())
        if integer and is_true((value == value.round()).all()) is False:
            positive(name, value.item(), integer)
        return value.reshape(())
    return torch.tensor(positive(name, value, integer), dtype=torch.float64)


def _poisoned(layout: Layout, h: Tensor) -> Tensor:
    """Return h with NaN outside the domain, for where values cannot be checked."""
    if not layout.limited:
        return h
    parts = []
    for (low, high), part in zip(layout.limits, h.chunk(len(layout.limits), dim=-1), strict=True):
        if math.isfinite(low) or math.isfinite(high):
            part = torch.where((part > low) & (part < high), part, float("nan"))
        parts.append(part)
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def _require_inside(layout: Layout, h: Tensor) -> None:
    if not layout.limited:
        return
    parts = h.chunk(len(layout.names), dim=-1)
    for name, (low, high), part in zip(layout.names, layout.limits, parts, strict=True):
        if is_true(((part > low) & (part < high)).all()) is not False:
            continue
        where = (~((part > low) & (part < high))).nonzero()[0].tolist()
        value = part[tuple(where)].item()
        above = f"{name} > {low:g}" if math.isfinite(low) else ""
        below = f"{name} < {high:g}" if math.isfinite(high) else ""
        at = f" at index {where[:-1]} of the batch" if len(where) > 1 else ""
        raise DomainError(
            f"{name} must satisfy {' and '.join(filter(None, (above, below)))}; got "
            f"{name} = {value!r} of output {where[-1]}{at}."
        )


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


def _all_finite(*tensors: Tensor) -> bool | None:
    if torch.compiler.is_compiling() or any(x.device.type != "cpu" for x in tensors):
        return None
    try:
        # A finite sum has finite terms only, and needs no tensor of conditions.
        if math.isfinite(sum(x.detach().sum() for x in tensors)):
            return True
    except RuntimeError:  # inside vmap
        return None
    return all(is_true(x.isfinite().all()) is not False for x in tensors)


def is_true(condition: Tensor) -> bool | None:
    """Return a condition's value, or None where reading it would cost a synchronisation."""
    if torch.compiler.is_compiling() or condition.device.type != "cpu":
        return None
    try:
        return bool(condition)
    except RuntimeError:  # inside vmap a tensor stands for many values and has no one truth
        return None
