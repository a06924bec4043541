"""Diagonals as other people's code computes them, rightly and wrongly, in a few lines each.

The Jacobian of every output by every parameter and example is held whole, so that each recipe is
one line of algebra. Laws are written in what the network puts out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

Named = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Law:
    """The law of a label y, given what the network puts out, o [batch, output].

    Attributes:
        link: What o is, for `fimsym`.
        score: (y, o) -> ∂ log p(y|o)/∂o.
        information: o -> −E ∂² log p/∂o², [batch, output, output].
        sample: o -> y.
    """

    link: str | None
    score: Callable[..., Tensor]
    information: Callable[..., Tensor]
    sample: Callable[..., Tensor]


def _one_hot(y, o):
    return nn.functional.one_hot(y, o.shape[1]).to(o)


def _softmax_information(o):
    p = torch.softmax(o, 1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


LAWS = {
    "categorical": Law(
        None,
        lambda y, o: _one_hot(y, o) - torch.softmax(o, 1),
        _softmax_information,
        lambda o: torch.softmax(o, 1).multinomial(1)[:, 0],
    ),
    "gaussian": Law(
        "mean",
        lambda y, o, sigma=1.0: (y - o) / sigma**2,
        lambda o, sigma=1.0: torch.diag_embed(torch.full_like(o, sigma**-2)),
        lambda o, sigma=1.0: o + sigma * torch.randn_like(o),
    ),
    "bernoulli": Law(
        "logits",
        lambda y, o: y - torch.sigmoid(o),
        lambda o: torch.diag_embed(torch.sigmoid(o) * torch.sigmoid(-o)),
        lambda o: torch.bernoulli(torch.sigmoid(o)),
    ),
    "poisson": Law(
        "log_rate",
        lambda y, o: y - o.exp(),
        lambda o: torch.diag_embed(o.exp()),
        lambda o: torch.poisson(o.exp()),
    ),
}


class Bench:
    """A network on its data, and every diagonal that may be computed of it.

    Args:
        model: The network, in float64.
        inputs: [batch, …].
        labels: One of each input.
        family: Name of the law.
        **constants: Of the law.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor, family: str, **constants):
        self.model, self.inputs, self.labels, self.family = model, inputs, labels, family
        self.constants, self.law = constants, LAWS[family]
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        self.shapes = {name: p.shape for name, p in parameters.items()}

        def output(parameters, x):
            o = functional_call(model, parameters, (x[None],))[0]
            return o, o

        found, self.o = vmap(jacrev(output, has_aux=True), in_dims=(None, 0))(parameters, inputs)
        self.jacobian = torch.cat([j.flatten(2) for j in found.values()], 2)
        self.count, self.outputs = self.o.shape

    def named(self, flat: Tensor) -> Named:
        """Return a flat vector by parameter."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {n: p.reshape(s) for (n, s), p in zip(self.shapes.items(), parts, strict=True)}

    def rows(self, r: Tensor) -> Tensor:
        """Return ∂⟨r_b, o_b⟩/∂θ of every example, [batch, param]."""
        return torch.einsum("bm,bmp->bp", r, self.jacobian)

    def score_rows(self, labels: Tensor) -> Tensor:
        """Return the gradient of the log-likelihood of every example, [batch, param]."""
        return self.rows(self.law.score(labels, self.o, **self.constants))

    def sampled(self) -> Tensor:
        """Draw one label of each input."""
        return self.law.sample(self.o, **self.constants)

    def each(self) -> Tensor:
        """Return I of every example, [batch, param]."""
        return self.each_of(self.law.information(self.o, **self.constants))

    def each_of(self, matrix: Tensor) -> Tensor:
        """Return the diagonal of JᵀMJ of every example."""
        return torch.einsum("bmp,bmk,bkp->bp", self.jacobian, matrix, self.jacobian)

    def fisher(self) -> Tensor:
        """Return I."""
        return self.each().mean(0)

    def matrix(self) -> Tensor:
        """Return the whole Fisher matrix."""
        m, j = self.law.information(self.o, **self.constants), self.jacobian
        return torch.einsum("bmp,bmk,bkq->pq", j, m, j) / self.count

    def squares_of_labels(self, draws: int) -> Tensor:
        """Return Î₁ with labels drawn from the model."""
        return sum(self.score_rows(self.sampled()).square().mean(0) for _ in range(draws)) / draws

    def probes(self, draws: int) -> Tensor:
        """Return squared gradients seeded with normal vectors of the output's information."""
        values, vectors = torch.linalg.eigh(self.law.information(self.o, **self.constants))
        total = torch.zeros(self.jacobian.shape[2], dtype=self.o.dtype)
        for _ in range(draws):
            g = torch.randn_like(self.o) * values.clamp(min=0).sqrt()
            total += self.rows((vectors @ g[..., None])[..., 0]).square().mean(0)
        return total / draws

    def hutchinson(self, draws: int) -> Tensor:
        """Return z ⊙ (F z) with random signs, as curvlinops' ``hutchinson_diag``."""
        z = (torch.randint(2, (self.jacobian.shape[2], draws)) * 2 - 1).to(self.o)
        return (z * (self.matrix() @ z)).mean(1)

    def xdiag(self, vectors: int) -> Tensor:
        """Return Epperly's XDiag estimate from the Fisher matrix, as curvlinops' ``xdiag``."""
        matrix, k = self.matrix(), vectors
        w = (torch.randint(2, (len(matrix), k)) * 2 - 1).to(self.o)
        product = matrix @ w
        q, r = torch.linalg.qr(product)
        back = (matrix @ q).T
        inverse = torch.linalg.pinv(r.T)
        s = inverse / inverse.norm(dim=0)
        found = (q * back.T).sum(1) - torch.einsum("ij,jk,lk,li->i", q, s, s, back) / k
        for one, own, along in zip(w.T, s.T, product.T, strict=True):
            inside = back @ one
            found += one * (along - q @ (inside - (own @ inside) * own)) / k
        return found

    def batch_squares(self, labels: Tensor, size: int, order: Tensor | None = None) -> Tensor:
        """Return squares of the gradient of the mean over batches, averaged over batches."""
        rows = self.score_rows(labels)
        rows = rows if order is None else rows[order]
        batches = rows.split(size)
        return sum(batch.mean(0).square() for batch in batches) / len(batches)

    def uniform(self) -> Tensor:
        """Return squared scores of all classes, averaged alike."""
        n = len(self.o)
        every = [torch.full((n,), k) for k in range(self.outputs)]
        return sum(self.score_rows(y).square().mean(0) for y in every) / self.outputs


