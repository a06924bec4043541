"""Batches of any size and form give the same pieces, rows and numbers."""

import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import fimsym
from fimsym.engine.data import Rows, length
from fimsym.engine.pieces import grouped
from fimsym.errors import DomainError, ShapeError, UnsupportedError
from tests.networks import build, flat, inputs, mlp


def cut(tensor, generator):
    """Cut rows into batches of random sizes, some of them empty."""
    batches = []
    while len(tensor):
        size = generator.choice([0, 1, 1, 2, 3, 7, 20])
        batches.append(tensor[:size])
        tensor = tensor[size:]
    return batches


@pytest.mark.parametrize("seed", range(40))
def test_pieces_hold_every_row_once_in_order_and_never_too_many(seed):
    generator = random.Random(seed)
    rows = torch.arange(generator.randrange(1, 90))
    batches = [
        (batch.reshape(-1, 1) * torch.ones(1, 2, dtype=torch.long), batch)
        for batch in cut(rows, generator)
        if len(batch)
    ]
    limits = []

    def wanted(first):
        limits.append(generator.choice([1, 2, 5, 8, 100]))
        return limits[-1]

    found, sizes = [], []
    for given, labels in grouped(iter(batches), wanted):
        assert given.dtype == torch.long
        assert torch.equal(given[:, 0], labels)
        found.append(labels)
        sizes.append((len(labels), limits[-1]))
    assert torch.equal(torch.cat(found), rows)
    # Short pieces come only where nothing is left.
    assert all(size == limit for size, limit in sizes[:-1]) or len(batches) == 0
    assert all(size <= limit for size, limit in sizes)


def test_what_cannot_be_merged_is_kept_apart():
    kinds = [
        (torch.zeros(2, 4), None),
        (torch.zeros(3, 4), None),
        (torch.zeros(2, 5), None),
        (torch.zeros(2, 5, dtype=torch.long), None),
        (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2)),
        (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 1)),
        (torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 1)),
    ]
    pieces = list(grouped(kinds, lambda first: 100))
    assert [len(given) for given, _ in pieces] == [5, 2, 2, 2, 3]
    assert pieces[-1][0].dtype == torch.long
    as_they_came = list(grouped(kinds, lambda first: None))
    assert [given.data_ptr() for given, _ in as_they_came] == [x.data_ptr() for x, _ in kinds]


def test_pieces_of_one_batch_are_views_of_it():
    data = torch.randn(10, 3)
    pieces = [given for given, _ in grouped([(data, None)], lambda first: 4)]
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert all(
        piece.untyped_storage().data_ptr() == data.untyped_storage().data_ptr() for piece in pieces
    )


def test_nothing_is_read_ahead_or_kept():
    read = []

    def batch():
        tensor = torch.ones(4, 1)
        read.append(weakref.ref(tensor))
        return tensor, None

    pieces = grouped((batch() for _ in range(6)), lambda first: 8)
    for count in (2, 4, 6):
        next(pieces)
        assert len(read) == count
        assert [reference() for reference in read] == [None] * count


def test_merging_stops_at_a_size_in_memory(monkeypatch):
    import fimsym.engine.pieces as module

    monkeypatch.setattr(module, "_LARGEST_PIECE", 8 * 3 * 10)
    data = torch.randn(64, 3, dtype=torch.float64)
    assert {len(x) for x, _ in grouped([(data, None)], lambda first: 10**9)} == {10, 4}


class Buffer(IterableDataset):
    """Yields the same arrays again and again, with other numbers in them."""

    def __init__(self, *arrays):
        self.arrays = arrays

    def __iter__(self):
        buffers = [array[:3].clone().numpy() for array in self.arrays]
        shown = tuple(map(torch.from_numpy, buffers))
        for first in range(0, len(self.arrays[0]), 3):
            for array, buffer in zip(self.arrays, buffers, strict=True):
                buffer[:] = array[first : first + 3].numpy()
            yield shown if len(shown) > 1 else buffers[0]


