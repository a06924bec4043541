"""What was found out from some inputs must not be taken for true of others.

Every result is compared with enumeration over labels by plain autograd, for data in an order in
which the first inputs show less than the later ones.
"""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import fimsym
from fimsym.engine.graph import Graph
from tests.networks import build, inputs


class Model(nn.Module):
    """A function of inputs and of modules and parameters of its own."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part())

    def forward(self, x):
        return self.function(self, x)


class Cubed(torch.autograd.Function):
    """Keeps a network off the tape."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * grad * x * x


def made(function, **parts):
    return build(lambda: Model(function, **parts))


def linear(wide, narrow):
    return lambda: nn.Linear(wide, narrow)


def tokens(low, high, *shape):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(3))


def first_positions(self, x):
    return self.o(torch.tanh(self.l(x.transpose(0, 1).contiguous())).mean(0))


def looked_up(self, x):
    return self.o(torch.tanh(self.e(x.T)).mean(0))


def records(self, x):
    kept = (x.T != 0).unsqueeze(2)
    z = torch.tanh(self.b(self.e(x.T))) * kept
    return self.o(z.sum(0) / kept.sum(0).clamp(min=1))


def dead_at_first(self, x):
    return self.o(torch.relu(self.l(x.transpose(0, 1).contiguous()) - 1).mean(0))


def tasks(self, x):
    gate = (x[:, 0, :1] > 1).to(x.dtype)
    one = torch.tanh(self.a(x)).mean(1)
    other = torch.tanh(self.b(self.e(x.transpose(0, 1)))).mean(0)
    return self.o(one * (1 - gate) + gate * other)


def selected(self, x):
    kept = x[:, :, 0] > -9
    z = torch.tanh(self.l(x[kept]))
    return self.o(x.new_zeros(*kept.shape, 4).masked_scatter(kept[:, :, None], z).sum(1))


def cut_by_lengths(self, x):
    """Tokens are kept up to the first of zero; those of all inputs follow each other."""
    lengths = (x[:, :, 0] != 0).sum(1)
    kept = torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)])
    pieces = torch.tanh(self.l(kept)).split(lengths.tolist())
    return self.o(torch.stack([piece.sum(0) for piece in pieces]))


def sliced_by_lengths(self, x):
    lengths = (x[:, :, 0] != 0).sum(1).tolist()
    kept = torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)])
    z, ends = torch.tanh(self.l(kept)), [sum(lengths[:k]) for k in range(len(x) + 1)]
    return self.o(torch.stack([z[a:b].sum(0) for a, b in itertools.pairwise(ends)]))


def power_of_length(self, x):
    return self.o(torch.tanh(self.l(x)).mean(1) * self.g ** (x.shape[1] - 1))


def behind_a_gate(self, x):
    z = self.b(x[:, :3]) * self.b.weight.sum()
    return self.o(Cubed.apply(torch.tanh(self.l(x[:, :3]))) + x[:, 3:] * torch.tanh(self.n(z)))


def in_another_order(self, x):
    gate = torch.relu(x[:, :1] - 5)
    return self.o(torch.tanh(self.l(x)) + gate * self.l(x.flip(0)).flip(0).sin())


def opened_late():
    x = inputs(40, 2)
    x[20:, 0] += 7
    return [x]


def rows_along_two_axes(self, x):
    batch, some, others, _ = x.shape
    z = torch.tanh(self.l(x.permute(1, 0, 2, 3).reshape(-1, 2)))
    return self.o(z.reshape(some, batch, others, 4).sum((0, 2)))


def packed(how):
    """Tokens without padding, and how they are added up for each record."""

    def forward(self, x):
        mask = x[:, :, 2] > 0
        lengths = mask.sum(1)
        return self.o(how(torch.tanh(self.l(x[mask][:, :2])), lengths))

    return forward


def by_matrix(z, lengths):
    owner = torch.arange(len(lengths)).repeat_interleave(lengths)
    return nn.functional.one_hot(owner, len(lengths)).T.to(z) @ z


def by_table(z, lengths):
    starts, steps = lengths.cumsum(0) - lengths, torch.arange(int(lengths.max()))
    found = nn.functional.embedding((starts[:, None] + steps).clamp(max=len(z) - 1), z)
    return (found * (steps < lengths[:, None])[:, :, None]).sum(1)


def by_columns(z, lengths):
    return torch.stack([columns.sum(1) for columns in z.T.split(lengths.tolist(), 1)])


