"""Uses of the Fisher diagonal: every file of docs/uses runs to its assertions, and is listed."""

import contextlib
import io
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs/uses"
FILES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_use_ends_in_its_conclusion(path):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(path))
    assert printed.getvalue().splitlines()[-1].endswith(".")
    assert path.read_text().splitlines()[-1].startswith("assert ")


def test_every_use_is_listed_and_short():
    text = (FOLDER / "README.md").read_text()
    assert len(FILES) == 4
    for path in FILES:
        assert f"({path.name})" in text
        assert len(path.read_text().splitlines()) <= 100
