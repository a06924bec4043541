"""Many processes give what one gives, fail together, and never wait for the dead."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import fimsym
from tests.networks import flat, inputs
from tests.processes import (
    BAD,
    COUNT,
    EMPIRICAL,
    ESTIMATED,
    ESTIMATES,
    GOOD,
    analyze,
    convolution,
    estimate,
    labelled,
    model,
)

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


LIMIT = 150
"""Seconds after which processes are ended, and the test fails."""


@contextlib.contextmanager
def started(folder, commands, cwd):
    """Start processes that write FOLDER/NUMBER.out and .err; none outlives the block."""
    processes = []
    try:
        for number, command in enumerate(commands):
            whole = [sys.executable, "-m", *command]
            with (
                open(folder / f"{number}.out", "w") as out,
                open(folder / f"{number}.err", "w") as err,
            ):
                processes.append(
                    subprocess.Popen(whole, cwd=cwd, env=ENVIRONMENT, stdout=out, stderr=err)
                )
        yield processes
    finally:
        for process in processes:
            end(process)


def end(process):
    """End a process; torchrun ends its own when asked to, and not when killed."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start(folder, world, scenario):
    """Run processes; return their exit statuses and what each left behind."""
    commands = [("tests.processes", str(folder), str(rank), scenario) for rank in range(world)]
    deadline = time.monotonic() + LIMIT
    with started(folder, commands, ROOT) as processes:
        for process in processes:
            process.wait(timeout=max(1, deadline - time.monotonic()))
    found = []
    for rank in range(world):
        path = folder / f"{rank}.pt"
        left = torch.load(path, weights_only=False) if path.exists() else None
        found.append(left or (folder / f"{rank}.err").read_text())
    return [process.returncode for process in processes], found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    statuses, found = start(tmp_path_factory.mktemp("agree"), 3, "agree")
    assert statuses == [0, 0, 0], found
    return found


def of(outcomes, world, name):
    return [found[world, name] for found in outcomes[:world]]


def assert_equal(found, truth):
    assert found["inputs"] == truth.inputs
    for quantity, named in truth.values.items():
        size = flat(named).abs().max()
        assert (flat(found["values"][quantity]) - flat(named)).abs().max() <= 1e-12 * size
    if truth.inputs > 1:
        spread = flat(truth.spread)
        # I is rounded to eps I, which a deviation of σ multiplies.
        rounding = torch.finfo(torch.float64).eps * flat(truth.fisher).max() * spread.max().sqrt()
        assert (flat(found["spread"]) - spread).abs().max() <= 1e-12 * spread.max() + rounding
    else:
        assert flat(found["spread"]).isnan().all()
    assert found["roads"] == truth.roads


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", GOOD)
def test_the_numbers_are_those_of_one_process(outcomes, world, name):
    truth = analyze(GOOD[name](0))
    for found in of(outcomes, world, name):
        assert not found["interrupted"]
        assert_equal(found, truth)
        assert found["ways"] == truth.ways


@pytest.mark.parametrize("world", [2, 3])
def test_labels_are_shared_with_their_inputs(outcomes, world):
    truth = analyze(labelled().tensors, quantities=EMPIRICAL)
    for found in of(outcomes, world, "empirical"):
        assert_equal(found, truth)


@pytest.mark.parametrize("world", [2, 3])
def test_estimated_sums_have_the_errors_of_one_process(outcomes, world):
    truth = analyze(inputs(COUNT, 4), convolution(), **ESTIMATED)
    for found in of(outcomes, world, "estimated"):
        assert_equal(found, truth)
        for one, other in zip(found["groups"], truth.groups, strict=True):
            # Which inputs are taken together decides which scatter is seen.
            assert one.standard_errors == pytest.approx(other.standard_errors, rel=0.2)
    assert truth.groups[0].standard_errors["covariance"] > 0


@pytest.mark.parametrize("world", [2, 3])
def test_all_return_the_same_after_one_reduction(outcomes, world):
    size = sum(p.numel() for p in model().parameters())
    first, *others = of(outcomes, world, "loader")
    for other in others:
        for quantity, named in first["values"].items():
            assert torch.equal(flat(named), flat(other["values"][quantity]))
        assert torch.equal(flat(first["spread"]), flat(other["spread"]))
    for found in outcomes[:world]:
        assert found[world, "loader", "calls"] == [(5 * size, torch.float64)]
        assert found[world, "without spread", "calls"] == [(4 * size, torch.float64)]
        assert found[world, "bad input", "calls"] == []
        assert found[world, "without spread"]["spread"] == {}


