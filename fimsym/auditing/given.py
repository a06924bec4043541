"""A diagonal as somebody hands it over: a dict, a flat vector or a file, laid out by parameter."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fimsym.engine.network import Network
from fimsym.errors import DomainError, ShapeError, UnsupportedError

_PREFIXES = ("module.", "_orig_mod.", "model.", "fisher/")
"""What wrappers, and `Analysis.save`, put before the names of parameters."""


@dataclasses.dataclass(frozen=True)
class Given:
    """A diagonal next to the parameters of a network.

    Attributes:
        values: Entries by trainable parameter, in its shape, in float64, where they fit.
        missing: Trainable parameters of which there is nothing.
        misshapen: Entries of another shape than their parameter.
        unexpected: Names that belong to no parameter.
        flat: It came as one vector.
        dtype: In which it came, the coarsest of several.
    """

    values: Mapping[str, Tensor]
    missing: tuple[str, ...]
    misshapen: Mapping[str, Tensor]
    unexpected: tuple[str, ...]
    flat: bool
    dtype: torch.dtype


def laid_out(diagonal: Any, network: Network) -> Given:
    """Return a diagonal by parameter.

    Args:
        diagonal: A dict from parameter name to tensor or array; a list of them, or one vector,
            in the order of ``model.parameters()``; a path of a file that holds one of these;
            or an object with such a dict as ``.fisher``.
        network: The network whose parameters they are.

    Raises:
        ShapeError: a vector has another length than all parameters together.
        DomainError: it cannot be read, is empty, or holds values that are not finite.
    """
    found = _read(diagonal)
    if isinstance(found, list | tuple) and len(found) == len(network.names):
        found = dict(zip(network.names, found, strict=True))
    if not isinstance(found, Mapping):
        return _of_vector(_numbers(found, "the diagonal"), network)
    named = {str(name): _numbers(value, str(name)) for name, value in found.items()}
    if len(named) == 1 and set(named).isdisjoint(network.shapes):
        (only,) = named.values()
        if only.numel() == network.size:
            return _of_vector(only, network)
    return _of_dict(_without_prefix(named, network), network)


@dataclasses.dataclass(frozen=True)
class Reading:
    """One way of reading what was given.

    Attributes:
        name: ``"as given"``, or what went wrong if this is how it must be read.
        words: The same in words.
        values: Entries by parameter, in its shape.
        log_slope: Mean of log |f′(D)| if these are a function f of what was given.
    """

    name: str
    words: str
    values: Mapping[str, Tensor]
    log_slope: float = 0.0


def readings(given: Given, network: Network) -> list[Reading]:
    """Return every way of reading a diagonal that differs from the others, as given first."""
    found = [Reading("as_given", "", given.values)]
    turned = {name: _turned(value, network.shapes[name]) for name, value in given.values.items()}
    if given.flat:
        for name, value in given.values.items():
            if value.ndim == 2:
                turned[name] = value.reshape(value.shape[::-1]).T
    for name, value in given.misshapen.items():
        if (axes := _axes(value.shape, network.shapes[name])) is not None:
            turned[name] = value.permute(axes)
    if given.misshapen or any(not torch.equal(v, turned[n]) for n, v in given.values.items()):
        words = "the weights are transposed: the axes of [out, in] are exchanged"
        found.append(Reading("transposed_weights", words, turned))
    if given.flat and len(network.names) > 1:
        flat = torch.cat([value.reshape(-1) for value in given.values.values()])
        for order, words in ((sorted, "sorted by name"), (reversed, "reversed")):
            names = list(order(network.names))
            parts = flat.split([network.shapes[name].numel() for name in names])
            if names != list(network.names):
                named = {n: p.reshape(network.shapes[n]) for n, p in zip(names, parts, strict=True)}
                found.append(Reading("parameter_order", f"the parameters are {words}", named))
    return found


def _turned(value: Tensor, shape: torch.Size) -> Tensor:
    return value.T if value.ndim == 2 and shape[0] == shape[1] else value


def _axes(came: torch.Size, wanted: torch.Size) -> tuple[int, ...] | None:
    """Return the exchange of axes that other frameworks make for a weight, None without one."""
    for axes in ((1, 0), (3, 2, 0, 1), (0, 3, 1, 2), (1, 0, 2, 3), (2, 1, 0), (0, 2, 1)):
        if len(axes) == len(came) and tuple(came[a] for a in axes) == tuple(wanted):
            return axes
    return None


def _of_vector(vector: Tensor, network: Network) -> Given:
    if vector.numel() != network.size:
        raise ShapeError(
            f"the diagonal has {vector.numel()} entries and the model {network.size} trainable "
            "parameters; expected one entry each, in the order of model.parameters(). Pass a dict "
            "from parameter name to tensor if some are left out."
        )
    values = network.split(vector.reshape(-1).double())
    return Given(values, (), {}, (), True, vector.dtype)


def _of_dict(named: Mapping[str, Tensor], network: Network) -> Given:
    values, misshapen = {}, {}
    for name, shape in network.shapes.items():
        value = named.get(name)
        if value is None:
            continue
        if value.shape == shape or (value.numel() == shape.numel() and 1 in (*shape, *value.shape)):
            values[name] = value.double().reshape(shape)
        else:
            misshapen[name] = value.double()
    missing = tuple(name for name in network.names if name not in named)
    others = {*network.frozen, *dict(network.model.named_buffers()), *_aliases(network)}
    unexpected = tuple(name for name in named if name not in network.shapes and name not in others)
    if not values and not misshapen:
        raise DomainError(
            f"the diagonal holds {', '.join(list(named)[:5]) or 'nothing'}; expected the names of "
            f"the model's parameters, such as {', '.join(network.names[:3])}."
        )
    used = [named[name].dtype for name in (*values, *misshapen)]
    coarsest = max(used, key=lambda dtype: torch.finfo(dtype).eps)
    return Given(values, missing, misshapen, unexpected, False, coarsest)


def _aliases(network: Network) -> set[str]:
    """Return every further name of a tied parameter."""
    every = network.model.named_parameters(remove_duplicate=False)
    return {name for name, _ in every} - set(network.names)


def _without_prefix(named: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Return the dict with what a wrapper put before names taken off, if that fits better."""
    known = set(network.names)
    for prefix in _PREFIXES:
        cut = {n.removeprefix(prefix): v for n, v in named.items() if n.startswith(prefix)}
        if len(known & cut.keys()) > len(known & named.keys()):
            return cut
    return named


