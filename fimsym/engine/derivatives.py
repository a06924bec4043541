"""u = ∂h/∂θ and v = ∂²h/∂θ² per example, by the functional road.

Second derivatives in forward mode alone are silently wrong through some layers of torch
(nested jvp through LayerNorm, for one). So every way of taking them that is used here is
first compared with plain double backward on a few parameters of every tensor, and the
first way that agrees is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from fimsym.engine.network import Block, Network
from fimsym.errors import UnsupportedError

Derivative = Callable[[Network, Block, Tensor], Tensor]
"""(network, block, inputs [batch, …]) -> [batch, output, param]."""

_PROBES_PER_PARAMETER = 2
_PROBED_OUTPUTS = 4


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of taking a derivative, by name."""

    name: str
    compute: Derivative


def jacobian_by_vmap(network: Network, block: Block, inputs: Tensor) -> Tensor:
    """Return u for all inputs at once, by a batched vector-Jacobian product per output."""
    theta = network.theta[block.start : block.stop]
    return vmap(lambda example: jacrev(_of_block(network, block, example))(theta))(inputs)


def jacobian_by_loop(network: Network, block: Block, inputs: Tensor) -> Tensor:
    """Return u by one backward pass per input and output."""
    rows = []
    for example in inputs:
        theta = network.theta[block.start : block.stop].clone().requires_grad_()
        h = network.of_block(block, theta, example)
        rows.append(
            torch.stack([_gradient(value, theta, retain_graph=True) for value in h.unbind()])
        )
    return torch.stack(rows).detach()


def hessian_forward_over_reverse(network: Network, block: Block, inputs: Tensor) -> Tensor:
    """Return v by Jacobian-vector products of the reverse-mode Jacobian."""
    return _hessian_diagonal(jacfwd, network, block, inputs)


def hessian_reverse_over_reverse(network: Network, block: Block, inputs: Tensor) -> Tensor:
    """Return v by vector-Jacobian products of the reverse-mode Jacobian."""
    return _hessian_diagonal(jacrev, network, block, inputs)


def hessian_by_loop(network: Network, block: Block, inputs: Tensor) -> Tensor:
    """Return v by double backward, one pass per input, output and parameter."""
    return torch.stack(
        [_double_backward(network, block, example, range(block.size), None) for example in inputs]
    )


FIRST = (Way("vmapped reverse", jacobian_by_vmap), Way("reverse, looped", jacobian_by_loop))
SECOND = (
    Way("forward over reverse", hessian_forward_over_reverse),
    Way("reverse over reverse", hessian_reverse_over_reverse),
    Way("double backward, looped", hessian_by_loop),
)


def choose_first(network: Network, example: Tensor, outputs: int, blocks: list[Block]) -> Way:
    """Return the first way of taking u that agrees with plain backward on one input.

    It is taken block by block, so that the check needs no more memory than the work.
    """
    whole = Block(0, network.size)
    probed = range(min(outputs, _PROBED_OUTPUTS))
    theta = network.theta.clone().requires_grad_()
    h = network.of_block(whole, theta, example)
    truth = torch.stack([_gradient(h[n], theta, retain_graph=True) for n in probed])
    require_finite(network, whole, truth.unsqueeze(0), "first", 0)

    def agrees(way: Way) -> bool:
        parts = [way.compute(network, b, example.unsqueeze(0))[0, : len(probed)] for b in blocks]
        u = torch.cat(parts, dim=1)
        return all(
            _close(u[:, b.start : b.stop], truth[:, b.start : b.stop], truth.abs().max())
            for _, b in network.parameters()
        )

    return _first_that(agrees, FIRST, "first derivatives")