FAILURES = {
    ("bad input", 3): (1, "DomainError", r"^input 31 holds"),
    ("bad input", 2): (1, "DomainError", r"^input 31 holds"),
    ("bad label", 3): (1, "ShapeError", r"label 3 of input 10 .*input i is row 1 \+ 3 i"),
    ("bad label", 2): (1, "ShapeError", r"label 3 of input 15 .*input i is row 1 \+ 2 i"),
    ("bad stream", 3): (1, "LookupError", "the disk is gone"),
    ("bad stream", 2): (1, "LookupError", "the disk is gone"),
    ("wrong option", 2): (1, "SpecError", "2GB"),
    ("leaving", 3): (1, "SystemExit", "no licence"),
}


@pytest.mark.parametrize(("name", "world"), FAILURES)
def test_the_failure_of_one_ends_all_with_its_reason(outcomes, name, world):
    culprit, kind, message = FAILURES[name, world]
    for rank, (came, text, ours) in enumerate(of(outcomes, world, name)):
        if rank == culprit:
            assert came == kind
            assert re.search(message, text)
        else:
            assert came == "FimsymError"
            assert text.startswith(f"rank {culprit} of {world} failed: {kind}: ")
            assert ours


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other data", "processes read 41 and 42 rows"),
        ("empty", "data is empty"),
        ("shuffled", "shuffle=False"),
        ("other model", "different models"),
    ],
)
def test_what_is_wrong_everywhere_is_said_everywhere(outcomes, world, name, message):
    for _, text, ours in of(outcomes, world, name):
        assert ours
        assert message in text


def test_every_mistake_is_looked_at():
    assert set(BAD) <= {name for name, _ in FAILURES} | {"other data", "empty", "shuffled"}


@pytest.mark.parametrize("world", [2, 3])
def test_an_interruption_of_one_shortens_its_share_alone(outcomes, world):
    """Process 1 stops after the chunk that holds its row 33; the others finish."""
    data = inputs(200, 4)
    results = of(outcomes, world, "interrupted")
    count = results[0]["inputs"]
    own = count - sum(len(data[rank::world]) for rank in range(world) if rank != 1)
    assert 33 < own < len(data[1::world])
    covered = [data[rank::world] for rank in range(world)]
    covered[1] = covered[1][:own]
    truth = analyze(torch.cat(covered))
    for found in results:
        assert (found["interrupted"], found["expected"]) == (True, 200)
        assert_equal(found, truth)


@pytest.mark.parametrize("world", [2, 3])
def test_nothing_covered_anywhere_is_an_interruption(outcomes, world):
    assert {found[0] for found in of(outcomes, world, "at once")} == {"KeyboardInterrupt"}
    truth = analyze(inputs(COUNT, 4))
    for found in of(outcomes, world, "again"):
        assert_equal(found, truth)


def test_a_killed_process_ends_the_others(tmp_path):
    statuses, found = start(tmp_path, 2, "die")
    assert statuses[1] == -9
    kind, text, _ = found[0]
    assert kind == "FimsymError"
    assert "a process of 2 ended" in text


NETS = """
import os, pathlib, signal, time
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()

def lame():
    if os.environ["RANK"] == "1":
        raise RuntimeError("no such device here")
    return make()

def astray():
    if os.environ["RANK"] == "1":
        os.chdir("/")
    return make()

class Stopping(nn.Module):
    '''As a terminal does, sends torchrun SIGINT once both work; then waits to be stopped.'''

    def __init__(self):
        super().__init__()
        self.layers, self.passes, self.sent = make(), 0, False

    def forward(self, x):
        self.passes += 1
        pathlib.Path("works" + os.environ["RANK"]).touch()
        if self.passes >= 12:
            time.sleep(0.02)
            if os.environ["RANK"] == "0" and not self.sent and os.path.exists("works1"):
                self.sent = True
                os.kill(os.getppid(), signal.SIGINT)
        return self.layers(x)
"""


