"""Writing result files: checked before the work, whole or not at all."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fimsym.errors import DomainError, UnsupportedError


def check_writable(path: Path, read: Sequence[Path | None] = ()) -> None:
    """Raise DomainError unless a file can be written at `path`, before any work is done.

    Args:
        path: Where to.
        read: Files that are read and must stay.
    """
    for other in read:
        if other is not None and other.exists() and path.exists() and path.samefile(other):
            raise DomainError(
                f"cannot write {str(path)[:200]!r}: it is read as well, and would be lost. Choose "
                "another path."
            )
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
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
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


def optional(module: str) -> Any:
    """Return a module that comes with an extra.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise UnsupportedError(
            f"this needs {name}, which is not installed. Run: pip install {name}."
        ) from None


def save_tensors(
    path: Path, what: str, named: Mapping[str, Mapping[str, Any]], record: Mapping[str, Any]
) -> None:
    """Write tensors as ``quantity/parameter``, and a record, to a safetensors file.

    Args:
        path: Where to; the file is written whole or not at all.
        what: Name of the class that they are of.
        named: Tensors by quantity and parameter.
        record: Whatever else there is, as JSON can hold it.

    Raises:
        DomainError: the path cannot be written.
    """
    tensors = {
        f"{quantity}/{name}": tensor.contiguous()
        for quantity, of_parameters in named.items()
        for name, tensor in of_parameters.items()
    }
    save_file = optional("safetensors.torch").save_file
    metadata = {"fimsym": json.dumps(record), "of": what, "order": json.dumps(list(tensors))}
    with draft(path) as place:
        save_file(tensors, str(place), metadata=metadata)
        place.chmod(0o666 & ~_mask())


def _mask() -> int:
    """Return what the user takes away from the permissions of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_tensors(path: Path, what: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return the tensors by quantity and parameter, and the record, that `save_tensors` wrote.

    Args:
        path: The file.
        what: Name of the class that they are of.

    Raises:
        DomainError: the file cannot be read, or is of something else.
    """
    safetensors = optional("safetensors")
    named: dict[str, dict[str, Any]] = {}
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != what:
                found = f"an {metadata['of']}" if "of" in metadata else "other tensors"
                raise ValueError(f"it holds {found}")
            for key in json.loads(metadata["order"]):
                quantity, _, name = key.partition("/")
                named.setdefault(quantity, {})[name] = file.get_tensor(key)
            return named, json.loads(metadata["fimsym"])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise DomainError(
            f"cannot read {path} as a saved {what} ({error}). Expected a file written by "
            f"{what}.save."
        ) from None
