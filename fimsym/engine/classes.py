"""Shortcuts for one label out of several classes: only differences of logits count.

Every result is that of the generated evaluator; what is saved are passes over ∂h/∂θ.

Source: Soen & Sun (2024), section 3: I = Σ_c p_c ũ_c² and V₁ = Σ_c p_c (ũ_c² − I)² with
ũ = u − Σ_c p_c u_c.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LONGEST = 512
"""Most classes that a matrix product, which adds them up in order, sums in float32."""
_ENTRIES = 2**18
"""Entries of ũ that are taken at a time, so that they stay in the processor's cache."""


def centred(h: Tensor, g: Tensor) -> Tensor:
    """Return g̃ = g − Σ_c p_c g_c without cancellation next to p_c = 1.

    Args:
        h: Natural parameters, [batch, output].
        g: [output, batch or 1, feature].

    Returns:
        [output, batch, feature].
    """
    top = h.argmax(-1)
    others = torch.softmax(h.double(), -1).scatter_(-1, top[:, None], 0.0).to(g.dtype)
    likeliest = g[top, torch.arange(len(h), device=h.device) if g.shape[1] > 1 else 0]
    shifted = g - likeliest
    mean = others.unsqueeze(1) @ shifted.transpose(0, 1)
    return shifted.sub_(mean.squeeze(1))


def moments_of_centred(h: Tensor, u: Tensor, with_variance: bool) -> dict[str, Tensor]:
    """Return I, and V₁ if asked for, of derivatives whose mean is zero, each [batch, param].

    Args:
        h: Natural parameters, [batch, output].
        u: ũ, [batch, output, param].
        with_variance: Also return V₁.
    """
    p = torch.softmax(h.double(), -1).to(u.dtype).unsqueeze(1)
    rows = max(1, _ENTRIES // max(1, u[0].numel()))
    fisher, variance = (u.new_empty(len(u), 1, u.shape[-1]) for _ in range(2))
    for first in range(0, len(u), rows):
        part = slice(first, first + rows)
        square = u[part].square()
        fisher[part] = mean = _weighted_sum(p[part], square)
        if with_variance:
            variance[part] = _weighted_sum(p[part], square.sub_(mean).square_())
    found = {"fisher": fisher.squeeze(1)}
    return found | {"variance_score_squared": variance.squeeze(1)} if with_variance else found


def _weighted_sum(p: Tensor, values: Tensor) -> Tensor:
    if p.shape[-1] > _LONGEST:
        return (p.mT * values).sum(1, keepdim=True)
    return p @ values


def central_moments(h: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ_c p_c (w_c − w̄)² and Σ_c p_c (w_c − w̄)⁴ of columns w of a matrix, [batch, param].

    Raw moments are matrix products p W^k. They are taken without the likeliest class t, and
    then about w_t, so that what cancels is as small as 1 − p_t; in float64.

    Args:
        h: Natural parameters of the categorical, [batch, output].
        columns: W, [output, param].
    """
    top = h.argmax(-1)
    others = torch.softmax(h.double(), -1).scatter_(-1, top[:, None], 0.0)
    w = columns.double()
    w = w - w.mean(0)
    square = w.square()
    first, second, third, fourth = (others @ x for x in (w, square, square * w, square.square()))
    rest = others.sum(-1, keepdim=True)
    t = w[top]
    # Σ_(c≠t) p_c (w_c − t)^k by Horner's scheme in −t
    about_4 = fourth - t * (4 * third - t * (6 * second - t * (4 * first - t * rest)))
    about_3 = third - t * (3 * second - t * (3 * first - t * rest))
    about_2 = second - t * (2 * first - t * rest)
    mean = first - t * rest
    variance = about_2 - mean.square()
    return variance, about_4 - mean * (4 * about_3 - mean * (6 * about_2 - 3 * mean.square()))


def log_sum_of_others(h: Tensor) -> Tensor:
    """Return log Σ_{j≠c} exp h_j for every c, [*batch, output]."""
    place = h.argmax(-1, keepdim=True)
    rest = h.scatter(-1, place, float("-inf"))
    without_top = rest.logsumexp(-1, keepdim=True)
    total = h.logsumexp(-1, keepdim=True)
    others = total + torch.log1p(-(h - total).exp())
    return others.scatter(-1, place, without_top)
