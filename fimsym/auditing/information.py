"""The Fisher information at the network's output, M(o) = g′(o)ᵀ I(h) g′(o) with h = g(o).

The diagonal of a parameter's Fisher information is ⟨u, M u⟩ with u = ∂o/∂θ. With M = Σ_k r_k r_kᵀ
it is the sum of squared gradients seeded with every r_k.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fimsym.engine.head import Head


def root(head: Head, outputs: Tensor) -> Iterator[Tensor]:
    """Yield seeds r_k, [batch, output], whose outer products add up to M.

    Args:
        head: The law of the labels.
        outputs: o, [batch, output].
    """
    outputs = outputs.detach().double()
    count = outputs.shape[1]
    if _is_of_classes(head):
        p = torch.softmax(outputs, -1)
        for k in range(count):
            column = -p * p[:, k : k + 1].sqrt()
            column[:, k] += p[:, k].sqrt()
            yield column * head.constants.get("n", 1.0) ** 0.5
    elif (diagonal := _diagonal(head, outputs)) is not None:
        for k in range(count):
            column = torch.zeros_like(outputs)
            column[:, k] = diagonal[:, k].sqrt()
            yield column
    else:
        values, vectors = torch.linalg.eigh(_matrix(head, outputs))
        yield from (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)).unbind(-1)


def times(head: Head, outputs: Tensor, x: Tensor) -> Tensor:
    """Return M x, [batch, output], in float64.

    Args:
        head: The law of the labels.
        outputs: o, [batch, output].
        x: [batch, output].
    """
    outputs, x = outputs.detach().double(), x.double()
    if _is_of_classes(head):
        p = torch.softmax(outputs, -1)
        return head.constants.get("n", 1.0) * p * (x - (p * x).sum(-1, keepdim=True))
    diagonal = _diagonal(head, outputs)
    if diagonal is not None:
        return diagonal * x
    return (_matrix(head, outputs) @ x.unsqueeze(-1)).squeeze(-1)


def probe(head: Head, outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return a normal vector of covariance M for each example, [batch, output]."""
    seed = torch.zeros_like(outputs, dtype=torch.float64)
    for column in root(head, outputs):
        g = torch.randn(len(outputs), 1, generator=generator, dtype=torch.float64)
        seed += column * g.to(column.device)
    return seed


def _is_of_classes(head: Head) -> bool:
    return head.spec.name in ("categorical", "multinomial") and head.identity


def _diagonal(head: Head, outputs: Tensor) -> Tensor | None:
    """Return the diagonal of M where it is diagonal, [batch, output]."""
    spec = head.spec
    if spec.vector or spec.structure == "matrix" or spec.components > 1:
        return None
    return head.of_outputs(("fisher",), outputs)["fisher"].double()


def _matrix(head: Head, outputs: Tensor) -> Tensor:
    """Return M, [batch, output, output], from derivatives of η and of the link."""
    with torch.enable_grad():
        o = outputs.detach().requires_grad_()
        h = head.natural(o)
        h_alone = h.detach().requires_grad_()
        eta = head.module.mean(h_alone, **head.constants)
        slope = _jacobian(h, o)
        information = _jacobian(eta, h_alone)
    return slope.mT @ information @ slope


def _jacobian(values: Tensor, at: Tensor) -> Tensor:
    """Return ∂values/∂at, [batch, value, at], where examples are independent."""
    if values is at:
        return torch.eye(at.shape[1]).to(at).expand(len(at), -1, -1)
    rows = [torch.autograd.grad(v.sum(), at, retain_graph=True)[0] for v in values.unbind(1)]
    return torch.stack(rows, dim=1)
