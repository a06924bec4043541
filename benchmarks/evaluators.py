"""Time of the evaluators, as ratios to u.square().sum(-2) measured in the same run.

Run ``python -m benchmarks.evaluators`` from the project's folder.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor

import fimsym

SHAPES = (
    ("one input, 10 classes", "categorical", (10,), 10**6),
    ("batch 1024, 10 classes", "categorical", (1024, 10), 256),
    ("batch 16, 10 classes", "categorical", (16, 10), 4608),
    ("batch 32, 1000 classes", "categorical", (32, 1000), 512),
    ("batch 2048, 1 output", "gaussian", (2048, 1), 256),
    ("batch 1024, 10 labels", "bernoulli", (1024, 10), 256),
    ("batch 1024, 5 targets", "gaussian_mean_variance", (1024, 10), 256),
)
CLASSES = (10**3, 10**4, 10**5, 10**6)
COMPILED = ("one input, 10 classes", "batch 1024, 10 classes", "batch 32, 1000 classes")
"""Shapes on which compiled evaluators are measured, too."""
REFERENCE = "u.square().sum(-2)"


@dataclasses.dataclass(frozen=True)
class Job:
    """Something to time.

    Attributes:
        shape: What it is run on.
        name: What is run.
        entries: Entries of u.
        run: Runs it once.
    """

    shape: str
    name: str
    entries: int
    run: Callable[[], object]


def arguments(family: str, shape: tuple[int, ...], params: int, device: str) -> list[Tensor]:
    """Return h, inside the domain of every family here, u and v."""
    h = torch.randn(shape, device=device)
    if family == "gaussian_mean_variance":
        h = torch.cat([h.chunk(2, -1)[0], -h.chunk(2, -1)[1].exp()], -1)
    return [h, *(torch.randn(*shape, params, device=device) for _ in "uv")]


def jobs(device: str) -> list[Job]:
    """Return every evaluator on every shape, each with the reference on the same tensor."""
    found = []
    for title, family, shape, params in SHAPES:
        h, u, v = arguments(family, shape, params, device)
        modules = {"": fimsym.evaluator(family)}
        if title in COMPILED:
            modules[", compiled"] = fimsym.evaluator(family, compiled=True)
        layouts = {title: u}
        if title.startswith("batch 1024, 10 classes"):
            layouts[f"{title}, outputs first"] = u.transpose(0, 1).contiguous().transpose(0, 1)
            layouts[f"{title}, same u"] = u[:1].expand_as(u)
        for name, x in layouts.items():
            calls: dict[str, Callable] = {REFERENCE: lambda x=x: x.square().sum(-2)}
            for suffix, module in modules.items():
                calls |= {
                    f"fisher{suffix}": functools.partial(module.fisher, h, x),
                    f"moments(h, u){suffix}": functools.partial(module.moments, h, x),
                    f"moments(h, u, v){suffix}": functools.partial(module.moments, h, x, v),
                }
            found += [Job(name, call, x.numel(), run) for call, run in calls.items()]
    return found


def scaling(device: str) -> list[Job]:
    """Return ``moments`` of four parameters for ever more classes."""
    module, found = fimsym.evaluator("categorical"), []
    for count in CLASSES:
        h, u, _ = arguments("categorical", (count,), 4, device)
        run = lambda h=h, u=u: module.moments(h, u)  # noqa: E731
        found.append(Job(str(count), "moments(h, u)", u.numel(), run))
    return found


def measure(todo: list[Job], repeats: int, device: str) -> list[float]:
    """Return the median seconds of every job, run in turns."""
    times: list[list[float]] = [[] for _ in todo]
    for _ in range(repeats + 1):
        for job, spent in zip(todo, times, strict=True):
            start = time.perf_counter()
            job.run()
            if device != "cpu":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent[1:]) for spent in times]


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Return the slope of log seconds over log size."""
    x, y = [math.log(size) for size in sizes], [math.log(second) for second in seconds]
    return statistics.linear_regression(x, y).slope


