"""Where examples lie in a graph: rules are true, and what data may steer has none."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional as fn

from fimsym.engine import graph as graphs
from fimsym.engine.kernels import exact_kernels
from fimsym.engine.layout import layout
from fimsym.engine.network import Network
from fimsym.engine.probe import agreeing
from tests.networks import Attention, Recurrent, Residual, build, convolution, inputs, pooled

BATCH = 5


def placed(h):
    return layout((h.grad_fn, h.output_nr), len(h))


def is_true(h, found):
    """Compare with gradients: entries at an example's place move that example's output alone."""
    edges = [GradientEdge(*edge) for edge in found]
    for example in range(len(h)):
        grads = torch.autograd.grad(
            h[example].sum(), edges, retain_graph=True, allow_unused=True, materialize_grads=False
        )
        for g, outer in zip(grads, found.values(), strict=True):
            if g is None:
                continue
            parts = g.reshape(outer, len(h), -1)
            others = [b for b in range(len(h)) if b != example]
            if parts[:, others].any():
                return False
    return True


def values(*shape):
    """Return data that depend on a parameter at every entry, [batch, *shape]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, *shape, generator=generator, dtype=torch.float64) + 0.1
    return x * nn.Parameter(torch.ones(shape[-1], dtype=torch.float64))


def parameter(*shape):
    generator = torch.Generator().manual_seed(1)
    return nn.Parameter(torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.1)


def constant(*shape):
    return parameter(*shape).detach()