def by_position(bench: Bench, seeds: list[Tensor]) -> Named:
    """Return Σ_seeds mean_b Σ_t (g_t a_t)² of Linear and Conv2d layers, by hooks.

    Other parameters are what they should be.
    """
    taken: dict[str, tuple] = {}

    def hook(name):
        def keep(module, given, result):
            taken[name] = (given[0].detach(), result)

        return keep

    layers = {
        name: module
        for name, module in bench.model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    o = bench.model(bench.inputs)
    for handle in handles:
        handle.remove()
    total = bench.named(sum(bench.rows(seed).square().mean(0) for seed in seeds))
    for name, module in layers.items():
        a, z = taken[name]
        weight = torch.zeros_like(module.weight)
        bias = torch.zeros(len(module.weight), dtype=weight.dtype)
        for seed in seeds:
            (g,) = torch.autograd.grad(o, z, seed, retain_graph=True)
            if isinstance(module, nn.Conv2d):
                places = nn.functional.unfold(a, module.kernel_size, module.dilation,
                                              module.padding, module.stride)  # fmt: skip
                g = g.flatten(2)
                square = torch.einsum("bot,bit->oi", g.square(), places.square())
                weight += square.reshape(weight.shape)
                bias += g.square().sum((0, 2))
            else:
                flat_g, flat_a = g.flatten(0, -2), a.flatten(0, -2)
                weight += flat_g.square().T @ flat_a.square()
                bias += flat_g.square().sum(0)
        total[f"{name}.weight"] = weight.detach() / bench.count
        if module.bias is not None:
            total[f"{name}.bias"] = bias.detach() / bench.count
    return total


def roots(bench: Bench) -> list[Tensor]:
    """Return seeds whose outer products add up to the output's information."""
    values, vectors = torch.linalg.eigh(bench.law.information(bench.o, **bench.constants))
    return list((vectors * values.clamp(min=0).sqrt()[:, None]).unbind(-1))
