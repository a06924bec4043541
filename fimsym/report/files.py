"""Writing result files: checked before the work, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fimsym.errors import DomainError


def check_writable(path: Path) -> None:
    """Raise DomainError unless a file can be written at `path`, before any work is done."""
    if not path.name:
        raise DomainError(
            f"cannot write {str(path)!r}: it is a folder or an empty path. Name a file."
        )
    if path.is_dir():
        raise DomainError(f"cannot write {path}: it is a folder. Name a file in it.")
    if path.exists() and not path.is_file():
        raise DomainError(f"cannot write {path}: it is not a regular file. Choose another path.")
    if not path.parent.is_dir():
        raise DomainError(
            f"cannot write {path}: there is no folder {path.parent}. Create it, or choose "
            "another path."
        )
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with path.open("a"):
                pass
    except OSError as error:
        raise DomainError(f"cannot write {path}: {error.strerror}. Choose another path.") from None


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        DomainError: it cannot be written.
    """
    check_writable(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DomainError(f"cannot write {path}: {error.strerror}. Choose another path.") from None
