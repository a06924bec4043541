"""Documents that run: every code block of every page. The derivations have their own tests."""

import itertools
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch

import fimsym
from fimsym.derivation.record import pretty
from tests.blocks import Block, blocks, differences, expected, folder, run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    path
    for path in itertools.chain(ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"))
    if any(blocks(path.read_text()))
)


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """Keep seeds, styles, figures and generated modules of a page from the other tests."""
    monkeypatch.setenv("FIMSYM_CACHE", str(tmp_path))
    with mpl.rc_context({"backend": "Agg"}), torch.random.fork_rng(devices=[]), folder():
        yield
    plt.close("all")


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_code_block_runs_and_prints_what_the_page_says(path):
    names: dict = {}
    for block in blocks(path.read_text()):
        if block.silent:
            continue
        printed, shown = run(block, names), expected(block)
        place = f"{path.name}, line {block.line}:"
        if shown is not None:
            assert not differences(shown, printed), f"{place} {differences(shown, printed)}"
        else:
            assert not printed, f"{place} what it prints is not shown:\n{printed}"
    for figure in Path().glob("*.png"):
        assert (ROOT / "docs/_static" / figure.name).exists()
        assert f"_static/{figure.name}" in path.read_text()


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a 1.20", "a   1.21", True),
        ("a 1.20", "a 1.22", False),
        ("a\n…\nb", "a\nx\ny\nb", True),
        ("a\n…\nb", "a\nx", False),
        ("a …", "a few", True),
        ("a", "a\nb", False),
        ("1,797 inputs", "1797 inputs", True),
        ("2e-05 big", "3e-05 big", True),
        ("2e-05 big", "2e-04 big", False),
    ],
)
def test_what_is_printed_is_compared(shown, printed, same):
    assert (differences(shown, printed) == "") is same


@pytest.mark.parametrize(
    "block",
    [
        Block("unnamed", "x", 1),
        Block("indented", "x", 1),
        Block("sh", "make nonsense", 1),
        Block("sh", "pip install -e '.[nonsense]'", 1),
        Block("sh", "rm -r nothing", 1),
        Block("console", "no command", 1),
    ],
    ids=lambda block: f"{block.language} {block.code}",
)
def test_a_block_that_nobody_can_run_is_found(block):
    with pytest.raises(AssertionError):
        run(block, {})


def test_readme_shows_the_formulas_as_they_are_derived():
    (shown,) = re.findall(r"```text\n(  F\(h\) =.*?)```", README, re.DOTALL)
    derived = pretty(fimsym.derive("categorical"))
    assert shown.rstrip() in derived


def test_readme_shows_the_table_that_validate_prints():
    from fimsym.validation.table import HEADER, NAMES

    (table,) = re.findall(r"```text\n(digits, .*?)```", README, re.DOTALL)
    for word in (*HEADER, *NAMES.values()):
        assert word in table


def test_links_in_documents_exist():
    pages = (ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"), (ROOT / "derivations").glob("*.md"))
    for path in itertools.chain(*pages):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_notation_names_every_identifier():
    text = (ROOT / "docs/notation.md").read_text()
    for name in ("fisher", "variance_score_squared", "variance_negative_hessian", "covariance"):
        assert f"`{name}`" in text
