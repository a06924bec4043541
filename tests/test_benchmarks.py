"""The comparison with other packages is right, fair and robust; none of them is needed."""

import dataclasses
import io
import json
import signal
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from torch import nn

import fimsym
from benchmarks import (
    bare,
    contenders,
    coverage,
    goals,
    isolation,
    measure,
    networks,
    peers,
    scaling,
    table,
    truth,
)
from benchmarks.__main__ import chosen, main
from benchmarks.bare import Bare
from benchmarks.contenders import ALL, FLOOR, OURS, UNIT
from benchmarks.measure import Result, Settings
from benchmarks.runner import Record
from fimsym.errors import SpecError
from tests.networks import flat
from tests.reference import enumeration

NETWORKS = {
    "categorical": lambda: networks.mlp((4, 5, 3), nn.Sigmoid),
    "gaussian": lambda: networks.mlp((4, 5, 2), nn.Tanh),
    "transformer": lambda: networks.Transformer(4, 6, 3),
}


def tiny(name):
    torch.manual_seed(0)
    shape = (6, 5, 4) if name == "transformer" else (6, 4)
    family = "gaussian" if name == "gaussian" else "categorical"
    return NETWORKS[name]().eval(), torch.randn(shape), family


@pytest.mark.parametrize("name", NETWORKS)
def test_naive_and_enumeration_agree_with_fimsym(name):
    model, inputs, family = tiny(name)
    true = truth.exact(model, [inputs], family)
    found = peers.naive(model, family)(inputs.split(4))  # the last batch is smaller
    assert truth.judge(found, true["fisher"]).status == "ok"
    assert truth.disagreement(model, inputs, family) < truth.AGREEMENT


@pytest.mark.parametrize(("family", "outputs"), [("categorical", 3), ("gaussian", 1)])
@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
def test_bare_products_are_all_that_is_needed(family, outputs, activation, monkeypatch):
    monkeypatch.setattr(bare, "_ROWS", 4)
    torch.manual_seed(0)
    model, x = networks.mlp((4, 5, 6, outputs), activation).double(), torch.randn(9, 4).double()
    fisher, variance = Bare(model, family).means(x.split(5))
    exact = enumeration.moments(family, model, x)
    torch.testing.assert_close(flat(fisher), exact["fisher"])
    torch.testing.assert_close(flat(variance), exact["variance_score_squared"])


def test_naive_is_the_same_in_chunks(monkeypatch):
    model, inputs, family = tiny("categorical")
    whole = peers.naive(model, family)([inputs])
    monkeypatch.setattr(peers, "JACOBIAN_BYTES", 1)
    for name, value in peers.naive(model, family)([inputs]).items():
        torch.testing.assert_close(value, whole[name])


def test_enumeration_sees_a_wrong_variance(monkeypatch):
    model, inputs, family = tiny("categorical")
    right = truth.exact

    def planted(*args):
        found = right(*args)
        found["variance_score_squared"]["0.weight"] *= 1.001
        return found

    monkeypatch.setattr(truth, "exact", planted)
    assert truth.disagreement(model, inputs, family) > truth.AGREEMENT


@pytest.mark.parametrize(
    ("plant", "status"),
    [
        (lambda d: d, "ok"),
        (lambda d: {**d, "0.bias": d["0.bias"] * 1.01}, "wrong"),
        (lambda d: {**d, "0.bias": d["0.bias"] * float("nan")}, "wrong"),
        (lambda d: {**d, "0.bias": d["0.bias"][:-1]}, "wrong"),
        (lambda d: {**d, "unknown": d["0.bias"]}, "wrong"),
        (lambda d: {}, "wrong"),
        (lambda d: {"0.bias": d["0.bias"]}, "incomplete"),
    ],
)
def test_a_planted_mistake_gets_its_name(plant, status):
    model, inputs, family = tiny("categorical")
    true = truth.exact(model, [inputs], family)["fisher"]
    assert truth.judge(plant(dict(true)), true).status == status


def test_rounding_where_the_truth_is_zero_is_not_an_error():
    true = {"weight": torch.ones(2).double(), "key": torch.full((2,), 1e-33).double()}
    assert truth.judge({**true, "key": torch.full((2,), 1e-16)}, true).status == "ok"
    assert truth.judge({**true, "key": torch.full((2,), 1e-9)}, true).status == "wrong"


