"""`fimsym estimate` and `fimsym plan`, as a user types them."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import fimsym
from fimsym.cli import main

SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
"""
SHARED = ("--model", "own_nets:make", "--data", "data.npz", "--family", "categorical")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(SOURCE)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=x, labels=rng.integers(3, size=60))
    np.savez(tmp_path / "bare.npz", inputs=x)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def data():
    return np.load("data.npz")["inputs"]


@pytest.mark.parametrize(
    "options",
    [
        (), ("--estimator", "mixed", "--target", "0.05"), ("--estimator", "empirical"),
        ("--estimator", "gaussian_probe", "--labels-per-input", "4", "--seed", "3"),
        ("--estimator", "exact", "--random-inputs"), ("--groups", "parameter"),
    ],
    ids=str,
)  # fmt: skip
def test_the_command_gives_the_call_in_python(folder, options):
    shown = run("estimate", *SHARED, *options, "--json", "-o", "out.safetensors")
    assert shown.exit_code == 0, shown.output
    record = json.loads(shown.output)
    given = dict(zip(options[::2], options[1::2], strict=False))
    expected = fimsym.estimate(
        model(), (data(), np.load("data.npz")["labels"]), "categorical",
        given.get("--estimator", "score_squared"), int(given.get("--labels-per-input", 1)),
        float(given["--target"]) if "--target" in given else None, int(given.get("--seed", 0)),
        groups=given.get("--groups", "layer"), random_inputs="--random-inputs" in options,
        progress=False,
    )  # fmt: skip
    for group, row in zip(expected.groups, record["groups"], strict=True):
        assert row["fisher"] == pytest.approx(group.fisher, rel=1e-6)
        assert row["relative_error"] == pytest.approx(group.relative_error, rel=1e-5, abs=1e-9)
    assert record["labels_per_input"] == expected.labels_per_input
    kept = fimsym.Estimate.load("out.safetensors")
    for name, value in expected.standard_error.items():
        torch.testing.assert_close(kept.standard_error[name], value, rtol=1e-5, atol=1e-12)
    table = run("estimate", *SHARED, *options)
    assert table.output == f"{expected!r}\n"


def test_a_target_that_is_not_reached_exits_with_1(folder):
    shown = run("estimate", *SHARED, "--target", "0.001", "--max-labels", "4")
    assert shown.exit_code == 1, shown.output
    assert "was not reached with 4 draws per input" in shown.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--target", "0"), "positive number"),
        (("--labels-per-input", "0"), "at least 1"),
        (("--estimator", "squared"), "expected one of score_squared"),
        (("--confidence", "2"), "less than 1"),
        (("--constant", "sigma=1"), "not a constant of categorical"),
        (("--estimator", "empirical", "--data", "bare.npz"), "expected (inputs, labels)"),
        (("-o", "nowhere/out.safetensors"), "there is no folder"),
        (("--device", "nonsense"), "--device must be"),
    ],
)
def test_bad_input_exits_with_2_and_says_why(folder, arguments, says):
    shown = run("estimate", *SHARED, *arguments)
    assert shown.exit_code == 2
    assert "Error: " in shown.output
    assert says in shown.output
    assert "Traceback" not in shown.output


def test_plan_prints_a_table_and_json(folder):
    expected = fimsym.plan(model(), data(), "categorical", relative_error=0.3, progress=False)
    shown = run("plan", *SHARED, "--relative-error", "0.3", "--json")
    assert shown.exit_code == 0, shown.output
    record = json.loads(shown.output)
    assert record["recommended"] == expected.recommended
    assert record["labels_per_input"] == expected.labels_per_input
    assert record["insights"] == list(expected.insights)
    table = run("plan", *SHARED, "--relative-error", "0.3")
    assert table.exit_code == 0
    assert table.output.count("← fewest passes") == 2
    assert expected.sentence in table.output
    for words in (*expected.options, *expected.insights, "Chebyshev"):
        assert words in table.output
    bad = run("plan", *SHARED, "--relative-error", "-1")
    assert bad.exit_code == 2
    assert "positive number" in bad.output
