"""What a model must be, and how torch carries it out while it is analyzed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._pytree import tree_leaves, tree_map
from typing_extensions import override

from fimsym.engine.allocations import out_of_memory
from fimsym.errors import DomainError, UnsupportedError

_RANDOM_IN_TRAINING = (nn.modules.dropout._DropoutNd, nn.RReLU)
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def without_wrapper(model: nn.Module) -> nn.Module:
    """Return the module that torch.compile or nn.DataParallel has wrapped.

    Code of the first cannot be differentiated twice, nor example by example, and the second
    takes no parameters but its own.
    """
    while True:
        inner = model.module if isinstance(model, nn.DataParallel) else model
        inner = getattr(inner, "_orig_mod", inner)
        if inner is model:
            return model
        model = inner


def check_mode(model: nn.Module) -> None:
    """Raise DomainError if a module draws random numbers, or mixes the inputs of a batch."""
    for name, module in model.named_modules():
        shown = f"{type(module).__name__} at {name!r}" if name else type(module).__name__
        recurrent = isinstance(module, nn.RNNBase | nn.MultiheadAttention) and module.dropout
        random = isinstance(module, _RANDOM_IN_TRAINING) and getattr(module, "p", 1) > 0
        if module.training and (random or recurrent):
            raise DomainError(
                f"the model is in training mode with {shown}, which makes its output random; "
                "expected a deterministic model. Call model.eval() first."
            )
        if isinstance(module, _BATCH_NORM) and (module.training or module.running_mean is None):
            raise DomainError(
                f"the model has {shown} that uses the batch's own statistics, so that examples "
                "are not independent; expected stored statistics. Call model.eval() first"
                + ("." if module.running_mean is not None else ", with track_running_stats=True.")
            )


def check_parameters(trainable: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Raise an error unless parameters are real, of one dtype, and at least one."""
    if not any(p.numel() for p in trainable.values()):
        frozen, empty = len(named) - len(trainable), len(trainable)
        also = f", {empty} without entries" if empty else ""
        raise UnsupportedError(
            f"the model has no trainable parameter ({frozen} frozen{also}). "
            "Set requires_grad=True on those to analyse."
        )
    dtypes = {p.dtype for p in trainable.values()}
    if len(dtypes) > 1:
        raise UnsupportedError(
            f"the trainable parameters have mixed dtypes {sorted(map(str, dtypes))}; expected "
            "one. Convert the model, for example with model.double()."
        )
    for name, parameter in trainable.items():
        if not parameter.is_floating_point():
            raise DomainError(f"parameter {name!r} is {parameter.dtype}; expected a real dtype.")


def check_finite_parameters(trainable: Mapping[str, Tensor], flat: Tensor) -> None:
    """Raise DomainError unless parameters, one after another in a flat vector, are finite."""
    if bool(flat.sum().isfinite()):
        return
    for name, parameter in trainable.items():
        if not bool(parameter.isfinite().all()):
            raise DomainError(
                f"parameter {name!r} has values that are not finite; expected finite numbers. "
                "Check that training has not diverged."
            )


_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16)


class Unrounded(TorchFunctionMode):
    """Gives a model at least the digits of a dtype wherever it asks for fewer, or for none.

    Derivatives through a cast to float32 are rounded to float32, and those in float64 are what
    all others are compared with.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._dtype = dtype
        self._default = torch.get_default_dtype()

    @override
    def __enter__(self) -> Unrounded:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(torch.promote_types(self._default, self._dtype))
        return super().__enter__()

    @override
    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        torch.set_default_dtype(self._default)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CASTS:
            return args[0].to(self._dtype, **kwargs)
        if func is not Tensor.view:  # by which numbers are read as others
            args = tuple(map(self._at_least, args))
            kwargs = {name: self._at_least(value) for name, value in kwargs.items()}
        if _follows_a_tensor(func):
            args, kwargs = tree_map(self._wide, (args, kwargs))
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            given = args, kwargs
            wide = all(self._wide(value) is value for value in tree_leaves(given))
            if wide or _writes(func) or "out" in kwargs or out_of_memory(error):
                raise
            args, kwargs = tree_map(self._wide, given)  # tensors that are neither buffers nor given
            return func(*args, **kwargs)

    def _at_least(self, argument: Any) -> Any:
        if not isinstance(argument, torch.dtype) or not argument.is_floating_point:
            return argument
        return torch.promote_types(argument, self._dtype)

    def _wide(self, argument: Any) -> Any:
        if not isinstance(argument, Tensor) or not argument.is_floating_point():
            return argument
        return argument.to(self._at_least(argument.dtype))  # itself, if it is wide enough


def _follows_a_tensor(func: Any) -> bool:
    """Tell whether a function's result has the dtype of one of its arguments, whatever it holds."""
    name = func.__name__
    return name in ("to", "type_as") or name.startswith("new_") or name.endswith("_like")


def _writes(func: Any) -> bool:
    """Tell whether a function changes one of its arguments."""
    name = func.__name__
    return name.startswith(("__set", "__i")) or (name.endswith("_") and not name.endswith("__"))


@contextlib.contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let checkpointed parts of a model run plainly.

    They would run again in a backward pass, with the model's own parameters.
    """
    plain = {"_checkpoint_without_reentrant_generator": _once, "CheckpointFunction": _Plain}
    kept = {name: getattr(checkpoint, name) for name in plain if hasattr(checkpoint, name)}
    for name in kept:
        setattr(checkpoint, name, plain[name])
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(checkpoint, name, value)


def _once(*_: Any, **__: Any) -> Iterator[None]:
    yield


class _Plain:
    @staticmethod
    def apply(function, _, *args):
        return function(*args)
