"""IDX, the format MNIST is distributed in: a header of sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fimsym.errors import DomainError

_BYTES = 0x08
"""Third byte of a file of unsigned bytes, the only kind MNIST has."""


def read_idx(path: Path, axes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the array of unsigned bytes in an IDX file, compressed by gzip or not.

    Args:
        path: The file; it is compressed if its name ends in ``.gz``.
        axes: Number of axes it must have: 3 for images, 1 for labels.

    Raises:
        DomainError: the file cannot be read, is of another kind, or is cut short or too long.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DomainError(f"cannot read {path}: {error}.") from None
    magic, header = bytes([0, 0, _BYTES, axes]), 4 + 4 * axes
    if len(raw) < header or raw[:4] != magic:
        raise DomainError(
            f"expected {path} to be an IDX file of bytes with {axes} axes, which begins with "
            f"{magic.hex(' ')}; it begins with {raw[:4].hex(' ') or 'nothing'}. Take the file as "
            "MNIST distributes it."
        )
    sizes = tuple(np.frombuffer(raw[4:header], dtype=">u4").tolist())
    if len(raw) - header != math.prod(sizes):
        raise DomainError(
            f"{path} says that it holds {' × '.join(map(str, sizes))} bytes; it holds "
            f"{len(raw) - header}. Copy it again."
        )
    return np.frombuffer(raw[header:], dtype=np.uint8).reshape(sizes)
