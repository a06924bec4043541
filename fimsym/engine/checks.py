"""What a network's outputs must be before anything is computed from them."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from fimsym.engine.network import Network
from fimsym.errors import DomainError, ShapeError, UnsupportedError

_RUN_ALONE = 64
_SPARED = 8


def check_outputs(network: Network, inputs: Tensor, minimum: int) -> Tensor:
    """Return h of a batch after checking its shape and that parameters influence it.

    Raises:
        ShapeError: it is not [batch, output] with at least `minimum` outputs.
        UnsupportedError: autograd sees no way from the parameters to it.
    """
    h, _ = network.traced(inputs)
    if h.ndim != 2 or h.shape[0] != inputs.shape[0]:
        raise ShapeError(
            f"the model must map {list(inputs.shape)} to [{inputs.shape[0]}, output]; got "
            f"{list(h.shape)}. Return one row of natural parameters per input"
            + (", for a single output with .unsqueeze(-1)." if h.ndim == 1 else ".")
        )
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
    return h


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
    """Return a sentence on the first layer whose result is not finite, if there is one."""
    found: list[str] = []

    def watch(name, module):
        def look(_, __, result):
            if isinstance(result, Tensor) and not bool(result.isfinite().all()):
                found.append(f"{name!r} ({type(module).__name__})")

        return module.register_forward_hook(look)

    handles = [watch(name, module) for name, module in network.model.named_modules() if name]
    try:
        with torch.no_grad():
            network.forward(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return f"The first layer whose result is not finite is {found[0]}. " if found else ""


def check_examples_independent(network: Network, inputs: Tensor, h: Tensor, first_row: int) -> None:
    """Raise DomainError if h is random, or if a row of it depends on the rest of the batch.

    The first rows of the data are run one by one, later ones in a part of their batch.
    """
    tolerance = 1e3 * torch.finfo(h.dtype).eps * (1 + h.abs().max())
    alone = max(0, min(len(inputs), _RUN_ALONE - first_row))
    part = slice(0, alone) if alone else slice(first_row % _SPARED, None, _SPARED)
    inputs, h = inputs[part], h[part]
    with torch.no_grad():
        if len(h) and (network.forward(inputs) - h).abs().max() > tolerance:
            _raise_dependent(network, inputs, h, first_row, tolerance)
        suspects = range(alone)
        with contextlib.suppress(RuntimeError):  # not everything can be vmapped
            if alone:
                each = torch.vmap(lambda x: network.forward(x.unsqueeze(0)).squeeze(0))(inputs)
                suspects = ((each - h).abs().amax(1) > tolerance).nonzero().flatten().tolist()
        for row in suspects:
            if (network.forward(inputs[row : row + 1])[0] - h[row]).abs().max() > tolerance:
                _raise_dependent(network, inputs, h, first_row + row, tolerance)


def _raise_dependent(network, inputs, h, row, tolerance):
    if (network.forward(inputs) - network.forward(inputs)).abs().max() > tolerance:
        raise DomainError(
            "two forward passes of the model on the same inputs differ; expected a "
            "deterministic model. Switch sampling and dropout off, usually with model.eval()."
        )
    raise DomainError(
        f"the model's output for input {row} changes with the rest of "
        "the batch; expected examples to be independent. Normalise with stored "
        "statistics, not the batch's, and let no branch depend on the whole batch."
    )
