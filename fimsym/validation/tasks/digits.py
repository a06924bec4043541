"""Handwritten digits of scikit-learn."""

from __future__ import annotations

import torch

from fimsym.families import family
from fimsym.laws.law import Law
from fimsym.validation.tasks.task import Question, chosen, divided, fitted, scikit


def digits(seed: int, inputs: int) -> Question:
    """Train a sigmoid network on handwritten digits, ten classes."""
    table = scikit("load_digits")
    data = divided("digits", table.data / 16, table.target, seed)
    sizes = [64, 16, 16, 10]
    held_out = chosen(data, inputs)
    spec = family("categorical")
    model = fitted(data, Law(spec, {}), sizes, seed)
    with torch.no_grad():
        guess = model(data.held_out).argmax(1)
    accuracy = float((guess == data.held_out_labels).double().mean())
    title = f"digits, sigmoid network {'-'.join(map(str, sizes))}, categorical"
    quality = f"held-out accuracy {accuracy:.1%}"
    return Question("digits", title, spec, {}, model, held_out, quality)
