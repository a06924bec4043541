"""The record as tables: for the terminal, as Markdown, as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.contenders import OURS, UNIT
from benchmarks.goals import Goal, all_goals, fastest_peer, ratio
from benchmarks.measure import CHECKED, ENUMERATED, Result
from benchmarks.networks import BATCHES, CASES
from benchmarks.runner import Record

MIB = 2**20
HEADER = ("contender", "× forward + backward", "spread", "fimsym / it", "peak MiB", "error", "")
GOALS = ("goal", "at most", "measured", "met", "")
LINEAR = ("cost in", "sizes", "exponent", "last doubling", "at the largest, ms", "")


@dataclasses.dataclass(frozen=True)
class Section:
    """A titled table with a paragraph before it.

    Attributes:
        title: Its heading.
        text: What stands before the table.
        header: Names of the columns.
        rows: Cells.
    """

    title: str
    text: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sections(record: Record) -> list[Section]:
    """Return the tables of everything that was measured, goals first."""
    goals = all_goals(record.cases, record.fixed, record.linear)
    met = sum(goal.met is True for goal in goals)
    text = f"{met} of {len(goals)} are met."
    found = [Section("Goals", text, GOALS, tuple(map(_goal_row, goals)))] if goals else []
    found += [_case(name, results, record) for name, results in record.cases.items()]
    if record.fixed is not None:
        found.append(_fixed(record.fixed))
    if record.linear is not None:
        rows = tuple(_linear_row(axis, found) for axis, found in record.linear.items())
        text = "Time of one call over one batch, and the slope of its logarithm."
        found.append(Section("Linearity", text, LINEAR, rows))
    return found + [part for name in record.companions for part in _companion(name, record)]


def _goal_row(goal: Goal) -> tuple[str, ...]:
    met = {True: "yes", False: "no", None: "not measured"}[goal.met]
    return (goal.text, f"{goal.limit:g}", number(goal.measured), met, goal.note)


def _case(name: str, results: Mapping[str, Result], record: Record) -> Section:
    case = CASES[name]
    unit = results[UNIT]
    truth = record.truths[name]
    checked = f"within {truth:.0e}" if isinstance(truth, float) else f"not checked ({truth})"
    milliseconds = f"{1e3 * unit.typical / BATCHES:.2f} ms" if unit.typical else "not measured"
    text = (
        f"{case.description}; {case.family}, B = {case.batch}. Forward and backward of a batch: "
        f"{milliseconds}. fimsym in float64 against enumeration on {ENUMERATED} inputs: {checked}."
    )
    if unit.message:
        text += f" {unit.message[0].upper()}{unit.message[1:]}."
    best = fastest_peer(results)
    rows = (_row(result, results, best) for result in results.values() if result.kind != "unit")
    return Section(name, text, HEADER, tuple(rows))


def _row(result: Result, results: Mapping[str, Result], best: Result | None) -> tuple[str, ...]:
    unit, mine = results[UNIT], results.get(OURS)
    multiple = ratio(result, unit)
    guess = "" if result.seconds or multiple is None else "≈ "
    compared = mine and result.kind in ("peer", "floor") and multiple
    share = ratio(mine, result) if mine and compared else None
    notes = [] if result.status == "ok" else [result.status]
    if result is best:
        notes.append("fastest peer")
    if result.dropped:
        notes.append(f"without {', '.join(result.dropped)}")
    if result.message:
        notes.append(result.message)
    return (
        result.name,
        guess + number(multiple),
        _spread(result, unit),
        number(share),
        "–" if result.peak is None else f"{result.peak / MIB:.1f}",
        "–" if result.error is None else f"{result.error:.0e}",
        "; ".join(notes),
    )


def _spread(result: Result, unit: Result) -> str:
    """Return the range of the multiples over the rounds."""
    if not result.seconds or not unit.seconds:
        return "–"
    multiples = [a / b for a, b in zip(result.seconds, unit.seconds, strict=False)]
    return f"{number(min(multiples))} to {number(max(multiples))}"


def _fixed(fixed: Mapping) -> Section:
    header = ("inputs", "ms", "quartiles")
    text = (
        "`fimsym.analyze` of the mlp on one and two inputs: what a call costs whatever the data. "
        "The network is a new one for each call, or that of the call before, *again*."
    )
    if fixed["milliseconds"] is None:
        return Section("Fixed cost", text, header, ((fixed["message"], "–", "–"),))
    rows = tuple(
        (name, f"{median:.2f}", f"{low:.2f} to {high:.2f}")
        for name, (low, median, high) in fixed["quartiles"].items()
    )
    return Section("Fixed cost", text, header, rows)


def _linear_row(axis: str, record: Mapping) -> tuple[str, ...]:
    if record["exponent"] is None:
        return (axis, "–", "–", "–", "–", f"{record['description']}; {record['message']}")
    sizes = f"{record['sizes'][0]} to {record['sizes'][-1]}"
    last = f"{1e3 * record['seconds'][-1]:.1f}"
    slopes = (f"{record['exponent']:.2f}", f"{record['last']:.2f}")
    return (axis, sizes, *slopes, last, record["description"])


def _companion(name: str, record: Record) -> Iterable[Section]:
    """Yield a table for each list of records in another benchmark's JSON, one for the rest."""
    found = record.companions[name]
    parts = found if isinstance(found, dict) else {"": found}
    single = {key: value for key, value in parts.items() if not _is_table(value)}
    if single:
        rows = tuple((key, _plain(value)) for key, value in single.items())
        yield Section(name, "", ("", "measured"), rows)
    for key, value in parts.items():
        if _is_table(value):
            header = tuple(dict.fromkeys(column for row in value for column in row))
            rows = tuple(tuple(_plain(row.get(column)) for column in header) for row in value)
            yield Section(f"{name}: {key}" if key else name, "", header, rows)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _plain(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return "–" if value is None else str(value)


def number(value: float | None) -> str:
    """Return three significant digits, without an exponent."""
    if value is None:
        return "–"
    if value != value or value in (float("inf"), -float("inf")):
        return str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}" if abs(value) >= 0.1 or not value else f"{value:.2g}"


