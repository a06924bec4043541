"""Handwritten digits of scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fimsym.families import family
from fimsym.laws.law import Law
from fimsym.validation.tasks.task import Data, Question, chosen, divided, fitted, scikit


def digits(seed: int, inputs: int) -> Question:
    """Train a sigmoid network on handwritten digits, ten classes."""
    table = scikit("load_digits")
    data = divided("digits", table.data / 16, table.target, seed)
    sizes = [64, 16, 16, 10]
    model = fitted(data, _law(), sizes, seed)
    title = f"digits, sigmoid network {'-'.join(map(str, sizes))}, categorical"
    return _question(data, title, model, inputs)


def digits_and_ink(seed: int, inputs: int) -> Question:
    """Train a ReLU network to tell the digit and how much ink it has, 40 classes.

    That many classes, below them a layer that does not bend, are a road of their own through
    `analyze`.
    """
    table = scikit("load_digits")
    ink = table.data.sum(1)
    quarter = np.searchsorted(np.quantile(ink, [0.25, 0.5, 0.75]), ink)
    data = divided("digits and ink", table.data / 16, 4 * table.target + quarter, seed)
    sizes = [64, 12, 40]
    model = fitted(data, _law(), sizes, seed, steps=100, activation=nn.ReLU)
    title = f"digits with quarters of ink, ReLU network {'-'.join(map(str, sizes))}, categorical"
    return _question(data, title, model, inputs)


def _law() -> Law:
    return Law(family("categorical"), {})


def _question(data: Data, title: str, model: nn.Module, inputs: int) -> Question:
    held_out = chosen(data, inputs)
    with torch.no_grad():
        guess = model(data.held_out).argmax(1)
    accuracy = float((guess == data.held_out_labels).double().mean())
    quality = f"held-out accuracy {accuracy:.1%}"
    return Question(data.name, title, family("categorical"), {}, model, held_out, quality)