def of_lengths(*lengths):
    x = inputs(len(lengths), max(lengths) + 1, 3)
    x[:, :, 2] = torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]
    return x


def dispatched(self, x):
    """Give every token a place at one of two experts, by products with matrices of data."""
    tokens = x.reshape(-1, 2)
    hot = nn.functional.one_hot((tokens[:, 0] <= 0).long(), 2)
    place = nn.functional.one_hot((hot.cumsum(0) - 1) * hot, len(tokens))
    given = (hot[:, :, None] * place).to(tokens)
    taken = torch.einsum("tec,td->ecd", given, tokens)
    z = torch.stack([torch.tanh(self.l(taken[0])), torch.tanh(self.n(taken[1]))])
    return self.o(torch.einsum("tec,ecd->td", given, z).reshape(len(x), -1, 4).sum(1))


EXPERTS = {"l": lambda: nn.Linear(2, 4), "n": lambda: nn.Linear(2, 4), "o": lambda: nn.Linear(4, 3)}


def balanced(but):
    x = inputs(20, 2, 2)
    x[:, :, 0] = torch.tensor([1.0, -1.0]) * (x[:, :, 0].abs() + 0.1)
    x[but, 1, 0] *= -1
    return [x]


def encoder():
    return nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0)


def sorted_by_task():
    x = inputs(30, 3, 3).clamp(max=0.9)
    x[20:, 0, 0] = 1.5
    return [x]


def dropped(batch, *places):
    x = inputs(batch, 3, 2)
    for place in places:
        x[place[0], place[1], 0] = -10
    return x


def cut(*lengths):
    """Return batches of inputs with so many tokens each; batches differ in width."""
    batches = []
    for k, of_batch in enumerate(lengths):
        x = inputs(len(of_batch), max(of_batch) + k, 2)
        for row, length in zip(x, of_batch, strict=True):
            row[length:] = 0
        batches.append(x)
    return batches


def opened_at(example):
    x = inputs(4, 4)
    x[:, 3] = 0
    x[example, 3] = 1
    return [x]


LINEAR = {"l": linear(2, 4), "o": linear(4, 3)}
CASES = {
    "one position, then three": (
        first_positions,
        LINEAR,
        lambda: [inputs(5, 1, 2), inputs(5, 3, 2)],
    ),
    "one token, then three": (
        looked_up,
        {"e": lambda: nn.Embedding(5, 4), "o": linear(4, 3)},
        lambda: [tokens(0, 5, 5, 1), tokens(0, 5, 5, 3)],
    ),
    "empty records": (
        records,
        {"e": lambda: nn.Embedding(6, 4), "b": linear(4, 4), "o": linear(4, 3)},
        lambda: [torch.cat([tokens(0, 1, 10, 3), tokens(1, 6, 30, 3)])],
    ),
    "dead at first": (
        dead_at_first,
        LINEAR,
        lambda: [torch.cat([inputs(10, 3, 2) * 0.01, inputs(3, 3, 2) * 3])],
    ),
    "sorted by task": (
        tasks,
        {"a": linear(3, 4), "e": encoder, "b": linear(3, 4), "o": linear(4, 3)},
        sorted_by_task,
    ),
    "in another order later": (in_another_order, LINEAR, opened_late),
    "positions along one axis, then another": (
        rows_along_two_axes,
        LINEAR,
        lambda: [inputs(6, 1, 3, 2), inputs(6, 3, 1, 2)],
    ),
    **{
        f"packed, added up {how.__name__}": (
            packed(how),
            LINEAR,
            lambda: [of_lengths(*[2] * 6), of_lengths(1, 3, 3, 1, 1, 3)],
        )
        for how in (by_matrix, by_table, by_columns)
    },
    "one token dispatched elsewhere": (dispatched, EXPERTS, lambda: balanced([17])),
    "as many selected": (
        selected,
        LINEAR,
        lambda: [inputs(4, 2, 2), dropped(4, (0, 1), (0, 2), (1, 2), (2, 2))],
    ),
    "fewer selected": (selected, LINEAR, lambda: [dropped(12, (9, 1))]),
    "none selected": (
        selected,
        LINEAR,
        lambda: [inputs(2, 2, 2), dropped(1, *((0, k) for k in range(3)))],
    ),
    "other lengths, as many tokens": (cut_by_lengths, LINEAR, lambda: cut((2, 2, 2), (3, 1, 2))),
    "other lengths, sliced": (sliced_by_lengths, LINEAR, lambda: cut((2, 2, 2), (3, 1, 2))),
    "a power of the length": (
        power_of_length,
        {**LINEAR, "g": lambda: nn.Parameter(torch.tensor(0.8))},
        lambda: [inputs(5, 1, 2), inputs(5, 3, 2)],
    ),
    **{
        f"open at {k}": (
            behind_a_gate,
            {"l": linear(3, 4), "n": lambda: nn.PReLU(4), "b": linear(3, 4), "o": linear(4, 3)},
            lambda k=k: opened_at(k),
        )
        for k in range(4)
    },
}


