"""Tables of which each example looks up some rows: their sums over the examples."""

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine import accumulate, bent
from fimsym.engine.work import Work
from tests.networks import build
from tests.reference.enumeration import fisher_by_example


class Words(nn.Module):
    def __init__(self, padding=None):
        super().__init__()
        self.e, self.a = nn.Embedding(40, 8, padding_idx=padding), nn.Linear(8, 6)
        self.b = nn.Linear(6, 3)

    def forward(self, tokens):
        return self.b(torch.tanh(self.a(self.e(tokens))).mean(1))


@pytest.mark.parametrize("entries", [64, 2**17])  # of the table, in five bands and in one
@pytest.mark.parametrize("padding", [None, 3])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_table_cut_into_tiles_has_the_variance_of_its_inputs(
    padding, batches, entries, monkeypatch
):
    monkeypatch.setattr(accumulate, "_ENTRIES", entries)
    tokens = torch.randint(40, (12, 20), generator=torch.Generator().manual_seed(0))
    tokens[:, :2] = torch.tensor([5, 3])  # rows that all examples look up
    model = build(lambda: Words(padding))
    one_by_one = fisher_by_example(model, tokens, "e.weight")
    assert not one_by_one.any(2).all()  # and some that few do
    cut = []
    tiles = bent.Bent._tiles
    monkeypatch.setattr(bent.Bent, "_tiles", lambda *given: cut.append(tiles(*given)) or cut[-1])
    near = {"rtol": 1e-9, "atol": 1e-16}
    given = {"family": "categorical", "progress": False, "max_memory": "20kB"}
    found = fimsym.analyze(model, list(tokens.chunk(batches)), quantities="all", **given)
    assert max(len({rows.start for rows, _ in one}) for one in cut) > 1
    torch.testing.assert_close(found.fisher["e.weight"], one_by_one.mean(0), **near)
    torch.testing.assert_close(found.input_variance["e.weight"], one_by_one.var(0), **near)
    first_order = fimsym.analyze(model, tokens, quantities=("fisher",), **given)
    torch.testing.assert_close(first_order.input_variance["e.weight"], one_by_one.var(0), **near)


def test_what_a_stopped_chunk_added_to_a_table_is_taken_out_again(monkeypatch):
    tokens = torch.randint(40, (12, 5), generator=torch.Generator().manual_seed(1))
    given = {"family": "categorical", "progress": False, "quantities": "all"}
    sizes, done = [], Work.done

    def stopped_at_the_third(self, units, inputs, must):
        sizes.append(inputs)
        return done(self, units, inputs, must) and len(sizes) < 3

    model = build(Words)
    monkeypatch.setattr(Work, "done", stopped_at_the_third)
    found = fimsym.analyze(model, tokens, **given)
    monkeypatch.undo()
    assert sizes == [1, 8, 3]
    covered = sum(sizes[:2])
    assert found.inputs == covered
    once = fimsym.analyze(model, [tokens[:1], tokens[1:covered]], **given)
    for name, value in once.values.items():
        torch.testing.assert_close(found.values[name]["e.weight"], value["e.weight"])
    torch.testing.assert_close(found.spread["e.weight"], once.spread["e.weight"])


class Sometimes(Words):
    """Looks words up once more for sentences that begin with a small number, if there are any."""

    def forward(self, tokens):
        z, small = self.e(tokens), (tokens[:, :1] < 20).unsqueeze(2)
        if small.any():
            z = z + small * self.e(tokens.flip(1)).sin()
        return self.b(torch.tanh(self.a(z)).mean(1))


@pytest.mark.parametrize("quantities", [("fisher",), "all"])
@pytest.mark.parametrize("descending", [False, True])
def test_a_table_that_is_looked_up_once_or_twice_from_chunk_to_chunk(descending, quantities):
    tokens = torch.randint(40, (24, 5), generator=torch.Generator().manual_seed(2))
    tokens = tokens[tokens[:, 0].argsort(descending=descending)]
    model = build(Sometimes)
    one_by_one = fisher_by_example(model, tokens, "e.weight")
    given = {"family": "categorical", "progress": False, "max_memory": "20kB"}
    found = fimsym.analyze(model, tokens, quantities=quantities, **given)
    torch.testing.assert_close(found.fisher["e.weight"], one_by_one.mean(0), rtol=1e-9, atol=1e-16)
    spread = found.input_variance["e.weight"]
    torch.testing.assert_close(spread, one_by_one.var(0), rtol=1e-9, atol=1e-16)
