"""What the processes of tests/test_distributed.py do; run as a script, once per process.

``python -m tests.processes FOLDER RANK SCENARIO`` writes FOLDER/RANK.pt.
"""

import datetime
import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fimsym
from tests.networks import build, inputs, mlp

TIMEOUT = datetime.timedelta(minutes=10)
"""Longer than the tests wait: who waits for the dead until then has failed."""
COUNT = 41
EMPIRICAL = ("fisher", "empirical")
ESTIMATED = {"second_derivative": "stochastic", "probes": 10}


class Stopping(nn.Module):
    """Sends itself SIGINT in forward passes on a number of the data."""

    def __init__(self, at=None):
        super().__init__()
        self.layers, self.at = mlp(4, 5, 3), at

    def forward(self, x):
        if self.at is not None and bool((x[:, 0] == self.at).any()):
            self.at = None
            os.kill(os.getpid(), signal.SIGINT)
        return self.layers(x)


def model(at=None):
    return build(lambda: Stopping(at))


def convolution():
    return build(
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3)
        )
    )


def labelled():
    return TensorDataset(inputs(COUNT, 4), torch.arange(COUNT) % 3)


def bad(row, labels=False):
    given, classes = inputs(COUNT, 4), torch.arange(COUNT) % 3
    if labels:
        classes[row] = 3
        return given, classes
    given[row, 2] = torch.nan
    return given


def breaking(rank):
    yield inputs(20, 4)
    if rank == 1:
        raise LookupError("the disk is gone")
    yield inputs(20, 4)


def leaving(rank):
    yield inputs(20, 4)
    if rank == 1:
        sys.exit("no licence")
    yield inputs(20, 4)


def shifted(rank):
    """Inputs whose information varies by 1e-5 of its mean."""
    return 1 + 1e-5 * inputs(COUNT, 4)


GOOD = {
    "tensor": lambda rank: inputs(COUNT, 4),
    "pair": lambda rank: labelled().tensors,
    "array": lambda rank: inputs(COUNT, 4).numpy(),
    "loader": lambda rank: DataLoader(labelled(), batch_size=5),
    "stream": lambda rank: iter(inputs(COUNT, 4).split(4)),
    "nearly equal": shifted,
    "seven inputs": lambda rank: inputs(7, 4),
    "two inputs": lambda rank: inputs(2, 4),
    "one input": lambda rank: inputs(1, 4),
}
"""Data that must give the numbers of one process."""

BAD = {
    "bad input": lambda rank: bad(31),
    "bad label": lambda rank: bad(31, labels=True),
    "bad stream": breaking,
    "leaving": leaving,
    "other data": lambda rank: inputs(COUNT + (rank == 1), 4),
    "empty": lambda rank: inputs(0, 4),
    "shuffled": lambda rank: DataLoader(labelled(), batch_size=5, shuffle=True),
}
"""Data that must end in an error in every process."""


def analyze(data, network=None, **options):
    options = {"quantities": "all", "max_memory": 20_000, "progress": False, **options}
    return fimsym.analyze(network or model(), data, "categorical", **options)


def outcome(call):
    """Return an analysis as plain data, or the exception as its type and text."""
    try:
        got = call()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        return type(error).__name__, str(error), isinstance(error, fimsym.FimsymError)
    return {
        "inputs": got.inputs,
        "expected": got.expected_inputs,
        "interrupted": got.interrupted,
        "values": dict(got.values),
        "spread": got.spread,
        "roads": got.roads,
        "ways": got.ways,
        "groups": got.groups,
    }


def scenarios(rank):
    """Yield name and call of everything that a group of processes is asked for."""
    for name, data in {**GOOD, **BAD}.items():
        yield name, lambda data=data: analyze(data(rank))
    yield "empirical", lambda: analyze(labelled().tensors, quantities=EMPIRICAL)
    yield "estimated", lambda: analyze(inputs(COUNT, 4), convolution(), **ESTIMATED)
    yield "without spread", lambda: analyze(inputs(COUNT, 4), input_variance=False)
    yield "other weights", lambda: analyze(inputs(COUNT, 4), build(lambda: mlp(4, 5, 3, 3)))
    yield "other model", lambda: analyze(inputs(COUNT, 4), scaled(1 + (rank == 1)))
    yield "wrong option", lambda: analyze(inputs(COUNT, 4), max_memory="lots" if rank else None)
    data = inputs(200, 4)
    yield "interrupted", lambda: analyze(data, model(data[33 * dist.get_world_size() + 1, 0]))
    yield "at once", lambda: analyze(waiting())
    yield "again", lambda: analyze(inputs(COUNT, 4))


def scaled(factor):
    made = model()
    with torch.no_grad():
        made.layers[0].weight.mul_(factor)
    return made


def waiting():
    os.kill(os.getpid(), signal.SIGINT)
    yield inputs(5, 4)


def counted(calls):
    """Record the size of everything that is reduced."""
    reduce = dist.all_reduce

    def recorded(tensor, *rest, **options):
        calls.append((tensor.numel(), tensor.dtype))
        return reduce(tensor, *rest, **options)

    dist.all_reduce = recorded


def join(folder, rank, world):
    dist.init_process_group(
        "gloo", f"file://{folder}/group{world}", rank=rank, world_size=world, timeout=TIMEOUT
    )


def agree(folder, rank):
    """Run every scenario with three processes, then with two of them."""
    found, calls = {}, []
    counted(calls)
    for world in (3, 2):
        if rank < world:
            join(folder, rank, world)
            for name, call in scenarios(rank):
                calls.clear()
                found[world, name] = outcome(call)
                found[world, name, "calls"] = list(calls)
            dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")


def die(folder, rank):
    """Kill process 1 while it reads."""

    def stream():
        yield inputs(20, 4)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield inputs(20, 4)

    join(folder, rank, 2)
    torch.save(outcome(lambda: analyze(stream())), folder / f"{rank}.pt")


ESTIMATES = {
    "draws": {"labels_per_input": 4},
    "one draw": {},
    "normal": {"estimator": "gaussian_probe", "labels_per_input": 4},
    "mixed": {"estimator": "mixed", "target_relative_error": 0.05},
    "target": {"target_relative_error": 0.2},
    "exact": {"estimator": "exact"},
}
"""Options of estimates that must be those of one process."""


def estimate(count, **options):
    data = inputs(count, 4)
    return fimsym.estimate(model(), data, "categorical", progress=False, **options)


def estimates(folder, rank):
    """Estimate with two processes; then with one input, and with a process that fails late."""
    join(folder, rank, 2)
    found = {}
    for count in (COUNT, 1):
        for name, options in ESTIMATES.items():
            got = estimate(count, **options)
            found[name, count] = dict(got.fisher), dict(got.standard_error), got.labels_per_input
    batches = [inputs(20, 4), inputs(20, 4)]
    given = Late(batches, rank)
    try:
        fimsym.estimate(
            model(), given, "categorical", target_relative_error=1e-3, max_labels=64, progress=False
        )
    except Exception as error:
        found["late"] = type(error).__name__, str(error)
    torch.save(found, folder / f"{rank}.pt")


class Late:
    """Batches that process 1 can read once only."""

    def __init__(self, batches, rank):
        self.batches, self.rank, self.read = batches, rank, 0

    def __iter__(self):
        self.read += 1
        if self.rank == 1 and self.read == 2:
            raise LookupError("the disk is gone")
        return iter(self.batches)


if __name__ == "__main__":
    torch.set_num_threads(1)
    does = {"agree": agree, "die": die, "estimates": estimates}[sys.argv[3]]
    does(Path(sys.argv[1]), int(sys.argv[2]))
