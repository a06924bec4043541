"""`fimsym analyze`: models, weights and data from files."""

import json
import pickle

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

import fimsym
from fimsym.cli import main
from fimsym.cli.failures import with_options

SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

def broken():
    raise ValueError("no data here")

class Failing(nn.Linear):
    def __init__(self, fail):
        super().__init__(4, 3)
        self.fail = fail

    def forward(self, x):
        self.fail(x)

def strict():
    return Failing(lambda x: {}["five columns"])

def opening():
    return Failing(lambda x: open("no such file"))

def leaving():
    return Failing(lambda x: exit(0))

def dropping():
    return Failing(lambda x: nn.functional.dropout(x, 2.0))

number = 3
ready = make()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(SOURCE)
    inputs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=np.array([0, 1, 2, 0, 1, 2, 0]))
    np.save(tmp_path / "data.npy", inputs)
    np.savetxt(tmp_path / "data.csv", inputs, delimiter=",", header="a,b,c,d")
    torch.save({"x": torch.from_numpy(inputs)}, tmp_path / "data.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main, ["analyze", *map(str, arguments)])


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("data", ["data.npz", "data.npy", "data.csv", "data.pt"])
def test_every_kind_of_file_gives_the_call_in_python(folder, data):
    shown = run("--model", "my_nets:make", "--data", data, "--family", "categorical", "--json")
    assert shown.exit_code == 0, shown.output
    record = json.loads(shown.output)
    expected = fimsym.analyze(network(), np.load("data.npy"), "categorical", progress=False)
    for group, row in zip(expected.groups, record["groups"], strict=True):
        assert row["fisher"] == pytest.approx(group.sums["fisher"], rel=1e-5)
    assert record["inputs"] == 7


def test_weights_link_constants_and_output(folder):
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(2)
    save_file(model.state_dict(), "weights.safetensors")
    torch.save(model.state_dict(), "weights.pt")
    expected = fimsym.analyze(
        model, np.load("data.npy"), "gaussian", "mean", sigma=0.5, quantities="all", progress=False
    )
    for weights in ("weights.safetensors", "weights.pt"):
        # Labels of the file are classes, which do not fit three Gaussian outputs.
        shown = run(
            "--model", "my_nets:ready", "--weights", weights, "--data", "data.npz", "--quantities",
            "all", "--family", "gaussian", "--link", "mean", "--constant", "sigma=0.5",
            "--output", "out.safetensors",
        )  # fmt: skip
        assert shown.exit_code == 0, shown.output
        assert "wrote out.safetensors" in shown.output
        found = fimsym.Analysis.load("out.safetensors")
        torch.testing.assert_close(found.fisher["0.weight"], expected.fisher["0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "my_nets"}, "package.module:factory"),
        ({"--model": "my_net:make"}, "cannot import 'my_net'"),
        ({"--model": "my_nets:mak"}, "Did you mean 'make'"),
        ({"--model": "my_nets:broken"}, "no data here"),
        ({"--model": "my_nets:strict"}, "model failed: KeyError: 'five columns', in "),
        ({"--model": "my_nets:opening"}, "file or directory: 'no such file', in "),
        ({"--model": "my_nets:leaving"}, "model failed: SystemExit: 0, in "),
        ({"--model": "my_nets:dropping"}, "my_nets.py, line "),
        ({"--model": "my_nets:number"}, "without arguments failed"),
        ({"--family": "categoricl"}, "Did you mean 'categorical'"),
        ({"--link": "probit"}, "not a link of categorical"),
        ({"--constant": "sigma"}, "--constant NAME=VALUE"),
        ({"--data": "missing.npz"}, "cannot read missing.npz"),
        ({"--data": "nan.npy"}, "row 2 is not"),
        ({"--data": "text.npz"}, "cannot read text.npz"),
        ({"--weights": "evil.pt"}, "cannot read tensors from evil.pt"),
        ({"--weights": "other.pt"}, "do not fit the model"),
        ({"--quantities": "fischer"}, "fisher"),
        ({"--quantities": "bounds"}, "such as --quantities fisher,bounds."),
        ({"--max-memory": "lots"}, "Error: --max-memory must be a positive size"),
        ({"--output": "missing/out.safetensors"}, "no folder missing"),
        ({"--output": "data.npz"}, "it is read as well"),
        ({"--output": "other.pt", "--weights": "./other.pt"}, "it is read as well"),
        ({"--output": "out.npz"}, "expected out.safetensors"),
        (
            {"--weights": "checkpoint.pt"},
            "got dict of state_dict, epoch. Save the state dict alone",
        ),
        ({"--weights": "whole.pt"}, "more than tensors, such as a whole module"),
        ({"--data": "data.npz", "--quantities": "empirical", "--family": "gaussian"}, "column"),
    ],
)
def test_mistakes_exit_with_2_and_no_traceback(folder, change, message):
    bad = np.load("data.npy")
    bad[2, 1] = np.nan
    np.save("nan.npy", bad)
    (folder / "text.npz").write_text("no archive")
    torch.save({"0.weight": torch.ones(2, 2)}, "other.pt")
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, "checkpoint.pt")
    torch.save(network(), "whole.pt")

    class Evil:
        def __reduce__(self):
            return (open, (str(folder / "planted"), "w"))

    (folder / "evil.pt").write_bytes(pickle.dumps(Evil()))
    options = {"--model": "my_nets:make", "--data": "data.npz", "--family": "categorical", **change}
    shown = run(*[part for pair in options.items() for part in pair])
    assert shown.exit_code == 2, shown.output
    assert message in shown.output
    assert "Traceback" not in shown.output
    assert not (folder / "planted").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("and pass link='log_rate'.", "and pass --link log_rate."),
        ('take second_derivative="stochastic"', "take --second-derivative stochastic"),
        ('quantities=("fisher", "bounds")', "--quantities fisher,bounds"),
        ("return h with link=None.", "return h without --link."),
        ("got probes=1", "got --probes 1"),
        ("seed must be from 0", "--seed must be from 0"),
        ("a seed, a link and its data", "a seed, a link and its data"),
        ("--max-memory is max_memory", "--max-memory is --max-memory"),
    ],
)
def test_arguments_are_named_as_options(text, shown):
    assert with_options(text, main.commands["analyze"]) == shown
    assert with_options(text, None) == text


