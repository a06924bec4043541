"""Batches of inputs from whatever people have: tensors, arrays, loaders, iterables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fimsym.errors import DomainError, ShapeError

Data = Tensor | np.ndarray | Iterable[Any]


def batches(data: Data, device: torch.device, dtype: torch.dtype) -> Iterator[tuple]:
    """Yield (inputs, labels or None) for each batch of `data`.

    Args:
        data: A tensor or array of inputs; a tuple (inputs, labels); or a DataLoader or
            other iterable whose batches are inputs or (inputs, labels).
        device: Where the inputs go.
        dtype: Floating-point inputs are converted to it, others are left as they are.

    Raises:
        ShapeError: there is no input.
        DomainError: an input is not finite, or is nothing a tensor can be made of.
    """
    count = 0
    for batch in _whole(data):
        inputs, labels = _pair(batch)
        inputs = _tensor(inputs, "inputs").to(device)
        if inputs.ndim == 0:
            raise ShapeError("a batch must be [batch, …]; got a single number.")
        if inputs.is_floating_point():
            _require_finite(inputs, count)
            inputs = inputs.to(dtype)
        labels = None if labels is None else _tensor(labels, "labels").to(device)
        if labels is not None and labels.shape[:1] != inputs.shape[:1]:
            raise ShapeError(
                f"inputs and labels must have the same length; got {inputs.shape[0]} and "
                f"{list(labels.shape)}."
            )
        if inputs.shape[0]:
            count += inputs.shape[0]
            yield inputs, labels
    if count == 0:
        raise ShapeError("data is empty; expected at least one input.")


def length(data: Data) -> int | None:
    """Return the number of inputs where it is known without reading them."""
    if isinstance(data, tuple) and len(data) == 2:
        return length(data[0])
    if isinstance(data, Tensor | np.ndarray):
        return len(data) if data.ndim else None
    dataset = getattr(data, "dataset", None)
    try:
        return len(dataset) if dataset is not None else None
    except TypeError:
        return None


def check_labels(labels: Tensor, outputs: int, first_row: int, columns: int) -> None:
    """Raise ShapeError unless the labels fit a model with that many outputs.

    With 0 `columns` they are classes, one whole number per input; otherwise one row of so
    many numbers per input.
    """
    if columns == 0:
        if labels.ndim != 1:
            raise ShapeError(
                f"labels must be classes, [batch]; got shape {list(labels.shape)}. For one-hot "
                "rows pass labels.argmax(1)."
            )
        wrong = ((labels < 0) | (labels >= outputs) | (labels != labels.round())).nonzero()
        if len(wrong):
            row = int(wrong[0, 0])
            raise ShapeError(
                f"label {labels[row].item()} of input {first_row + row} does not fit a model "
                f"with {outputs} outputs; expected whole numbers from 0 to {outputs - 1}."
            )
    elif labels.ndim > 2 or (labels.shape[1] if labels.ndim == 2 else 1) != columns:
        raise ShapeError(
            f"the model has {outputs} output(s), the labels have shape {list(labels.shape)}; "
            f"expected {columns} column(s). Check the model's last layer."
        )


def _whole(data):
    """Return `data` as an iterable of batches."""
    if isinstance(data, Tensor | np.ndarray) or hasattr(data, "__array__"):
        return [data]
    if isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], tuple | list):
        return [data]
    if isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        raise DomainError(
            f"data must be a tensor, an array, a DataLoader or an iterable of batches; got "
            f"{type(data).__name__}."
        )
    return data


def _pair(batch):
    if isinstance(batch, tuple | list):
        if len(batch) not in (1, 2) or not all(_is_array(part) for part in batch):
            raise ShapeError(
                f"a batch must be inputs or (inputs, labels), each a tensor or an array; got a "
                f"{type(batch).__name__} of {len(batch)} parts. Pass rows of numbers as one "
                "tensor or array: np.stack(rows)."
            )
        return batch[0], (batch[1] if len(batch) == 2 else None)
    return batch, None


def _is_array(value):
    return isinstance(value, Tensor) or hasattr(value, "__array__")


def _tensor(value, what):
    try:
        return value if isinstance(value, Tensor) else torch.tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise DomainError(
            f"{what} must be a tensor or an array of numbers; got {type(value).__name__} ({error})."
        ) from None


def _require_finite(inputs, first_row):
    finite = inputs.isfinite()
    if not bool(finite.all()):
        row = int((~finite).flatten(1).any(dim=1).nonzero()[0, 0]) if inputs.ndim > 1 else int(
            (~finite).nonzero()[0, 0]
        )  # fmt: skip
        raise DomainError(
            f"input {first_row + row} holds a NaN or an infinity; expected finite numbers. "
            "Remove the row or fill in the value."
        )
