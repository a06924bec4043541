"""Ctrl-C: real signals to real processes, and what is left of a computation."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import fimsym
from fimsym.engine.interruption import Interruption
from tests.networks import build, flat, inputs, mlp

ROOT = Path(__file__).parent.parent

NETWORKS = """
import os, signal
import torch
from torch import nn

class Signalling(nn.Module):
    '''Sends itself SIGINT in the forward passes on input number AT.'''

    def __init__(self, at, times):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
        self.at, self.times = at, times

    def forward(self, x):
        if self.times and x.dtype == torch.float64 and bool((x == self.at).all(-1).any()):
            self.times -= 1
            os.kill(os.getpid(), signal.SIGINT)
        return self.layers(x)

def once():
    return Signalling(33.0, 1)

def twice():
    return Signalling(33.0, 2)

def never():
    return Signalling(33.0, 0)

def everywhere():
    '''As a terminal does, to every process.'''
    os.kill = lambda process, number: os.killpg(process, number)
    return Signalling(33.0, 1)
"""

SCRIPT = """
import signal, sys
import torch
import fimsym, nets
data = torch.arange(100.0, dtype=torch.float64).reshape(-1, 1).expand(-1, 4)
try:
    got = fimsym.analyze({call})
    total = float(got.fisher["layers.0.weight"].sum())
    print(got.inputs, got.expected_inputs, got.interrupted, total)
    print(repr(got).splitlines()[-1])
except KeyboardInterrupt:
    print("KeyboardInterrupt")
print(bool(signal.getsignal(signal.SIGINT) is {handler}))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    rows = torch.arange(100.0, dtype=torch.float64).reshape(-1, 1).expand(-1, 4)
    torch.save({"x": rows.contiguous()}, tmp_path / "data.pt")
    return tmp_path


def python(folder, *arguments, **options):
    path = os.pathsep.join([str(ROOT), str(folder)])
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def script(folder, call, before="", handler="signal.default_int_handler", **options):
    shown = python(folder, "-c", before + SCRIPT.format(call=call, handler=handler), **options)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.splitlines()


def test_the_first_signal_returns_what_is_covered(folder):
    call = "nets.once(), {}, 'categorical', max_memory=20_000, progress=False"
    counts, line, restored = script(folder, call.format("data"))
    count, total, interrupted, fisher = counts.split()
    assert (total, interrupted, restored) == ("100", "True", "True")
    assert 33 < int(count) < 100
    assert line == f"interrupted after {count} of 100 inputs; means are over these {count}"
    again, _, _ = script(folder, call.replace("once", "never").format(f"data[:{count}]"))
    assert again.split()[2] == "False"
    assert float(again.split()[3]) == pytest.approx(float(fisher), rel=1e-13)
    # Of a stream nobody knows how long it is.
    counts, line, _ = script(folder, call.format("iter([data])"))
    count, *rest = counts.split()[:3]
    assert rest == ["None", "True"]
    assert 33 < int(count) < 100
    assert line == f"interrupted after {count} inputs; means are over these {count}"


def test_a_second_signal_raises_at_once_and_the_handler_is_put_back(folder):
    call = "nets.twice(), data, 'categorical', max_memory=20_000, progress=False"
    assert script(folder, call) == ["KeyboardInterrupt", "True"]


def test_a_signal_in_the_last_chunk_leaves_nothing_out(folder):
    call = "nets.once(), data[:34], 'categorical', max_memory=20_000, progress=False"
    counts, _, restored = script(folder, call)
    assert counts.split()[:3] == ["34", "34", "False"]
    assert restored == "True"


@pytest.mark.parametrize("after", [0, 40])
def test_waiting_for_data_is_broken_off(folder, after):
    before = f"""
import os, signal, time, threading
def stream():
    yield from data[:{after}].split(10)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(60)
"""
    call = "nets.never(), stream(), 'categorical', progress=False"
    shown = script(folder, call, before)
    if after:
        assert shown[0].split()[:3] == ["40", "None", "True"]
    else:
        assert shown[0] == "KeyboardInterrupt"
    assert shown[-1] == "True"


def test_a_handler_of_the_program_is_left_alone(folder):
    before = """
import signal
seen = []
def handler(*_):
    seen.append(1)
signal.signal(signal.SIGINT, handler)
"""
    call = "nets.once(), data, 'categorical', max_memory=20_000, progress=False"
    counts, _, kept = script(folder, call, before, "handler and seen == [1]")
    assert counts.split()[:3] == ["100", "100", "False"]
    assert kept == "True"


def test_workers_of_a_loader_that_end_with_the_signal_do_not_spoil_what_is_covered(folder):
    call = (
        "nets.everywhere(), torch.utils.data.DataLoader(data, batch_size=4, num_workers=2), "
        "'categorical', max_memory=20_000, progress=False"
    )
    counts, line, restored = script(folder, call, start_new_session=True)
    count, total, interrupted, _ = counts.split()
    assert (total, interrupted, restored) == ("100", "True", "True")
    assert 33 < int(count) < 100
    assert line.startswith(f"interrupted after {count} of 100")


