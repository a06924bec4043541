"""Documents that run: every code block of the README. The derivations have their own tests."""

import contextlib
import io
import itertools
import re
from pathlib import Path

import fimsym
from fimsym.derivation.record import pretty

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_examples_print_what_they_say():
    blocks = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, re.DOTALL)
    assert blocks
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {})
        assert printed.getvalue() == expected


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
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_notation_names_every_identifier():
    text = (ROOT / "docs/notation.md").read_text()
    for name in ("fisher", "variance_score_squared", "variance_negative_hessian", "covariance"):
        assert f"`{name}`" in text
