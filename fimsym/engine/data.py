"""Batches of inputs from whatever people have: tensors, arrays, loaders, iterables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from fimsym.engine.network import Network
from fimsym.errors import DomainError, ShapeError, UnsupportedError

Data = Tensor | np.ndarray | Iterable[Any]
Batch = tuple[Tensor, Tensor | None]

_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class Rows:
    """The inputs of one process, batch by batch: rows rank, rank + world, … of the data.

    Every process reads the same batches and keeps its rows, counted over all batches in
    order; nothing is padded and no row comes twice. Iterating yields (inputs, labels or None),
    copied where they may come in a buffer that the next ones are written to.

    Args:
        data: A tensor or array of inputs; a tuple (inputs, labels); or a DataLoader or
            other iterable whose batches are inputs or (inputs, labels).
        rank: Number of this process.
        world: Number of processes.

    Attributes:
        read: Number of rows read so far, those of the other processes included.

    Raises:
        ShapeError: there is no input.
        DomainError: an input is not finite, or is nothing a tensor can be made of.
        UnsupportedError: the batches differ between processes.
    """

    def __init__(self, data: Data, rank: int = 0, world: int = 1):
        self._batches = _whole(data)
        self._copied = not _lasts(data)
        _check_sampler(data, world)
        self.rank = rank
        self.world = world
        self.read = 0

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            inputs, labels = _checked(batch)
            first = (self.rank - self.read) % self.world
            start = self.read + first
            self.read += inputs.shape[0]
            if self.world > 1:
                inputs = inputs[first :: self.world]
                labels = None if labels is None else labels[first :: self.world]
            if inputs.is_floating_point():
                _require_finite(inputs, start, self.world)
            if inputs.shape[0] and self._copied:
                inputs, labels = inputs.clone(), None if labels is None else labels.clone()
            if inputs.shape[0]:
                yield inputs, labels
        if self.read == 0:
            raise ShapeError("data is empty; expected at least one input.")


def placed(batch: Batch, network: Network) -> Batch:
    """Return a batch where a network is; floating-point inputs in its dtype, others as they are."""
    inputs, labels = batch
    device, dtype = network.device, network.dtype
    inputs = inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device)
    inputs = inputs.clone() if inputs.is_inference() else inputs  # those have no version
    return inputs, None if labels is None else labels.to(device)


def length(data: Data) -> int | None:
    """Return the number of inputs where it is known without reading them."""
    if isinstance(data, tuple) and len(data) == 2:
        return length(data[0])
    if isinstance(data, Tensor | np.ndarray):
        return len(data) if data.ndim else None
    if isinstance(data, DataLoader):
        return _length_of_loader(data)
    if isinstance(data, list):
        lengths = [len(batch) for batch in map(_inputs_of, data) if batch is not None]
        return sum(lengths) if len(lengths) == len(data) else None
    return None


def _inputs_of(batch: Any) -> Any:
    """Return a batch's inputs, None if that is no array of rows."""
    inputs: Any = batch[0] if isinstance(batch, tuple | list) and batch else batch
    return inputs if _is_array(inputs) and inputs.ndim else None


def _length_of_loader(loader):
    if loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return None
    rows = len(loader.sampler)
    return rows - rows % loader.batch_size if loader.drop_last else rows


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


def _lasts(data) -> bool:
    """Tell whether batches keep their numbers while the next ones are read."""
    if isinstance(data, DataLoader):
        return data.num_workers > 0 or data.collate_fn is default_collate
    return isinstance(data, Tensor | tuple | list) or hasattr(data, "__array__")


def _check_sampler(data, world):
    """Refuse a loader that gives every process other batches, or that pads."""
    if not isinstance(data, DataLoader):
        return
    inner = getattr(data.batch_sampler, "sampler", data.sampler)
    if any(isinstance(sampler, DistributedSampler) for sampler in (data.sampler, inner)):
        raise UnsupportedError(
            "the DataLoader has a DistributedSampler, which repeats rows to make equal shares; "
            "expected the plain loader of all rows, DataLoader(dataset, batch_size=…): analyze "
            "shares them out itself."
        )
    if world > 1 and isinstance(inner, _SHUFFLING):
        raise UnsupportedError(
            f"the DataLoader shuffles ({type(inner).__name__}), in every process in another way; "
            "expected the same batches in all of them. Pass shuffle=False: means over the data "
            "do not depend on its order."
        )


def _checked(batch) -> Batch:
    """Return a batch as tensors, inputs and labels of one length."""
    inputs, labels = _pair(batch)
    inputs = _tensor(inputs, "inputs")
    if inputs.ndim == 0:
        raise ShapeError("a batch must be [batch, …]; got a single number.")
    labels = None if labels is None else _tensor(labels, "labels")
    if labels is not None and labels.shape[:1] != inputs.shape[:1]:
        raise ShapeError(
            f"inputs and labels must have the same length; got {inputs.shape[0]} and "
            f"{list(labels.shape)}."
        )
    return inputs, labels


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
        if isinstance(value, Tensor):
            return value
        array = np.asarray(value)
        shared = array.flags.writeable and all(step >= 0 for step in array.strides)
        return torch.from_numpy(array if shared else array.copy())
    except (TypeError, ValueError) as error:
        raise DomainError(
            f"{what} must be a tensor or an array of numbers; got {type(value).__name__} ({error})."
        ) from None


def _require_finite(inputs, first_row, step):
    if not inputs.is_floating_point() or bool(inputs.sum().isfinite()):
        return
    finite = inputs.isfinite()  # a sum may overflow where no entry does
    if not bool(finite.all()):
        row = int((~finite).reshape(len(inputs), -1).any(dim=1).nonzero()[0, 0])
        raise DomainError(
            f"input {first_row + step * row} holds a NaN or an infinity; expected finite numbers. "
            "Remove the row or fill in the value."
        )
