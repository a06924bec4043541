"""The empirical Fisher: squared scores of the data's own labels, and how far they lead astray.

With q the law of the observed labels of an input, E_q[s²] = Var_q(s) + (E_q s)², where
Var_q(s) = uᵀ Cov_q(t) u and E_q s = ⟨u, η_q − η⟩. The Fisher information has the model's own
law for q, under which E s = 0; any other q makes it biased. One label per input has
Cov_q(t) = 0.

Source: Kunstner, Balles & Hennig (2019), on the empirical Fisher.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.labels import scores, several
from fimsym.engine.network import Network
from fimsym.engine.seeded import Uses, power_sums

EMPIRICAL = "empirical"
SHIFT = "empirical_shift"
"""(E_q s)², the part of the empirical Fisher that is the square of a mean."""


def of_labels(asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sums over inputs that labels are needed for."""
    return (EMPIRICAL, SHIFT) if EMPIRICAL in asked else ()


def add(
    network: Network,
    head: Head,
    graph: Graph,
    uses: Uses,
    inputs: Tensor,
    labels: Tensor | None,
    count: int,
    sums: Accumulator,
) -> None:
    """Add E_q[s²] and (E_q s)² of some inputs: a backward pass for every label of an input.

    Args:
        network: The network.
        head: The law of the labels.
        graph: Graph of the network's forward pass.
        uses: Known uses of its parameters.
        inputs: [batch, …].
        labels: One for each input, or several.
        count: Number of inputs added already.
        sums: What is added to.

    Raises:
        SpecError: there are no labels.
        ShapeError: they do not fit the law.
        DomainError: a label is none of the law's.
    """
    outputs = graph.h.detach()
    found = several(head, labels, outputs.shape[1], count)
    seeds = [scores(head, outputs, one, count) for one in found]

    def squares(seed):
        return power_sums(network, graph, uses, inputs, seed)[2]

    whole = torch.stack([squares(seed) for seed in seeds]).mean(0)
    shift = squares(torch.stack(seeds).mean(0)) if len(seeds) > 1 else whole
    totals = {EMPIRICAL: whole, SHIFT: shift}
    sums.add_totals(slice(0, network.size), count, len(inputs), totals, None)


def warnings(
    empirical: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    variance: Mapping[str, Tensor] | None,
    groups: Mapping[str, tuple[str, ...]],
    inputs: int,
) -> tuple[str, ...]:
    """Say where the bias of the empirical Fisher is more than a tenth of the Fisher information.

    Args:
        empirical: E_q[s²], mean over the inputs.
        fisher: I, likewise.
        variance: V₁, likewise; None if it was not computed.
        groups: Names of the parameters of every group.
        inputs: Number of inputs n.

    Returns:
        One sentence, or none. A sum over a group of |Î₁ − I| with one label for each input is
        Σ √(V₁/n) on average at most.
    """
    far, explained = [], True
    for name, names in groups.items():
        total = sum(float(fisher[n].sum()) for n in names)
        apart = sum(float((empirical[n] - fisher[n]).abs().sum()) for n in names)
        if apart <= _LARGE * total:
            continue
        words = (
            f"{apart / total:.0%} of I in {name}" if total else f"{apart:.3g} where I = 0 in {name}"
        )
        if variance is not None and total:
            noise = sum(float((variance[n] / inputs).sqrt().sum()) for n in names)
            words += f" (labels of the model's own law: at most {noise / total:.0%} on average)"
            explained &= apart <= _SEVERAL * noise
        elif variance is None or not total:
            explained = False
        far.append(words)
    if not far:
        return ()
    if explained:
        end = "more inputs would tell whether the data's labels follow the model's law."
    elif variance is None:
        end = (
            "ask for variance_score_squared, too, to see how much of that drawing labels explains."
        )
    else:
        end = "it does not estimate the Fisher information of this model."
    return (f"entry by entry the empirical Fisher is off by {', '.join(far)}: {end}",)


_LARGE = 0.1
"""Absolute differences relative to the Fisher information, summed over a group."""
_SEVERAL = 3.0
"""Times what sampling labels explains on average."""