def show(record: Record, console: Console) -> None:
    """Print every table."""
    for section in sections(record):
        table = Table(title=section.title, caption=section.text, title_justify="left")
        for column in section.header:
            table.add_column(column, overflow="fold")
        for row in section.rows:
            table.add_row(*map(str, row))
        console.print(table, markup=False)


def markdown(record: Record) -> str:
    """Return the page ``docs/benchmarks.md``."""
    machine = ", ".join(f"{name} {value}" for name, value in record.machine.items())
    lines = [INTRODUCTION.format(batches=BATCHES, checked=CHECKED, machine=machine)]
    for section in sections(record):
        lines.append(f"## {section.title}\n")
        lines += [f"{section.text}\n"] if section.text else []
        lines.append(_markdown_row(section.header))
        lines.append("|---" * len(section.header) + "|")
        lines += [*map(_markdown_row, section.rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def as_dict(record: Record) -> dict:
    """Return the record as plain data, goals and medians included."""
    plain = dataclasses.asdict(record)
    for name, results in record.cases.items():
        for contender, result in results.items():
            multiple = ratio(result, results[UNIT])
            plain["cases"][name][contender] |= {"multiple": multiple}
            if len(result.seconds) > 1:
                spread = statistics.stdev(result.seconds)
                plain["cases"][name][contender] |= {"deviation": spread}
    goals = all_goals(record.cases, record.fixed, record.linear)
    plain["goals"] = [dataclasses.asdict(goal) | {"met": goal.met} for goal in goals]
    return plain


INTRODUCTION = """\
# Benchmarks

`make benchmark` installs the packages compared and rewrites this page.

The exact diagonal of a network's Fisher information I: one call of `fimsym.analyze` over {batches}
batches, which returns V₁ as well, against every package that has an exact diagonal, looping over
the same batches. All take turns in one process, forward and backward of a loss between any two of
them; times are multiples of that, medians over the rounds, and *spread* is their range. Float32,
random weights and inputs. What a package does once for a network is not timed: setting it up,
or, in fimsym's first call, finding out about its operations; *Fixed cost* has that.

* *fimsym / it*: below one, fimsym with V₁ is faster than the package without. ≈ is an estimate from
  {checked} batches, where more would take too long.
* *peak MiB*: the most memory a fresh process takes on {checked} batches beyond imports, network,
  data and one forward and backward. fimsym's results, I and V₁ in float64, take four times
  the bytes of I in float32, 4.1 MiB for the mlp; a first call also compares with float64.
* *error*: the largest on {checked} batches, relative to the largest entry of its parameter. The
  truth is fimsym in float64, itself compared with one gradient per input and label.
* *wrong*: an error above 10⁻³; *incomplete*: parameters are missing; *refused*: an error was
  raised. A package that is any of these is not the fastest peer, however fast.
* *bare products*: the forward pass and the matrix products that I and V₁ take, written down for
  this one kind of network, with no check of anything: the least that fimsym could take.
* curvlinops is not here: its diagonals are estimates from random probes.

Machine: {machine}.
"""
