"""Does `fimsym validate` catch what it should? Planted defects, one at a time.

Run ``python -m benchmarks.sabotage`` from the project's folder. Every defect is planted in a
copy of the package, which a process of its own then validates; another process meanwhile
validates the package as it is, on many seeds. The table in
``docs/sabotage.md`` is its output with ``--document docs/sabotage.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks import defects_elsewhere, defects_of_evaluators
from benchmarks.defects import Defect
from fimsym.errors import FimsymError, SpecError

PACKAGE = Path(__file__).parent.parent / "fimsym"
OPTIONS = {"samples": 20_000, "inputs": 4, "output_samples": 200_000, "progress": False}
"""Of the runs that must see a defect."""
SEEDS = {"samples": 5000, "output_samples": 20_000, "progress": False}
"""Of the runs without a defect, one for every seed."""
INPUTS = 2
"""Inputs of every network in these."""
_HASH = re.compile(r"# body sha256 [0-9a-f]{64}\n")


def all_defects() -> list[Defect]:
    """Return every defect."""
    return [
        *defects_of_evaluators.evaluators(),
        *defects_of_evaluators.files(),
        *defects_elsewhere.networks(),
        *defects_elsewhere.instrument(),
    ]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `validate` said.

    Attributes:
        caught: It did not agree.
        by: What disagreed, in words.
        seconds: How long it took.
    """

    caught: bool
    by: str
    seconds: float


def planted(defect: Defect) -> dict[str, str]:
    """Return the modules that a defect changes: their paths in the package, and their text.

    Raises:
        SpecError: what is to be changed is no longer there.
    """
    found: dict[str, str] = {}
    for edit in defect.edits:
        path = edit.module.replace(".", "/") + ".py"
        text = found.get(path) or (PACKAGE / path).read_text()
        if edit.old not in text:
            raise SpecError(
                f"{defect.title!r} cannot be planted: {edit.old!r} is not in {edit.module}. "
                "Mend it in benchmarks/defects_*.py."
            )
        found[path] = text.replace(edit.old, edit.new) if edit.old else text + edit.new
    if defect.by_hand:
        return found
    return {p: _rehashed(t) if p.startswith("generated/") else t for p, t in found.items()}