SHAPE = (2, 4, 6)
OPERATIONS = {
    "sum": lambda x: x.sum((1, -1)),
    "mean, kept": lambda x: x.mean(-1, keepdim=True),
    "max": lambda x: x.max(2).values,
    "logsumexp": lambda x: x.logsumexp(-2),
    "norm": lambda x: x.norm(dim=1),
    "normalised": lambda x: fn.normalize(x, dim=1),
    "variance": lambda x: x.var(1) + x.std(1),
    "product": lambda x: x.prod(1),
    "softmax": lambda x: x.softmax(-1) * x.log_softmax(1),
    "running sum": lambda x: x.cumsum(1) + x.cumprod(2),
    "select": lambda x: x[:, 1] + x.select(1, 0),
    "slice": lambda x: x[:, :, 1:-1:2],
    "unbind": lambda x: torch.stack(x.unbind(2)[1:], 1),
    "split": lambda x: torch.cat([x.split(1, 1)[1], x.split([1, 3], 2)[1][:, :1, :1]], 2),
    "permute": lambda x: x.permute(2, 0, 3, 1).reshape(4, BATCH, 12).transpose(0, 1),
    "transpose": lambda x: x.transpose(0, 3).flatten(0, 2).T + x.mT.reshape(BATCH, -1),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1) + parameter(1, 6).expand(BATCH, 1, 4, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 3) + parameter(6).repeat(BATCH, 4, 4, 3),
    "pad": lambda x: fn.pad(x, (1, 1, 0, 1)) + fn.pad(x, (1, 1, 1, 0), mode="reflect"),
    "flip": lambda x: x.flip(1, 2).roll(1, 3),
    "pick": lambda x: x.index_select(2, torch.tensor([2, 0, 2])) + x[:, :, torch.tensor([1, 0, 0])],
    "pick pairs": lambda x: x[:, torch.tensor([1, 0]), torch.tensor([2, 3])],
    "sort": lambda x: x.sort(1).values + x.topk(2, 1).values,
    "gather": lambda x: x.gather(2, torch.zeros(BATCH, 2, 1, 6, dtype=torch.long)),
    "unit": lambda x: fn.glu(x, 2) + fn.gelu(x[:, :, :2]) * torch.sigmoid(x[:, :, 2:]),
    "layer norm": lambda x: fn.layer_norm(x, (4, 6), parameter(4, 6), parameter(4, 6)),
    "rms norm": lambda x: fn.rms_norm(x, (6,), parameter(6)),
    "group norm": lambda x: fn.group_norm(x, 2, parameter(2), parameter(2)),
    "batch norm": lambda x: fn.batch_norm(x, constant(2), constant(2), parameter(2), parameter(2)),
    "convolution": lambda x: fn.conv2d(x, parameter(3, 2, 2, 2), parameter(3)),
    "grouped": lambda x: fn.conv2d(x, parameter(4, 1, 2, 2), groups=2),
    "transposed": lambda x: fn.conv_transpose2d(x, parameter(2, 3, 2, 2)),
    "one axis": lambda x: fn.conv1d(x.flatten(1, 2), parameter(3, 8, 2)),
    "max pool": lambda x: fn.max_pool2d(x, 2) + fn.adaptive_max_pool2d(x, (2, 3)),
    "mean of four": lambda x: fn.avg_pool2d(x, 2),
    "mean pool": lambda x: fn.adaptive_avg_pool2d(x, (2, 3)) + fn.adaptive_avg_pool2d(x, 1),
    "one pool": lambda x: fn.max_pool1d(x[:, 0], 2) + fn.avg_pool1d(x[:, 1], 2),
    "max pool, three axes": lambda x: (
        fn.max_pool3d(x[:, None], (1, 2, 2)) + fn.adaptive_max_pool3d(x[:, None], (2, 2, 3))
    ),
    "mean pool, three axes": lambda x: (
        fn.avg_pool3d(x[:, None], (1, 2, 2)) + fn.adaptive_avg_pool3d(x[:, None], (2, 2, 3))
    ),
    "convolution, three axes": lambda x: fn.conv3d(x[:, None], parameter(3, 1, 1, 2, 2)),
    "pad, three axes": lambda x: fn.pad(x[:, None], (1, 1, 1, 0, 1, 1), mode="replicate"),
    "larger, three axes": lambda x: (
        fn.interpolate(x[:, None], scale_factor=2)
        + fn.interpolate(x[:, None], scale_factor=2, mode="trilinear")
    ),
    "a factor of parameters": lambda x: x * torch.dot(parameter(3), parameter(3)),
    "larger": lambda x: fn.interpolate(x, scale_factor=2),
    "larger, linear": lambda x: fn.interpolate(x, scale_factor=2, mode="bilinear"),
    "pixels": lambda x: fn.pixel_shuffle(x.repeat(1, 2, 1, 1), 2),
    "patches": lambda x: fn.unfold(x, 2),
    "linear": lambda x: fn.linear(x, parameter(3, 6), parameter(3)),
    "no shift": lambda x: (x @ parameter(6, 3)).sum(-1) + (parameter(4, 4) @ x).sum(-1),
    "from the left": lambda x: (parameter(3, 48) @ x.flatten(1).T).T,
    "positions first": lambda x: (
        (x.permute(2, 0, 1, 3).reshape(-1, 12) @ parameter(12, 3)).reshape(4, BATCH, 3).mean(0)
    ),
    "attention": lambda x: fn.scaled_dot_product_attention(x, x.flip(2), x.exp()),
    "heads first": lambda x: torch.einsum("bhtf,hfg->btg", x, parameter(2, 6, 3)),
    "products": lambda x: torch.einsum("bhtf,bhsf->bhts", x, x) + x @ x.mT,
    "a vector": lambda x: x.flatten(1) @ parameter(48),
    "where": lambda x: torch.where(constant(4, 6) > 0.5, x, x.square()),
    "mask": lambda x: x.masked_fill(constant(6) > 0.9, 0.0),
    "weight norm": lambda x: fn.linear(x, torch._weight_norm(parameter(3, 6), parameter(3, 1), 0)),
    "low rank": lambda x: fn.linear(x, parameter(3, 6) + 2 * parameter(3, 2) @ parameter(2, 6)),
    "table": lambda x: fn.embedding(torch.zeros(BATCH, 2, 1).long(), parameter(3, 6)) + x,
    "prelu": lambda x: fn.prelu(x, parameter(2)),
    "clamp": lambda x: (1 - x.clamp(0.2, 0.8)) / (x + 2).sqrt() + torch.maximum(x, -x) ** 3,
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_rules_are_true(name):
    with exact_kernels():
        h = OPERATIONS[name](values(*SHAPE)).reshape(BATCH, -1)
    found = placed(h)
    assert found is not None
    assert len(found) > 2
    assert is_true(h, found)


