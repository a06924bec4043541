"""Certified extreme values of quartic forms on unit vectors, in two and in many variables.

A bound holds at whatever point its search stops, and allows for its own rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimsym.runtime.spectra import least

_PLACES = 16
"""Values of a multiplier that are tried side by side."""
_ROUNDING = 64 * torch.finfo(torch.float64).eps


def largest_on_circle(first: Tensor, *others: Tensor | float) -> Tensor:
    """Return the largest value of Σ binom(4, k) m_k x^(4−k) y^k where x² + y² = 1.

    In w = (x² − y², 2xy), a unit vector too, it is c + bᵀw + wᵀQw, and

        c + bᵀw + wᵀQw ≤ c + μ + ¼ bᵀ(μ − Q)⁻¹b      for any μ above both eigenvalues of Q,

    with equality at the least right-hand side.

    Args:
        first: m₀, a column.
        *others: m₁ … m₄, columns or numbers.
    """
    entries = (first, *(torch.as_tensor(x, dtype=first.dtype, device=first.device) for x in others))
    size = torch.stack(torch.broadcast_tensors(*entries)).abs().amax(dim=0)
    scale = torch.where(size > 0, size, 1.0)
    m0, m1, m2, m3, m4 = (entry / scale for entry in entries)
    constant, tilt, turn = (m0 + m4) / 4, (m0 - m4) / 2, m1 + m3
    middle, half, beside = (m0 + m4 + 6 * m2) / 8, (m0 + m4 - 6 * m2) / 8, (m1 - m3) / 2
    radius = torch.hypot(half, beside)
    angle = torch.atan2(beside, half) / 2
    along = torch.cos(angle) * tilt + torch.sin(angle) * turn
    across = torch.cos(angle) * turn - torch.sin(angle) * tilt

    def dual(above: Tensor) -> Tensor:
        first = torch.where(along == 0, 0.0, along**2 / above)
        second = torch.where(across == 0, 0.0, across**2 / (above + 2 * radius))
        return above + (first + second) / 4

    above = least(dual, along.abs() / 2, torch.hypot(along, across) / 2)
    found = scale * (constant + middle + radius + above + _ROUNDING)
    return torch.where(size == 0, 0.0, found)


def smallest_on_circle(first: Tensor, *others: Tensor | float) -> Tensor:
    """Return the smallest value of Σ binom(4, k) m_k x^(4−k) y^k where x² + y² = 1.

    Args:
        first: m₀, a column.
        *others: m₁ … m₄, columns or numbers.
    """
    return -largest_on_circle(-first, *(-entry for entry in others))


def largest_of_targets(fisher: Tensor, quartic: Tensor) -> Tensor:
    """Return a bound of Σ q_j n_j² + 2 Σ_{j≠k} λ_j λ_k n_j n_k where n ≥ 0 and Σ n = 1.

    It is at most max(q_j, 2λ_jλ_k), and, since (Σ λ n)² ≤ Σ λ² n, for any μ at most

        μ + Σ_j max_{0≤x≤1} ((2λ_j² − μ) x + κ_j x²),     κ = q − 2λ².

    Args:
        fisher: λ ≥ 0 of each target, [*batch, target, 1].
        quartic: q ≥ 0, likewise.
    """
    if fisher.shape[-2] == 1:
        return quartic * (1 + _ROUNDING)
    scale, fisher, quartic = _scaled(fisher, quartic)
    pair = fisher.topk(2, dim=-2).values.prod(dim=-2, keepdim=True)
    simple = torch.maximum(quartic.amax(dim=-2, keepdim=True), 2 * pair)
    start = 2 * fisher**2
    bend = quartic - start

    def dual(level: Tensor) -> Tensor:
        slope = (start - level).clamp(min=0)
        inside = (slope > 0) & (slope + 2 * bend < 0)
        peak = slope**2 / torch.where(inside, -4 * bend, 1.0)
        part = torch.where(inside, peak, (quartic - level).clamp(min=0))
        return level + part.sum(dim=-2, keepdim=True)

    found = least(dual, torch.zeros_like(simple), torch.ones_like(simple))
    return scale * (1 + _ROUNDING) * torch.minimum(simple, found)


def smallest_of_targets(fisher: Tensor, quartic: Tensor) -> Tensor:
    """Return a lower bound of Σ q_j n_j² + 2 Σ_{j≠k} λ_j λ_k n_j n_k where n ≥ 0 and Σ n = 1.

    It is at least min(q_j, 2λ_jλ_k), and, since s² ≥ 2cs − c², for any c and μ at least

        μ − 2c² + Σ_j min_{0≤x≤1} ((4cλ_j − μ) x + κ_j x²),     κ = q − 2λ².

    Args:
        fisher: λ ≥ 0 of each target, [*batch, target, 1].
        quartic: q ≥ 0, likewise.
    """
    if fisher.shape[-2] == 1:
        return quartic * (1 - _ROUNDING)
    scale, fisher, quartic = _scaled(fisher, quartic)
    pair = fisher.topk(2, dim=-2, largest=False).values.prod(dim=-2, keepdim=True)
    simple = torch.minimum(quartic.amin(dim=-2, keepdim=True), 2 * pair)
    low, high = fisher.amin(dim=-2, keepdim=True), fisher.amax(dim=-2, keepdim=True)
    bend = quartic - 2 * fisher**2
    place = torch.linspace(0, 1, _PLACES, dtype=fisher.dtype, device=fisher.device)
    centre = high * (low / torch.where(high > 0, high, 1.0)).clamp(min=1e-9) ** place
    start = 4 * centre * fisher

    def dual(level: Tensor) -> Tensor:
        slope = (level - start).clamp(min=0)
        inside = slope < 2 * bend
        dip = slope**2 / torch.where(inside, 4 * bend, 1.0)
        part = torch.where(inside, dip, (level - start - bend).clamp(min=0))
        rounding = _ROUNDING * (level + 2 * centre**2)
        return 2 * centre**2 - level + part.sum(dim=-2, keepdim=True) + rounding

    ceiling = (start + 2 * bend.clamp(min=0)).amax(dim=-2, keepdim=True)
    found = -least(dual, torch.zeros_like(ceiling), ceiling).amin(dim=-1, keepdim=True)
    return scale * (1 - _ROUNDING) * torch.maximum(simple, found)


def _scaled(fisher: Tensor, quartic: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, λ/√s and q/s with s = max(q, 2λ²)."""
    size = torch.maximum(quartic, 2 * fisher**2).amax(dim=-2, keepdim=True)
    scale = torch.where((size > 0) & size.isfinite(), size, 1.0)
    return scale, fisher / scale.sqrt(), quartic / scale
