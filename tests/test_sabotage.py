"""Planted defects: all of them can be planted, and a few of each kind are caught."""

import ast

import pytest

from benchmarks import sabotage

DEFECTS = {defect.title: defect for defect in sabotage.all_defects()}
QUICK = ("sign of Cov", "a sampler that is not the density's law")


def test_there_are_enough_defects_of_every_part():
    assert len(DEFECTS) >= 30
    where = {defect.where for defect in DEFECTS.values()}
    assert {"generated", "engine", "families", "special", "runtime", "validation"} <= where


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_can_be_planted(defect):
    for path, text in sabotage.planted(defect).items():
        assert text != (sabotage.PACKAGE / path).read_text()
        ast.parse(text)


@pytest.mark.parametrize("title", QUICK)
def test_a_defect_is_caught(monkeypatch, title):
    monkeypatch.setitem(sabotage.OPTIONS, "output_samples", 20_000)
    monkeypatch.setitem(sabotage.OPTIONS, "samples", 2000)
    found = sabotage.outcome(DEFECTS[title])
    assert found.caught, found
    assert found.by


def test_the_document_names_defects_that_there_are():
    document = (sabotage.PACKAGE.parent / "docs/sabotage.md").read_text()
    rows = [line.split(" | ") for line in document.splitlines() if line.startswith("| ")][1:]
    assert rows
    assert {row[3] for row in rows} <= set(DEFECTS)
    assert "NOT CAUGHT" not in document
