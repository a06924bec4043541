"""What the command reads: models by import path, weights and inputs from files."""

from __future__ import annotations

import importlib
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.datasets.idx import read_idx
from fimsym.errors import DomainError, SpecError, UnsupportedError, nearest

if TYPE_CHECKING:
    from fimsym.families import Family
    from fimsym.validation.output import Point

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
    ``.npy`` one array; ``.csv`` rows of numbers, under a header or not, whose columns called
    labels, label or y are labels. IDX files are those of MNIST, gzipped or not; their bytes
    are divided by 255.

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
        named = ("row " if len(shown) == 1 else "rows ") + ", ".join(map(str, shown[:10]))
        raise DomainError(
            f"{path}: inputs must be finite; {named}{' and more' if len(shown) > 10 else ''} "
            f"{'is' if len(shown) == 1 else 'are'} not, counted from 0. Drop or impute them."
        )
    return inputs if labels is None else (inputs, torch.as_tensor(labels))


def _arrays(path: Path) -> dict[str, Any]:
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
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
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


def load_points(path: Path, family: Family) -> list[Point]:
    """Return points h, u and v, and values of the constants, from an .npz file.

    h is [point, output] or [output]; u and v have a last axis of directions besides. A constant
    is an array of its name, one number or one for each point.

    Raises:
        DomainError: the file cannot be read, or its arrays do not fit together.
    """
    from fimsym.validation.montecarlo import Derivatives
    from fimsym.validation.output import Point

    arrays = _arrays(path)
    expected = {"h", "u", "v"}
    constants = {c.name for c in family.constants}
    if not expected <= set(arrays) or not set(arrays) <= expected | constants:
        allowed = f", and values of {', '.join(constants)}" if constants else ""
        raise DomainError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected arrays h, u and v{allowed}."
        )
    h, u, v = (torch.as_tensor(arrays[name]).double() for name in ("h", "u", "v"))
    if h.ndim == 1:
        h, u, v = h.unsqueeze(0), u.unsqueeze(0), v.unsqueeze(0)
    if h.ndim != 2 or u.ndim != 3 or u.shape[:2] != h.shape or v.shape != u.shape:
        raise DomainError(
            f"{path}: h, u and v have shapes {[list(arrays[n].shape) for n in 'huv']}; expected "
            "[point, output] and, for u and v, [point, output, direction]."
        )
    values = {name: np.broadcast_to(arrays[name], len(h)) for name in constants & set(arrays)}
    return [
        Point(
            family.bind({name: float(of_points[n]) for name, of_points in values.items()}),
            Derivatives(h[n], u[n], v[n]),
        )
        for n in range(len(h))
    ]


def read_constants(given: Iterable[str]) -> dict[str, float]:
    """Return constants from texts such as ``sigma=0.5``.

    Raises:
        SpecError: one is not of that form.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not (name and equals):
            raise SpecError(f"expected --constant NAME=VALUE with a number; got {text!r}.")
    return found
