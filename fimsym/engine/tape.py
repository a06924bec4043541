"""A forward pass written down operation by operation, to be gone through again.

Whatever modules and functions a network is made of, torch carries it out by a few hundred
operations, ``torch.ops.aten``. They are written down as they pass by, and carried out once more
by themselves: then every value has the autograd graph of this one operation.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from fimsym.engine.probe import near
from fimsym.engine.recording import NoTape, Recorder, Step, tensors

aten = torch.ops.aten

_STRAIGHT_IN_ONE = {
    aten.relu, aten.leaky_relu, aten.hardtanh, aten.threshold, aten.abs, aten.hardsigmoid,
    aten.softshrink, aten.hardshrink, aten._prelu_kernel, aten.max_pool2d_with_indices,
    aten.max_pool3d_with_indices, aten.adaptive_max_pool2d, aten.adaptive_max_pool3d,
    aten.maximum, aten.minimum, aten.clamp, aten.clamp_min, aten.clamp_max, aten.convolution,
}  # fmt: skip
"""Operations that are linear, piecewise, in any one argument."""
_SCALED = {aten.add, aten.sub, aten.rsub, aten.mul, aten.div}
"""Operations for which a number is the same as any other."""
_STRAIGHT_IN_ALL = {aten.maximum, aten.minimum}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What there is to do when a value moves.

    Attributes:
        steps: Numbers of the operations that matter, in order.
        live: The places above which something bends.
        bent: Numbers of the operations that bend.
    """

    steps: tuple[int, ...]
    live: frozenset[int]
    bent: frozenset[int]


@dataclasses.dataclass(frozen=True)
class Plans:
    """What there is to know of tapes of one signature, without their values.

    Attributes:
        signature: The same for forward passes that did the same things.
        bends: Whether an operation bends where some of its arguments move.
        made: Plans by the place that moves first, and whether the tangent of h is wanted.
    """

    signature: tuple
    bends: dict[tuple[int, frozenset[int]], bool] = dataclasses.field(default_factory=dict)
    made: dict[tuple[int, bool], Plan] = dataclasses.field(default_factory=dict)


class Tape:
    """What a forward pass did with its parameters, and the values that came out.

    Attributes:
        values: Every value with its autograd graph; those that do not depend on a parameter,
            or not differentiably, do not require grad.
        steps: The operations that lead from the parameters to h, in order.
        sources: Place of each parameter.
        result: Place of h.
        plans: What holds for every forward pass that did the same things.
    """

    def __init__(self, values: list[Tensor], steps: list[Step], sources: dict[str, int], result):
        self.values = values
        self.steps = steps
        self.sources = sources
        self.result: int = result
        self.plans = Plans(tuple(
            (step.func, step.inputs, step.results, _numbers_of(step)) for step in steps
        ))  # fmt: skip

    @property
    def signature(self) -> tuple:
        """The same for forward passes that did the same things."""
        return self.plans.signature

    def plan(self, start: int, through: bool = False) -> Plan:
        """Return what there is to do when the value at a place moves.

        Args:
            start: The place.
            through: Whether the tangent of h is wanted, too.
        """
        key = start, through
        made = self.plans.made
        if key not in made:
            made[key] = self._planned(start, through)
        return made[key]

    def _planned(self, start: int, through: bool) -> Plan:
        moving = self._reached(start)
        live = moving if through else self._live(moving)
        steps: list[int] = []
        bent: set[int] = set()
        for number, step in enumerate(self.steps):
            if moving.isdisjoint(step.inputs):
                continue
            if self._is_bent(number, moving):
                bent.add(number)
            if number in bent or not live.isdisjoint(step.results):
                steps.append(number)
        return Plan(tuple(steps), frozenset(live), frozenset(bent))

    def _reached(self, start: int) -> set[int]:
        """Return all places that move when a given one does."""
        moving = {start}
        for step in self.steps:
            if not moving.isdisjoint(step.inputs):
                moving.update(p for p in step.results if self.values[p].requires_grad)
        return moving

    def _live(self, moving: Collection[int]) -> set[int]:
        """Return the places above which an operation may have a second derivative."""
        live: set[int] = set()
        for number, step in reversed(list(enumerate(self.steps))):
            if self._is_bent(number, moving) or not live.isdisjoint(step.results):
                live.update(place for place in step.inputs if place in moving)
        return live

    def _is_bent(self, number: int, moving: Collection[int]) -> bool:
        """Tell whether an operation may have a second derivative when these places move.

        Where it has none its gradient does not depend on what moves, which autograd knows.
        """
        step = self.steps[number]
        which = frozenset(place for place in step.inputs if place in moving)
        if not which or step.name in _STRAIGHT_IN_ALL:
            return False
        if step.name in _STRAIGHT_IN_ONE and len(which) == 1:
            return False
        bends = self.plans.bends
        if (number, which) not in bends:
            bends[number, which] = self._bends_where(step, which)
        return bends[number, which]

    def _bends_where(self, step: Step, which: Collection[int]) -> bool:
        given = {place: self.values[place].detach().requires_grad_() for place in which}
        with torch.enable_grad():
            found = step.call(lambda place: given.get(place, self.values[place].detach()))
            results = [x for x in tensors(found) if x.requires_grad]
            seeds = [torch.ones_like(x) for x in results]
            moved = {"create_graph": True, "allow_unused": True}
            slopes = torch.autograd.grad(results, list(given.values()), seeds, **moved)
        return any(slope is not None and slope.requires_grad for slope in slopes)


def record(call: Callable[[Mapping[str, Tensor]], Tensor], leaves: Mapping[str, Tensor]) -> Tape:
    """Return the tape of a forward pass.

    Args:
        call: Runs the network with these parameters.
        leaves: The parameters, tensors that require grad.

    Raises:
        NoTape: the network does something that cannot be written down.
    """
    recorder = Recorder(leaves)
    with warnings.catch_warnings(), recorder:
        h = call(leaves)
    result = recorder.places.get(id(h))
    if result is None:
        raise NoTape("the result does not come from the parameters by operations of torch")
    steps = _leading_to(result, recorder.steps)
    sources = {name: place for place, name in enumerate(leaves)}
    values = _carried_out(steps, list(leaves.values()), len(recorder.kept))
    again = values[result]
    if not near(again.detach(), h.detach(), 1e3 * torch.finfo(h.dtype).eps):
        raise NoTape("the operations that were written down lead to another result")
    return Tape(values, steps, sources, result)


def _numbers_of(step: Step) -> tuple[float, ...]:
    """Return the numbers on which it may depend whether an operation bends, such as a power."""
    if step.func.is_view or step.name in _SCALED:
        return ()
    given = (*step.args, *step.kwargs.values())
    return tuple(x for x in given if isinstance(x, int | float))


def _leading_to(result: int, steps: list[Step]) -> list[Step]:
    needed, kept = {result}, []
    for step in reversed(steps):
        if not needed.isdisjoint(step.results):
            needed.update(step.inputs)
            kept.append(step)
    return kept[::-1]


def _carried_out(steps: list[Step], leaves: list[Tensor], count: int) -> list[Tensor]:
    """Return the values at all places, each with the graph of its own operation."""
    empty = torch.empty(0)
    values = [*leaves, *[empty] * (count - len(leaves))]
    for step in steps:
        found = tensors(step.call(values.__getitem__))
        for place, value in zip(step.results, found, strict=True):
            values[place] = value
    return values
