"""What the command reads: models by import path, weights and inputs from files."""

from __future__ import annotations

import importlib
import re
import sys
import zipfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.cli.failures import told, where
from fimsym.datasets.idx import read_idx
from fimsym.errors import DomainError, SpecError, UnsupportedError, nearest

_INPUTS, _LABELS = ("inputs", "x", "X"), ("labels", "y", "Y")
_EXPECTED = "Expected .npz, .npy, .csv, IDX, .pt or .safetensors."
_LABEL_COLUMNS = ("labels", "label", "y")


def load_model(path: str, weights: Path | None = None) -> nn.Module:
    """Return the module that ``package.module:name`` names, in evaluation mode.

    Args:
        path: Import path of a module, or of a function without arguments that returns one;
            the current folder is searched first.
        weights: A state dict to load into it, ``.safetensors``, ``.pt`` or ``.pth``.

    Raises:
        SpecError: there is nothing of that name, it is no module, or its code fails.
        DomainError: the weights cannot be read or do not fit.
    """
    place, colon, name = path.partition(":")
    if not (place and colon and name) or place.startswith("."):
        raise SpecError(
            f"expected a model as package.module:factory, such as nets:make; got {path!r}."
        )
    if place.endswith(".py"):
        raise SpecError(
            f"expected a module in --model, not its file; got {path!r}. In the folder that holds "
            f"it, that is {Path(place).stem}:{name}."
        )
    found = _imported(place)
    if not hasattr(found, name):
        raise SpecError(f"{place} has no {name!r}.{nearest(name, dir(found))}")
    model = getattr(found, name)
    if not isinstance(model, nn.Module):
        model = _made(path, model)
    if weights is not None:
        _load_weights(model, weights)
    return model.eval()


def _imported(place: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        origin = "" if error.name and f"{place}.".startswith(f"{error.name}.") else where(error)
        raise SpecError(
            f"cannot import {place!r} ({error}{origin}). Run the command in the folder that holds "
            "it, or install its package."
        ) from None
    except (Exception, SystemExit) as error:
        raise SpecError(f"importing {place!r} failed: {told(error)}. Mend that module.") from error


def _made(path: str, factory: Any) -> nn.Module:
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise SpecError(f"calling {path} without arguments failed: {told(error)}.") from error
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
            f"the weights in {path} do not fit the model: {shortened(' '.join(lines[1:4]), 400)}"
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
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        if "Weights only load failed" in why:
            why = "it holds more than tensors, such as a whole module"
        raise DomainError(
            f"cannot read tensors from {path}: {why}. Expected a .safetensors file, or a .pt file "
            "that holds tensors alone, as torch.save(model.state_dict(), path) writes."
        ) from None
    if isinstance(value, Tensor):
        return {"inputs": value}
    if not isinstance(value, dict) or not all(isinstance(x, Tensor) for x in value.values()):
        found = type(value).__name__
        if isinstance(value, dict):
            found += f" of {shortened(', '.join(map(str, value)), 200)}"
        elif isinstance(value, torch.nn.Module):
            found = "a whole module"
        raise DomainError(
            f"expected tensors by name in {path}; got {found}. Save the state dict alone: "
            "torch.save(model.state_dict(), path)."
        )
    return value


def shortened(text: str, length: int) -> str:
    """Return a text, or its beginning if it is longer."""
    return text if len(text) <= length else f"{text[:length]}…"


def load_data(path: Path) -> Any:
    """Return the inputs of a file, or the pair (inputs, labels) if it holds labels too.

    ``.npz``, ``.pt`` and ``.safetensors`` hold arrays called inputs (or x) and labels (or y);
    ``.npy`` one array; ``.csv`` rows of numbers, under a header or not, whose columns called
    labels, label or y are labels. IDX files are those of MNIST, gzipped or not; their bytes
    are divided by 255.

    Raises:
        DomainError: the file cannot be read, has no inputs, or values are no finite numbers.
    """
    arrays = read_arrays(path)
    inputs = next((arrays[name] for name in _INPUTS if name in arrays), None)
    labels = next((arrays[name] for name in _LABELS if name in arrays), None)
    if inputs is None and len(arrays) == 1:
        (inputs,) = arrays.values()
    if inputs is None:
        raise DomainError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected an array called inputs or x, "
            "and labels or y beside it if there are any."
        )
    inputs = as_numbers(path, "inputs", inputs)
    if inputs.ndim and not bool(torch.isfinite(inputs).all()):
        rows = (
            (~torch.isfinite(inputs)).flatten(1).any(1) if inputs.ndim > 1 else ~inputs.isfinite()
        )
        shown = rows.nonzero().flatten().tolist()
        named = ("row " if len(shown) == 1 else "rows ") + ", ".join(map(str, shown[:10]))
        raise DomainError(
            f"{path}: inputs must be finite; {named}{' and more' if len(shown) > 10 else ''} "
            f"{'is' if len(shown) == 1 else 'are'} not, counted from 0. Drop or impute them."
        )
    if labels is None:
        return inputs
    labels = as_numbers(path, "labels", labels)
    if inputs.shape[:1] != labels.shape[:1]:
        raise DomainError(
            f"{path}: expected as many labels as inputs; got inputs {list(inputs.shape)} and "
            f"labels {list(labels.shape)}."
        )
    return inputs, labels


def as_numbers(path: Path, name: str, values: Any) -> Tensor:
    """Return an array of a file as a tensor.

    Raises:
        DomainError: it holds something else than numbers.
    """
    if isinstance(values, np.ndarray):
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError):
        raise DomainError(
            f"{path}: {name} must be numbers; got values of {values.dtype}. Classes are whole "
            "numbers from 0; other texts need a code of numbers too."
        ) from None


def read_arrays(path: Path) -> dict[str, Any]:
    """Return the arrays of a file by name, ``inputs`` where they have none.

    Raises:
        DomainError: the file cannot be read.
    """
    if path.suffix in (".pt", ".pth", ".safetensors"):
        return dict(_tensors(path))
    if re.search(r"[.-]idx", path.name):
        values = read_idx(path)
        return {"inputs": values / np.float32(255) if values.itemsize == 1 else values}
    try:
        if path.suffix == ".csv":
            return _csv(path)
        found = np.load(path, allow_pickle=False)
        return {"inputs": found} if isinstance(found, np.ndarray) else dict(found)
    except OSError as error:
        raise DomainError(f"cannot read {path}: {error.strerror or error}. {_EXPECTED}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DomainError(f"cannot read {path}: {error}. {_EXPECTED}") from None


def _csv(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a file, those of labels apart; what is no number becomes NaN."""
    with path.open(encoding="utf-8") as file:
        names = [name.strip().strip('"') for name in file.readline().split(",")]
    header = not all(_is_number(name) for name in names)
    table = np.genfromtxt(path, delimiter=",", skip_header=int(header), ndmin=2)
    wanted = [header and name.lower() in _LABEL_COLUMNS for name in names]
    of_labels = np.array(wanted[: table.shape[1]], bool)
    if not of_labels.any():
        return {"inputs": table}
    labels = table[:, of_labels]
    return {
        "inputs": table[:, ~of_labels],
        "labels": labels[:, 0] if labels.shape[1] == 1 else labels,
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
