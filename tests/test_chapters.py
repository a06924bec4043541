"""The derivations: every chapter runs, is laid out alike, and fails when a formula is wrong."""

import ast
import dataclasses
import functools
import os
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import jupytext
import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

import fimsym
from fimsym.derivation import Derivation
from fimsym.errors import DerivationError

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "derivations").glob("[0-9]*.py"))
LINES = 15
LAST = "## The code that is generated"

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True, scope="module")
def surroundings(tmp_path_factory):
    """Draw into memory, and keep the modules of families in files away from the user's."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("FIMSYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        backend = mpl.get_backend()
        mpl.use("Agg")
        yield
        plt.close("all")
        mpl.use(backend)


@dataclasses.dataclass
class Run:
    """What a chapter left behind: its names, and the labels of each panel of its figures."""

    names: dict
    panels: list


@functools.cache
def run(path):
    plt.close("all")
    with mpl.rc_context():
        names = runpy.run_path(str(path))
        figures = [plt.figure(number) for number in plt.get_fignums()]
        for figure in figures:
            figure.canvas.draw()  # a label that matplotlib cannot set is an error
        panels = [axes for figure in figures for axes in figure.axes]
    plt.close("all")
    return Run(names, panels)


@functools.cache
def cells(path):
    return jupytext.read(path).cells


def final_code(path):
    """Return the code cells of the last section."""
    found = cells(path)
    start = next(n for n, cell in enumerate(found) if cell.source.startswith(LAST))
    return [cell.source for cell in found[start:] if cell.cell_type == "code"]


@each_chapter
def test_chapter_runs_and_draws(path):
    ran = run(path)
    assert ran.panels
    assert any(axes.has_data() for axes in ran.panels)


@each_chapter
def test_chapter_is_laid_out_like_the_others(path):
    found = cells(path)
    texts = [cell.source for cell in found if cell.cell_type == "markdown"]
    for cell in found:
        lines = cell.source.count("\n") + 1
        assert lines <= LINES, f"{lines} lines, at most {LINES}:\n{cell.source}"
        if "plt.subplots" in cell.source or "plt.figure" in cell.source:
            shown = ast.parse(cell.source).body[-1]
            assert not isinstance(shown, ast.Expr), "shows an artist's address"
    titles = [line for text in texts for line in text.splitlines() if line.startswith("# ")]
    assert found[0].source.startswith("# ")
    assert len(titles) == 1
    assert re.search(r"\*\*(Theorem|Lemma|Remark)", "\n".join(texts))
    assert any(text.startswith("## The picture") for text in texts) or path.stem.startswith("05")
    sections = [text for text in texts if text.startswith("## ")]
    assert sections[-1].startswith(LAST)
    assert found[-1].cell_type == "code"
    assert re.search(r"^\s*(assert |[\w.]+\.prove\()", found[-1].source, re.MULTILINE)


def test_the_table_of_contents_names_every_chapter():
    contents = (ROOT / "derivations/README.md").read_text()
    assert re.findall(r"^\| \[\d\d\]\((.*?)\)", contents, re.MULTILINE) == [
        path.name for path in CHAPTERS
    ]


def test_every_family_has_its_chapter():
    sources = "".join(path.read_text() for path in CHAPTERS)
    for name in fimsym.families():
        assert f'"{name}"' in sources, name


@each_chapter
def test_formulas_of_a_chapter_are_closed(path):
    for cell in cells(path):
        if cell.cell_type != "markdown":
            continue
        displayed = re.findall(r"\$\$(.*?)\$\$", cell.source, re.DOTALL)
        rest = re.sub(r"\$\$.*?\$\$", "", cell.source, flags=re.DOTALL)
        assert rest.count("$") % 2 == 0, cell.source
        for formula in (*displayed, *re.findall(r"\$([^$]+)\$", rest)):
            assert formula.count("{") == formula.count("}"), formula
            assert formula.count(r"\begin") == formula.count(r"\end"), formula
            assert formula.count(r"\left") == formula.count(r"\right"), formula
            assert "\n\n" not in formula, formula


def planted(value):
    """Return a value with each derivation's program wrong by two percent in V₁."""
    if isinstance(value, Derivation):
        wrong = tuple(
            dataclasses.replace(line, expression=1.02 * line.expression)
            if line.name in ("variance_score_squared", "quartic_max")
            else line
            for line in value.program
        )
        return dataclasses.replace(value, program=wrong)
    if isinstance(value, tuple | list):
        return type(value)(map(planted, value))
    return value