def truth_of(model, batches):
    """Return I, V₁, V₂ and Cov(Î₁, Î₂) by enumeration over labels and double backward."""
    found = {}
    examples = [example for batch in batches for example in batch.split(1)]
    for name, parameter in model.named_parameters():
        sums = torch.zeros(4, parameter.numel(), dtype=torch.float64)
        for example in examples:
            logs = model(example)[0].log_softmax(0)
            p = logs.detach().exp()
            scores, hessians = [], []
            for one in logs:
                s = _gradient(one, parameter)
                scores.append(s.detach())
                hessians.append(_diagonal(s, parameter))
            s, v = torch.stack(scores).square(), -torch.stack(hessians)
            i, j = p @ s, p @ v
            sums += torch.stack([i, p @ (s - i).square(), p @ (v - j).square(),
                                 p @ ((s - i) * (v - j))])  # fmt: skip
        found[name] = (sums / len(examples)).unflatten(1, parameter.shape or (1,))
    return found


def _gradient(one, parameter):
    (g,) = torch.autograd.grad(
        one, parameter, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return g.reshape(-1)


def _diagonal(gradient, parameter):
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    entries = [_gradient(entry, parameter)[k] for k, entry in enumerate(gradient)]
    return torch.stack(entries).detach()


@pytest.mark.parametrize("quantities", ["all", ("fisher", "variance_score_squared")])
@pytest.mark.parametrize("name", CASES)
def test_the_order_of_data_changes_nothing(name, quantities):
    function, parts, draw = CASES[name]
    model, batches = made(function, **parts), draw()
    found = fimsym.analyze(model, batches, "categorical", quantities=quantities, progress=False)
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        truth = truth_of(model, batches)
    for parameter, exact in truth.items():
        size = exact.flatten(1).abs().amax(1)
        for k, value in enumerate(found.values.values()):
            least = 1e-14 * size[0] ** (1 if k == 0 else 2)
            gap = (value[parameter].reshape(exact[k].shape) - exact[k]).abs().max()
            assert gap <= 1e-9 * size[k] + least, (parameter, k)


def test_a_second_comparison_is_made_where_the_first_fails(monkeypatch):
    monkeypatch.setattr(Graph, "layout", ())
    model, (x,) = made(dispatched, **EXPERTS), balanced(range(8, 20))
    found = fimsym.analyze(model, x, "categorical", progress=False)
    assert found.roads["l.weight"] == "functional"
    truth = truth_of(model, [x])
    for name, value in found.fisher.items():
        torch.testing.assert_close(
            value, truth[name][0].reshape(value.shape), rtol=1e-9, atol=1e-14
        )


def test_the_variance_over_inputs_of_a_certain_answer():
    """I is 1e-27 here: float32 holds it, and not its square."""
    model = build(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([60.0, 0, -60]))
    data = inputs(6, 4).float()
    given = {"family": "categorical", "progress": False}
    single = fimsym.analyze(model.float(), data, **given)
    double = fimsym.analyze(model.double(), data.double(), **given)
    for name, exact in double.input_variance.items():
        assert (single.input_variance[name] - exact).abs().max() <= 1e-3 * exact.max()


def test_rounding_is_not_taken_for_wrong_second_derivatives():
    def products(self, x):
        return self.o((torch.relu(self.l(x)) + self.p).cumprod(1))

    for seed in range(4):
        torch.manual_seed(seed)
        parts = {"l": linear(4, 4), "o": linear(4, 3), "p": lambda: nn.Parameter(torch.randn(4))}
        model = Model(products, **parts)
        found = fimsym.analyze(model, inputs(6, 4).float(), "categorical", quantities="all")
        sizes = found.fisher["p"].max() ** 2
        assert found.variance_negative_hessian["p"].max() <= 1e-6 * sizes
