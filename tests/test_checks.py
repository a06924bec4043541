"""Examples are independent: which rows are run again, and what that finds."""

import re

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine.checks import check_examples_independent
from fimsym.engine.network import Network
from tests.networks import build, inputs


class Watched(nn.Module):
    """A layer that notes how many inputs it is given; rows that are marked take all rows' mean."""

    def __init__(self, noise=0.0):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.noise = noise
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        h = self.layer(x)
        if self.noise:
            h = h + self.noise * torch.randn_like(h)
        return h + (x[:, :1] > 50) * h.mean(0)


class Alone(nn.Linear):
    """A layer, and a norm by the statistics of the batch."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.sizes = []

    def forward(self, x):
        return nn.functional.batch_norm(super().forward(x), None, None, training=True)


def checked(model, x, size):
    """Look at chunks of `size` inputs; return the sizes of all that is run for that."""
    network = Network(model)
    sizes = []
    for first in range(0, len(x), size):
        chunk = x[first : first + size]
        h = network.forward(chunk)
        model.sizes.clear()
        check_examples_independent(network, chunk, h, first)
        sizes += model.sizes
    return sizes


def marked(count, first):
    x = inputs(count, 4)
    x[first:, 0] = 100
    return x


@pytest.mark.parametrize("size", [2, 16, 22, 64, 300, 2048])
def test_one_row_in_sixteen_of_every_chunk_runs_again(size):
    sizes = checked(build(Watched), inputs(2048, 4), size)
    alone, chunks = -(-64 // size), -(-2048 // size)
    again = sizes[alone:]
    assert chunks - alone <= len(again) <= chunks
    assert set(again) <= {size // 16, -(-size // 16), again[0], again[-1]}
    assert all(0 < count < size for count in again)


@pytest.mark.parametrize(("count", "size"), [(66, 66), (90, 22), (200, 200), (200, 50), (700, 9)])
def test_rows_that_take_others_are_found_wherever_they_begin(count, size):
    for first in (0, 1, 63, 64):
        with pytest.raises(fimsym.DomainError, match="the rest of the batch") as raised:
            checked(build(Watched), marked(count, first), size)
        row = int(re.search(r"for input (\d+)", str(raised.value))[1])
        assert row == first if first < 64 else 64 <= row < count


def test_a_layer_that_cannot_take_one_input_alone():
    model = build(lambda: Alone(4, 3))
    for count in (2, 64, 65, 200):
        with pytest.raises(fimsym.DomainError, match="examples to be independent"):
            checked(model, inputs(count, 4), count)


@pytest.mark.parametrize("size", [1, 2, 64, 65, 500])
def test_noise_is_found_in_the_first_inputs(size):
    model = build(lambda: Watched(noise=1e-2))
    with pytest.raises(fimsym.DomainError, match="two forward passes"):
        checked(model, inputs(size, 4), size)


def test_inputs_run_alone_are_not_run_again():
    assert checked(build(Watched), inputs(64, 4), 64) == [1]
