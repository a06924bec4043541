"""What a network's outputs must be before anything is computed from them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from fimsym.engine import graph as graphs
from fimsym.engine.graph import Graph, walk
from fimsym.engine.network import Network
from fimsym.errors import DomainError, ShapeError, UnsupportedError, reason

_RUN_ALONE = 64
_SPARED = 16
_FAILURES = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""What a forward pass may raise that needs more than one input, or cannot be vmapped."""
_UNUSED: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}


def check_outputs(network: Network, inputs: Tensor, minimum: int) -> Graph:
    """Return the graph of a forward pass, after checking what it ends with.

    Raises:
        ShapeError: h is not [batch, output] with at least `minimum` outputs.
        UnsupportedError: autograd does not see every way from the parameters to it.
    """
    h, leaves = network.traced(inputs)
    network.check_unchanged()
    check_shape(h, inputs)
    if h.shape[1] < minimum:
        raise ShapeError(
            f"the model returns {h.shape[1]} output(s) per input; this family needs at least "
            f"{minimum}, one natural parameter each. Widen its last layer."
        )
    check_finite(network, inputs, h, 0)
    if not h.requires_grad:
        raise UnsupportedError(
            "the model's output does not depend on any trainable parameter; expected a "
            "differentiable model. Look for .detach(), torch.no_grad() or NumPy in its forward."
        )
    return _read(network, h, leaves)


def traced(network: Network, inputs: Tensor) -> Graph:
    """Run a network on some inputs, and return what it computed.

    Raises:
        UnsupportedError: it takes a parameter from elsewhere than its modules.
    """
    return _read(network, *network.traced(inputs))


def check_shape(h: Tensor, inputs: Tensor) -> None:
    """Raise ShapeError unless h is [batch, output]."""
    if h.ndim == 2 and len(h) == len(inputs):
        return
    advice = "Return one row of natural parameters per input"
    if inputs.ndim == 1:
        advice = f"For a single input of {len(inputs)} numbers pass X.unsqueeze(0)"
    elif len(inputs) == 1 and h.ndim < 2:
        advice += "; .squeeze() takes away the axis of a single one, which .flatten(1) does not"
    elif h.ndim == 1:
        advice += ", for a single output with .unsqueeze(-1)"
    raise ShapeError(
        f"the model must map {list(inputs.shape)} to [{len(inputs)}, output]; got "
        f"{list(h.shape)}. {advice}."
    )


def _read(network: Network, h: Tensor, leaves: Mapping[str, Tensor]) -> Graph:
    graph = graphs.read(h, leaves)
    others = {id(leaf) for leaf in graph.others}
    named = network.model.named_parameters() if others else ()
    for name in (name for name, parameter in named if id(parameter) in others):
        raise UnsupportedError(
            f"the model uses its parameter {name!r} through what is no attribute of a module, "
            "such as a list, a function or a hook that holds it; its derivatives there would be "
            "missing. Give it to the module that uses it, as in self.weight = other.weight, and "
            "take it from there."
        )
    return graph


def check_own_functions(network: Network, inputs: Tensor) -> None:
    """Raise UnsupportedError if functions of the user's own have wrong second derivatives.

    torch takes what a function's backward pass does not show it for constant: derivatives of
    the gradient along a random direction are compared with differences.

    Args:
        network: The network.
        inputs: Some inputs.
    """
    double = network.double
    example = inputs[:1].double() if inputs.is_floating_point() else inputs[:1]
    h, leaves = double.traced(example)
    named = {node.name() for node in walk(h.grad_fn) if issubclass(type(node), BackwardCFunction)}
    if not named:
        return
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):  # one of two may meet a kink
        along = torch.randn(double.size, generator=generator, dtype=torch.float64).to(h.device)
        size = 1e-6 * (1 + float(double.theta.abs().mean()))
        plus, minus = (_gradient_at(double, example, sign * size * along) for sign in (1, -1))
        truth = (plus - minus) / (2 * size)
        try:
            found = _curvature(h, leaves, along)
        except (RuntimeError, NotImplementedError):
            return  # said where second derivatives are taken
        if (found - truth).abs().max() <= 1e-4 * truth.abs().max() + 1e-9:
            return
    shown = ", ".join(sorted(name.removesuffix("Backward") for name in named))
    raise UnsupportedError(
        f"the model has no right second derivatives through {shown}: what its backward pass "
        "computes is constant to autograd. Write it with operations of torch on what "
        "ctx.saved_tensors holds, or ask for fisher and variance_score_squared alone, which need "
        "first derivatives only."
    )


