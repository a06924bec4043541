"""What a call finds out about a network, and what may have changed before the next one."""

import copy
import gc

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine import graph, sweep
from fimsym.engine.alignment import _OF_MODELS, Alignment
from tests.networks import build, flat, inputs
from tests.reference import enumeration


class Gated(nn.Module):
    """Adds up positions, which come first, behind a gate; while it is shut, one of them counts."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        positions = torch.tanh(self.layer(x.transpose(0, 1)))
        return self.head(positions[0] + self.gate * positions.sum(0))


class Crossed(nn.Module):
    """Uses a layer for every example, and behind a gate once more in another way."""

    def __init__(self, way):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        self.gate = nn.Parameter(torch.zeros(()))
        self.way = way

    def forward(self, x):
        return self.head(torch.tanh(self.layer(x)) + self.gate * self.way(self.layer, x))


CROSSED = {
    "as an input of itself": lambda layer, x: layer(layer(x).sin()),
    "transposed": lambda layer, x: x @ layer.weight,
    "squared": lambda layer, x: x @ layer.weight.square(),
    "cut": lambda layer, x: x * layer.weight[1],
}


def perceptron():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def measured(model, x, quantities="all"):
    return fimsym.analyze(model, x, family="categorical", quantities=quantities, progress=False)


def compared(model, x):
    found, truth = measured(model, x), enumeration.moments("categorical", model, x)
    assert len(found.values) == 4
    for name, value in found.values.items():
        torch.testing.assert_close(flat(value), truth[name], rtol=1e-9, atol=1e-14)


def test_a_second_call_finds_out_nothing_anew(monkeypatch):
    model, x = build(perceptron), inputs(9, 4)
    measured(model, x)
    other = copy.deepcopy(model)
    monkeypatch.setattr("fimsym.engine.alignment.agreeing", None)
    for _ in range(2):
        model[0].weight.data.mul_(-0.7)
        compared(model, x)
    with pytest.raises(TypeError, match="not callable"):
        measured(other, x)


def test_what_was_looked_at_is_not_run_again():
    model, calls = build(perceptron), []
    model.register_forward_hook(lambda *_: calls.append(None))
    needed = {}
    for count in (8, 9):  # eight inputs are looked at first
        for _ in range(5):  # the last one is not compared with examples run apart
            calls.clear()
            measured(model, inputs(count, 4), ("fisher",))
        needed[count] = len(calls)
    assert needed[8] == needed[9] - 1


def test_other_shapes_and_dtypes_are_looked_at_anew(monkeypatch):
    model, x = build(perceptron), inputs(9, 4)
    measured(model, x)
    monkeypatch.setattr("fimsym.engine.alignment.agreeing", None)
    with pytest.raises(TypeError, match="not callable"):
        measured(model.float(), x.float())
    model.double()
    measured(model, x)
    model[0], model[2] = build(lambda: nn.Linear(4, 7)), build(lambda: nn.Linear(7, 3))
    with pytest.raises(TypeError, match="not callable"):
        measured(model, x)


class Deepening(nn.Module):
    """Applies a layer as often as inputs have positions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        z = x[:, 0]
        for _ in x[0]:
            z = torch.tanh(self.layer(z))
        return z


def test_only_so_many_graphs_are_remembered(monkeypatch):
    monkeypatch.setattr("fimsym.engine.alignment._LASTING", 2)
    model = build(Deepening)
    for depth in (1, 2, 3, 4, 1):
        compared(model, inputs(5, depth, 3))
    assert len(_OF_MODELS[model]) == 2


@pytest.mark.parametrize("first", [0.0, 1e-3])
@pytest.mark.parametrize("way", CROSSED)
def test_a_gate_that_opens_between_two_calls(way, first):
    model, x = build(lambda: Crossed(CROSSED[way])), inputs(8, 4)
    for gate in (first, 0.7, -0.2, 0.0):
        model.gate.data.fill_(gate)
        compared(model, x)


@pytest.mark.parametrize("first", [0.0, 1e-3])
def test_positions_that_count_from_the_second_call_on(first):
    model, x = build(Gated), inputs(8, 3, 4)
    for gate in (first, 0.7, -0.2, 0.0):
        model.gate.data.fill_(gate)
        compared(model, x)


def test_examples_that_mix_from_the_second_call_on():
    mixed = build(lambda: Crossed(lambda layer, x: layer(x.flip(0)).sin()))
    del mixed.gate
    mixed.register_buffer("gate", torch.zeros(()))
    compared(mixed, inputs(8, 4))
    mixed.gate.data.fill_(0.7)
    with pytest.raises(fimsym.DomainError, match="the rest of the batch"):
        measured(mixed, inputs(8, 4))