def test_help_is_no_failure_wherever_the_libraries_are(monkeypatch):
    monkeypatch.setattr("fimsym.cli.failures._is_own", lambda path: True)
    assert run("--help").exit_code == 0
    assert "no such option" in run("--bogus").output.lower()


def test_mistakes_of_the_package_itself_keep_their_traceback(folder, monkeypatch):
    monkeypatch.setattr("fimsym.engine.run.check_outputs", None)
    with pytest.raises(TypeError, match="not callable"):
        CliRunner().invoke(
            main,
            ["analyze", "--model=my_nets:make", "--data=data.npy", "--family=categorical"],
            catch_exceptions=False,
        )


CONVOLUTION = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)
    )
"""


def test_estimated_second_derivatives_write_their_standard_errors(folder):
    (folder / "my_convolution.py").write_text(CONVOLUTION)
    given = ["--model", "my_convolution:make", "--data", "data.npy", "--family", "categorical"]
    given += ["--quantities", "all", "--second-derivative", "stochastic", "--probes", "4"]
    shown = run(*given, "--seed", "3", "--output", "out.safetensors")
    assert shown.exit_code == 0, shown.output
    errors = fimsym.Analysis.load("out.safetensors").standard_errors
    assert "estimated from random probes" in shown.output
    record = json.loads(run(*given, "--seed", "3", "--json").output)
    assert record["estimated"] == ["variance_negative_hessian", "covariance"]
    assert errors["variance_negative_hessian"]["1.weight"].all()
    assert not errors["covariance"]["4.weight"].any()
    assert record["groups"][0]["covariance_standard_error"] > 0
    refused = run(*given[:-1], "1")
    assert refused.exit_code == 2
    assert "at least 2" in refused.output


def test_labels_of_a_file_give_the_empirical_fisher(folder):
    given = ("--model", "my_nets:make", "--family", "categorical", "--quantities")
    asked = "fisher,empirical"
    shown = run(*given, asked, "--data", "data.npz", "--json")
    record = json.loads(shown.output)
    with np.load("data.npz") as file:
        pair = file["inputs"], file["labels"]
    expected = fimsym.analyze(network(), pair, "categorical", quantities=asked.split(","))
    found = [group["empirical"] for group in record["groups"]]
    assert np.allclose(found, [group.sums["empirical"] for group in expected.groups])
    assert record["warnings"] == list(expected.warnings) != []
    shown = run(*given, asked, "--data", "data.npz").output
    assert "warning: entry by entry the empirical Fisher is off" in shown
    refused = run(*given, "empirical", "--data", "data.npy")
    assert refused.exit_code == 2
    assert "needs labels" in refused.output
