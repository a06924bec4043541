"""Small networks and inputs for the tests of the engine."""

import itertools

import torch
from torch import nn


class Residual(nn.Module):
    """LayerNorm, a residual branch and a bare parameter."""

    def __init__(self, outputs=3):
        super().__init__()
        self.enter = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.inner = nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.tensor([0.7]))
        self.leave = nn.Linear(5, outputs)

    def forward(self, x):
        z = torch.tanh(self.enter(x))
        z = z + self.scale * torch.nn.functional.gelu(self.inner(self.norm(z)))
        return self.leave(z)


class Attention(nn.Module):
    """Tokens, an embedding, one attention layer; h from the mean over positions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
        self.leave = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.leave(self.layer(self.embed(tokens)).mean(1))


class Tied(nn.Module):
    """One weight used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.sigmoid(self.first(x)))


class Recurrent(nn.Module):
    """A GRU: vmapped gradients fail on it."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(2, 3, batch_first=True)
        self.leave = nn.Linear(3, 2)

    def forward(self, x):
        return self.leave(self.cell(x)[0][:, -1])


class Memory(nn.Module):
    """An LSTM over positions."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(2, 2, batch_first=True)
        self.leave = nn.Linear(2, 3)

    def forward(self, x):
        return self.leave(self.cell(x)[0].mean(1))


class Language(nn.Module):
    """Tokens whose table is also the output layer, with RMSNorm and a learnt position."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4, padding_idx=0)
        self.position = nn.Parameter(0.1 * torch.ones(3, 4))
        self.norm = nn.RMSNorm(4)

    def forward(self, tokens):
        z = torch.tanh(self.embed(tokens) + self.position)
        return self.norm(z.sum(1)) @ self.embed.weight.T


class Heads(nn.Module):
    """Multi-head self-attention with its own projections."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.leave = nn.Linear(4, 3)

    def forward(self, x):
        return self.leave(self.attention(x, x, x, need_weights=False)[0].mean(1))


def pooled():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, padding_mode="replicate", dilation=2, bias=False),
        nn.GroupNorm(3, 3), nn.Softplus(), nn.MaxPool2d(2), nn.Conv2d(3, 3, 2, groups=3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3),
    )  # fmt: skip


def volume():
    return nn.Sequential(
        nn.Conv3d(1, 2, 2, stride=2), nn.InstanceNorm3d(2, affine=True), nn.ELU(), nn.Flatten(1),
        nn.Linear(16, 3),
    )  # fmt: skip


def mlp(*sizes, activation=nn.Sigmoid, bias=True):
    layers = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def convolution():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2), nn.BatchNorm2d(4), nn.SiLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def inputs(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def build(factory):
    torch.manual_seed(0)
    return factory().double().eval()


def flat(named):
    return torch.cat([value.reshape(-1) for value in named.values()])