def _gradient_at(network: Network, example: Tensor, shift: Tensor) -> Tensor:
    moved = network.moved(shift)
    h, leaves = moved.traced(example)
    return _flat(torch.autograd.grad(h.sum(), list(leaves.values()), **_UNUSED))


def _curvature(h: Tensor, leaves: Mapping[str, Tensor], along: Tensor) -> Tensor:
    values = list(leaves.values())
    first = _flat(torch.autograd.grad(h.sum(), values, create_graph=True, **_UNUSED))
    if not first.requires_grad:
        return torch.zeros_like(first)
    return _flat(torch.autograd.grad(first @ along, values, retain_graph=True, **_UNUSED))


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def check_finite(network: Network, inputs: Tensor, h: Tensor, first_row: int) -> None:
    """Raise DomainError if an output is not finite, and name the input and the layer."""
    if not bool(h.isfinite().all()):
        row = int((~h.isfinite()).any(dim=1).nonzero()[0, 0])
        layer = _first_not_finite(network, inputs[row : row + 1])
        raise DomainError(
            f"the model's output for input {first_row + row} is {h[row].tolist()[:5]}; expected "
            f"finite numbers. {layer}Check that input, and that training has not diverged."
        )


def _first_not_finite(network: Network, inputs: Tensor) -> str:
    """Return a sentence on where a forward pass stops being finite, if a layer tells."""
    found: list[str] = []
    last: list[str] = []

    def finite(values) -> bool:
        values = values if isinstance(values, tuple | list) else (values,)
        return all(bool(v.isfinite().all()) for v in values if isinstance(v, Tensor))

    def watch(name, module):
        shown = f"{name!r} ({type(module).__name__})"

        def look_before(_, given):
            if not found and not finite(given):
                after = f" by what comes after {last[-1]}" if last else ""
                found.append(f"What reaches {shown} is not finite{after}. ")

        def look(_, __, result):
            if not found and not finite(result):
                found.append(f"The first layer whose result is not finite is {shown}. ")
            last.append(shown)

        return module.register_forward_pre_hook(look_before), module.register_forward_hook(look)

    handles = [h for name, m in network.model.named_modules() if name for h in watch(name, m)]
    try:
        with torch.no_grad():
            network.forward(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def check_examples_independent(network: Network, inputs: Tensor, h: Tensor, first_row: int) -> None:
    """Raise DomainError if h is random, or if a row of it depends on the rest of the batch.

    The first rows of the data are run one by one, and some of the later ones in a smaller batch.
    """
    tolerance = 1e3 * torch.finfo(h.dtype).eps * (1 + h.abs().max())
    alone = max(0, min(len(inputs), _RUN_ALONE - first_row)) if len(inputs) > 1 else 0
    later = range(alone, len(inputs))
    later = later[first_row % max(1, min(_SPARED, len(later))) :: _SPARED]
    with torch.no_grad():
        suspects = _differing_alone(network, inputs[:alone], h[:alone], tolerance)
        rows = torch.tensor([*suspects, *later], dtype=torch.long, device=h.device)
        if len(rows):
            some = inputs[rows]
            far = (network.forward(some) - h[rows]).abs().amax(1) > tolerance
            if far.any():
                row = first_row + int(rows[far][0])
                _raise_dependent(network, some, row, tolerance)
        for row in suspects:
            try:
                one = network.forward(inputs[row : row + 1])
            except _FAILURES as error:
                raise DomainError(
                    f"the model fails on input {first_row + row} alone ({reason(error)}); expected "
                    "examples to be independent. Normalise with stored statistics, not the batch's."
                ) from error
            if (one[0] - h[row]).abs().max() > tolerance:
                _raise_dependent(network, inputs, first_row + row, tolerance)


def _differing_alone(network: Network, inputs: Tensor, h: Tensor, tolerance: Tensor) -> list[int]:
    """Return which rows seem to have another h alone; all if not all of it can be vmapped."""
    if len(h):
        with contextlib.suppress(*_FAILURES):
            one = torch.vmap(lambda x: network.forward(x.unsqueeze(0)).squeeze(0))
            far = (one(inputs) - h).abs().amax(1) > tolerance
            return far.nonzero().flatten().tolist()
    return [*range(len(h))]


def _raise_dependent(network, inputs, row, tolerance):
    if (network.forward(inputs) - network.forward(inputs)).abs().max() > tolerance:
        raise DomainError(
            "two forward passes of the model on the same inputs differ; expected a "
            "deterministic model. Switch sampling and dropout off, usually with model.eval(), and "
            "let no forward pass change the model's buffers."
        )
    raise DomainError(
        f"the model's output for input {row} changes with the rest of "
        "the batch; expected examples to be independent. Normalise with stored "
        "statistics, not the batch's, and let no branch depend on the whole batch."
    )
