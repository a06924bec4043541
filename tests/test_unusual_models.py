"""Models and data that torch takes, though few are written like that."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import fimsym
from fimsym.engine.kernels import exact_kernels
from fimsym.engine.models import Unrounded
from tests.networks import build, flat, inputs
from tests.reference import enumeration


class Constant(nn.Module):
    """Applies a function to a tensor that is neither a parameter nor a buffer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.constant = torch.rand(4, 4, generator=torch.Generator().manual_seed(2))
        self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.leave(torch.tanh(self.function(torch.tanh(self.enter(x)), self.constant)))


FUNCTIONS = {
    "product": lambda z, a: z @ a,
    "linear": functional.linear,
    "einsum": lambda z, a: torch.einsum("bi,ij->bj", z, a),
    "like it": lambda z, a: z.type_as(a) @ a,
    "moved to it": lambda z, a: z.to(a) @ a,
    "moved by name": lambda z, a: z.to(a, True) @ a.type_as(other=z),
    "like it by name": lambda z, a: z @ a + torch.zeros_like(input=z),
    "joined": lambda z, a: torch.cat([z, a[:1].expand(len(z), -1)], 1)[:, 2:6] @ a,
    "convolution": lambda z, a: functional.conv1d(z[:, None], a[None, :1, :3], padding=1)[:, 0],
}


@pytest.mark.parametrize("quantities", ["all", "fisher"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_constants_that_are_no_buffers(name, quantities):
    model, x = build(lambda: Constant(FUNCTIONS[name])).float(), inputs(6, 4).float()
    found = fimsym.analyze(model, x, "categorical", quantities=quantities, progress=False)
    double = Constant(FUNCTIONS[name]).double().eval()
    double.load_state_dict(model.double().state_dict())
    double.constant = model.constant.double()
    truth = enumeration.moments("categorical", double, x.double())
    for quantity, value in found.values.items():
        size = truth[quantity].abs().max()
        torch.testing.assert_close(flat(value), truth[quantity], rtol=0, atol=float(1e-5 * size))


def written(z, a):
    found = a.new_zeros(len(z), 4)
    found[torch.arange(len(z))] = z
    return found.index_add(0, torch.arange(len(z)), z @ torch.ones_like(input=a))


def kept(z, a):
    state = a[:1].expand(len(z), -1).clone()
    state[torch.arange(len(z))] = z
    return state


def test_constants_that_are_written_to():
    model, x = build(lambda: Constant(written)).float(), inputs(6, 4).float()
    found = fimsym.analyze(model, x, "categorical", progress=False)
    truth = enumeration.moments("categorical", model, x)["fisher"].double()
    torch.testing.assert_close(flat(found.fisher), truth, rtol=1e-4, atol=1e-6)
    with pytest.raises(fimsym.FimsymError, match="float64"):
        fimsym.analyze(build(lambda: Constant(kept)).float(), x, "categorical", progress=False)


@pytest.mark.parametrize(
    ("error", "times"), [(RuntimeError("other dtypes"), 2), (torch.OutOfMemoryError("no room"), 1)]
)
def test_what_fails_is_tried_again_with_more_digits_unless_memory_is_short(error, times):
    given, z = [], torch.ones(2, dtype=torch.float32)

    def fails(z):
        given.append(z.dtype)
        raise error

    with pytest.raises(type(error)), Unrounded(torch.float64) as mode:
        mode.__torch_function__(fails, (), (z,))
    assert given == [torch.float32, torch.float64][:times]


def test_an_error_without_a_message():
    def fails(z, a):
        raise RuntimeError

    with pytest.raises(fimsym.ShapeError, match="RuntimeError"):
        fimsym.analyze(build(lambda: Constant(fails)), inputs(6, 4), "categorical", progress=False)


def test_inputs_and_calls_under_inference_mode():
    model, x = (
        build(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))),
        inputs(6, 4),
    )
    given = {"family": "categorical", "progress": False}
    plain = fimsym.analyze(model, x, **given)
    with torch.inference_mode():
        features = x * 1
        inside = fimsym.analyze(model, x, **given)
    outside = fimsym.analyze(model, features, **given)
    for other in (inside, outside):
        assert torch.equal(flat(other.fisher), flat(plain.fisher))


@pytest.mark.parametrize("quantities", ["all", "fisher"])
def test_tokens_of_32_bits(quantities):
    make = lambda: nn.Sequential(nn.Embedding(7, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3))  # noqa: E731
    model, x = build(make), torch.randint(0, 7, (5, 3))
    long, short = (
        fimsym.analyze(model, tokens, "categorical", quantities=quantities, progress=False)
        for tokens in (x, x.int())
    )
    for one, other in zip(long.values.values(), short.values.values(), strict=True):
        assert torch.equal(flat(one), flat(other))


class Attending(nn.Module):
    """Attention whose scores do not matter where all tokens are equal."""

    def __init__(self, tokens, width):
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.weight = nn.Parameter(torch.randn(width, width))
        self.leave = nn.Linear(width, 3)

    def forward(self, x):
        z = self.embed(x)
        seen = (x != 0)[:, None, :] | torch.eye(x.shape[1], dtype=torch.bool)
        found = functional.scaled_dot_product_attention(z @ self.weight, z, z, attn_mask=seen)
        return self.leave(found.mean(1))


@pytest.mark.parametrize(("tokens", "width", "batch", "seed"), [(9, 3, 16, 4), (5, 2, 3, 0)])
def test_gradients_that_are_nothing_but_rounding(tokens, width, batch, seed):
    torch.manual_seed(seed)
    model, x = Attending(tokens, width).double(), torch.full((batch, 3), tokens - 1)
    found = fimsym.analyze(model, x, "categorical", progress=False)
    with exact_kernels():
        truth = enumeration.moments("categorical", model, x)
    for quantity, value in found.values.items():
        torch.testing.assert_close(flat(value), truth[quantity], rtol=1e-9, atol=1e-14)


class Sparse(nn.Module):
    """Mixes nodes by a sparse matrix, for which torch has no batched backward pass."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(2, 4), nn.Linear(4, 3)
        self.register_buffer("edges", (torch.eye(4) + torch.eye(4).roll(1, 0)).to_sparse())

    def forward(self, x):
        mixed = [torch.sparse.mm(self.edges, torch.tanh(self.enter(one))) for one in x]
        return self.leave(torch.stack(mixed)).mean(1)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("quantities", ["all", "fisher"])
def test_sparse_matrices(quantities):
    model, x = build(Sparse), inputs(3, 4, 2)
    found = fimsym.analyze(model, x, "categorical", quantities=quantities, progress=False)
    truth = enumeration.moments("categorical", model, x)
    for quantity, value in found.values.items():
        torch.testing.assert_close(flat(value), truth[quantity], rtol=1e-9, atol=1e-14)
