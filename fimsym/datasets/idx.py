"""IDX, the format MNIST is distributed in: a header of sizes, then numbers."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fimsym.errors import DomainError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
"""NumPy's names of the types that the third byte of a file stands for."""
_BYTES = 0x08
_GZIP = b"\x1f\x8b"


def read_idx(path: Path, axes: int | None = None) -> np.ndarray:
    """Return the array in an IDX file, compressed by gzip or not.

    Args:
        path: The file.
        axes: Expect unsigned bytes with so many axes: 3 for images, 1 for labels. Without it
            any type and number will do.

    Raises:
        DomainError: the file cannot be read, is of another kind, or is cut short or too long.
    """
    try:
        raw = path.read_bytes()
        packed = path.suffix == ".gz" or raw[:2] == _GZIP
        raw = gzip.decompress(raw) if packed else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DomainError(f"cannot read {path}: {error}.") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _TYPES or _is_other(raw, axes):
        begins = f"00 00 08 {axes:02x}" if axes else "00 00, a type and a number of axes"
        what = f"of bytes with {axes} axes, which begins" if axes else "which begins"
        raise DomainError(
            f"expected {path} to be an IDX file, {what} with {begins}; it begins with "
            f"{raw[:4].hex(' ') or 'nothing'}. Take the file as its makers distribute it."
        )
    kind, header = np.dtype(_TYPES[raw[2]]), 4 + 4 * raw[3]
    if len(raw) < header:
        raise DomainError(f"{path} ends in its header. Copy it again.")
    sizes = tuple(np.frombuffer(raw[4:header], dtype=">u4").tolist())
    if len(raw) - header != math.prod(sizes) * kind.itemsize:
        raise DomainError(
            f"{path} says that it holds {' × '.join(map(str, sizes))} numbers of {kind.itemsize} "
            f"bytes; it holds {len(raw) - header}. Copy it again."
        )
    values = np.frombuffer(raw[header:], dtype=kind).reshape(sizes)
    return values.astype(kind.newbyteorder("="), copy=False)


def _is_other(raw: bytes, axes: int | None) -> bool:
    return axes is not None and (raw[2], raw[3]) != (_BYTES, axes)