def plant(defect: Defect, folder: Path) -> None:
    """Write a copy of the package with a defect into a folder."""
    shutil.copytree(PACKAGE, folder / "fimsym", ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in planted(defect).items():
        (folder / "fimsym" / path).write_text(text)


def _rehashed(text: str) -> str:
    """Return a generated module with the hash of its body as it is now."""
    head = _HASH.search(text)
    if head is None:
        raise SpecError("the generated module has no hash of its body.")
    body = text[head.end() :]
    line = f"# body sha256 {hashlib.sha256(body.encode()).hexdigest()}\n"
    return text[: head.start()] + line + body


def outcome(defect: Defect) -> Outcome:
    """Validate a copy of the package with a defect, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        plant(defect, Path(folder))
        start = time.perf_counter()
        try:
            caught, by = forked(_validated, folder, defect.family)()
        except EOFError:
            caught, by = False, "the process ended without an answer"
    return Outcome(caught, by, time.perf_counter() - start)


def forked(function: Callable, *arguments: Any) -> Callable[[], Any]:
    """Call a function in a forked process, and return what waits for its result."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(function(*arguments)), daemon=True)
    process.start()
    theirs.close()
    return mine.recv


def _validated(folder: str, family: str) -> tuple[bool, str]:
    """Import the package anew from a folder and validate a family."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "fimsym":
            del sys.modules[name]
    sys.path.insert(0, folder)
    fimsym = importlib.import_module("fimsym")
    try:
        result = fimsym.validate(family, **OPTIONS)
    except fimsym.FimsymError as error:  # a defect may also stop the run, which is seen as well
        return True, f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    except Exception as error:
        return False, f"a crash, {type(error).__name__}: {str(error)[:80]}"
    return not result.agrees, reason(result)


def reason(result) -> str:
    """Return what disagreed: rows rejected by labels, checks, z-scores."""
    found = []
    rows = [(m, c) for m in result.models for c in m.comparisons if not c.agrees]
    if rows:
        model, worst = max(rows, key=lambda pair: pair[1].largest_z)
        found.append(
            f"labels: {len(rows)} rows, |z| up to {worst.largest_z:.3g} in {worst.quantity} of "
            f"{model.description.name}"
        )
    checks = sorted({k.name for m in result.models for k in m.checks if not k.passes})
    if checks:
        found.append(f"checks: {', '.join(checks)}")
    fits = [f for f in (*result.fits, *(f for m in result.models for f in m.fits)) if not f.agrees]
    if fits:
        found.append(f"z-scores: mean square {fits[0].variance:.2f}")
    return "; ".join(found) or "nothing"


def rejected(seeds: range) -> list[int]:
    """Return those seeds at which the package as it is was rejected.

    Every seed has points, directions and labels of its own; networks are trained once.
    """
    from fimsym.families import families, family
    from fimsym.validation.carried import Plan, carry_out
    from fimsym.validation.links import of_links
    from fimsym.validation.network import OfNetwork
    from fimsym.validation.output import RANDOM, AtPoints, random_points
    from fimsym.validation.tasks import tasks

    specs = [family(name) for name in families()]
    trained = [task(0, INPUTS) for spec in specs for task in tasks(spec)]

    def subjects(seed: int) -> list:
        laws = [AtPoints(spec, random_points(spec, seed), RANDOM) for spec in specs]
        links = [link for spec in specs for link in of_links(spec, seed)]
        return [*laws, *links, *(OfNetwork(question, seed) for question in trained)]

    found = []
    for seed in seeds:
        if not carry_out(Plan(seed, **SEEDS), functools.partial(subjects, seed)).agrees:
            found.append(seed)
        click.echo(f"seed {seed}: rejected so far: {found or 'none'}", err=True)
    return found


def table(found: list[tuple[Defect, Outcome]]) -> str:
    """Return the outcomes as a table in Markdown."""
    lines = ["| # | where | family | what is wrong | caught by |", "|---|---|---|---|---|"]
    for number, (defect, one) in enumerate(found, 1):
        by = one.by.replace("|", "\\|") if one.caught else f"NOT CAUGHT: {one.by}"
        lines.append(f"| {number} | {defect.where} | {defect.family} | {defect.title} | {by} |")
    return "\n".join(lines)


@click.command()
@click.option("--only", help="Defects whose description holds this.")
@click.option("--seeds", default=200, show_default=True, help="Runs without a defect.")
@click.option("--processes", default=1, show_default=True, help="Share the seeds out among these.")
@click.option("--document", type=click.Path(path_type=Path), help="Write the page there.")
def main(only: str | None, seeds: int, processes: int, document: Path | None) -> None:
    """Plant defects one at a time, validate each, and print which were caught by what."""
    import sklearn.datasets  # noqa: F401  imported here once, not in every process
    import statsmodels.datasets  # noqa: F401
    import torch._dynamo

    if document is not None and only is not None:
        raise click.UsageError("--document is of all defects; leave out --only.")
    torch.set_num_threads(1)
    chosen = [d for d in all_defects() if only is None or only in f"{d.title} {d.family}"]
    try:
        for defect in chosen:
            planted(defect)
    except FimsymError as error:
        raise click.ClickException(str(error)) from None
    shares = [forked(rejected, range(n, seeds, processes)) for n in range(processes)]
    found = []
    for defect in chosen:
        found.append((defect, outcome(defect)))
        click.echo(f"{defect.title}: {found[-1][1]}", err=True)
    failed = [seed for share in shares for seed in share()]
    caught = sum(one.caught for _, one in found)
    text = (
        f"{caught} of {len(found)} defects caught. Without a defect, {seeds - len(failed)} of "
        f"{seeds} seeds agree."
    )
    click.echo(f"{table(found)}\n\n{text}")
    if document is not None:
        document.write_text(_PAGE.format(table=table(found), text=text))
    if caught < len(found) or failed:
        sys.exit(1)


_PAGE = """# Sabotage

Would [`fimsym validate`](validating.md) notice? Each line is a defect that was planted in a copy of
the package, alone; a process of its own then validated the family. The rarer a run without a defect
is rejected, and the more of these are, the more a verdict is worth.

```text
python -m benchmarks.sabotage --processes 2 --document docs/sabotage.md
```

{text}

*Labels* are Monte Carlo tests, with the largest |z| of a row; *checks* compare without randomness
([what they are](validating.md#checks-without-randomness)); *z-scores* are compared with N(0, 1).

{table}
"""


if __name__ == "__main__":
    main()
