"""A module seen as a function of its trainable parameters, checked before use."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fimsym.engine.graph import KEPT
from fimsym.engine.kernels import Differentiable
from fimsym.engine.models import (
    Unrounded,
    check_finite_parameters,
    check_mode,
    check_parameters,
    without_checkpoints,
    without_wrapper,
)
from fimsym.errors import DomainError, ShapeError, UnsupportedError, reason


@dataclasses.dataclass(frozen=True)
class Block:
    """A contiguous range of the flat vector of trainable parameters."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of parameters in the block."""
        return self.stop - self.start


class Network:
    """A module as h(θ, x): flat parameters and one input to m natural parameters.

    Args:
        model: Any module whose forward maps a batch [batch, …] to [batch, output].
        device: Where to compute; the model itself is never moved or changed.

    Attributes:
        names: Trainable parameters in order, but for those without entries; a tied parameter
            appears once.
        shapes: Shape of each, and of those without entries.
        frozen: Names of the parameters left out because they do not require grad.
        theta: Their values as one vector.
        dtype: What is computed in; float16 and bfloat16 models are computed in float32. Where it
            is not the model's own, or float64, casts to fewer digits in the model are left out.

    Raises:
        DomainError: the model is in training mode with random or batch-dependent layers.
        UnsupportedError: it has no trainable parameter, or parameters of mixed dtypes.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None):
        if not isinstance(model, nn.Module):
            raise UnsupportedError(
                f"model must be a torch.nn.Module; got {type(model).__name__}. "
                "Wrap a function in a module whose parameters are registered."
            )
        model = without_wrapper(model)
        if isinstance(model, torch.jit.ScriptModule):
            raise UnsupportedError(
                "a TorchScript module cannot be differentiated per example; expected a plain "
                "torch.nn.Module. Pass the module it was scripted from."
            )
        check_mode(model)
        named = dict(model.named_parameters())
        for name, parameter in named.items():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise UnsupportedError(
                    f"parameter {name!r} has no shape yet; expected an initialised model. Run "
                    "the model on one batch first."
                )
        trainable = {name: p.detach() for name, p in named.items() if p.requires_grad}
        check_parameters(trainable, named)
        first = next(iter(trainable.values()))
        self.model = model
        self.device = first.device if device is None else _device(device)
        self.dtype = torch.promote_types(first.dtype, torch.float32)
        self._unrounded = self.dtype == torch.float64 or self.dtype != first.dtype
        self.names = tuple(name for name, p in trainable.items() if p.numel())
        self.shapes = {name: p.shape for name, p in trainable.items()}
        self.frozen = tuple(name for name in named if name not in trainable)
        others = {n: p.detach() for n, p in named.items() if n not in self.names}
        others |= {n: b.detach() for n, b in model.named_buffers()}
        # Cloned, so that a forward pass that writes to its buffers leaves the model alone.
        fixed = {n: t.to(self.device).clone() for n, t in others.items()}
        self._fixed = {n: _cast(t, self.dtype) for n, t in fixed.items()}
        flat = torch.cat([p.reshape(-1) for p in trainable.values()])
        check_finite_parameters(trainable, flat)
        self.theta = flat.to(self.device, self.dtype)
        sizes = [trainable[name].numel() for name in self.names]
        self._ends = list(itertools.accumulate(sizes))
        self._paths = _paths(model)
        self._starts = [end - size for end, size in zip(self._ends, sizes, strict=True)]

    @property
    def size(self) -> int:
        """Number of trainable parameters."""
        return self.theta.numel()

    def parameters(self) -> Iterator[tuple[str, Block]]:
        """Yield each trainable parameter's name and its range of the flat vector."""
        for name, start, stop in zip(self.names, self._starts, self._ends, strict=True):
            yield name, Block(start, stop)

    @functools.cached_property
    def double(self) -> Network:
        """The same network in float64."""
        copied = copy.copy(self)
        copied.dtype = torch.float64
        copied._unrounded = True
        copied.theta = self.theta.double()
        copied._fixed = {n: _cast(t, torch.float64) for n, t in self._fixed.items()}
        return copied

    def moved(self, shift: Tensor) -> Network:
        """Return the same network with other values of the parameters, theta + shift."""
        copied = copy.copy(self)
        copied.__dict__.pop("double", None)
        copied.theta = self.theta + shift
        return copied

    def blocks(self, limit: int, names: Collection[str]) -> list[Block]:
        """Cut parameters into blocks of at most `limit`, at tensor boundaries if possible."""
        found: list[Block] = []
        for name, (start, stop) in zip(
            self.names, zip(self._starts, self._ends, strict=True), strict=True
        ):
            if name not in names:
                continue
            if found and found[-1].stop == start and stop - found[-1].start <= limit:
                found[-1] = Block(found[-1].start, stop)
                continue
            found += [Block(a, min(a + limit, stop)) for a in range(start, stop, limit)]
        return found

    def overlapping(self, block: Block) -> int:
        """Return how many parameters the tensors hold that a block overlaps."""
        overlaps = (own for _, own in self.parameters()
                    if own.start < block.stop and block.start < own.stop)  # fmt: skip
        return sum(own.size for own in overlaps)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return h for a batch, [batch, output]."""
        return self._call(self._with(Block(0, 0), self.theta[:0]), inputs)

    def traced(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return h for a batch with its autograd graph, and the parameters it starts from."""
        leaves = self.leaves()
        before = self.theta._version, inputs._version
        places = {name: leaf.data_ptr() for name, leaf in leaves.items()}
        with _explained(self, inputs):
            h = self._call(leaves, inputs)
        moved = [name for name, leaf in leaves.items() if leaf.data_ptr() != places[name]]
        if moved or (self.theta._version, inputs._version) != before:
            what = "its input" if inputs._version != before[1] else "a parameter"
            raise _writes(f"parameter {moved[0]!r}" if moved else what)
        return h, leaves

    def check_unchanged(self) -> None:
        """Raise UnsupportedError if a forward pass wrote to parameters behind autograd's back."""
        own = dict(self.model.named_parameters())
        for name, block in self.parameters():
            now = self.theta[block.start : block.stop]
            if not torch.equal(now, own[name].detach().reshape(-1).to(now)):
                raise _writes(f"parameter {name!r}")

    def leaves(self) -> dict[str, Tensor]:
        """Return the parameters as tensors that require grad."""
        found = {
            name: self.theta[own.start : own.stop].view(self.shapes[name]).requires_grad_()
            for name, own in self.parameters()
        }
        for name, leaf in found.items():
            setattr(leaf, KEPT, name)
        return found

    def called(self, parameters: Mapping[str, Any], inputs: Tensor) -> Tensor:
        """Return h for a batch, with these in place of all parameters."""
        return self._call(parameters, inputs)

    def with_block(self, block: Block, values: Tensor, inputs: Tensor) -> Tensor:
        """Return h for a batch, with the parameters of `block` set to `values`."""
        return self._call(self._with(block, values), inputs)

    def of_block(self, block: Block, values: Tensor, example: Tensor) -> Tensor:
        """Return h [output] of one input, likewise."""
        return self.with_block(block, values, example.unsqueeze(0)).squeeze(0)

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Return a flat vector over parameters as a dict of tensors of their shapes."""
        blocks, none = dict(self.parameters()), Block(0, 0)
        found = {name: blocks.get(name, none) for name in self.shapes}
        return {
            name: flat[block.start : block.stop].reshape(self.shapes[name])
            for name, block in found.items()
        }

    def owners(self, positions: Tensor) -> Tensor:
        """Return which trainable parameter holds each position of the flat vector."""
        ends = torch.tensor(self._ends, device=positions.device)
        return torch.bucketize(positions, ends, right=True)

    def name_at(self, position: int) -> str:
        """Return the name of the parameter at a position of the flat vector."""
        return self.names[int(self.owners(torch.tensor(position)))]

    def _with(self, block: Block, values: Tensor) -> dict[str, Tensor]:
        # Only tensors that overlap the block depend on `values`, so that no gradient is
        # taken with respect to the others.
        named = {}
        for name, own in self.parameters():
            low, high = max(own.start, block.start), min(own.stop, block.stop)
            if low < high:
                inside = values[low - block.start : high - block.start]
                parts = [self.theta[own.start : low], inside, self.theta[high : own.stop]]
                flat = torch.cat(parts)
            else:
                flat = self.theta[own.start : own.stop]
            named[name] = flat.reshape(self.shapes[name])
        return named

    def _call(self, parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        named = {**self._fixed, **parameters}
        given = {path: named[name] for path, name in self._paths.items()}
        whole = Unrounded(self.dtype) if self._unrounded else contextlib.nullcontext()
        with without_checkpoints(), Differentiable(self.device), whole:
            output = functional_call(self.model, given, (inputs,), tie_weights=False)
        if not isinstance(output, Tensor):
            raise ShapeError(
                f"the model must return one tensor [batch, output]; got a "
                f"{type(output).__name__}. Wrap it in a module that returns the natural "
                "parameters alone."
            )
        if not output.is_floating_point():
            return output
        return output.to(torch.promote_types(output.dtype, self.dtype))


def _writes(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"a forward pass of the model changes {what} in place; expected one that leaves parameters "
        "and inputs alone. Compute what it needs from them instead: w = 0.9 * self.weight."
    )


@contextlib.contextmanager
def _explained(network, inputs) -> Iterator[None]:
    """Say what a model refuses about some inputs."""
    try:
        yield
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, TypeError | ValueError) and not _from_torch(error):
            raise  # the model's own
        why = reason(error)
        if "in-place" in why:
            raise UnsupportedError(
                f"the model changes a parameter or an input in place ({why}); expected a "
                "forward pass that leaves them alone. Write x = x + y instead of x += y."
            ) from error
        kinds = ("dtype", "should be the same")
        if not inputs.is_floating_point() and any(text in why for text in kinds):
            raise DomainError(
                f"the inputs are {inputs.dtype}, and the model, of dtype {network.dtype}, refuses "
                f"them ({why}). Convert them with X.to({network.dtype})."
            ) from error
        raise ShapeError(
            f"the model fails on a batch of shape {list(inputs.shape)} and {inputs.dtype}: "
            f"{why}. Expected inputs [batch, …] as the model was trained on."
        ) from error


def _from_torch(error: Exception) -> bool:
    """Tell whether a function of torch raised an error."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == "torch"


def _cast(tensor, dtype):
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _device(device):
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
        return found
    except (RuntimeError, AssertionError) as error:
        raise UnsupportedError(
            f"device {str(device)!r} cannot be used: {reason(error)}. Expected 'cpu', "
            "or 'cuda' where torch finds one."
        ) from None


def _paths(model: nn.Module) -> dict[str, str]:
    """Return, for every parameter and buffer of every module, the name it has in the model.

    A module that is at several places of the model counts once: torch would put back at the
    second what it had put in at the first.
    """
    names = {id(p): name for name, p in (*model.named_parameters(), *model.named_buffers())}
    found = {}
    for prefix, module in model.named_modules():
        own = {**module._parameters, **module._buffers}
        for attribute, tensor in own.items():
            if tensor is not None:
                path = f"{prefix}.{attribute}" if prefix else attribute
                found[path] = names[id(tensor)]
    return found
