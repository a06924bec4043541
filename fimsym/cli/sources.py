"""What the command reads: models by import path, weights and inputs from files."""

from __future__ import annotations

import importlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.errors import DomainError, SpecError, UnsupportedError, nearest

_INPUTS, _LABELS = ("inputs", "x", "X"), ("labels", "y", "Y")


def load_model(path: str, weights: Path | None = None) -> nn.Module:
    """Return the module that ``package.module:name`` names, in evaluation mode.

    Args:
        path: Import path of a module, or of a function without arguments that returns one;
            the current folder is searched first.
        weights: A state dict to load into it, ``.safetensors``, ``.pt`` or ``.pth``.

    Raises:
        SpecError: there is nothing of that name, or it is no module.
        DomainError: the weights cannot be read or do not fit.
    """
    place, colon, name = path.partition(":")
    if not (place and colon and name):
        raise SpecError(
            f"expected a model as package.module:factory, such as nets:make; got {path!r}."
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(place)
    except ImportError as error:
        raise SpecError(
            f"cannot import {place!r} ({error}). Run the command in the folder that holds it, or "
            "install its package."
        ) from None
    if not hasattr(found, name):
        raise SpecError(f"{place} has no {name!r}.{nearest(name, dir(found))}")
    model = getattr(found, name)
    if not isinstance(model, nn.Module):
        model = _made(path, model)
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _made(path, factory):
    try:
        model = factory()
    except Exception as error:
        raise SpecError(f"calling {path} without arguments failed: {error!r}.") from error
    if not isinstance(model, nn.Module):
        raise SpecError(
            f"expected {path} to be or return a torch module; got {type(model).__name__}."
        )
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(_tensors(path))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise DomainError(
            f"the weights in {path} do not fit the model: {' '.join(lines[1:4])}"
        ) from None


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by name; nothing in the file is executed."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        value = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise UnsupportedError(
            "reading .safetensors needs safetensors. Run: pip install safetensors."
        ) from None
    except Exception as error:
        raise DomainError(
            f"cannot read tensors from {path}: {str(error).splitlines()[0]} Expected a "
            ".safetensors file, or a .pt file that holds tensors alone."
        ) from None
    if isinstance(value, Tensor):
        return {"inputs": value}
    if not isinstance(value, dict) or not all(isinstance(x, Tensor) for x in value.values()):
        raise DomainError(f"expected tensors by name in {path}; got {type(value).__name__}.")
    return value


def load_data(path: Path) -> Any:
    """Return the inputs of a file, or the pair (inputs, labels) if it holds labels too.

    ``.npz``, ``.pt`` and ``.safetensors`` hold arrays called inputs (or x) and labels (or y);
    ``.npy`` one array; ``.csv`` rows of numbers under a header.

    Raises:
        DomainError: the file cannot be read, has no inputs, or values are not finite.
    """
    arrays = _arrays(path)
    inputs = next((arrays[name] for name in _INPUTS if name in arrays), None)
    labels = next((arrays[name] for name in _LABELS if name in arrays), None)
    if inputs is None and len(arrays) == 1:
        (inputs,) = arrays.values()
    if inputs is None:
        raise DomainError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected an array called inputs or x, "
            "and labels or y beside it if there are any."
        )
    inputs = torch.as_tensor(inputs)
    if inputs.ndim and not bool(torch.isfinite(inputs).all()):
        rows = (
            (~torch.isfinite(inputs)).flatten(1).any(1) if inputs.ndim > 1 else ~inputs.isfinite()
        )
        shown = rows.nonzero().flatten().tolist()
        raise DomainError(
            f"{path}: inputs must be finite; rows {', '.join(map(str, shown[:10]))}"
            f"{' and more' if len(shown) > 10 else ''} are not. Drop or impute them."
        )
    return inputs if labels is None else (inputs, torch.as_tensor(labels))


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix in (".pt", ".pth", ".safetensors"):
        return dict(_tensors(path))
    try:
        if path.suffix == ".csv":
            return {"inputs": np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)}
        found = np.load(path, allow_pickle=False)
        return {"inputs": found} if isinstance(found, np.ndarray) else dict(found)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DomainError(
            f"cannot read {path}: {error}. Expected .npz, .npy, .csv, .pt or .safetensors."
        ) from None
