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


class Merging(nn.Module):
    """Keeps the product of two parameters, in one attribute or another, for ever or not."""

    def __init__(self, anew):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 3))
        self.bias = nn.Linear(4, 3)
        self.anew, self.merged = anew, None

    def forward(self, x):
        if self.anew or self.merged is None:
            self.merged = self.a @ self.b
        return x @ self.merged + self.bias(x).tanh()


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("quantities", ["fisher", "all"])
def test_a_model_that_keeps_what_it_computed_is_refused(count, quantities):
    given = {"family": "categorical", "quantities": quantities, "progress": False}
    with pytest.raises(fimsym.UnsupportedError, match=r"computed from parameter '[ab]'"):
        fimsym.analyze(build(lambda: Merging(False)), inputs(count, 4), **given)
    kept = build(lambda: Merging(False))
    kept(inputs(2, 4))
    with pytest.raises(fimsym.UnsupportedError, match="parameter 'a'"):
        fimsym.analyze(kept, inputs(count, 4), **given)
    assert fimsym.analyze(build(lambda: Merging(True)), inputs(count, 4), **given).fisher["a"].all()


def test_parametrizations_that_are_kept_are_refused():
    layer = nn.Linear(4, 3).double().eval()
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Tanh())
    with (
        nn.utils.parametrize.cached(),
        pytest.raises(fimsym.UnsupportedError, match=r"parametrize\.cached"),
    ):
        fimsym.analyze(layer, inputs(5, 4), "categorical")
    found = fimsym.analyze(layer, inputs(5, 4), "categorical")
    assert found.fisher["parametrizations.weight.original"].all()


class Squeezing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(1, 3, 4)

    def forward(self, x):
        return self.layer(x).squeeze()


@pytest.mark.parametrize("sizes", [(5, 1), (1,)])
def test_the_axis_of_a_single_input_is_not_to_be_squeezed(sizes):
    batches = [inputs(size, 1, 4) for size in sizes]
    with pytest.raises(fimsym.ShapeError, match=r"\[1, output\]; got \[3\].*\.flatten\(1\)"):
        fimsym.analyze(build(Squeezing), batches, "categorical", max_memory="1kB")


def test_an_input_without_its_batch_axis_is_told_to_take_one():
    with pytest.raises(fimsym.ShapeError, match=r"X\.unsqueeze\(0\)"):
        fimsym.analyze(build(lambda: nn.Linear(4, 3)), inputs(4), "categorical")
