"""Runs that are ended, resumed and shared: the same digits, or a reason in words."""

import dataclasses
import errno
import functools
import os
import re
import signal
import tempfile
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fimsym
from fimsym.cli import main
from fimsym.errors import DomainError
from fimsym.report import files
from fimsym.validation import carried, checkpoint, run
from fimsym.validation.cells import Cell, Found
from fimsym.validation.checkpoint import Store
from tests.test_distributed import LIMIT, started

SMALL = {"samples": 3000, "output_samples": 20_000, "progress": False}
CHOSEN = ("geometric", "dirichlet")
CELLS = 20


class EndedError(Exception):
    """Stands for a process that ends."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Write every cell as soon as it is there."""
    monkeypatch.setattr(checkpoint, "_SECONDS", 0)


def validate(folder, **options):
    return fimsym.validate(CHOSEN, checkpoint=folder, command="the command", **{**SMALL, **options})


@pytest.fixture(scope="module")
def whole():
    return fimsym.validate(CHOSEN, **SMALL)


def ends_after(monkeypatch, count, error=EndedError):
    """Let the process end after so many cells."""
    true, done = run.measure, []

    def measure(*arguments):
        if len(done) == count:
            raise error
        done.append(arguments)
        return true(*arguments)

    monkeypatch.setattr(run, "measure", measure)
    return done


def same(one, other):
    assert one.to_dict() == other.to_dict()
    for a, b in zip(one.models, other.models, strict=True):
        for quantity, scores in a.scores.items():
            np.testing.assert_array_equal(scores.z, b.scores[quantity].z)


def test_a_run_that_is_ended_again_and_again_ends_with_the_same_bits(tmp_path, monkeypatch, whole):
    folder = tmp_path / "kept"
    counts = []
    for _ in range(4):
        with monkeypatch.context() as patch:
            ends_after(patch, 4)
            with pytest.raises(EndedError):
                validate(folder)
        counts.append(len(list(folder.iterdir())))
    assert counts == [4, 8, 12, 16]
    done = ends_after(monkeypatch, None)
    same(validate(folder), whole)
    assert len(done) == CELLS - 16


def test_what_is_all_there_is_not_drawn_again(tmp_path, monkeypatch, whole):
    validate(tmp_path / "kept")
    done = ends_after(monkeypatch, 0)
    same(validate(tmp_path / "kept"), whole)
    assert not done