def _numbers(value: Any, name: str) -> Tensor:
    try:
        found = value.detach() if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DomainError(
            f"{name} must be a tensor or an array of numbers; got {type(value).__name__} ({error})."
        ) from None
    if found.is_complex() or found.dtype == torch.bool:
        raise DomainError(f"{name} holds values of {found.dtype}; expected real numbers.")
    found = found.cpu() if found.is_floating_point() else found.cpu().double()
    wrong = int((~found.isfinite()).sum())
    if wrong:
        raise DomainError(
            f"{name} holds {wrong} values that are not finite, of {found.numel()}; expected finite "
            "numbers. Look for a division by zero, or an overflow, where they were computed."
        )
    return found


def _read(diagonal: Any) -> Any:
    if isinstance(diagonal, str | Path):
        return _of_file(Path(diagonal))
    if not isinstance(diagonal, Mapping | Tensor) and hasattr(diagonal, "fisher"):
        return diagonal.fisher
    return diagonal


def _of_file(path: Path) -> Any:
    """Return what a file holds; nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        if path.suffix in (".npz", ".npy"):
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            with found:
                return dict(found)
        if path.suffix not in (".pt", ".pth", ".bin"):
            raise ValueError(f"the suffix {path.suffix or 'it lacks'} is unknown.")
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise UnsupportedError(
            "reading .safetensors needs safetensors. Run: pip install safetensors."
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DomainError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DomainError(
        f"cannot read a diagonal from {path}: {reason} Expected .safetensors, .npz, .npy, or a .pt "
        "file that holds tensors alone."
    )