def overhead(repeats: int) -> dict[str, float]:
    """Return the seconds of one call on tensors that cost nothing."""
    h, u, v = arguments("categorical", (4, 10), 4, "cpu")
    module = fimsym.evaluator("categorical")
    calls = {"fisher": lambda: module.fisher(h, u), "moments": lambda: module.moments(h, u, v)}
    seconds = measure([Job("", name, 1, run) for name, run in calls.items()], 50 * repeats, "cpu")
    return dict(zip(calls, seconds, strict=True))


def bandwidth(device: str, repeats: int, params: int = 10**7) -> dict[str, float]:
    """Return the bytes of u, v and results per second, relative to a copy of u on the device.

    A copy reads and writes.
    """
    h, u, v = arguments("categorical", (10,), params, device)
    modules = {"": fimsym.evaluator("categorical"),
               ", compiled": fimsym.evaluator("categorical", compiled=True)}  # fmt: skip
    calls = {"fisher": (h, u), "moments": (h, u), "moments(h, u, v)": (h, u, v)}
    found = [Job("", "copy", 2 * u.numel(), u.clone)]
    for name, given in calls.items():
        function = name.partition("(")[0]
        results = {"fisher": 1, "moments": 3, "moments(h, u, v)": 5}[name] * params
        entries = sum(x.numel() for x in given[1:]) + results
        for title, module in modules.items():
            call = functools.partial(getattr(module, function), *given)
            found.append(Job("", name + title, entries, call))
    copy, *seconds = measure(found, repeats, device)
    rate = found[0].entries / copy
    others = zip(found[1:], seconds, strict=True)
    return {job.name: job.entries / spent / rate for job, spent in others}


@click.command()
@click.option("--repeats", default=15, show_default=True, help="Of every measurement.")
@click.option("--threads", type=int, help="Of torch; all if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(repeats: int, threads: int | None, as_json: bool) -> None:
    """Print the time of every evaluator relative to one pass over u.

    Each is also given per entry, relative to the pass over the first and largest u.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    todo = jobs(device)
    seconds = measure(todo, repeats, device)
    unit = seconds[0] / todo[0].entries
    own = {job.shape: t for job, t in zip(todo, seconds, strict=True) if job.name == REFERENCE}
    rows = []
    for job, spent in zip(todo, seconds, strict=True):
        per_entry = spent / job.entries
        row = {"shape": job.shape, "call": job.name, "ratio": spent / own[job.shape]}
        rows.append({**row, "entry_ratio": per_entry / unit, "ns_per_entry": 1e9 * per_entry})
    report = {
        "device": device,
        "threads": torch.get_num_threads(),
        "rows": rows,
        "exponent_in_classes": exponent(CLASSES, measure(scaling(device), repeats, device)),
        "seconds_per_small_call": overhead(repeats),
    }
    if device == "cuda":
        report["bandwidth"] = bandwidth(device, repeats)
    click.echo(json.dumps(report, indent=1) if as_json else "\n".join(lines(report)))


def lines(report: dict) -> list[str]:
    """Return a report as Markdown."""
    head = f"Ratios to `{REFERENCE}` ({report['device']}, {report['threads']} threads)"
    found = [head, "", "| u | call | same u | per entry | ns per entry |", "|---|---|---|---|---|"]
    found += [
        f"| {r['shape']} | {r['call']} | {r['ratio']:.2f} | {r['entry_ratio']:.2f} "
        f"| {r['ns_per_entry']:.2f} |"
        for r in report["rows"]
    ]
    found += ["", f"Exponent in the number of classes: {report['exponent_in_classes']:.2f}"]
    small = report["seconds_per_small_call"].items()
    found += [f"One small call of {name}: {1e6 * spent:.0f} µs" for name, spent in small]
    shares = report.get("bandwidth", {}).items()
    return [*found, *(f"{name}: {share:.0%} of a copy's bandwidth" for name, share in shares)]


if __name__ == "__main__":
    main()
