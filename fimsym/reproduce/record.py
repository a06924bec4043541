"""What a figure leaves behind: the numbers as JSON and CSV, the pictures as SVG and PNG."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fimsym.errors import DomainError
from fimsym.report.files import check_writable, draft, write

_PACKAGES = ("torch", "numpy", "matplotlib")
_METADATA: dict[str, Any] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
"""Leaves out what would make two runs of the same numbers differ in bytes."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Every number of a figure and what it was made with.

    Attributes:
        figure: ``"figure-1"`` or ``"figure-2"``.
        settings: Everything the numbers depend on besides the code and versions.
        findings: What the paper reports of it and what came out here, in numbers.
        rows: One record per point of a curve.
    """

    figure: str
    settings: Mapping[str, Any]
    findings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def to_dict(self, command: str, version: str) -> dict[str, Any]:
        """Return plain data for JSON, with the command and versions, of fimsym too."""
        versions = {name: metadata.version(name) for name in _PACKAGES}
        versions |= {"fimsym": version, "python": platform.python_version()}
        return {
            "figure": self.figure,
            "command": command,
            "versions": versions,
            **{
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(self)
                if field.name != "figure"
            },
        }

    def to_csv(self) -> str:
        """Return the rows as a table."""
        text = io.StringIO()
        table = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        return text.getvalue()


def prepare(folder: Path, names: Sequence[str]) -> None:
    """Make a folder for results unless it is there, before the work.

    Args:
        folder: The folder.
        names: Of the files to be written in it.

    Raises:
        DomainError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DomainError(
            f"cannot make the folder {folder}: {error.strerror}. Choose another for --output."
        ) from None
    for name in names:
        check_writable(folder / name)


def names(pictures: Sequence[str], stem: str) -> list[str]:
    """Return the names of all files of a figure, pictures first."""
    drawn = [f"{picture}.{suffix}" for picture in pictures for suffix in _METADATA]
    return [*drawn, f"{stem}.csv", f"{stem}.json"]


def save(folder: Path, stem: str, record: Record, pictures: Mapping[str, Any], text: str) -> None:
    """Write a figure's numbers and pictures, each file whole or not at all.

    Args:
        folder: Where to.
        stem: Name of the files of numbers, without a suffix.
        record: The numbers.
        pictures: Figures of matplotlib by name.
        text: The numbers as JSON.
    """
    from fimsym.reproduce.drawing import style

    with style():
        for name, picture in pictures.items():
            for suffix, given in _METADATA.items():
                with draft(folder / f"{name}.{suffix}") as place:
                    picture.savefig(place, format=suffix, metadata=given)
    write(folder / f"{stem}.csv", record.to_csv())
    write(folder / f"{stem}.json", text + "\n")
