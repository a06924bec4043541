"""Which of torch's kernels carry out a model while it is analyzed."""

from __future__ import annotations

import contextlib
import functools
import threading
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


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """Use kernels that keep every digit and have second derivatives; restore the settings after.

    On a GPU torch multiplies in TF32, of three digits, inside convolutions unless told otherwise,
    and in matrix products where a caller has allowed it; on some processors in bfloat16. These,
    and a caller's autocast, are switched off. Of several calls at a time, in threads or one inside
    the other, the last to end restores what the first has found.
    """
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_SHARED)
        yield


class _Shared:
    """Settings of the whole process, changed while anyone is inside."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._changes = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                with contextlib.ExitStack() as changes:
                    changes.enter_context(_set(_settings()))
                    changes.enter_context(sdpa_kernel(SDPBackend.MATH))
                    self._changes = changes.pop_all()
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._changes.close()


_SHARED = _Shared()


class Differentiable(TorchFunctionMode):
    """Carries out by other operations what torch differentiates badly.

    torch has no second derivative of the hard sigmoid, and ends the process where sums are scaled
    by numbers inside of transforms that `Allocations` counts the memory of. On a GPU, cuDNN has
    gradients of recurrent layers in training mode only, and none of those gradients; the kernel of
    RMSNorm hides its rows.
    """

    def __init__(self, device: torch.device):
        super().__init__()
        self._on_gpu = device.type == "cuda"

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (other := _OTHERS.get(func)) is not None:
            return other(func, *args, **kwargs)
        if not self._on_gpu:
            return func(*args, **kwargs)
        if func in _RECURRENT:
            with _set([_attribute(torch.backends.cudnn, "enabled", False)]):
                return func(*args, **kwargs)
        if getattr(func, "__name__", "") == "_cudnn_rnn_flatten_weight":
            return None  # it would move the parameters
        if func in (functional.rms_norm, torch.rms_norm):
            return _rms_norm(*args, **kwargs)
        return func(*args, **kwargs)


def _scaled(func: Any, *args: Any, **scales: Any) -> Tensor:
    """Return β x + α a∘b for a function of x, a and b with β and α, or with α alone, as value."""
    plain = len(args) != 3 or not scales.keys() <= {"beta", "alpha", "value"}
    if plain or all(scale == 1 for scale in scales.values()):
        return func(*args, **scales)
    x, a, b = args
    beta, alpha = scales.get("beta", 1), scales.get("alpha", scales.get("value", 1))
    return func(beta * x if beta else torch.zeros_like(x), alpha * a, b)


def _hard_sigmoid(func: Any, input: Tensor, inplace: bool = False) -> Tensor:
    return func(input, inplace) if inplace else functional.hardtanh(input + 3, 0.0, 6.0) / 6


_SCALED = ("addcmul", "addcdiv", "addmm", "addmv", "addr", "addbmm", "baddbmm")
_OTHERS: dict[Any, Callable[..., Tensor]] = {
    functional.hardsigmoid: _hard_sigmoid,
    **{getattr(owner, name): _scaled for owner in (torch, Tensor) for name in _SCALED},
}
"""What is carried out otherwise."""


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
    with contextlib.ExitStack() as restored:
        for write, _, before in reversed(found):
            restored.callback(_written, write, before)
        for write, value, _ in found:
            _written(write, value)
        yield


def _written(write: Callable[[Any], object], value: Any) -> None:
    """Write a setting, also after `torch.backends.disable_global_flags`."""
    with getattr(torch.backends, "__allow_nonbracketed_mutation", contextlib.nullcontext)():
        write(value)


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
        mkldnn = [getattr(backends.mkldnn, name) for name in ("matmul", "conv", "rnn")]
        cudnn = [getattr(backends.cudnn, name) for name in ("conv", "rnn")]
        found += [_attribute(place, "fp32_precision", "ieee") for place in cudnn]
        for place in (backends.cuda.matmul, *mkldnn):
            read, _, exact = _attribute(place, "fp32_precision", "ieee")
            found.append((read, functools.partial(_write_precision, place), exact))
    return found


def _write_precision(place: Any, value: str) -> None:
    """Set what an operation multiplies in; leave it to follow the library if that says the same."""
    place.fp32_precision = "none"
    if place.fp32_precision != value:
        place.fp32_precision = value


def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:  # fmt: skip
    axes = tuple(range(-len(normalized_shape), 0))
    x = input if input.dtype == torch.float64 else input.float()
    least = torch.finfo(x.dtype).eps if eps is None else eps
    found = x * torch.rsqrt(x.square().mean(axes, keepdim=True) + least)
    return (found if weight is None else found * weight).to(input.dtype)
