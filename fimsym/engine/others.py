"""One gradient less: that of the likeliest class t follows from all the others.

Source: Σ_c p_c ũ_c = 0, so that ũ_t = −Σ_{c≠t} p_c ũ_c / p_t, in which nothing is divided by
less than one over the number of classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from fimsym.engine.classes import LONGEST, Classes, square_of_difference, weighted_sum


class Others(Classes):
    """All classes but the likeliest, for first derivatives."""

    def __init__(self, h: Tensor, top: Tensor | None = None):
        super().__init__(h, top)
        places = torch.arange(h.shape[-1] - 1, device=h.device)
        self._classes = places + (places >= self.top[:, None])
        top = self._double.gather(1, self.top[:, None])
        others = self._double.gather(1, self._classes)
        self.p = others.to(h.dtype).unsqueeze(1)
        self._top = top.to(h.dtype).unsqueeze(1)
        self._shares = (-others / top).to(h.dtype).unsqueeze(1)

    @property
    @override
    def directions(self) -> int:
        return self.h.shape[-1] - 1

    @override
    def __getitem__(self, rows: slice | Tensor) -> Others:
        found = super().__getitem__(rows)
        assert isinstance(found, Others)
        found._classes, found._top = self._classes[rows], self._top[rows]
        found._shares = self._shares[rows]
        return found

    @override
    def centred(self, w: Tensor, lag: Tensor, together: bool = True) -> Tensor:
        mean = w[self.top] + lag
        if together:
            return w[self._classes].sub_(mean.unsqueeze(1))
        return w[self._classes.T.contiguous()].sub_(mean).transpose(0, 1)

    @override
    def seeds(self, w: Tensor) -> Tensor:
        own = torch.zeros_like(self.h, dtype=w.dtype)
        own.scatter_(1, self._classes, w.expand(len(own), -1))
        return own - w.sum() * self._double.to(w.dtype)

    @override
    def completed(self, u: Tensor) -> Tensor:
        found = u.new_empty(*u.shape[:-1], self.h.shape[-1])
        found.scatter_(-1, self._classes.expand(u.shape), u)
        of_top = (u * self._shares.squeeze(1)).sum(-1, keepdim=True)
        return found.scatter_(-1, self.top[:, None].expand(of_top.shape), of_top)

    @override
    def moments(self, u: Tensor, v: Tensor | None, with_variance: bool) -> dict[str, Tensor]:
        law = copy.copy(self)
        law.p = torch.cat([self.p, self._top], -1)
        return Classes.moments(
            law, self._with_top(u), v if v is None else self._with_top(v), with_variance
        )

    def _with_top(self, u: Tensor) -> Tensor:
        """Return ũ of the other classes and, last, of the likeliest."""
        return torch.cat([u, self._shares @ u], 1)

    @override
    def used_up(
        self,
        u: Tensor,
        rows: slice,
        with_variance: bool,
        summed: bool = False,
        out: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        out = out or {}
        p, top = self.p[rows], self._top[rows]
        of_top = torch.bmm(self._shares[rows], u).square_()
        square = u.square_()
        fisher = weighted_sum(p, square, out.get("fisher")).addcmul_(top, of_top)
        found = {"fisher": fisher.squeeze(1)}
        if with_variance:
            excess = square_of_difference(square, fisher)
            excess_of_top = square_of_difference(of_top, fisher)
            if summed and p.numel() <= LONGEST:
                p, excess = p.reshape(1, 1, -1), excess.reshape(1, -1, excess.shape[-1])
                top, excess_of_top = top.reshape(1, 1, -1), excess_of_top.transpose(0, 1)
                found["variance_score_squared"] = torch.baddbmm(
                    torch.bmm(top, excess_of_top), p, excess
                ).squeeze(1)
            else:
                name = "variance_score_squared"
                variance = weighted_sum(p, excess, out.get(name)).addcmul_(top, excess_of_top)
                found[name] = variance.squeeze(1)
        return found
