"""What a validation tells: JSON, JUnit XML, the page, and the words."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import fimsym
from fimsym.cli import main
from fimsym.report import plots
from fimsym.validation import table
from fimsym.validation.junit import junit
from fimsym.validation.page import page
from fimsym.validation.verdict import CHECKS

SMALL = {"samples": 3000, "inputs": 2, "output_samples": 100_000, "progress": False}
SCHEMA = Path(fimsym.__file__).parent / "report" / "validation.schema.json"


@pytest.fixture(scope="module")
def agreed():
    return fimsym.validate(["poisson", "gaussian"], **SMALL)


@pytest.fixture(scope="module")
def disagreed():
    module = fimsym.evaluator("poisson")
    true = module.moments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "moments", lambda h, u, v=None: true(h, 1.1 * u, v))
        return fimsym.validate("poisson", **SMALL)


@pytest.fixture(scope="module")
def schema():
    text = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(text)
    return jsonschema.Draft202012Validator(text)


@pytest.mark.parametrize("which", ["agreed", "disagreed"])
def test_the_record_is_as_the_schema_says(request, schema, which):
    result = request.getfixturevalue(which)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    schema.validate(record)
    assert record["agrees"] is (which == "agreed")
    assert {m["kind"] for m in record["models"]} == {"law", "link", "network"}


def test_the_schema_knows_every_field_and_allows_no_other(schema, agreed):
    record = json.loads(json.dumps(agreed.to_dict()))
    places = [record, record["models"][0], record["models"][0]["comparisons"][0],
              record["models"][0]["checks"][0], record["z_scores"][0]]  # fmt: skip
    for place in places:
        for key in list(place):
            kept = place.pop(key)
            assert not schema.is_valid(record), key
            place[key] = kept
        place["surplus"] = 1
        assert not schema.is_valid(record)
        del place["surplus"]
    assert schema.is_valid(record)
    text = SCHEMA.read_text()
    for name in (*CHECKS, *table.NAMES):
        assert f'"{name}"' in text


def test_junit_has_a_case_for_every_row_check_and_fit(agreed, disagreed):
    for result in (agreed, disagreed):
        root = ElementTree.fromstring(junit(result))
        cases = root.findall(".//testcase")
        expected = sum(
            len(m.comparisons) + len(m.checks) + len(m.fits) for m in result.models
        ) + len(result.fits)
        assert len(cases) == expected == int(root.get("tests"))
        failures = [case for case in cases if case.find("failure") is not None]
        assert len(failures) == int(root.get("failures"))
        assert bool(failures) is not result.agrees
        names = [(case.get("classname"), case.get("name")) for case in cases]
        assert len(set(names)) == len(names)
    failed = {case.get("name") for case in failures}
    assert {"all.fisher_score_squared", "all.variance_score_squared", "check.sums"} <= failed


def test_the_page_says_the_verdict_first_and_asks_for_nothing(agreed, disagreed):
    for result, verdict in ((agreed, "agreed"), (disagreed, "disagreed")):
        text = page(result, "fimsym validate <poisson>")
        assert text == page(result, "fimsym validate <poisson>")
        assert text.index(f">{verdict}: ") < text.index("<table")
        assert "fimsym validate &lt;poisson&gt;" in text
        links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)|url\(([^)]+)\)|@import""", text)
        assert all((a or b).startswith(("#", "data:")) for a, b in links)
        assert "<script" not in text
        assert "What was not tested" in text
        for sentence in result.untested:
            assert sentence.partition("'")[0] in text
        for name in ("torch", "NumPy", "seed", "Philox"):
            assert name in text
    assert "Not so: closed forms are the sums over all labels" in text


def test_the_page_has_the_z_scores_of_all_and_of_each_network(agreed):
    text = page(agreed, "")
    networks = [m for m in agreed.models if m.description.kind == "network"]
    assert text.count("<svg") == 2 + 3 * len(networks)
    boxes = re.findall(r"<rect[^>]*>", text)
    assert all("width=" in box and "height=" in box for box in boxes)


def test_power_is_stated_in_words(agreed):
    model = agreed.models[0]
    rows = {c.quantity: c for c in model.comparisons}
    row = rows["variance_score_squared"]
    assert table.power(row) == (
        f"An error of {row.detectable:.2%} or more in V₁ of layer all would have been caught with "
        "probability 0.99."
    )
    gaussian = next(m for m in agreed.models if m.description.family == "gaussian")
    zero = next(c for c in gaussian.comparisons if c.quantity == "covariance")
    assert math.isinf(zero.detectable)
    assert table.power(zero) == ""
    words = table.weakest(agreed)
    worst = max(
        c.detectable for m in agreed.models if m.description.kind != "link"
        for c in m.comparisons if table.power(c)
    )  # fmt: skip
    assert words.startswith(
        f"An error of {worst:.2%} or more in any row of a law or network, or of"
    )
    assert words.count("probability 0.99") == 1


def test_a_rejected_row_is_named(disagreed):
    words = table.summary(disagreed)
    assert "row(s) rejected: I  (mean of Î₁) of poisson, random h, u, v, all" in words
    assert "not closed forms are the sums over all labels" in words


def run(*arguments):
    given = ("--samples", "2000", "--inputs", "2", "--output-samples", "20000", "--no-checkpoint")
    return CliRunner().invoke(main, ["validate", *arguments, *given])


def test_few_subjects_are_printed_in_full_and_many_as_an_overview(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run("exponential")
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("closed form") == 5
    assert "labels from" not in shown.output
    shown = run("exponential", "geometric", "--no-report")
    assert "labels from" in shown.output
    assert "closed form " not in shown.output
    assert (tmp_path / "fimsym-validation.html").exists()


def test_the_command_writes_what_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = run("geometric", "--report", "a.html", "--junit", "a.xml", "-o", "a.safetensors")
    assert shown.exit_code == 0, shown.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.safetensors", "a.xml"]
    assert re.search(r"^agreed: [\d,]+ tests", shown.output, re.MULTILINE)
    assert "would have been caught with probability 0.99" in shown.output


def test_quantiles_of_normal_scores_lie_on_the_line():
    z = np.random.default_rng(0).standard_normal(5000)
    figure = plots.z_quantiles({"covariance": z.tolist(), "fisher": [0.1]}, "title")
    points = figure.axes[0].lines[0].get_xydata()
    assert len(points) == 400
    middle = points[np.abs(points[:, 0]) < 1.5]
    assert np.abs(middle[:, 0] - middle[:, 1]).max() < 0.1
    assert plots.svg(figure).startswith("<svg")
