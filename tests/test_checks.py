"""Examples are independent: which rows are run again, and what that finds."""

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


@pytest.mark.parametrize("size", [3, 22, 64, 300, 2048])
def test_one_row_in_sixteen_runs_again_in_batches_at_most_half_as_large(size):
    sizes = checked(build(Watched), inputs(2048, 4), size)
    again = sizes[-(-64 // size) :]
    assert again
    assert max(again) <= (size + 1) // 2
    rare = min(16, size // 2) / 16
    assert 0.5 * rare * 2048 / 16 <= sum(again) <= 1.2 * 2048 / 16


@pytest.mark.parametrize(("count", "size"), [(66, 66), (90, 22), (200, 200), (200, 50), (700, 9)])
def test_rows_that_take_others_are_found_wherever_they_begin(count, size):
    for first in (0, 1, 63):
        with pytest.raises(fimsym.DomainError, match="the rest of the batch"):
            checked(build(Watched), marked(count, first), size)
    if count > 100:
        with pytest.raises(fimsym.DomainError, match="the rest of the batch"):
            checked(build(Watched), marked(count, 64), size)


@pytest.mark.parametrize("size", [1, 2, 64, 65, 500])
def test_noise_is_found_in_the_first_inputs(size):
    model = build(lambda: Watched(noise=1e-2))
    with pytest.raises(fimsym.DomainError, match="two forward passes"):
        checked(model, inputs(size, 4), size)


def test_inputs_run_alone_are_not_run_again():
    assert checked(build(Watched), inputs(64, 4), 64) == [1]
