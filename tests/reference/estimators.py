"""Variances of estimators of I by enumerating labels, and of probes by enumerating signs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import mpmath as mp
import torch
from torch import Tensor

from tests.reference import enumeration

Weighted = tuple[Tensor, Tensor, Tensor]


def labels(family: str, h: Tensor, u: Tensor, v: Tensor, **constants: float) -> Weighted:
    """Return the probability [label], score and ∂²ℓ [label, param] of every label at h [output].

    Labels of several targets are the products of the labels of each.
    """
    law = enumeration.LAWS[family]
    outputs = law.outputs or len(h)
    weight, score, curvature = torch.ones(1).double(), torch.zeros(1, 1), torch.zeros(1, 1)
    for target in torch.arange(len(h)).reshape(outputs, -1).unbind(-1):
        found, own = enumeration.likelihood(law, None, h[target], constants)
        gradient, hessian = enumeration.by_outputs(law, None, h[target], found, constants)
        bent = torch.einsum("lab,ap,bp->lp", hessian, u[target], u[target])
        weight = (weight[:, None] * own).flatten()
        score = (score[:, None] + gradient @ u[target]).flatten(0, 1)
        curvature = (curvature[:, None] + bent + gradient @ v[target]).flatten(0, 1)
    return weight, score, curvature


def variances(weight: Tensor, score: Tensor, curvature: Tensor) -> dict[str, Tensor]:
    """Return the variance of each estimator [param] and its best coefficient, by regression."""
    root = weight.sqrt().unsqueeze(-1)

    def centred(values):
        return root * (values - (weight.unsqueeze(-1) * values).sum(0))

    first, second, plain = centred(score**2), centred(-curvature), centred(score)
    control = _slope(-first, plain)
    mixing = _slope(-second, first - second)
    return {
        "score_squared": first.square().sum(0),
        "score_squared_cv": (first + control * plain).square().sum(0),
        "control": control,
        "negative_hessian": second.square().sum(0),
        "mixed": (second + mixing * (first - second)).square().sum(0),
        "mixing": mixing,
    }


def _slope(of: Tensor, on: Tensor) -> Tensor:
    size = on.square().sum(0)
    return (of * on).sum(0) / torch.where(size > 0, size, 1.0)


def of_signs(transposed_root: Callable[[Tensor], Tensor], outputs: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance [param] of ⟨a, g⟩² over every vector g of signs.

    Args:
        transposed_root: Takes probes [output, probe] to ⟨a, g⟩, [probe, param].
        outputs: Length of a probe.
    """
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=outputs)), dtype=torch.float64)
    squares = transposed_root(signs.mT) ** 2
    return squares.mean(0), squares.var(0, unbiased=False)


def of_classes(h: Sequence[float], u: Sequence[float], v: Sequence[float]) -> dict[str, mp.mpf]:
    """Return the variances for one label of C classes, to fifty digits, one parameter."""
    with mp.workdps(400):
        weights = [mp.exp(mp.mpf(x)) for x in h]
        p = [w / mp.fsum(weights) for w in weights]
        centred = [[mp.mpf(x) - mp.fdot(p, map(mp.mpf, row)) for x in row] for row in (u, v)]
        fisher = mp.fdot(p, [s**2 for s in centred[0]])
        first = [s**2 - fisher for s in centred[0]]
        second = [-w for w in centred[1]]
        moments = {
            name: mp.fsum(q * a * b for q, a, b in zip(p, one, other, strict=True))
            for name, (one, other) in {
                "11": (first, first),
                "22": (second, second),
                "12": (first, second),
                "1s": (first, centred[0]),
            }.items()
        }
        apart = moments["11"] + moments["22"] - 2 * moments["12"]
        determinant = moments["11"] * moments["22"] - moments["12"] ** 2
        return {
            "score_squared": moments["11"],
            "negative_hessian": moments["22"],
            "score_squared_cv": moments["11"] - moments["1s"] ** 2 / fisher,
            "mixed": determinant / apart,
            "gaussian_probe": 2 * fisher**2,
            "rademacher_probe": 2 * (fisher**2 - mp.fsum((q * s**2) ** 2 for q, s in
                                                         zip(p, centred[0], strict=True))),
        }  # fmt: skip