def test_other_threads_leave_signals_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with Interruption() as stop:
            found.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, False)]


def test_errors_put_the_handler_back():
    before = signal.getsignal(signal.SIGINT)
    data = inputs(40, 4)
    data[35] = torch.nan
    with pytest.raises(fimsym.DomainError, match="input 35"):
        fimsym.analyze(build(lambda: mlp(4, 3)), [data[:33], data[33:]], "categorical")
    assert signal.getsignal(signal.SIGINT) is before


OPTIONS = ("--data", "data.pt", "--family", "categorical", "--max-memory", "20kB")


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_shows_and_writes_what_is_covered_and_exits_with_130(folder, as_json):
    more = ("--json",) if as_json else ()
    shown = python(
        folder, "-m", "fimsym", "analyze", "--model", "nets:once", *OPTIONS, "-o",
        "out.safetensors", *more,
    )  # fmt: skip
    assert shown.returncode == 130, shown.stderr
    kept = fimsym.Analysis.load(folder / "out.safetensors")
    assert kept.interrupted
    assert 33 < kept.inputs < 100
    if as_json:
        record = json.loads(shown.stdout)
        assert (record["interrupted"], record["inputs"]) == (True, kept.inputs)
        assert record["coverage"] == kept.coverage
    else:
        assert kept.coverage in shown.stdout
        assert "of 100 inputs" in kept.coverage


def test_a_command_stopped_twice_writes_nothing(folder):
    (folder / "out.safetensors").write_bytes(b"before")
    shown = python(
        folder, "-m", "fimsym", "analyze", "--model", "nets:twice", *OPTIONS, "-o",
        "out.safetensors",
    )  # fmt: skip
    assert shown.returncode == 130
    assert "nothing was written" in shown.stderr
    assert (folder / "out.safetensors").read_bytes() == b"before"
    assert sorted(p.name for p in folder.glob("*out*")) == ["out.safetensors"]


def test_an_interrupted_audit_gives_no_verdict(folder):
    torch.save(torch.ones(43), folder / "ones.pt")
    given = ("ones.pt", "--model", "nets:once", *OPTIONS)
    shown = python(folder, "-m", "fimsym", "audit", *given)
    assert (shown.returncode, shown.stdout) == (130, ""), shown.stderr
    assert shown.stderr.splitlines()[-1] == "interrupted; nothing was written"


def on_terminal(folder, code):
    """Run code with standard error on a terminal; return what it shows there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stderr=theirs, stdout=subprocess.PIPE,
        env=environment, text=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()), out


@pytest.mark.parametrize(("data", "total"), [("data", "40"), ("iter(data.split(4))", "?")])
def test_a_terminal_shows_inputs_and_time(folder, data, total):
    code = f"""
import sys
sys.path.insert(0, "")
import torch, fimsym, nets
data = torch.randn(40, 4, dtype=torch.float64)
print(fimsym.analyze(nets.never(), {data}, "categorical", progress={{}}).inputs)
"""
    shown, out = on_terminal(folder, code.format(True))
    assert f"40/{total}" in shown.replace(" ", "")
    assert re.search(r"\d:\d\d:\d\d", shown)
    assert out.strip() == "40"
    if total == "40":
        assert on_terminal(folder, code.format(False))[0].strip() == ""


def test_a_terminal_shows_that_a_signal_was_seen(folder):
    code = """
import sys, time
sys.path.insert(0, "")
import torch, fimsym, nets
data = torch.arange(100.0, dtype=torch.float64).reshape(-1, 1).expand(-1, 4)
model = nets.once()
model.register_forward_hook(lambda *_: time.sleep(0.2 * (model.times == 0)))
print(fimsym.analyze(model, data, "categorical", max_memory=20_000).inputs)
"""
    shown, out = on_terminal(folder, code)
    assert 33 < int(out) < 100
    assert "stopping; Ctrl-C again ends at once" in shown


def test_no_bar_without_a_terminal(folder):
    data = "torch.randn(40, 4, dtype=torch.float64)"
    code = f"import torch, fimsym, nets; fimsym.analyze(nets.never(), {data}, 'categorical')"
    shown = python(folder, "-c", code)
    assert (shown.returncode, shown.stderr, shown.stdout) == (0, "", "")


def test_an_interrupted_analysis_keeps_its_line(tmp_path):
    import dataclasses

    got = fimsym.analyze(build(lambda: mlp(4, 3)), inputs(5, 4), "categorical", progress=False)
    cut = dataclasses.replace(got, interrupted=True, expected_inputs=None)
    cut.save(tmp_path / "cut.safetensors")
    again = fimsym.Analysis.load(tmp_path / "cut.safetensors")
    assert again.coverage == "interrupted after 5 inputs; means are over these 5"
    assert torch.equal(flat(again.fisher), flat(got.fisher))
    assert got.coverage == ""
