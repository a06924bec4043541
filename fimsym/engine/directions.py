"""What gradients are taken along: every output, or the directions of a law of classes.

Under a law *output* stands for them in the shapes of gradients, throughout the engine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimsym.engine.classes import Classes


def number(h: Tensor, law: Classes | None) -> int:
    """Return how many gradients are taken of h, [batch, output]."""
    return h.shape[1] if law is None else law.directions


def weighted(w: Tensor, h: Tensor, law: Classes | None) -> Tensor:
    """Return the seed of Σ_d w_d ∂h_d/∂θ over the directions d, [batch, output]."""
    return w.expand_as(h) if law is None else law.seeds(w)


def at_output(h: Tensor, law: Classes | None) -> Tensor:
    """Return ∂h_d/∂h for every direction d, [direction, batch, output]."""
    eye = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    if law is None:
        return eye.unsqueeze(1).expand(-1, *h.shape)
    return law.centred(eye, law.lag(eye), together=False).transpose(0, 1)