def choose_second(network: Network, example: Tensor, outputs: int) -> Way:
    """Return the first way of taking v that agrees with double backward on a few entries.

    Raises:
        UnsupportedError: the model has no second derivatives.
    """
    probed = range(min(outputs, _PROBED_OUTPUTS))
    generator = torch.Generator().manual_seed(0)
    picked, truth = [], []
    for _, own in network.parameters():
        count = min(_PROBES_PER_PARAMETER, own.size)
        offsets = torch.randperm(own.size, generator=generator)[:count].tolist()
        blocks = [Block(own.start + n, own.start + n + 1) for n in offsets]
        values = [_double_backward(network, b, example, [0], probed) for b in blocks]
        for block, value in zip(blocks, values, strict=True):
            require_finite(network, block, value.unsqueeze(0), "second", 0)
        picked.append(blocks)
        truth.append(torch.cat(values, dim=1))
    largest = torch.cat(truth, dim=1).abs().max()

    def agrees(way: Way) -> bool:
        for blocks, expected in zip(picked, truth, strict=True):
            parts = [way.compute(network, b, example.unsqueeze(0)) for b in blocks]
            v = torch.cat([part[0, : len(probed)] for part in parts], dim=1)
            if not _close(v, expected, largest):
                return False
        return True

    return _first_that(agrees, SECOND, "second derivatives")


def require_finite(
    network: Network, block: Block, value: Tensor, order: str, first_row: int
) -> None:
    """Raise UnsupportedError if a derivative [batch, output, param] is not finite."""
    if not bool(value.isfinite().all()):
        row, _, offset = (~value.isfinite()).nonzero()[0].tolist()
        raise UnsupportedError(
            f"the {order} derivative of the output with respect to "
            f"{network.name_at(block.start + offset)!r} is not finite for input "
            f"{first_row + row}; expected finite numbers. Look for a square root or norm at "
            "zero, or an overflow, in the model."
        )


def _first_that(agrees, ways, what):
    failures = []
    for way in ways:
        try:
            if agrees(way):
                return way
            failures.append(f"{way.name}: disagrees with plain backward passes")
        except (RuntimeError, NotImplementedError) as error:
            failures.append(f"{way.name}: {str(error).splitlines()[0]}")
    raise UnsupportedError(
        f"no way of taking {what} of this model gives right numbers ({'; '.join(failures)}). "
        "Replace the layer named there, or ask for fewer quantities."
    )


def _close(value: Tensor, truth: Tensor, largest: Tensor) -> bool:
    """Tell whether two derivatives differ by rounding alone.

    Args:
        value: Derivatives of one parameter tensor.
        truth: The same, taken another way.
        largest: Largest derivative of any parameter, whose rounding may spill over.
    """
    precision = torch.finfo(truth.dtype)
    own = 10 * precision.eps**0.5 * truth.abs().max()
    limit = own + 100 * precision.eps * largest + precision.tiny
    return bool((value - truth).abs().max() <= limit)


def _of_block(network, block, example):
    return lambda theta: network.of_block(block, theta, example)


def _hessian_diagonal(outer, network, block, inputs):
    theta = network.theta[block.start : block.stop]

    def one(example):
        hessian = outer(jacrev(_of_block(network, block, example)))(theta)
        return hessian.diagonal(dim1=-2, dim2=-1)

    return vmap(one)(inputs)


def _gradient(value: Tensor, theta: Tensor, **options) -> Tensor:
    """Return ∂value/∂θ, zeros where θ has no influence."""
    if not value.requires_grad:
        return torch.zeros_like(theta)
    (gradient,) = torch.autograd.grad(value, theta, allow_unused=True, **options)
    return torch.zeros_like(theta) if gradient is None else gradient


def _double_backward(network, block, example, positions, outputs):
    """Return ∂²h_n/∂θ_i² for the outputs n and block positions i, [output, param]."""
    theta = network.theta[block.start : block.stop].clone().requires_grad_()
    try:
        h = network.of_block(block, theta, example)
        rows = []
        for n in range(h.shape[0]) if outputs is None else outputs:
            first = _gradient(h[n], theta, create_graph=True)
            second = [_gradient(first[i], theta, retain_graph=True)[i] for i in positions]
            rows.append(torch.stack(second))
        return torch.stack(rows).detach()
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(
            f"the model has no second derivatives: {str(error).splitlines()[0]} "
            "Replace the operation named there, or ask for fisher and variance_score_squared "
            "alone, which need first derivatives only."
        ) from None
