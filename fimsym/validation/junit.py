"""A validation as JUnit XML, which continuous integration shows."""

from __future__ import annotations

from xml.etree import ElementTree

from fimsym.validation import table
from fimsym.validation.result import Validation
from fimsym.validation.verdict import ModelReport


def junit(validation: Validation) -> str:
    """Return one test suite for each subject, with a case for each row, check and fit."""
    root = ElementTree.Element("testsuites", name="fimsym validate")
    suites = [_suite(model) for model in validation.models]
    together = ElementTree.Element("testsuite", name="all z-scores")
    for fit in validation.fits:
        _case(together, f"N(0, 1).{fit.quantity}", fit.agrees, " ".join(table.fit_row(fit)))
    for suite in (*suites, together):
        cases = suite.findall("testcase")
        suite.set("tests", str(len(cases)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
        root.append(suite)
    for count in ("tests", "failures"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(model: ModelReport) -> ElementTree.Element:
    name = f"{model.description.family}.{model.description.name}"
    suite = ElementTree.Element("testsuite", name=name)
    for c in model.comparisons:
        text = f"{' '.join(table.row(c))}; {table.power(c)}"
        _case(suite, f"{c.layer}.{c.quantity}", c.agrees, text)
    for check in model.checks:
        _case(suite, f"check.{check.name}", check.passes, table.check_in_words(check))
    for fit in model.fits:
        _case(suite, f"N(0, 1).{fit.quantity}", fit.agrees, " ".join(table.fit_row(fit)))
    return suite


def _case(suite: ElementTree.Element, name: str, passes: bool, text: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=suite.get("name", ""), name=name)
    if passes:
        ElementTree.SubElement(case, "system-out").text = text
    else:
        ElementTree.SubElement(case, "failure", message="disagrees").text = text
