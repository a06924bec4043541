"""Breast tumours of scikit-learn, malignant or benign."""

from __future__ import annotations

import numpy as np

from fimsym.validation.tasks.task import Question, divided, scikit, standardised, task


def breast_cancer(seed: int, inputs: int) -> Question:
    """Train a network on whether a tumour is benign; the output is the log-odds."""
    table = scikit("load_breast_cancer")
    labels = table.target[:, None].astype(np.float64)
    data = divided("breast_cancer", standardised(table.data), labels, seed)
    what = "breast_cancer, benign or malignant"
    return task(data, what, "bernoulli", [30, 4, 1], seed, inputs, steps=120)
