"""u = ∂h/∂θ and v = ∂²h/∂θ² per example, by the functional road.

Batched derivatives of torch are silently wrong for some layers: nested forward mode
through LayerNorm, or vmapped gradients of PReLU when there are as many inputs as outputs.
So nothing is trusted: every chunk is compared with plain backward passes of a random combination
of its outputs, and where a way of differentiating disagrees or fails the next slower one takes
over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap

from fimsym.engine.graph import pads
from fimsym.engine.network import Block, Network
from fimsym.errors import UnsupportedError, reason

Derivative = Callable[[Network, Block, Tensor], Tensor]
"""(network, block, inputs [batch, …]) -> [batch, output, param]."""

_PROBES = 3


@dataclasses.dataclass(frozen=True)
class Way:
    """One way of taking a derivative, by name."""

    name: str
    compute: Derivative


def jacobian_by_vmap(
    network: Network, block: Block, inputs: Tensor, limit: int | None = None
) -> Tensor:
    """Return u for all inputs at once, by a batched vector-Jacobian product per output.

    Backward passes return gradients of the whole tensors that the block overlaps; `limit` is
    in bytes, how much of them there is at a time.
    """
    theta = network.theta[block.start : block.stop]
    some = None
    if limit is not None:
        whole = len(inputs) * network.overlapping(block) * theta.element_size()
        some = max(1, limit // whole)

    def of(example):
        return jacrev(_of_block(network, block, example), chunk_size=some)(theta)

    return vmap(of)(inputs)


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
    outputs = torch.eye(network.forward(inputs[:1]).shape[1]).to(network.theta)
    positions = range(block.size)
    return torch.stack(
        [
            torch.stack(
                [
                    curvatures_along(network, block, example[None], e[None], positions)
                    for e in outputs
                ]
            )
            for example in inputs
        ]
    ).detach()


SECOND = (
    Way("forward over reverse", hessian_forward_over_reverse),
    Way("reverse over reverse", hessian_reverse_over_reverse),
    Way("double backward, looped", hessian_by_loop),
)
"""Ways of taking v, from fast to slow."""


def _ways(order: str, limit: int | None) -> list[Way]:
    """Return the ways of taking a derivative, from fast to slow."""
    if order == "second":
        return list(SECOND)
    vmapped = partial(jacobian_by_vmap, limit=limit)
    return [Way("vmapped reverse", vmapped), Way("reverse, looped", jacobian_by_loop)]


class Differentiator:
    """Takes derivatives the fastest way that agrees with plain backward passes in float64.

    Every chunk is compared in the network's own precision, and every new shape of a chunk
    in float64 too. Where every way disagrees, they are tried again in float64.

    Args:
        network: The network.
        order: ``"first"`` or ``"second"``.
        limit: Bytes of gradients that are held beside the first derivatives.
    """

    def __init__(self, network: Network, order: str, limit: int | None = None):
        self.order = order
        self._network = network
        self._double = network.double
        self._limit = limit
        self._ways = _ways(order, limit)
        self._truth = _gradient_along if order == "first" else curvatures_along
        self._largest = torch.zeros((), dtype=torch.float64, device=network.device)
        self._generator = torch.Generator().manual_seed(0)
        self._failures: list[str] = []
        self._seen: set[tuple[str, Block, int]] = set()

    @property
    def way(self) -> str:
        """Name of the way that is used."""
        name = self._ways[0].name
        raised = self._network is self._double and self._failures
        return f"{name}, in float64" if raised else name

    def __call__(self, block: Block, inputs: Tensor, first_row: int, outputs: int) -> Tensor:
        """Return the derivatives of all inputs, [batch, output, param].

        Args:
            block: The parameters.
            inputs: A batch of inputs.
            first_row: Position of the first input in the data, for messages.
            outputs: Number of outputs of the network.

        Raises:
            UnsupportedError: no way gives finite and right numbers.
        """
        if not self._seen and self.order == "second" and pads(self._network.traced(inputs[:1])[0]):
            # Forward mode knows no padding: it moves a row that backward passes hold fixed.
            self._ways = [way for way in self._ways if way.compute != hessian_forward_over_reverse]
        draw = {"generator": self._generator, "dtype": torch.float64}
        along = torch.randn(len(inputs), outputs, **draw).to(inputs.device)
        positions = sorted({self._draw(block.size) for _ in range(_PROBES)})
        wide = _as(inputs, torch.float64)
        truth = self._truth(self._double, block, wide, along, positions)
        if not bool(truth.isfinite().all()):
            for row in range(len(inputs)):
                some = slice(row, row + 1)
                one = self._truth(self._double, block, wide[some], along[some], positions)
                require_finite(self._double, block, one[None, None], self.order, first_row + row)
        sizes = [truth.abs().max()]
        if self.order == "second":
            sizes.append(_size_of_curvatures(self._double, block, wide, along))
        self._largest = torch.stack([self._largest, *sizes]).amax()
        while True:
            try:
                value = self._attempt(block, inputs, along, truth, positions)
            except UnsupportedError:
                raise
            except (RuntimeError, NotImplementedError, ValueError) as error:
                self._give_up(reason(error))
                continue
            if value is not None:
                require_finite(self._network, block, value, self.order, first_row)
                return value
            self._give_up("disagrees with plain backward passes")

    def _attempt(self, block, inputs, along, truth, positions) -> Tensor | None:
        """Return the derivatives the present way, or None if they disagree."""
        shape = (self.way, block, len(inputs))
        networks = [self._network]
        if self._network.dtype != torch.float64 and shape not in self._seen:
            networks.insert(0, self._double)
        batched = self.order == "second" and self._ways[0].compute is not hessian_by_loop
        if batched and shape not in self._seen and not self._vmaps(block, inputs, along):
            return None
        value = None
        for network in networks:
            value = self._ways[0].compute(network, block, _as(inputs, network.dtype))
            combined = torch.einsum("bo,bop->p", along, value.double())
            if not self._agrees(combined, truth, positions, block, inputs, network.dtype):
                return None
        self._seen.add(shape)
        return value

    def _vmaps(self, block, inputs, along) -> bool:
        """Tell whether vmapped gradients, of which all entries can be compared, are right here."""
        wide = _as(inputs, torch.float64)
        u = jacobian_by_vmap(self._double, block, wide, self._limit)
        truth = _gradient_along(self._double, block, wide, along, ())
        gap = torch.einsum("bo,bop->p", along, u) - truth
        rounding = 1e-12 * self._double.forward(wide).detach().abs().max()
        return bool(gap.abs().max() <= 1e-9 * truth.abs().max() + rounding)

    def _draw(self, count: int) -> int:
        return int(torch.randint(count, (1,), generator=self._generator))

    def _agrees(self, value, truth, positions, block, inputs, dtype) -> bool:
        """Compare tensor by tensor, up to rounding relative to each tensor's own size.

        In float32 a tensor with small derivatives may hide in the rounding of the others, or of
        the output where it does not matter; that is why every shape is compared in float64 too.
        """
        eps = torch.finfo(dtype).eps
        rounding = 100 * eps * self._largest + torch.finfo(dtype).tiny
        if self.order == "second":
            value, places = value[positions], torch.tensor(positions)
        else:
            places = torch.arange(block.size)
        owners = self._network.owners(block.start + places.to(value.device))
        for owner in owners.unique():
            inside = owners == owner
            limit = 10 * eps**0.5 * truth[inside].abs().max() + rounding
            gap = (value[inside] - truth[inside]).abs().max()
            if not bool(gap <= limit):
                with torch.no_grad():
                    size = self._double.forward(_as(inputs, torch.float64)).abs().max()
                if not bool(gap <= limit + 100 * eps * size):
                    return False
        return True

    def _give_up(self, why: str) -> None:
        """Move on to the next way for good."""
        self._failures.append(f"{self.way}: {why}")
        self._ways.pop(0)
        if not self._ways and self._network.dtype != torch.float64:
            self._network = self._double
            self._ways = _ways(self.order, self._limit)
        if not self._ways:
            raise UnsupportedError(
                f"no way of taking {self.order} derivatives of this model gives right numbers "
                f"({'; '.join(self._failures)}). Replace the layer named there, or ask for "
                "fewer quantities."
            )


def _as(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    return inputs.to(dtype) if inputs.is_floating_point() else inputs


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


def _gradient_along(network, block, inputs, along, positions) -> Tensor:
    """Return Σ_b ∂⟨r_b, h_b⟩/∂θ over the block by one plain backward pass, [param]."""
    theta = network.theta[block.start : block.stop].clone().requires_grad_()
    return _gradient((network.with_block(block, theta, inputs) * along).sum(), theta)


def _size_of_curvatures(network, block, inputs, along) -> Tensor:
    """Return u²/h, the size of second derivatives of which rounding may be all that is seen."""
    theta = network.theta[block.start : block.stop].clone().requires_grad_()
    h = network.with_block(block, theta, inputs)
    u = _gradient((h * along).sum(), theta)
    return u.abs().max().square() / h.detach().abs().max().clamp(min=torch.finfo(u.dtype).tiny)


def curvatures_along(network, block, inputs, along, positions) -> Tensor:
    """Return Σ_b ∂²⟨r_b, h_b⟩/∂θ_i² for the given positions of the block, [position].

    Raises:
        UnsupportedError: an operation of the model has no second derivative.
    """
    theta = network.theta[block.start : block.stop].clone().requires_grad_()
    try:
        h = network.with_block(block, theta, inputs)
        first = _gradient((h * along).sum(), theta, create_graph=True)
        return torch.stack([_gradient(first[i], theta, retain_graph=True)[i] for i in positions])
    except (RuntimeError, NotImplementedError) as error:
        raise UnsupportedError(
            f"the model has no second derivatives: {reason(error)} "
            "Replace the operation named there, or ask for fisher and variance_score_squared "
            "alone, which need first derivatives only."
        ) from None