class Encoder(nn.Module):
    """Positions first, as torch's layers have them by default."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)
        self.lstm = nn.LSTM(4, 3, bidirectional=True)

    def forward(self, x):
        return self.lstm(self.layer(x.transpose(0, 1)))[0].mean(0)


NETWORKS = {
    "residual": (Residual, lambda: inputs(BATCH, 4)),
    "attention": (Attention, lambda: torch.randint(0, 7, (BATCH, 5))),
    "recurrent": (Recurrent, lambda: inputs(BATCH, 4, 2)),
    "encoder": (Encoder, lambda: inputs(BATCH, 6, 4)),
    "convolution": (convolution, lambda: inputs(BATCH, 2, 6, 6)),
    "pooled": (pooled, lambda: inputs(BATCH, 1, 6, 6)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_a_layout(name, dtype):
    make, draw = NETWORKS[name]
    model, x = build(make).to(dtype), draw()
    with exact_kernels():
        h = model(x.to(dtype) if x.is_floating_point() else x)
    found = placed(h)
    assert found is not None
    assert is_true(h, found)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_that_are_proven_are_those_that_numbers_show(name):
    make, draw = NETWORKS[name]
    network, x = Network(build(make)), draw()
    with exact_kernels():
        h, leaves = network.traced(x)
    proven, tried = (graphs.read(h, leaves) for _ in "ab")
    assert proven.outer
    tried.__dict__["outer"] = None
    assert agreeing(proven, leaves) == agreeing(tried, leaves)


def rows(count=2 * BATCH):
    """Return results for tokens of all examples one after another."""
    return constant(count, 4) * parameter(4)


def owners(count=2 * BATCH):
    return fn.one_hot(torch.arange(count) // 2).T.double()


STEERED = {
    "a matrix of data": lambda: owners() @ rows(),
    "the same from the right": lambda: (rows().T @ owners().T).T,
    "the same in a batch of one": lambda: torch.bmm(owners()[None], rows()[None])[0],
    "the same by broadcasting": lambda: (owners()[:, :, None] * rows()).sum(1),
    "the same through a row of parameters": lambda: owners() @ (constant(10, 4) + parameter(4)),
    "the same through a product": lambda: owners() @ (constant(10, 3) @ parameter(3, 4)),
    "a parameter repeated, plus data": lambda: (
        owners() @ (constant(10, 4) + (parameter(4) + parameter(1, 4).expand(10, 4)))
    ),
    "repeated, times data": lambda: owners() @ (constant(10, 4) * parameter(4).repeat(10, 1)),
    "stacked, times data": lambda: (
        owners() @ (constant(10, 4) * torch.stack([parameter(4)] * 10)).tanh()
    ),
    "data times a vector": lambda: owners() @ (constant(10, 12) @ parameter(12))[:, None],
    "indices": lambda: rows()[torch.arange(BATCH)],
    "a mask": lambda: rows()[torch.arange(10) % 2 == 0],
    "a table of results": lambda: fn.embedding(torch.arange(BATCH), rows()),
    "a bag of results": lambda: fn.embedding_bag(
        torch.arange(10), rows(), torch.arange(0, 10, 2), mode="sum"
    ),
    "selected rows": lambda: rows().index_select(0, torch.arange(BATCH)),
    "gathered rows": lambda: rows().gather(0, torch.arange(BATCH)[:, None].expand(-1, 4)),
    "sorted rows": lambda: rows(BATCH).sort(0).values,
    "added rows": lambda: constant(BATCH, 4).index_add(0, torch.arange(10) // 2, rows()),
    "cut rows": lambda: torch.stack([part.sum(0) for part in rows().split([2] * BATCH)]),
    "cut columns": lambda: torch.stack([part.sum(1) for part in rows().T.split([2] * BATCH, 1)]),
    "sliced rows": lambda: rows()[:BATCH],
    "rows one by one": lambda: torch.stack([rows()[2 * b] for b in range(BATCH)]),
    "rows turned": lambda: rows(BATCH).flip(0),
    "running sums of rows": lambda: rows(BATCH).cumsum(0),
    "a convolution along rows": lambda: fn.conv1d(rows(BATCH).T[None], parameter(4, 4, 1))[0].T,
    "statistics of rows": lambda: fn.batch_norm(rows(BATCH), None, None, training=True),
    "written rows": lambda: constant(BATCH, 4).index_put((torch.arange(BATCH),), rows(BATCH)),
    "repeated rows": lambda: rows(BATCH).repeat(2, 1).reshape(BATCH, -1),
    "unknown code": lambda: Turned.apply(rows(BATCH)),
    "unknown code by a known name": lambda: Sin.apply(rows(BATCH)),
    "a recurrence along rows": lambda: recurrence(constant(BATCH, 1, 4)),
}  # fmt: skip


class Turned(torch.autograd.Function):
    """Turns rows round."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(0)

    @staticmethod
    def backward(ctx, *grads):
        return grads[0].flip(0)


class Sin(Turned):
    """Called like an operation of torch."""


def recurrence(x):
    layer = nn.LSTM(4, 4)
    z = layer(x.float().expand(-1, BATCH, -1) * parameter(4).float())[0]
    return z.flatten(1)


@pytest.mark.parametrize("name", STEERED)
def test_what_data_may_steer_has_none(name):
    h = STEERED[name]()
    assert len(h) == BATCH
    assert placed(fn.linear(torch.tanh(h), parameter(3, h.shape[1]).to(h.dtype))) is None


def test_a_single_example_is_everywhere():
    assert placed(rows(1).flip(0)) == {}


def test_two_ways_that_differ_are_noticed():
    z = torch.tanh(values(BATCH))
    assert placed((z + z.transpose(0, 1)) @ parameter(BATCH, 2)) is None


def test_results_without_entries_have_none():
    z = values(2, 4)[:, :0].permute(1, 2, 0)
    assert placed(z.sum((0, 1))[:, None] @ parameter(1, 2)) is None