REFILLED = {
    "generator": lambda data: iter(data),
    "iterable": lambda data: data,
    "loader": lambda data: DataLoader(data, batch_size=None),
}


@pytest.mark.parametrize("form", REFILLED)
def test_buffers_may_be_filled_anew(form):
    inputs, labels = torch.arange(12.0)[:, None], torch.arange(12)
    pieces = list(grouped(Rows(REFILLED[form](Buffer(inputs, labels))), lambda first: 5))
    assert torch.equal(torch.cat([x for x, _ in pieces]), inputs)
    assert torch.equal(torch.cat([y for _, y in pieces]), labels)
    alone = [x for x, _ in Rows(REFILLED[form](Buffer(inputs)), 1, 2)]
    assert torch.equal(torch.cat(alone), inputs[1::2])


@pytest.mark.parametrize("form", REFILLED)
def test_buffers_filled_anew_give_the_same_numbers(form):
    model, data = build(lambda: mlp(4, 5, 3)), inputs(12, 4)
    given = {"family": "categorical", "progress": False}
    take = lambda: REFILLED[form](Buffer(data))  # noqa: E731
    for found, plain in (
        (fimsym.analyze(model, take(), **given), fimsym.analyze(model, data, **given)),
        (
            fimsym.estimate(model, take(), labels_per_input=40, **given),
            fimsym.estimate(model, data, labels_per_input=40, **given),
        ),
    ):
        for name, value in plain.fisher.items():
            torch.testing.assert_close(found.fisher[name], value)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_shares_are_the_rows_of_a_slice(world, seed):
    rows = torch.arange(5 + 9 * seed)
    batches = cut(rows, random.Random(seed))
    for rank in range(world):
        expected = rows[rank::world]
        for data in (rows, rows.numpy(), iter(batches), DataLoader(rows, batch_size=4)):
            share = Rows(data, rank, world)
            pieces = [given for given, _ in share]
            assert torch.equal(torch.cat([*pieces, rows[:0]]), expected)
            assert share.read == len(rows)


def test_a_bad_row_is_named_by_its_place_in_the_whole_data():
    data = torch.zeros(20, 2)
    data[13, 1] = torch.nan
    for form in (data, [data[:5], data[5:12], data[12:]], data.numpy()):
        assert len(list(Rows(form, 0, 2))) > 0
        with pytest.raises(DomainError, match="input 13 holds"):
            list(Rows(form, 1, 2))
    with pytest.raises(ShapeError, match="data is empty"):
        list(Rows(data[:0], 1, 2))
    assert list(Rows(data[:1], 1, 2)) == []


