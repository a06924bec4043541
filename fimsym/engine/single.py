"""A shortcut for one output: its derivative only scales the closed forms.

I is quadratic in u and V₁ of degree four, and so I(u) = I(1) u² and V₁(u) = V₁(1) u⁴.

Source: Soen & Sun (2024), Lemma 3.1, with one output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.classes import LONGEST
from fimsym.engine.head import Head

_RANGE = 2.0**-100, 2.0**20
"""Of I(1) and V₁(1): outside of it, u⁴ in float32 may have fewer digits than the product."""


class Single:
    """I and V₁ of one output.

    Args:
        fisher: I(1), [batch, 1].
        variance: V₁(1), likewise.
    """

    def __init__(self, fisher: Tensor, variance: Tensor):
        self._fisher = fisher
        self._variance = variance

    def moments_of_outputs(self) -> dict[str, Tensor]:
        """Return I and V₁ of a parameter that is added to the output, u = 1, each [batch, 1]."""
        return {"fisher": self._fisher, "variance_score_squared": self._variance}

    def used_up(
        self,
        u: Tensor,
        rows: slice,
        with_variance: bool,
        summed: bool = False,
        out: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return I and V₁ of some inputs, each [batch, param]; digits may underflow.

        Args:
            u: ∂o/∂θ of these inputs, [batch, 1, param]; it is overwritten.
            rows: Which inputs they are.
            with_variance: Return more than I.
            summed: V₁ may be summed over some of them, [any, param].
            out: Where to write I and V₁, if they are not summed.
        """
        out = out or {}
        square = u.squeeze(1).square_()
        fisher = torch.mul(square, self._fisher[rows], out=out.get("fisher"))
        if not with_variance:
            return {"fisher": fisher}
        weight, fourth = self._variance[rows], square.square_()
        if summed and len(fourth) <= LONGEST:
            variance = weight.T @ fourth
        else:
            variance = torch.mul(fourth, weight, out=out.get("variance_score_squared"))
        return {"fisher": fisher, "variance_score_squared": variance}


def single(head: Head, outputs: Tensor) -> Single | None:
    """Return the shortcut for some outputs, None if there is none.

    Args:
        head: The law of the labels.
        outputs: o, [batch, output].
    """
    if outputs.shape[1] != 1:
        return None
    found = head.of_outputs(("fisher", "variance_score_squared"), outputs.double())
    sizes, (least, most) = torch.cat([*found.values()]), _RANGE
    if not bool(((sizes == 0) | (sizes >= least) & (sizes <= most)).all()):
        return None
    return Single(*(value.to(outputs.dtype) for value in found.values()))