def torchrun(folder, *arguments, model="make", name="analyze"):
    """Return exit status, standard output and standard error."""
    command = (
        "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fimsym",
        name, "--model", f"nets:{model}", "--family", "categorical", "--data", *arguments,
    )  # fmt: skip
    (folder / "nets.py").write_text(NETS)
    with started(folder, [command], folder) as (process,):
        status = process.wait(timeout=LIMIT)
    return status, (folder / "0.out").read_text(), (folder / "0.err").read_text()


def test_torchrun_prints_and_writes_once(tmp_path):
    np.save(tmp_path / "data.npy", inputs(7, 4).numpy())
    status, out, err = torchrun(tmp_path, "data.npy", "--json", "-o", "out.safetensors")
    assert status == 0, err
    record = json.loads(out)
    assert (record["inputs"], record["interrupted"]) == (7, False)
    space: dict = {}
    exec(NETS, space)
    truth = fimsym.analyze(space["make"](), inputs(7, 4), "categorical", progress=False)
    kept = fimsym.Analysis.load(tmp_path / "out.safetensors")
    for name, value in truth.input_variance.items():
        torch.testing.assert_close(kept.input_variance[name], value, rtol=1e-12, atol=0)
    assert record["groups"][0]["fisher"] == pytest.approx(truth.groups[0].sums["fisher"], 1e-12)


def test_torchrun_fails_with_one_message(tmp_path):
    np.savez(tmp_path / "data.npz", x=inputs(7, 4).numpy(), y=np.array([0, 1, 2, 3, 0, 1, 2]))
    asked = ("--quantities", "empirical")
    status, out, err = torchrun(tmp_path, "data.npz", "-o", "out.safetensors", *asked)
    assert (status, out) == (1, "")
    (message,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert "rank 1 of 2 failed: ShapeError: label 3 of input 1 does not fit" in message
    assert "row 1 + 2 i of the data" in message
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["analyze", "validate"])
def test_what_one_process_cannot_load_it_says_itself(tmp_path, name):
    np.save(tmp_path / "data.npy", inputs(20, 4).numpy())
    status, out, err = torchrun(tmp_path, "data.npy", model="lame", name=name)
    assert (status, out) == (1, "")
    (message,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert message.startswith("Error: rank 1 of 2: calling nets:lame without arguments failed: ")
    assert "RuntimeError: no such device here, in" in message


def test_torchrun_prints_an_audit_once_and_says_who_cannot_read_its_file(tmp_path):
    np.save(tmp_path / "data.npy", inputs(20, 4).numpy())
    np.save(tmp_path / "ones.npy", np.ones(43))
    data = str(tmp_path / "data.npy")
    status, out, err = torchrun(tmp_path, data, "ones.npy", name="audit")
    assert status == 1, err
    assert out.count("root mean square of D") == 1
    status, out, err = torchrun(tmp_path, data, "ones.npy", model="astray", name="audit")
    assert (status, out) == (1, "")
    (message,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert "rank 1 of 2 failed: DomainError: cannot read a diagonal from ones.npy" in message


def test_torchrun_stopped_by_the_keyboard_prints_what_is_covered(tmp_path):
    np.save(tmp_path / "data.npy", inputs(20_000, 4).numpy())
    status, out, err = torchrun(
        tmp_path, "data.npy", "--max-memory", "20kB", "-o", "out.safetensors", model="Stopping"
    )
    assert status == 1, err  # torchrun's own
    kept = fimsym.Analysis.load(tmp_path / "out.safetensors")
    assert kept.interrupted
    assert 0 < kept.inputs < 20_000
    assert out.count(kept.coverage) == out.count("Analysis: ") == 1


def test_estimates_are_those_of_one_process(tmp_path):
    statuses, outcomes = start(tmp_path, 2, "estimates")
    assert statuses == [0, 0], outcomes
    for count in (COUNT, 1):
        for name, options in ESTIMATES.items():
            truth = estimate(count, **options)
            for found in outcomes:
                fisher, error, labels = found[name, count]
                assert labels == truth.labels_per_input
                torch.testing.assert_close(flat(fisher), flat(truth.fisher), rtol=1e-10, atol=1e-16)
                torch.testing.assert_close(
                    flat(error), flat(truth.standard_error), rtol=1e-6, atol=1e-12, equal_nan=True
                )
    assert outcomes[1]["late"] == ("LookupError", "the disk is gone")
    kind, text = outcomes[0]["late"]
    assert kind == "FimsymError"
    assert text.startswith("rank 1 of 2 failed: LookupError: the disk is gone")