def functions_in(names):
    """Return the names with functions that look them up in the copy, not in the original."""
    copied = dict(names)
    for name, value in names.items():
        own = isinstance(value, types.FunctionType) and value.__module__ == names["__name__"]
        if own and not value.__closure__:
            copied[name] = types.FunctionType(value.__code__, copied, name)
    return copied


def execute(sources, names):
    for source in sources:
        exec(compile(source, "chapter", "exec"), names)


@each_chapter
def test_a_wrong_program_fails_the_end_of_every_chapter(path, monkeypatch):
    names = functions_in(run(path).names)
    execute(final_code(path), dict(names))  # passes as it is
    derive = fimsym.derive
    monkeypatch.setattr(fimsym, "derive", lambda family: planted(derive(family)), raising=False)
    wrong = {name: planted(value) for name, value in names.items()}
    with pytest.raises((DerivationError, AssertionError)):
        execute(final_code(path), wrong)


@each_chapter
def test_code_that_differs_from_the_derivation_fails_every_chapter(path, monkeypatch):
    generate = fimsym.generate
    stale = lambda family: generate(family).replace("fisher", "fishes", 1)  # noqa: E731
    monkeypatch.setattr(fimsym, "generate", stale, raising=False)
    with pytest.raises(AssertionError):
        execute(final_code(path), dict(run(path).names))


WRONG = {
    "01 a moment": ("01", "- moment(2, 0) ** 2", "- 2 * moment(2, 0) ** 2"),
    "02 the theorem": ("02", '": 2 * fisher**2', '": 3 * fisher**2'),
    "03 a power": ("03", "(centred(u) ** 2 - fisher) ** 2", "(centred(u) ** 2 - fisher) ** 4"),
    "06 a sum": ("06", "(between_ + within_ / n) / inputs", "(between_ + within_) / inputs"),
    "07 a degree": ("07", '"variance_score_squared": 4,', '"variance_score_squared": 2,'),
    "08 a sign": ("08", "2 * c * third", "-2 * c * third"),
    "13 a coefficient": ("13", "6 * LogBessel(1, 2, r)", "5 * LogBessel(1, 2, r)"),
}


@pytest.mark.parametrize(("chapter", "right", "wrong"), WRONG.values(), ids=WRONG)
def test_a_changed_line_changes_the_verdict(chapter, right, wrong):
    (path,) = (path for path in CHAPTERS if path.stem.startswith(chapter))
    found = [cell.source for cell in cells(path) if cell.cell_type == "code"]
    assert any(right in source for source in found)
    with mpl.rc_context(), pytest.raises((DerivationError, AssertionError)):
        execute([source.replace(right, wrong) for source in found], {})
    plt.close("all")


def test_an_evaluator_that_is_wrong_fails_the_numbers(monkeypatch):
    (path,) = (path for path in CHAPTERS if path.stem.startswith("13"))
    module = fimsym.evaluator("von_mises")
    moments = module.moments

    def scaled(*arguments):
        found = moments(*arguments)
        variance = 1.02 * found.variance_score_squared
        return dataclasses.replace(found, variance_score_squared=variance)

    monkeypatch.setattr(module, "moments", scaled)
    with mpl.rc_context(), pytest.raises(AssertionError, match="not close"):
        execute([cell.source for cell in cells(path) if cell.cell_type == "code"], {})
    plt.close("all")


def notebooks(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "derivations", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env=dict(os.environ), check=False,
    )  # fmt: skip


def test_notebooks_are_written_with_their_results(tmp_path):
    done = notebooks("02", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "wrote 1 notebooks" in done.stdout
    book = nbformat.read(tmp_path / "02_gaussian.ipynb", as_version=4)
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert all(output.output_type != "error" for output in outputs)
    shown = {kind for output in outputs for kind in output.get("data", ())}
    assert {"image/png", "text/latex"} <= shown


def test_a_chapter_that_does_not_exist_is_named():
    done = notebooks("99")
    assert done.returncode == 1
    assert "no chapter begins with 99; there are 01_exponential_families" in done.stderr
    assert "Traceback" not in done.stderr
