"""The registry, and the parity of everything that exists once per family."""

import dataclasses
from pathlib import Path

import pytest

import fimsym
from fimsym.errors import DomainError, SpecError
from fimsym.families import Constant, Family
from fimsym.validation.tasks import TASKS
from tests.cases import CASES
from tests.reference import enumeration, highprecision

ROOT = Path(__file__).parent.parent


def test_every_family_has_module_case_oracles_task_and_docs_row():
    names = set(fimsym.families())
    modules = {path.stem for path in (ROOT / "fimsym/generated").glob("*.py")} - {"__init__"}
    rows = {
        line.split("|")[1].strip(" `")
        for line in (ROOT / "docs/families.md").read_text().split("\n## ")[0].splitlines()
        if line.startswith("| `")
    }
    assert modules == names
    assert set(CASES) == names
    assert set(highprecision.LOG_PARTITIONS) == names
    assert set(enumeration.LAWS) == names
    assert set(TASKS) == names
    assert rows == names


def test_every_link_is_documented():
    text = (ROOT / "docs/families.md").read_text()
    for name in fimsym.families():
        for link in fimsym.family(name).links:
            (row,) = [x for x in text.splitlines() if x.startswith("| `") and f"`{link.name}`" in x]
            assert name in row


def test_unknown_family_names_the_nearest():
    with pytest.raises(SpecError, match="Did you mean 'categorical'"):
        fimsym.family("catagorical")
    with pytest.raises(SpecError, match="a family's name"):
        fimsym.family(3)


def test_specifications_are_frozen_and_hashable():
    spec = fimsym.family("gaussian")
    assert isinstance(spec, Family)
    assert fimsym.family(spec) is spec
    assert isinstance(hash(spec), int)
    with pytest.raises(AttributeError):
        spec.name = "other"


@pytest.mark.parametrize(
    "change",
    [{"axis": "i"}, {"axis": "sigma"}, {"name": "../x y"}, {"constants": (Constant("u", ""),)}],
)
def test_names_that_clash_are_refused(change):
    with pytest.raises(SpecError):
        dataclasses.replace(fimsym.family("gaussian"), **change)


@pytest.mark.parametrize("sigma", [0, -1, float("nan"), float("inf"), "wide", None])
def test_constants_must_be_positive(sigma):
    with pytest.raises(DomainError, match="sigma must be a positive finite number"):
        fimsym.family("gaussian").bind({"sigma": sigma})


def test_unknown_constant_is_named():
    with pytest.raises(SpecError, match=r"not a constant of gaussian.*Did you mean 'sigma'"):
        fimsym.family("gaussian").bind({"sigm": 1.0})
    with pytest.raises(SpecError, match="not a constant of categorical"):
        fimsym.family("categorical").bind({"sigma": 1.0})
