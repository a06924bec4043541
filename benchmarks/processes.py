"""How much faster processes are than one: the wall time of the same `analyze`, as a ratio.

Run ``python -m benchmarks.processes`` from the project's folder, on a machine with nothing
else to do. Every process computes on one thread, so that the same code is compared. Starting
Python, joining the group and a first small call are not counted; sharing out and adding up are.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import click
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

import fimsym
from benchmarks.networks import CASES

GOAL = 1.7
"""Smallest ratio of two processes to one."""


def work(rank: int, world: int, case: str, batches: int, rounds: int, folder: str) -> None:
    """Time `analyze` in one process of a group; process 0 writes the seconds down."""
    torch.set_num_threads(1)
    place = f"file://{folder}/group"
    dist.init_process_group("gloo", place, rank=rank, world_size=world)
    try:
        chosen = CASES[case]
        model, data = chosen.model(), chosen.batches(batches)
        fimsym.analyze(model, data[: 2 * world], chosen.family, progress=False)
        seconds = []
        for _ in range(rounds):
            dist.barrier()
            start = time.perf_counter()
            fimsym.analyze(model, data, chosen.family, progress=False)
            seconds.append(time.perf_counter() - start)
        if rank == 0:
            Path(folder, "seconds.json").write_text(json.dumps(seconds))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def measure(world: int, case: str, batches: int, rounds: int) -> list[float]:
    """Return the wall times of `analyze` by so many processes together."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (world, case, batches, rounds, folder), nprocs=world)
        return json.loads(Path(folder, "seconds.json").read_text())


def compare(processes: int, case: str, batches: int, rounds: int) -> dict:
    """Return the wall times of one process and of several, measured in turns, and their ratio."""
    one, many = [], []
    for _ in range(2):
        one += measure(1, case, batches, rounds)
        many += measure(processes, case, batches, rounds)
    return {
        "case": case,
        "inputs": batches * CASES[case].batch,
        "processes": processes,
        "seconds_one": one,
        "seconds_many": many,
        "ratio": statistics.median(one) / statistics.median(many),
        "goal": GOAL if processes == 2 else None,
    }


@click.command()
@click.option("--processes", default=2, show_default=True, type=click.IntRange(min=2))
@click.option("--case", default="mlp", show_default=True, type=click.Choice(list(CASES)))
@click.option("--batches", default=400, show_default=True, type=click.IntRange(min=2))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(processes: int, case: str, batches: int, rounds: int, as_json: bool) -> None:
    """Compare the wall time of several processes with that of one."""
    os.environ["OMP_NUM_THREADS"] = "1"
    record = compare(processes, case, batches, rounds)
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    one, many = record["seconds_one"], record["seconds_many"]
    goal = f", goal {GOAL}" if record["goal"] else ""
    click.echo(
        f"{case}, {record['inputs']} inputs, one thread each: "
        f"{statistics.median(one):.3f} s by one process, "
        f"{statistics.median(many):.3f} s by {processes}; ratio {record['ratio']:.2f}{goal} "
        f"(medians of {len(one)}, fastest {min(one):.3f} and {min(many):.3f} s)"
    )


if __name__ == "__main__":
    main()
