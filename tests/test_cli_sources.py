"""What a user's files and modules get wrong: a sentence and exit status 2, never a traceback."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fimsym.cli import main

SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

def leaving():
    raise SystemExit("no licence")

class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        open("mask.bin")
        return self.layer(x)

class Talking(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        print("made")

    def forward(self, x):
        print("called")
        return super().forward(x)

class Blunt(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x):
        raise RuntimeError("no kernel")
"""
FAMILY = """
name = "seeded"
natural = ["h"]
log_partition = "seed**2 * h**2 / 2"
sufficient_statistics = ["y"]

[constants]
seed = 1.0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "wrong_nets.py").write_text(SOURCE)
    inputs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.save(tmp_path / "data.npy", inputs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(command, *arguments, **changes):
    options = {"model": "wrong_nets:make", "data": "data.npy", "family": "gaussian", **changes}
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    return CliRunner().invoke(main, [command, *given, *arguments])


def refused(shown, *messages):
    assert shown.exit_code == 2, (shown.output, shown.exception)
    for message in messages:
        assert message in " ".join(shown.output.split()), shown.output
    assert "Traceback" not in shown.output
    assert "cannot write" not in shown.output


MODULES = {
    "def make(:\n": ("failed: SyntaxError: ", "wrong_module.py, line 1"),
    "\nraise RuntimeError('no GPU.')\n": ("failed: RuntimeError: no GPU, in ", "py, line 2."),
    "open('absent.txt')\n": ("FileNotFoundError: ", "'absent.txt', in ", "py, line 1."),
    "import no_such_package\n": ("No module named 'no_such_package', in ", "py, line 1"),
    "from torch import no_such_name\n": ("ImportError: cannot import", "py, line 1."),
    "import sys\nsys.exit('no licence')\n": ("SystemExit: no licence, in ", "py, line 2."),
    "import json\njson.loads('{')\n": ("JSONDecodeError: ", "wrong_module.py, line 2."),
}


@pytest.mark.parametrize("text", MODULES)
@pytest.mark.parametrize("command", ["analyze", "validate"])
def test_a_module_that_fails_is_named_with_the_place(folder, command, text):
    (folder / "wrong_module.py").write_text(text)
    shown = run(command, model="wrong_module:make")
    refused(shown, "'wrong_module'", *MODULES[text])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("..wrong_nets:make", "package.module:factory"),
        (".wrong_nets:make", "package.module:factory"),
        ("wrong_nets.py:make", "that is wrong_nets:make"),
        ("nets/wrong_nets.py:make", "that is wrong_nets:make"),
        ("wrong_nets:leaving", "failed: SystemExit: no licence, in "),
        ("wrong_nets:Reading", "Error: the model failed: FileNotFoundError: "),
        ("wrong_nets:Blunt", "wrong_nets.py, line "),
    ],
)
def test_a_model_that_cannot_be_made_or_run(folder, model, message):
    refused(run("analyze", model=model), message)


@pytest.mark.parametrize("command", ["analyze", "estimate"])
def test_what_a_model_prints_is_not_in_the_json(folder, command):
    shown = run(command, "--json", model="wrong_nets:Talking")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["inputs"] == 7
    assert "made" in shown.stderr
    assert "called" in shown.stderr


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": [["a", "b"]]}, "inputs must be numbers; got values of <U1"),
        ({"inputs": np.ones((2, 4)), "labels": ["cat", "dog"]}, "labels must be numbers"),
        ({"inputs": np.ones((2, 4)), "labels": [1, 0, 1]}, "as many labels as inputs"),
        ({"inputs": np.array(["2026-01-01"], "datetime64[D]")}, "inputs must be numbers"),
    ],
)
def test_texts_are_no_data(folder, arrays, message):
    np.savez("texts.npz", **arrays)
    refused(run("analyze", data="texts.npz"), "texts.npz: ", message)
    if len(arrays) == 1:
        np.save("texts.npy", arrays["inputs"])
        refused(run("analyze", data="texts.npy"), "texts.npy: ", message)


def test_the_order_of_bytes_does_not_matter(folder):
    np.save("swapped.npy", np.load("data.npy").astype(">f4"))
    one, other = (run("analyze", "--json", data=data) for data in ("data.npy", "swapped.npy"))
    assert one.exit_code == other.exit_code == 0, other.output
    assert json.loads(one.output) == json.loads(other.output)


@pytest.mark.parametrize("command", ["analyze", "estimate", "plan", "validate"])
@pytest.mark.parametrize(
    ("constants", "message"),
    [
        (["seed=3"], "'seed' is not a constant of gaussian (its constants: sigma)"),
        (["quantities=1"], "'quantities' is not a constant of gaussian"),
        (["device=1"], "'device' is not a constant of gaussian"),
        (["model=1"], "'model' is not a constant of gaussian"),
        (["sgma=1"], "Did you mean 'sigma'?"),
        (["sigma=1", "sigma=2"], "--constant sigma is given twice, as 1 and as 2"),
        (["sigma=-1"], "sigma must be a positive finite number"),
    ],
)
def test_constants_are_those_of_the_family(folder, command, constants, message):
    given = [part for text in constants for part in ("--constant", text)]
    refused(run(command, *given), message)


@pytest.mark.parametrize("command", ["analyze", "estimate", "validate"])
def test_a_constant_called_like_an_argument_cannot_be_given(folder, command):
    (folder / "seeded.toml").write_text(FAMILY)
    shown = run(command, "--constant", "seed=2", family="seeded.toml")
    refused(shown, "the constant 'seed' of seeded is called like an argument of", "Rename it")
