"""From the quantities of neurons to those of weights: products with powers of what comes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from fimsym.engine import bounded

DEGREES = {
    "fisher": 2,
    "variance_score_squared": 4,
    "variance_negative_hessian": 4,
    "covariance": 4,
    **{name: 2 if name.startswith("fisher") else 4 for name in bounded.NAMES},
}
"""Degree of every quantity in u, of which v counts two."""


def scaled(values: Mapping[str, Tensor], slope: Tensor) -> dict[str, Tensor]:
    """Return the quantities of φ'(z) u from those of u."""
    square = slope.square()
    scales = {2: square, 4: square.square()}
    return {q: value * scales[DEGREES[q]].to(value.dtype) for q, value in values.items()}


def in_memory(tensor: Tensor) -> Hashable:
    """Return the same for tensors that are the same numbers in memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


@dataclasses.dataclass(frozen=True)
class Powers:
    """Powers of what comes into a layer.

    Attributes:
        of: (a/s)^degree by degree, 2 and 4, [row, feature].
        scale: s, a power of two for each feature, float64; None where all are one.
    """

    of: Mapping[int, Tensor]
    scale: Tensor | None

    def restored(self, total: Tensor, degree: int, axis: int) -> Tensor:
        """Return a sum that holds (a/s)^degree as one of a^degree; features along an axis."""
        if self.scale is None:
            return total
        return total.double() * self.scale.pow(degree).unsqueeze(1 - axis)


def powers_of(inputs: Tensor) -> Powers:
    """Return powers of what comes into a layer; tiny and huge features are scaled."""
    squares = inputs.square()
    fourths = squares.square()
    scale = _scale_of(inputs, fourths)
    if scale is not None:
        squares = (inputs / scale.to(inputs.dtype)).square()
        fourths = squares.square()
    return Powers({2: squares, 4: fourths}, scale)


def _scale_of(inputs: Tensor, fourths: Tensor) -> Tensor | None:
    """Return the scale of every feature, if fourth powers of some leave the dtype's range."""
    least, sums = torch.finfo(inputs.dtype).tiny ** (2 / 3), fourths.sum(0)
    outside = ~((sums >= least) & (sums <= 1 / least))
    if not bool(outside.any()):
        return None
    sizes = inputs[:, outside].abs().amax(0).double()
    if not bool(sizes.any()):
        return None
    scale = torch.ones_like(sums, dtype=torch.float64)
    scale[outside] = torch.exp2(torch.frexp(sizes).exponent.double() - 1)
    return scale


def spread_of(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_b (x_b − x̄)² of x_b = f_b a_b, each product of small deviations."""
    f, a = left.mean(0), right.mean(0)
    df, da = left - f, right - a
    about = df.square().T @ right.square()
    about.addcmul_(f[:, None], df.T @ (right * da), value=2)
    about.addcmul_(f.square()[:, None], da.square().sum(0))
    about.sub_((df.T @ da).square_().div_(len(left)))
    return about.clamp_(min=0)