@pytest.fixture
def small(monkeypatch):
    """A case of three entrants: the unit, fimsym, and a peer that doubles."""
    case = networks.perceptron("small", (4, 5, 3), nn.Sigmoid, 6)
    right = contenders.ours()

    def doubled(model, case):
        run = right(model, case)
        return lambda batches: {name: 2 * value for name, value in run(batches).items()}

    entrants = (
        contenders.Contender(UNIT, contenders.forward_backward, "unit", "gradient"),
        contenders.Contender(OURS, right, "fimsym"),
        contenders.Contender("doubled", doubled, "peer"),
    )
    monkeypatch.setitem(measure.CASES, "small", case)
    monkeypatch.setattr(measure, "contenders", lambda case: entrants)
    return Settings(threads=1, rounds=3)


def test_a_wrong_peer_is_called_wrong(small, tmp_path):
    path = str(tmp_path / "truth.pt")
    assert measure.examine("small", OURS, path, small)["status"] == "unchecked"
    assert measure.find_truth("small", path, small) < truth.AGREEMENT
    assert measure.examine("small", OURS, path, small)["status"] == "ok"
    found = measure.examine("small", "doubled", path, small)
    assert (found["status"], round(found["error"], 3)) == ("wrong", 1.0)
    assert found["message"].startswith("in 4 of 4 parameters")


def test_rounds_take_turns_until_the_time_limit(small):
    times = measure.time_rounds("small", (OURS, "doubled"), small)
    assert [len(found) for found in times.values()] == [3, 3, 3]
    short = dataclasses.replace(small, seconds=0.0)
    times = measure.time_rounds("small", (OURS, "doubled"), short)
    assert {name: len(found) for name, found in times.items()} == {UNIT: 3, OURS: 1, "doubled": 1}


def test_fixed_cost_and_contenders_without_the_switch(monkeypatch):
    found = measure.fixed_cost(Settings(threads=1, rounds=1))
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys(
        ("one", "one, again", "two", "two, again"), 4
    )
    monkeypatch.setattr(fimsym, "analyze", lambda model, data, *, input_variance=True: None)
    assert contenders.switchable()
    names = [entrant.name for entrant in contenders.contenders(networks.CASES["mlp"])]
    assert contenders.SPREAD in names
    assert ALL in names


@pytest.mark.parametrize(
    ("call", "seconds", "memory", "status"),
    [
        ((int, "7"), 60.0, None, "ok"),
        ((int, "seven"), 60.0, None, "refused"),
        ((torch.ones, 2**33), 60.0, 2**30, "out of memory"),
        ((time.sleep, 60.0), 0.1, None, "too slow"),
    ],
)
def test_processes_end_as_they_should(call, seconds, memory, status):
    outcome = isolation.isolated(*call, seconds=seconds, memory=memory)
    assert outcome.status == status, outcome.message


def fail_for_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


@pytest.mark.parametrize(
    ("call", "seconds", "status"),
    [
        ((int, "7"), 60.0, "ok"),
        ((int, "seven"), 60.0, "refused"),
        ((fail_for_memory,), 60.0, "out of memory"),
        ((time.sleep, 60.0), 0.1, "too slow"),
    ],
)
def test_measurements_on_a_gpu_end_as_they_should(call, seconds, status):
    before = signal.getsignal(signal.SIGALRM)
    outcome = isolation.within(*call, seconds=seconds)
    assert outcome.status == status, outcome.message
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_messages_do_not_tell_folders():
    failure = isolation._failure(ImportError("cannot import 'a' from 'b' (/home/me/lib/b.py)"))
    assert failure.message == "ImportError: cannot import 'a' from 'b' (b.py)"


def results(**changes):
    found = {
        UNIT: Result(UNIT, "unit", seconds=[1.0, 1.0, 2.0]),
        OURS: Result(OURS, "fimsym", peak=10, seconds=[2.0, 2.0, 4.0]),
        ALL: Result(ALL, "fimsym", seconds=[50.0, 50.0, 100.0]),
        "slow": Result("slow", "peer", peak=5, seconds=[8.0, 8.0, 8.0]),
        "fast": Result("fast", "peer", peak=20, error=1e-7, seconds=[5.0, 5.0, 10.0]),
        "lies": Result("lies", "peer", status="wrong", peak=1, seconds=[1.0, 1.0, 1.0]),
        "part": Result("part", "peer", status="incomplete", dropped=("a.b",), estimate=0.5),
        "none": Result("none", "peer", status="refused", message="Error: no|pe"),
    }
    for name, fields in changes.items():
        found[name] = dataclasses.replace(found[name], **fields)
    return found


def by_text(cases, fixed=None, linear=None):
    return {goal.text: goal for goal in goals.all_goals(cases, fixed, linear)}


