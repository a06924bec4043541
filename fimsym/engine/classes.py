"""Shortcuts for one label out of several classes: only differences of logits count.

Every result is that of the generated evaluator; what is saved are passes over ∂h/∂θ.

Source: Soen & Sun (2024), section 3: I = Σ_c p_c ũ_c² and V₁ = Σ_c p_c (ũ_c² − I)² with
ũ = u − Σ_c p_c u_c; V₂ = Σ_c p_c ṽ_c² and Cov(Î₁, Î₂) = −Σ_c p_c (ũ_c² − I) ṽ_c.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from fimsym.engine.columns import Columns, central
from fimsym.engine.memory import at_a_time
from fimsym.generated import evaluator

QUANTITIES = ("fisher", "variance_score_squared", "variance_negative_hessian", "covariance")
"""What there are shortcuts for."""
LONGEST = 512
"""Most terms that a matrix product, which adds them up in order, sums in float32."""
_ENTRIES = 2**19
"""Entries of ũ that are taken at a time, so that they stay in the processor's cache."""


class Classes:
    """The law of one label, and what follows from its logits alone.

    Args:
        h: Natural parameters, [batch, output].
        top: The likeliest class, [batch]; of several one, which directions may depend on.

    Attributes:
        overwrites: Whether `used_up` saves memory.
    """

    overwrites = True

    def __init__(self, h: Tensor, top: Tensor | None = None):
        self.h = h
        self.top = h.argmax(-1) if top is None else top
        self._double = torch.softmax(h.double(), -1)
        self.p = self._double.to(h.dtype).unsqueeze(1)

    @property
    def directions(self) -> int:
        """Number of gradients that are taken."""
        return self.h.shape[-1]

    @functools.cached_property
    def _others(self) -> Tensor:
        """Probabilities with 0 for the likeliest class."""
        return self._double.scatter(-1, self.top[:, None], 0.0)

    def __getitem__(self, rows: slice | Tensor) -> Classes:
        """Return the law of some inputs."""
        found = object.__new__(type(self))
        found.h, found.top = self.h[rows], self.top[rows]
        found._double, found.p = self._double[rows], self.p[rows]
        return found

    def lag(self, w: Tensor) -> Tensor:
        """Return Σ_j p_j w_j − w_t, t the likeliest class, without cancellation next to p_t = 1.

        Args:
            w: [output, feature].

        Returns:
            [batch, feature].
        """
        rest = self._others.sum(-1, keepdim=True).to(w.dtype)
        return self._others.to(w.dtype) @ w - rest * w[self.top]

    def centred(self, w: Tensor, lag: Tensor, together: bool = True) -> Tensor:
        """Return w_c − Σ_j p_j w_j.

        Args:
            w: [output, feature].
            lag: What `lag` returns.
            together: Whether all directions of an input lie together in memory, or all inputs of
                a direction.

        Returns:
            [batch, direction, feature].
        """
        mean = w[self.top] + lag
        found = w - mean.unsqueeze(1) if together else (w.unsqueeze(1) - mean).transpose(0, 1)
        found[torch.arange(len(lag), device=w.device), self.top] = -lag
        return found

    def seeds(self, w: Tensor) -> Tensor:
        """Return what to weight u of every class by for Σ_d w_d ũ_d over the directions d.

        Args:
            w: [direction].

        Returns:
            [batch, output].
        """
        return w - w.sum() * self._double.to(w.dtype)

    def completed(self, u: Tensor) -> Tensor:
        """Return ũ of every class, [..., batch, output], from [..., batch, direction]."""
        return u

    def of_precision(
        self, h: Tensor, u: Tensor, v: Tensor | None, with_variance: bool = True
    ) -> dict[str, Tensor]:
        """Return `moments` in the dtype of h, these inputs' natural parameters."""
        law = self if h.dtype == self.h.dtype else type(self)(h, self.top)
        return law.moments(u, v, with_variance)

    def moments(self, u: Tensor, v: Tensor | None, with_variance: bool) -> dict[str, Tensor]:
        """Return the quantities of derivatives whose means are zero, each [batch, param].

        Args:
            u: ũ, [batch, direction, param].
            v: ṽ, likewise; without it I, and V₁ if asked for, are all.
            with_variance: Return more than I.
        """
        names = QUANTITIES if v is not None else QUANTITIES[: 2 if with_variance else 1]
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        size = max(1, at_a_time(_ENTRIES, u.device) // max(1, u[:1].numel()))
        for first in range(0, max(1, len(u)), size):
            rows = slice(first, first + size)
            p, square = self.p[rows], u[rows].square()
            fisher = weighted_sum(p, square)
            found["fisher"].append(fisher)
            if not with_variance:
                continue
            square.sub_(fisher)
            if v is not None:
                product = square * v[rows]
                found["covariance"].append(weighted_sum(p, product).neg_())
                bent = torch.square(v[rows], out=product)
                found["variance_negative_hessian"].append(weighted_sum(p, bent))
            found["variance_score_squared"].append(weighted_sum(p, square.square_()))
        return {
            name: (torch.cat(parts) if len(parts) > 1 else parts[0]).squeeze(1)
            for name, parts in found.items()
        }

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
            u: ũ of these inputs, [batch, direction, param]; it is overwritten.
            rows: Which inputs they are.
            with_variance: Return more than I.
            summed: V₁ may be summed over some of them, [any, param].
            out: Where to write I and V₁, if they are not summed.
        """
        out = out or {}
        p, square = self.p[rows], u.square_()
        fisher = weighted_sum(p, square, out.get("fisher"))
        found = {"fisher": fisher.squeeze(1)}
        if with_variance:
            excess = square_of_difference(square, fisher)
            if summed and p.numel() <= LONGEST:
                p, excess = p.reshape(1, 1, -1), excess.reshape(1, -1, excess.shape[-1])
            name = "variance_score_squared"
            found[name] = weighted_sum(p, excess, out.get(name)).squeeze(1)
        return found

    def moments_of_outputs(self) -> dict[str, Tensor]:
        """Return I = p_c q_c and V₁ = p_c q_c (p_c − q_c)², q = 1 − p, each [batch, output].

        They are those of a parameter that is added to one logit, u = e_c.
        """
        rest = self._others.sum(-1, keepdim=True)
        q = (1 - self._double).scatter_(-1, self.top[:, None], rest)
        fisher = self._double * q
        variance = (self._double - q).square_().mul_(fisher)
        return dict(zip(QUANTITIES, (x.to(self.p.dtype) for x in (fisher, variance)), strict=False))

    def moments_of_columns(self, columns: Columns) -> dict[str, Tensor]:
        """Return I and V₁ of u = w for every input, each [batch, param].

        Raw moments are matrix products p W^k. Where one class t has more than half of the
        probability they are taken without it, and then about w_t, so that what cancels is as
        small as 1 − p_t. Inputs for which the dtype of the columns holds too few digits are
        taken in float64.

        Args:
            columns: Columns w of a matrix.
        """
        lonely = self._double.gather(-1, self.top[:, None]) > 0.5
        p = torch.where(lonely, self._others, self._double)
        about = lonely * self._double.new_ones(1)
        fisher, variance, fine = central(p, columns.powers, self.top, about)
        rows = (~fine).nonzero().squeeze(1)
        if len(rows) and columns.powers.dtype != torch.float64:
            exact = central(p[rows], columns.precise, self.top[rows], about[rows])
            fisher[rows], variance[rows] = (value.to(fisher.dtype) for value in exact[:2])
        return dict(zip(QUANTITIES, (fisher, variance), strict=False))


class Pair(Classes):
    """Two classes, of which the difference of logits is all that counts: d = u_1 − u_0.

    Labels follow the Bernoulli law of h_1 − h_0, whose closed forms take one gradient.
    """

    overwrites = False

    @property
    @override
    def directions(self) -> int:
        return 1

    @override
    def centred(self, w: Tensor, lag: Tensor, together: bool = True) -> Tensor:
        return (w[1:] - w[:1]).repeat(len(self.h), 1, 1)

    @override
    def seeds(self, w: Tensor) -> Tensor:
        return torch.cat([-w, w]).expand_as(self.h)

    @override
    def completed(self, u: Tensor) -> Tensor:
        return u * (self.p.squeeze(1).flip(-1) * torch.tensor([-1, 1]).to(self.p))

    @override
    def moments(self, u: Tensor, v: Tensor | None, with_variance: bool) -> dict[str, Tensor]:
        law, odds = evaluator("bernoulli"), self.h[:, 1:] - self.h[:, :1]
        if v is None and not with_variance:
            return {"fisher": law.fisher(odds, u)}
        found = law.moments(odds, u, v)
        names = QUANTITIES if v is not None else QUANTITIES[:2]
        return {name: getattr(found, name) for name in names}


def weighted_sum(p: Tensor, values: Tensor, out: Tensor | None = None) -> Tensor:
    """Return Σ_c p_c x_c, [batch, 1, param], from [batch, 1, class] and [batch, class, param].

    It is written to `out`, [batch, param], if that is given.
    """
    out = None if out is None else out.unsqueeze(1)
    if p.shape[-1] > LONGEST:
        return torch.sum(p.mT * values, 1, keepdim=True, out=out)
    return torch.bmm(p, values, out=out)


def square_of_difference(x: Tensor, y: Tensor) -> Tensor:
    """Set x to (x − y)², in one pass over memory, and return it."""
    return torch.ops.aten.mse_loss.out(x, y, 0, out=x)


def log_sum_of_others(h: Tensor) -> Tensor:
    """Return log Σ_{j≠c} exp h_j for every c, [*batch, output]."""
    place = h.argmax(-1, keepdim=True)
    rest = h.scatter(-1, place, float("-inf"))
    without_top = rest.logsumexp(-1, keepdim=True)
    total = h.logsumexp(-1, keepdim=True)
    others = total + torch.log1p(-(h - total).exp())
    return others.scatter(-1, place, without_top)