def test_a_chosen_number_of_labels_is_chosen_again(tmp_path, monkeypatch):
    folder = tmp_path / "kept"
    options = {"relative_error": 0.2, "progress": False, "checkpoint": folder}
    truth = fimsym.validate("geometric", **options | {"checkpoint": None})
    for count in (3, 6, 9):
        with monkeypatch.context() as patch:
            ends_after(patch, count)
            with pytest.raises(EndedError):
                fimsym.validate("geometric", **options)
    same(fimsym.validate("geometric", **options), truth)
    assert {path.name.split(".")[2] for path in folder.iterdir()} == {"pilot", "main"}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A checkpoint with a few cells in it."""
    folder = tmp_path / "kept"
    with monkeypatch.context() as patch:
        ends_after(patch, 15)
        with pytest.raises(EndedError):
            validate(folder)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


DIFFERENT = [
    ({"seed": 3}, "seed is 0 there and 3 here"),
    ({"samples": 4000}, "number of labels is 3000 there and 4000 here"),
    ({"output_samples": 30_000}, "number of labels is 20000 there and 30000 here"),
]


@pytest.mark.parametrize(("options", "message"), DIFFERENT)
def test_a_checkpoint_of_another_run_is_named_and_kept(kept, options, message):
    before = content(kept)
    with pytest.raises(DomainError, match=re.escape(message)) as caught:
        validate(kept, **options)
    assert "the command" in str(caught.value)
    assert content(kept) == before


def test_a_checkpoint_of_other_families_is_named(kept):
    before = content(kept)
    with pytest.raises(DomainError, match=r"dirichlet/.*not validated here"):
        fimsym.validate("geometric", checkpoint=kept, **SMALL)
    assert content(kept) == before


@pytest.mark.parametrize("part", ["model", "inputs", "parameters", "family", "link"])
def test_a_checkpoint_of_another_model_is_named(tmp_path, part):
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(3, 2).double(), torch.randn(5, 3).double()
    options = {"family": "gaussian", "samples": 2000, "inputs": 3, "progress": False}
    fimsym.validate_model(model, inputs, checkpoint=tmp_path / "kept", **options)
    if part == "model":
        with torch.no_grad():
            model.weight[0, 0] += 1e-12
    changed = {
        "inputs": {"inputs": 4},
        "parameters": {"parameters": 5},
        "family": {"family": dataclasses.replace(fimsym.family("gaussian"), title="another")},
        "link": {"link": "mean"},
    }
    options |= changed.get(part, {})
    with pytest.raises(DomainError, match=f"{part} (differs|is None there and mean here)"):
        fimsym.validate_model(model, inputs, checkpoint=tmp_path / "kept", **options)


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "text"])
def test_a_damaged_checkpoint_is_named_and_kept(kept, harm):
    path = sorted(kept.glob("*.cell"))[3]
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[-3] ^= 1
    harmed = {"cut": data[:-8], "flipped": bytes(flipped), "emptied": b"", "text": b"hello\n"}
    path.write_bytes(harmed[harm])
    before = content(kept)
    with pytest.raises(DomainError, match=f"{path.name} is damaged.*Delete that file"):
        validate(kept)
    assert content(kept) == before


def test_a_damaged_file_that_is_deleted_is_computed_again(kept, whole):
    sorted(kept.glob("*.cell"))[3].unlink()
    same(validate(kept), whole)


def test_drafts_of_a_killed_process_do_not_matter(kept, whole):
    (kept / ".dirichlet.points.main.0.0-1.cell.12345").write_bytes(b"half")
    same(validate(kept), whole)
    checkpoint.remove(kept)
    assert not kept.exists()


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DomainError, match=r"'thesis\.tex', which is no part of a checkpoint"):
        validate(tmp_path)
    with pytest.raises(DomainError, match="is not a folder"):
        validate(tmp_path / "thesis.tex")
    with pytest.raises(DomainError, match="there is no folder"):
        validate(tmp_path / "missing" / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_named_and_what_is_there_is_kept(tmp_path, monkeypatch, whole):
    true, written = os.fsync, []

    def full(descriptor):
        if len(written) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(descriptor)
        return true(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, "fsync", full)
        with pytest.raises(DomainError, match=r"No space left on device.*the same command goes on"):
            validate(tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == 4
    same(validate(tmp_path / "kept"), whole)


def test_a_store_keeps_every_bit(tmp_path):
    values = {"sample": np.random.default_rng(0).standard_normal((18, 3)), "law": np.ones((2, 0))}
    values["sample"][0, 0] = np.nextafter(1, 2)
    found = Found(values, {"autograd": 1e-16, "bounds": np.inf})
    cell = Cell("main", "poisson/link mean", 2, 0, 8)
    store = Store(tmp_path / "kept", lambda cell: {"seed": 1}, "a command")
    store.add(cell, found)
    store.flush()
    ((again, read),) = Store(tmp_path / "kept", lambda cell: {"seed": 1}, "").load().items()
    assert again == cell
    assert dict(read.gaps) == dict(found.gaps)
    for name, array in values.items():
        np.testing.assert_array_equal(read.arrays[name], array)


def test_cells_are_written_every_few_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SECONDS", 2.0)
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    store = Store(tmp_path / "kept", lambda cell: {}, "")
    found = Found({"sample": np.zeros((1, 1))}, {})
    seen = []
    for point in range(6):
        clock[0] += 0.9
        store.add(Cell("main", "a/b", point, 0, 1), found)
        seen.append(len(list(tmp_path.glob("kept/*"))))
    assert seen == [0, 0, 3, 3, 3, 6]


def test_ctrl_c_ends_with_what_there_is(tmp_path, monkeypatch, whole):
    """The signal comes during the eighth cell, which is finished."""
    true, done = run.measure, []

    def measure(*arguments):
        done.append(arguments)
        if len(done) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return true(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run, "measure", measure)
        shown = validate(tmp_path / "kept")
    assert shown.interrupted
    assert not shown.agrees
    assert shown.progress[0] == len(done) == 8
    assert shown.progress[1] == whole.progress[1] == CELLS
    assert [model.covered for model in shown.models] == [4, 3, 1]
    assert "Not reached" in shown.untested[0]
    assert len(list((tmp_path / "kept").iterdir())) == 8
    first, of_whole = shown.models[0], whole.models[0]
    assert [c.monte_carlo for c in first.comparisons] == [
        c.monte_carlo for c in of_whole.comparisons
    ]
    same(validate(tmp_path / "kept"), whole)


def test_ctrl_c_before_anything_is_covered(monkeypatch):
    ends_after(monkeypatch, 0, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        fimsym.validate("poisson", **SMALL)


def command(*more):
    given = ("--samples", "40000", "--output-samples", "100000", "--no-report", "--json")
    return ("fimsym", "validate", *CHOSEN, *given, *more)


def output(folder, number=0):
    return (folder / f"{number}.out").read_text(), (folder / f"{number}.err").read_text()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """What one process prints."""
    folder = tmp_path_factory.mktemp("one")
    with started(folder, [command("--no-checkpoint")], folder) as (process,):
        assert process.wait(timeout=LIMIT) == 0
    return output(folder)[0]


def killed(folder, whole_command, most):
    """Kill the process group once there are `most` cells; return whether it was killed."""
    with started(folder, [whole_command], folder) as (process,):
        deadline = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < deadline:
            cells = list(folder.glob("fimsym-validation.checkpoint/*.cell"))
            if len(cells) >= most:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.01)
        return False


EAGER = """
import sys
import fimsym.validation.checkpoint
from fimsym.cli import main
fimsym.validation.checkpoint._SECONDS = 0
sys.argv = {arguments!r}
main()
"""


def test_kill_9_and_the_same_command_end_with_the_same_digits(tmp_path, digits):
    (tmp_path / "eager.py").write_text(EAGER.format(arguments=list(command())))
    for most in (2, 15):
        assert killed(tmp_path, ("eager",), most)
    with started(tmp_path, [("eager",)], tmp_path) as (process,):
        assert process.wait(timeout=LIMIT) == 0, output(tmp_path)[1]
    assert output(tmp_path)[0] == digits
    assert not (tmp_path / "fimsym-validation.checkpoint").exists()


def test_torchrun_prints_the_digits_of_one_process(tmp_path, digits):
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    with started(tmp_path, [(*torchrun, *command())], tmp_path) as (process,):
        status = process.wait(timeout=LIMIT)
    printed, errors = output(tmp_path)
    assert status == 0, errors
    assert printed == digits


def test_one_process_goes_on_from_the_cells_of_two(tmp_path, digits):
    (tmp_path / "eager.py").write_text(EAGER.format(arguments=list(command())))
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "eager")
    with started(tmp_path, [torchrun], tmp_path) as (process,):
        deadline = time.monotonic() + LIMIT
        while len(list(tmp_path.glob("fimsym-validation.checkpoint/*.cell"))) < 15:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert (tmp_path / "fimsym-validation.checkpoint").is_dir()
    with started(tmp_path, [command()], tmp_path) as (process,):
        assert process.wait(timeout=LIMIT) == 0, output(tmp_path)[1]
    assert output(tmp_path)[0] == digits


def test_ctrl_c_on_the_command_line_says_how_to_go_on(tmp_path):
    arguments = [a for a in command() if a != "--json"]
    (tmp_path / "eager.py").write_text(EAGER.format(arguments=arguments))
    with started(tmp_path, [("eager",)], tmp_path) as (process,):
        deadline = time.monotonic() + LIMIT
        while len(list(tmp_path.glob("fimsym-validation.checkpoint/*.cell"))) < 14:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=LIMIT) == 130
    printed, errors = output(tmp_path)
    assert "geometric" in printed
    assert re.search(r"^interrupted: .* after \d+ of \d+ parts", printed, re.MULTILINE)
    assert f"it goes on from here: {' '.join(arguments)}" in errors
    assert (tmp_path / "fimsym-validation.checkpoint").is_dir()


def test_a_second_ctrl_c_says_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["validate", "geometric", "--output-samples", "20000", "--no-report"]
    ends_after(monkeypatch, 2, KeyboardInterrupt)
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 130, shown.output
    assert "interrupted; what is finished is in fimsym-validation.checkpoint." in shown.output
    assert "Run the same command and it goes on from here: " in shown.output
    assert "nothing was written" not in shown.output
    shown = CliRunner().invoke(main, [*arguments, "--no-checkpoint"])
    assert shown.exit_code == 130
    assert "nothing was written" in shown.output


def test_a_process_that_fails_ends_the_others_with_its_reason(tmp_path):
    script = """