def test_goals_take_the_fastest_peer_that_is_right():
    found = by_text({"mlp": results()})
    speed = found["mlp: time of I and V₁ / time of the fastest peer's I"]
    assert (speed.measured, speed.met, speed.note) == (0.4, True, "against fast")
    assert found["mlp: peak memory / that of the fastest peer"].measured == 0.5
    assert found["mlp: time of all four quantities / forward + backward"].measured == 50.0
    least = {**results(), FLOOR: Result(FLOOR, "floor", seconds=[1.0] * 3)}
    speed = by_text({"mlp": least})["mlp: time of I and V₁ / time of the fastest peer's I"]
    assert (speed.measured, speed.note) == (
        0.4, "against fast; the bare products take 0.20 of its time")  # fmt: skip
    least[FLOOR] = dataclasses.replace(least[FLOOR], status="wrong")
    speed = by_text({"mlp": least})["mlp: time of I and V₁ / time of the fastest peer's I"]
    assert speed.note == "against fast"
    wrong = by_text({"mlp": results(fast={"status": "wrong"})})
    speed = wrong["mlp: time of I and V₁ / time of the fastest peer's I"]
    assert (speed.measured, speed.note) == (0.25, "against slow")
    assert wrong["mlp: peak memory / that of the fastest peer"].met is False


def test_goals_are_not_met_by_wrong_numbers_or_without_a_peer():
    mine = by_text({"wide": results(**{OURS: {"status": "wrong"}})})
    assert {goal.met for goal in mine.values()} == {None}
    alone = {name: r for name, r in results().items() if name not in ("fast", "slow")}
    goal = by_text({"wide": alone})["wide: time of I and V₁ / time of the fastest peer's I"]
    assert (goal.met, goal.note) == (None, "no peer is right and complete")


def test_goals_of_fixed_cost_and_exponents():
    linear = {"inputs B": {"exponent": 1.2, "message": ""}}
    found = by_text({}, {"milliseconds": 9.0, "message": ""}, linear)
    assert found["fixed cost of a call, ms"].met is True
    assert found["exponent of time in inputs B"].met is False


def test_exponents_are_slopes():
    sizes, times = [1, 2, 4, 8], [[3.0], [12.0], [48.0, 40.0, 500.0], [192.0]]
    assert scaling.exponents(sizes, times) == (pytest.approx(2.0), pytest.approx(2.0))


def record():
    linear = {
        "inputs B": {"exponent": 1.0, "last": 1.0, "sizes": [1, 16], "seconds": [0.1, 1.6],
                     "description": "", "message": ""},
        "outputs C": {"exponent": None, "description": "", "message": "too slow"},
    }  # fmt: skip
    fixed = {"milliseconds": 9.0, "quartiles": {"one": (8.0, 9.0, 10.0)}, "message": ""}
    others = {"evaluators": {"rows": [{"family": "beta", "ns": 1.5}], "count": 3}}
    return Record({"cores": "2"}, {"mlp": results()}, {"mlp": 1e-15}, fixed, linear, others)


def test_tables_hold_what_was_measured():
    page = table.markdown(record())
    assert "| fast | 5.00 | 5.00 to 5.00 | 0.400 | 0.0 | 1e-07 | fastest peer |" in page
    assert "| part | ≈ 0.500 | – | 4.00 | – | – | incomplete; without a.b |" in page
    assert "refused; Error: no\\|pe" in page
    assert "| beta | 1.50 |" in page
    printed = io.StringIO()
    table.show(record(), Console(width=200, file=printed))
    assert "against fast" in printed.getvalue()
    plain = json.loads(json.dumps(table.as_dict(record())))
    assert plain["cases"]["mlp"]["fast"]["multiple"] == 5.0
    assert {"text", "met", "measured"} <= set(plain["goals"][0])


def test_unknown_parts_are_refused_with_a_suggestion():
    assert chosen("mlp, cnn") == ("mlp", "cnn")
    with pytest.raises(SpecError, match="mlp"):
        chosen("mpl")
    result = CliRunner().invoke(main, ["--only", "mpl"])
    assert result.exit_code == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("name", coverage.MODULES)
def test_every_kind_of_module_is_right_and_a_wrong_diagonal_is_seen(name):
    shape, make = coverage.MODULES[name]
    case = networks.Case(name, name, "categorical", coverage.INPUTS, shape, 3, make)
    prepare = coverage.contenders()["fimsym"]
    inputs = coverage.inputs_of(name)
    assert coverage.verdict(case, inputs, prepare(case)) == "right"

    def half(model):
        run = prepare(case)(model)
        return lambda batches: {key: value / 2 for key, value in run(batches).items()}

    assert coverage.verdict(case, inputs, half) == "wrong"


def test_the_comparison_page_has_every_kind_of_module():
    page = (Path(__file__).parent.parent / "docs/comparison.md").read_text()
    head = f"| {' | '.join(['module', *coverage.contenders()])} |"
    assert head in page
    for name in coverage.MODULES:
        assert f"\n| {name} | right | " in page
