"""Directional derivatives by double backward, and networks' outputs compared with them."""

from __future__ import annotations

import torch

PROJECTIONS = 2


def double_backward(value, t):
    """Return d/dt and d²/dt² of random projections of a value at t, by reverse over reverse."""
    generator = torch.Generator().manual_seed(1)
    taken = []
    for _ in range(PROJECTIONS):
        r = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        projected = (value.double() * r).sum()
        first = _gradient(projected, t)
        taken.append((r, first, _gradient(first, t)))
    return taken


def _gradient(value, t):
    if not value.requires_grad:
        return torch.zeros_like(t)
    (found,) = torch.autograd.grad(value, t, create_graph=True, allow_unused=True)
    return torch.zeros_like(t) if found is None else found


def agree(found, value, t):
    """Compare the derivatives of one direction with double backward."""
    error = torch.finfo(value.dtype).eps ** 0.75
    for r, *expected in double_backward(value, t):
        for one, truth in zip(found, expected, strict=True):
            projected = torch.zeros(()) if one is None else (one.double() * r).sum()
            size = 1 + truth.abs() + (0 if one is None else one.double().abs().sum())
            assert (projected - truth).abs() <= error * size