import os
import fimsym.validation.run as run
from fimsym.cli import main
true = run.measure
def measure(subject, cell, *rest):
    if os.environ["RANK"] == "1" and cell.point == 1:
        raise OSError("the fan is stuck")
    return true(subject, cell, *rest)
run.measure = measure
main(["validate", "poisson", "--samples", "2000", "--output-samples", "2000", "--inputs", "2",
      "--no-report", "--no-checkpoint"])
"""
    (tmp_path / "broken.py").write_text(script)
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "broken")
    with started(tmp_path, [torchrun], tmp_path) as (process,):
        assert process.wait(timeout=LIMIT) == 1
    printed, errors = output(tmp_path)
    assert not printed
    assert "rank 1 of 2 failed: OSError: the fan is stuck" in errors


def test_versions_are_part_of_what_a_cell_is_of(kept, monkeypatch):
    monkeypatch.setattr(np, "__version__", "0.1")
    with pytest.raises(DomainError, match=r"NumPy is .* there and 0\.1 here"):
        validate(kept)


def test_a_checkpoint_of_another_architecture_is_named(tmp_path):
    """Weights, inputs and settings are the same; the network is not."""
    torch.manual_seed(0)
    layers, inputs = (torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), torch.randn(5, 3).double()
    options = {"family": "gaussian", "samples": 2000, "inputs": 3, "progress": False}
    for activation in (torch.nn.Sigmoid(), torch.nn.Tanh()):
        model = torch.nn.Sequential(layers[0], activation, layers[1]).double()
        if isinstance(activation, torch.nn.Tanh):
            with pytest.raises(DomainError, match="its derivatives differs"):
                fimsym.validate_model(model, inputs, checkpoint=tmp_path / "kept", **options)
        else:
            fimsym.validate_model(model, inputs, checkpoint=tmp_path / "kept", **options)


def test_a_checkpoint_of_other_code_is_named(kept, monkeypatch):
    monkeypatch.setattr(carried, "_source", lambda: "another")
    with pytest.raises(DomainError, match="fimsym's source differs"):
        validate(kept)


def test_what_a_killed_process_was_about_to_write_does_not_matter(kept, whole, monkeypatch):
    """A file that is made to see whether one can be written is left behind."""
    true = tempfile.NamedTemporaryFile
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", functools.partial(true, delete=False))
    (first, *_) = sorted(kept.glob("*.cell"))
    with files.draft(first) as place:
        place.write_bytes(first.read_bytes())
    monkeypatch.undo()
    assert len(list(kept.iterdir())) > len(list(kept.glob("[!.]*.cell")))
    same(validate(kept), whole)
    checkpoint.remove(kept)
    assert not kept.exists()


def test_processes_with_different_networks_are_told(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import os, torch\n"
        "def make():\n"
        "    torch.manual_seed(int(os.environ['RANK']))\n"
        "    return torch.nn.Linear(3, 2)\n"
    )
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fimsym")
    given = ("validate", "--model", "nets:make", "--data", "x.npy", "--family", "gaussian",
             "--samples", "2000", "--inputs", "4", "--no-report", "--no-checkpoint")  # fmt: skip
    with started(tmp_path, [(*torchrun, *given)], tmp_path) as (process,):
        assert process.wait(timeout=LIMIT) == 1
    assert "validates other weights, inputs or settings than rank" in output(tmp_path)[1]
