"""Everything that is timed: forward and backward, fimsym, and the peers."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import fimsym
from benchmarks.bare import Bare
from benchmarks.networks import Case
from benchmarks.peers import HESSIAN, PEERS, Peer

UNIT = "forward + backward"
OURS = "fimsym I, V₁"
ALL = "fimsym I, V₁, V₂, Cov"
SPREAD = "fimsym I, V₁, Var_x I"
FLOOR = "bare products, I, V₁"
TWO = ("fisher", "variance_score_squared")
SWITCH = "input_variance"


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that is timed on the batches of a case.

    Attributes:
        name: What the tables call it.
        prepare: From (model, case) to a function of the batches, untimed.
        kind: ``unit``, ``fimsym``, ``floor`` or ``peer``.
        quantity: ``fisher`` when the result is compared with the truth; else what it is.
        package: Distribution it comes in.
    """

    name: str
    prepare: Callable[[nn.Module, Case], Callable[[Sequence[Tensor]], object]]
    kind: str
    quantity: str = "fisher"
    package: str = "fimsym"


def forward_backward(model: nn.Module, case: Case) -> Callable[[Sequence[Tensor]], None]:
    """Return the unit of time: a loss and its gradients on every batch."""
    loss = nn.MSELoss() if case.family == "gaussian" else nn.CrossEntropyLoss()
    device = next(model.parameters()).device
    labels = [y.to(device) for y in case.targets(case.batches())]

    def run(batches):
        for x, y in zip(batches, labels, strict=False):
            model.zero_grad()
            loss(model(x), y).backward()

    return run


def switchable() -> bool:
    """Return whether `fimsym.analyze` can leave out Var_x I, which no peer computes."""
    return SWITCH in inspect.signature(fimsym.analyze).parameters


def ours(quantities=TWO, input_variance=False):
    """Return the `prepare` of a call of `fimsym.analyze` over all batches."""
    switch = {SWITCH: input_variance} if switchable() else {}

    def prepare(model: nn.Module, case: Case) -> Callable[[Sequence[Tensor]], Mapping]:
        fimsym.evaluator(case.family)  # imported, as the peers are

        def run(batches):
            data, family = list(batches), case.family
            found = fimsym.analyze(
                model, data, family=family, quantities=quantities, progress=False, **switch
            )
            return found.fisher

        return run

    return prepare


def from_peer(peer: Peer, quantity: str = "fisher") -> Contender:
    """Return the contender of a peer."""
    return Contender(
        peer.name,
        lambda model, case: peer.prepare(model, case.family),
        "peer",
        quantity,
        peer.package,
    )


def contenders(case: Case) -> tuple[Contender, ...]:
    """Return what is timed on a case, the unit first."""
    found = [Contender(UNIT, forward_backward, "unit", "gradient", "torch")]
    found.append(Contender(OURS, ours(), "fimsym"))
    if switchable():
        found.append(Contender(SPREAD, ours(input_variance=True), "fimsym"))
    if case.name in ("mlp", "gaussian"):
        found.append(Contender(FLOOR, lambda model, case: Bare(model, case.family), "floor"))
    if case.name == "mlp":
        found.append(Contender(ALL, ours("all"), "fimsym"))
        found.append(from_peer(HESSIAN, "Hessian for given labels"))
    found += [from_peer(peer) for peer in PEERS]
    return tuple(found)


def copy_of(case: Case, device: str) -> nn.Module:
    """Return the network of a case on a device: each contender gets one of its own."""
    return case.model().to(torch.device(device))
