"""Finished cells in a folder, so that a run that was ended goes on where it was.

Every cell is a file of its own, written whole or not at all, with a checksum and with the
identity of what it is of. Any number of processes may write to one folder: a cell's numbers
do not depend on who computes it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fimsym.errors import DomainError
from fimsym.report.files import draft
from fimsym.validation.cells import Cell, Found

_SUFFIX = ".cell"
_MAGIC = b"fimsym checkpoint 1 "
_SECONDS = 2.0
"""Cells are kept in memory for so long before they are written."""

Identity = Mapping[str, Any]


class Store:
    """The checkpoint of one run.

    Args:
        folder: Where cells are kept; nowhere if None.
        identities: Returns what the numbers of a cell's subject and stage depend on, None if
            the run has no such subject.
        command: How the run was started, for whoever finds its cells.
    """

    def __init__(
        self,
        folder: Path | None,
        identities: Callable[[Cell], Identity | None],
        command: str,
    ):
        self._folder = folder
        self._identities = identities
        self._command = command
        self._waiting: dict[Cell, Found] = {}
        self._written = time.monotonic()
        if folder is not None:
            _check_folder(folder)

    def load(self) -> dict[Cell, Found]:
        """Return the cells that are there.

        Raises:
            DomainError: a file is damaged, or of another run.
        """
        if self._folder is None or not self._folder.is_dir():
            return {}
        return dict(self._read(path) for path in sorted(self._folder.glob(f"*{_SUFFIX}")))

    def add(self, cell: Cell, found: Found) -> None:
        """Keep a cell; it is written within seconds.

        Raises:
            DomainError: it cannot be written.
        """
        if self._folder is None:
            return
        self._waiting[cell] = found
        if time.monotonic() - self._written > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits to be written.

        Raises:
            DomainError: it cannot be written.
        """
        if self._folder is not None and self._waiting:
            _make(self._folder)
            for cell in list(self._waiting):
                self._write(self._folder, cell, self._waiting[cell])
                del self._waiting[cell]
        self._written = time.monotonic()

    def _write(self, folder: Path, cell: Cell, found: Found) -> None:
        head = {
            "identity": self._identities(cell),
            "command": self._command,
            "cell": dataclasses.asdict(cell),
            "gaps": {k: g if math.isfinite(g) else None for k, g in found.gaps.items()},
            "arrays": {name: list(array.shape) for name, array in found.arrays.items()},
        }
        parts = [json.dumps(head).encode(), b"\n"]
        parts += [np.ascontiguousarray(array).tobytes() for array in found.arrays.values()]
        body = b"".join(parts)
        subject = cell.subject.replace("/", ".")
        name = f"{subject}.{cell.stage}.{cell.point}.{cell.start}-{cell.stop}{_SUFFIX}"
        try:
            with draft(folder / name) as place, place.open("wb") as file:
                file.write(_MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
                file.flush()
                os.fsync(file.fileno())
        except DomainError as error:
            raise DomainError(
                f"the checkpoint cannot be kept: {error} The cells written so far stay as they "
                "are, and the same command goes on from them once there is room."
            ) from None

    def _read(self, path: Path) -> tuple[Cell, Found]:
        try:
            content = path.read_bytes()
            line, _, body = content.partition(b"\n")
            intact = line == _MAGIC + hashlib.sha256(body).hexdigest().encode()
        except OSError as error:
            raise DomainError(f"cannot read the checkpoint {path}: {error.strerror}.") from None
        if not intact:
            raise DomainError(
                f"{path} is damaged: its checksum does not match. Nothing was changed. Delete "
                "that file, and what it held is computed again."
            )
        text, _, data = body.partition(b"\n")
        head = json.loads(text)
        cell = Cell(**head["cell"])
        self._check(path, cell, head)
        arrays, start = {}, 0
        for name, shape in head["arrays"].items():
            size = math.prod(shape)
            arrays[name] = np.frombuffer(data, np.float64, size, start).reshape(shape)
            start += 8 * size
        gaps = {name: math.inf if gap is None else gap for name, gap in head["gaps"].items()}
        return cell, Found(arrays, gaps)

    def _check(self, path: Path, cell: Cell, head: Mapping[str, Any]) -> None:
        there, here = head["identity"], self._identities(cell)
        if here is None:
            why = f"it holds labels of {cell.subject}, which is not validated here"
        else:
            here = json.loads(json.dumps(here))
            why = "; ".join(
                _told(name, there.get(name), here.get(name))
                for name in {**here, **there}
                if there.get(name) != here.get(name)
            )
        if why:
            raise DomainError(
                f"the checkpoint {path.parent} is of another run: {why}. Nothing was changed. "
                f"Finish that run ({head['command']}), delete the folder, or choose another "
                "with --checkpoint."
            )


def remove(folder: Path) -> None:
    """Delete a checkpoint, once its run is through and what it gave is written."""
    if folder.is_dir():
        for path in [*folder.glob(f"*{_SUFFIX}"), *folder.glob(f".*{_SUFFIX}.*")]:
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _told(name: str, there: Any, here: Any) -> str:
    """Return in words how a part of two identities differs."""
    if all(value is None or len(str(value)) <= 40 for value in (there, here)):
        return f"{name} is {there} there and {here} here"
    return f"{name} differs"


def _check_folder(folder: Path) -> None:
    """Raise DomainError unless a checkpoint can be kept in the folder."""
    if folder.is_dir():
        strangers = [
            path.name
            for path in folder.iterdir()
            if not path.name.endswith(_SUFFIX) and f"{_SUFFIX}." not in path.name
        ]
        if strangers:
            raise DomainError(
                f"{folder} holds {strangers[0]!r}, which is no part of a checkpoint. Choose an "
                "empty folder, or one that does not exist, with --checkpoint."
            )
    elif folder.exists() or folder.is_symlink():
        raise DomainError(f"{folder} is not a folder. Choose another path with --checkpoint.")
    elif not folder.parent.is_dir():
        raise DomainError(f"there is no folder {folder.parent} to keep a checkpoint in. Create it.")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DomainError(
            f"cannot make the folder {folder}: {error.strerror}. Choose another with "
            "--checkpoint, or do without: --no-checkpoint."
        ) from None
