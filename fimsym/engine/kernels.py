"""Which of torch's kernels carry out a model while it is analyzed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Setting = tuple[Callable[[], Any], Callable[[Any], object], Any]
"""How it is read and written, and what to."""

_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


_PER_LAUNCH = 64


def at_a_time(size: int, device: torch.device) -> int:
    """Return how much to take at a time on a device, given what fits into a processor's cache.

    An accelerator is idle while little is launched at a time, and reads its memory faster.
    """
    return size if device.type == "cpu" else _PER_LAUNCH * size


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """Use kernels that keep every digit and have second derivatives; restore the settings after.

    On a GPU torch multiplies in TF32, of three digits, inside convolutions unless told otherwise,
    and in matrix products where a caller has allowed it; on some processors in bfloat16. A
    caller's autocast is left.
    """
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_set(_settings()))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class Differentiable(TorchFunctionMode):
    """Carries out as on a CPU what a GPU has kernels of its own for.

    cuDNN has gradients of recurrent layers in training mode only, and none of those gradients; the
    kernel of RMSNorm hides its rows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RECURRENT:
            with _set([_attribute(torch.backends.cudnn, "enabled", False)]):
                return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "_cudnn_rnn_flatten_weight":
            return None  # it would move the parameters
        if func in (functional.rms_norm, torch.rms_norm):
            return _rms_norm(*args, **kwargs)
        return func(*args, **kwargs)


def kernels_of(device: torch.device) -> contextlib.AbstractContextManager:
    """Return what to call a model within on a device."""
    return Differentiable() if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """Record graphs, whatever a caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def _set(settings: Sequence[Setting]) -> Iterator[None]:
    """Change settings, in this order, and put them back; leave those that cannot be read."""
    found = []
    for read, write, value in settings:
        with contextlib.suppress(RuntimeError):
            found.append((write, value, read()))
    try:
        for write, value, _ in found:
            write(value)
        yield
    finally:
        for write, _, before in found:
            write(before)


def _attribute(place: Any, name: str, value: Any) -> Setting:
    return functools.partial(getattr, place, name), functools.partial(setattr, place, name), value


def _settings() -> list[Setting]:
    """Return what is set.

    Since torch 2.9 every library and operation has a precision of its own; torch refuses to read
    the two older settings where they say otherwise.
    """
    backends = torch.backends
    mha = backends.mha
    found: list[Setting] = [
        (mha.get_fastpath_enabled, mha.set_fastpath_enabled, False),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        _attribute(backends.cudnn, "allow_tf32", False),
    ]
    if hasattr(backends.cuda.matmul, "fp32_precision"):
        places = {backends.cuda: ("matmul",), backends.cudnn: ("conv", "rnn"),
                  backends.mkldnn: ("matmul", "conv", "rnn")}  # fmt: skip
        own = [getattr(place, name) for place, names in places.items() for name in names]
        found += [_attribute(place, "fp32_precision", "ieee") for place in own]
    return found


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    axes = tuple(range(-len(normalized_shape), 0))
    least = torch.finfo(input.dtype).eps if eps is None else eps
    found = input * torch.rsqrt(input.square().mean(axes, keepdim=True) + least)
    return found if weight is None else found * weight