def test_a_layer_replaced_or_frozen_between_two_calls():
    model, x = build(perceptron), inputs(9, 4)
    compared(model, x)
    model[0].weight.requires_grad_(False)
    assert measured(model, x).frozen == ("0.weight",)
    model[0].weight.requires_grad_(True)
    model[0], model[2] = build(lambda: nn.Linear(4, 7)), build(lambda: nn.Linear(7, 3))
    compared(model, x)
    model[1] = nn.ReLU()
    compared(model, x)
    narrow = measured(copy.deepcopy(model).float(), x.float()).fisher
    assert measured(model.float(), x.float()).fisher["0.weight"].equal(narrow["0.weight"])


@pytest.fixture
def comparisons(monkeypatch):
    """Sizes of the chunks that are compared with examples run apart."""
    found, holds = [], Alignment.holds

    def noted(self, due, graph, uses, sweep, x, law):
        found.append(len(x))
        return holds(self, due, graph, uses, sweep, x, law)

    monkeypatch.setattr(Alignment, "holds", noted)
    return found


class Sorted(nn.Module):
    """A layer on rows that are sorted by the data, and put back."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        order = x[:, 0].argsort()
        return self.head(torch.tanh(self.layer(x[order])))[order.argsort()]


def test_what_rules_place_is_compared_less_often_from_call_to_call(comparisons):
    model = build(perceptron)
    for _ in range(20):
        measured(model, inputs(9, 4), ("fisher",))
    assert comparisons == [9] * 3  # the first, fourth and 16th call


def test_every_size_and_way_is_compared_in_the_first_call_that_takes_it(comparisons):
    model = build(lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(),
                                        nn.Linear(9, 3)))  # fmt: skip
    for size in (9, 5, 5, 9):
        measured(model, inputs(size, 2, 4), ("fisher",))
    assert comparisons == [9, 5]
    measured(model, inputs(9, 2, 4), ("fisher", "bounds"))
    assert comparisons == [9, 5, 9]


def test_matrix_products_are_compared_at_one_size_for_all(comparisons):
    model = build(perceptron)
    for size in (9, 5, 7):
        measured(model, inputs(size, 4), ("fisher",))
    assert comparisons == [9]


def test_a_comparison_that_was_broken_off_is_made_in_the_next_call(monkeypatch, comparisons):
    model, apart = build(perceptron), Alignment._apart
    monkeypatch.setattr(Alignment, "_apart", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured(model, inputs(9, 4), ("fisher",))
    monkeypatch.setattr(Alignment, "_apart", apart)
    for _ in range(2):
        measured(model, inputs(9, 4), ("fisher",))
    assert comparisons == [9, 9]


class Batched(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.second(self.norm(self.first(x))).softmax(-1))


def test_batched_passes_that_were_wrong_are_not_taken_again(monkeypatch):
    real, batched = sweep.batched_vjp, []

    def crossed(edge, ends, seeds):
        batched.append(len(seeds))
        found = real(edge, ends, seeds)
        return [g.transpose(0, 1).clone() if g.shape[:2] == (3, 3) else g for g in found]

    monkeypatch.setattr(sweep, "batched_vjp", crossed)
    model, x = build(Batched), inputs(3, 4)
    truth = enumeration.moments("categorical", model, x)["fisher"]
    for _ in range(6):
        found = measured(model, x, ("fisher",)).fisher
        torch.testing.assert_close(flat(found), truth, rtol=1e-9, atol=1e-14)
    assert len(batched) == 1


class Distances(nn.Module):
    """Distances to points: batched passes through them are wrong in torch 2.13."""

    def __init__(self):
        super().__init__()
        self.layer, self.points = nn.Linear(4, 5), nn.Parameter(torch.randn(6, 5))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        return self.last((-torch.cdist(self.layer(x), self.points, p=1)).exp())


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("max_memory", [None, "2kB"])
def test_batched_passes_of_operations_without_a_rule_are_compared_in_every_chunk(
    monkeypatch, max_memory, known
):
    if not known:
        monkeypatch.setattr(graph, "_BATCHED_BADLY", set())
    model, x = build(Distances), inputs(40, 4)
    given = {"quantities": ("fisher",), "max_memory": max_memory, "progress": False}
    for _ in range(2):
        found = fimsym.analyze(model, x, "categorical", **given).fisher
        for name, value in found.items():
            truth = enumeration.fisher_by_example(model, x, name).mean(0)
            torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-14)


def test_what_data_may_change_is_compared_in_every_call(comparisons):
    model = build(Sorted)
    for _ in range(3):
        measured(model, inputs(9, 4), ("fisher",))
    assert comparisons == [9] * 3


def test_what_is_kept_of_a_model_goes_with_it():
    gc.collect()
    before = len(_OF_MODELS)
    model = build(perceptron)
    measured(model, inputs(5, 4))
    assert len(_OF_MODELS) == before + 1
    del model
    gc.collect()
    assert len(_OF_MODELS) == before