def test_samplers_that_pad_or_shuffle_are_refused():
    data = TensorDataset(inputs(5, 4))
    padding = DataLoader(data, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    with pytest.raises(UnsupportedError, match="plain loader"):
        Rows(padding)
    with pytest.raises(UnsupportedError, match="shuffle=False"):
        Rows(DataLoader(data, shuffle=True), 0, 2)
    Rows(DataLoader(data, shuffle=True))


class Endless(IterableDataset):
    def __iter__(self):
        return iter(inputs(11, 4))


def test_lengths_are_known_only_where_they_are_right():
    data, labels = inputs(11, 4), torch.zeros(11)
    assert length(data) == length(data.numpy()) == length((data, labels)) == 11
    assert length(DataLoader(TensorDataset(data, labels), batch_size=3)) == 11
    assert length(DataLoader(data, batch_size=3, drop_last=True)) == 9
    assert length(DataLoader(Endless(), batch_size=3)) is None
    assert length(iter([data])) is None
    batches = [[0, 1], [2]]
    assert length(DataLoader(data, batch_sampler=batches)) is None


def forms(data, labels):
    pairs = TensorDataset(data, labels)
    yield data
    yield data.numpy()
    frozen = data.numpy().copy()
    frozen.flags.writeable = False
    yield frozen
    yield np.flip(np.flip(data.numpy(), 0).copy(), 0)
    yield data, labels
    yield data.numpy(), labels.numpy()
    for size in (1, 3, 16, 64, 100):
        yield DataLoader(pairs, batch_size=size)
        yield DataLoader(data, batch_size=size)
    yield DataLoader(Endless(), batch_size=4) if len(data) == 11 else data
    yield [data[:2], data[2:]]
    yield [(data[:6], labels[:6]), (data[6:], labels[6:])]
    yield iter([data[:2], data[2:2], data[2:]])
    yield (data[n : n + 9].numpy() for n in range(0, len(data), 9))


@pytest.mark.parametrize("count", [1, 11, 83])
@pytest.mark.parametrize("budget", [None, "60kB"])
def test_every_form_of_data_gives_the_same_numbers(count, budget):
    model, data = build(lambda: mlp(4, 6, 3)), inputs(count, 4)
    options = {"quantities": "all", "max_memory": budget, "progress": False}
    whole = fimsym.analyze(model, data, "categorical", **options)
    for form in forms(data, torch.arange(count) % 3):
        got = fimsym.analyze(model, form, "categorical", **options)
        assert got.inputs == count
        for name, value in whole.values.items():
            close(flat(got.values[name]), flat(value))
        if count > 1:
            close(flat(got.input_variance), flat(whole.input_variance))


def close(value, truth):
    assert (value - truth).abs().max() <= 1e-13 * truth.abs().max()


def test_integers_stay_integers_in_any_batches():
    model = build(lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 3)))
    tokens = torch.arange(40).reshape(20, 2) % 7
    whole = fimsym.analyze(model, tokens, "categorical", progress=False)
    got = fimsym.analyze(model, DataLoader(tokens, batch_size=3), "categorical", progress=False)
    close(flat(got.fisher), flat(whole.fisher))


def test_the_variance_over_inputs_can_be_left_out(tmp_path):
    model, data = build(lambda: mlp(4, 6, 3)), inputs(5, 4)
    got = fimsym.analyze(model, data, "categorical", progress=False, input_variance=False)
    whole = fimsym.analyze(model, data, "categorical", progress=False)
    close(flat(got.fisher), flat(whole.fisher))
    for quantities in ("fisher", "variance_negative_hessian"):
        without = fimsym.analyze(
            model, data, "categorical", quantities=quantities, progress=False,
            input_variance=quantities != "fisher",
        )  # fmt: skip
        with pytest.raises(UnsupportedError, match="input_variance=True"):
            _ = without.input_variance
    got.save(tmp_path / "without.safetensors")
    whole.save(tmp_path / "with.safetensors")
    with pytest.raises(UnsupportedError, match="input_variance=True"):
        _ = fimsym.Analysis.load(tmp_path / "without.safetensors").input_variance
    again = fimsym.Analysis.load(tmp_path / "with.safetensors")
    assert torch.equal(flat(again.input_variance), flat(whole.input_variance))
    assert (again.interrupted, again.expected_inputs) == (False, 5)


def test_squares_are_not_even_added_up(monkeypatch):
    from fimsym.engine.accumulate import Accumulator

    monkeypatch.setattr(Accumulator, "_merge", None)
    model = build(lambda: mlp(4, 6, 3))
    fimsym.analyze(model, inputs(5, 4), "categorical", progress=False, input_variance=False)
    with pytest.raises(TypeError):
        fimsym.analyze(model, inputs(5, 4), "categorical", progress=False)


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    import safetensors.torch

    model = build(lambda: mlp(4, 6, 3))
    got = fimsym.analyze(model, inputs(5, 4), "categorical", progress=False)
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"before")

    def break_off(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", break_off)
        with pytest.raises(KeyboardInterrupt):
            got.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["out.safetensors"]
    assert path.read_bytes() == b"before"
    got.save(path)
    assert fimsym.Analysis.load(path).inputs == 5
