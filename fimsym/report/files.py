"""Writing result files: checked before the work, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fimsym.errors import DomainError


def check_writable(path: Path) -> None:
    """Raise DomainError unless a file can be written at `path`, before any work is done."""
    try:
        why = _obstacle(path)
    except OSError as error:
        why = f"{error.strerror}. Choose another path"
    if why:
        raise DomainError(f"cannot write {str(path)[:200]!r}: {why}.")


def _obstacle(path: Path) -> str:
    """Return what stands in the way of writing, or ``""``."""
    if not path.name:
        return "it is a folder or an empty path. Name a file"
    if path.is_dir():
        return "it is a folder. Name a file in it"
    if path.exists() and not path.is_file():
        return "it is not a regular file. Choose another path"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}. Create it, or choose another path"
    with tempfile.NamedTemporaryFile(dir=path.parent):
        pass
    if path.exists():
        with path.open("a"):
            pass
    return ""


@contextlib.contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Yield a place to write to, which becomes `path` once the block has ended without error.

    Raises:
        DomainError: it cannot be written.
    """
    check_writable(path)
    path = path.resolve()
    place = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield place
        place.replace(path)
    except OSError as error:
        raise DomainError(f"cannot write {path}: {error.strerror}. Choose another path.") from None
    finally:
        place.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        DomainError: it cannot be written.
    """
    with draft(path) as place:
        place.write_text(text, encoding="utf-8")
