"""Second derivatives of every output along many directions, by tangents through a tape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fimsym.engine import tangent_layers, tangent_views
from fimsym.engine.probe import near
from fimsym.engine.recording import NoTape, Step
from fimsym.engine.sites import RULES, Moving, Owner, Site, Whole
from fimsym.engine.tangent_rules import elementwise
from fimsym.engine.tangents import Tangent
from fimsym.engine.tape import Plan, Tape

_ENTERED = (tangent_layers, tangent_views)  # each enters its rules
aten = torch.ops.aten
_ELEMENTWISE = {aten._prelu_kernel, aten.hardswish}
"""Beside those that torch calls pointwise."""


def is_elementwise(step: Step) -> bool:
    """Tell whether an operation acts on each element by itself."""
    return torch.Tag.pointwise in step.func.tags or step.name in _ELEMENTWISE


class Replay:
    """Carries tangents through a tape.

    Args:
        tape: The tape.
        adjoints: g_c at every place where something bends, [output, *value].
        owners: Whose entries are whose, at these places and others.
        batch: Number of examples.
    """

    def __init__(
        self,
        tape: Tape,
        adjoints: Mapping[int, Tensor | None],
        owners: Mapping[int, Owner],
        batch: int,
    ):
        self._tape = tape
        self._values = [value.detach() for value in tape.values]
        self._adjoints = adjoints
        self._owners = owners
        self._batch = batch
        self._caches: dict[int, dict[Any, Any]] = {}

    def curvatures(
        self, known: Plan, starts: Mapping[int, Tangent], rows: int, columns: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return u and v of h along every direction, [row or 1, column or 1, batch, output].

        Args:
            known: What there is to do.
            starts: Tangents of the places that move first.
            rows: Number of rows of directions.
            columns: Number of columns of directions.

        Returns:
            u, None if it was not asked for, and v, None where nothing bends.

        Raises:
            NoTape: an operation mixes examples.
        """
        tangents: dict[int, Tangent | None] = dict(starts)
        last = {p: n for n in known.steps for p in self._tape.steps[n].inputs}
        total = None
        for number in known.steps:
            step = self._tape.steps[number]
            moving = {p: t for p in step.inputs if (t := tangents.get(p)) is not None}
            if moving:
                site = self._site(number, step, known)
                found = self._through(step, site, moving, (rows, columns))
                for place, tangent in zip(step.results, found, strict=True):
                    if place in known.live and self._values[place].numel():
                        tangents[place] = tangent
                if site.total is not None:
                    total = site.total if total is None else total + site.total
            for place in set(step.inputs):
                if last[place] == number:
                    tangents.pop(place, None)
        slope = tangents.get(self._tape.result)
        return None if slope is None else slope.dense(rows, columns), total

    def _site(self, number: int, step: Step, known: Plan) -> Site:
        first = step.results[0]
        return Site(
            value=self._values[first],
            live=not known.live.isdisjoint(step.results),
            adjoint=self._adjoints.get(first) if number in known.bent else None,
            owner=self._owners.get(first),
            batch=self._batch,
            cache=self._caches.setdefault(number, {}),
        )

    def _through(self, step: Step, site: Site, moving, size) -> Sequence[Tangent | None]:
        """Return the tangents of an operation's results; add to v at its site."""
        before = site.total
        try:
            found = self._by_factors(step, site, moving)
            return found if step.many else [found]
        except Whole:
            site.total = before
            return self._as_a_whole(step, site, moving, size)

    def _by_factors(self, step: Step, site: Site, moving) -> Any:
        if site.adjoint is None and not site.live:
            return [None] * len(step.results) if step.many else None
        if is_elementwise(step) and step.name not in RULES:
            given = {p: Moving(self._values[p], t) for p, t in moving.items()}
            at = lambda some: step.call(lambda p: some.get(p, self._values[p]))  # noqa: E731
            return elementwise(site, at, given)
        if step.name not in RULES:
            raise Whole

        def argument(place: int) -> Any:
            value, tangent = self._values[place], moving.get(place)
            return value if tangent is None else Moving(value, tangent)

        return RULES[step.name](site, step.func, *step.arguments(argument))

    def _as_a_whole(self, step: Step, site: Site, moving, size) -> list[Tangent | None]:
        """Carry dense tangents through an operation by autograd.

        J ẋ is the derivative of the gradient ⟨J, w⟩ by w, along ẋ; a share of v is ⟨ẋ, H_c ẋ⟩
        with H_c ẋ the derivative of the gradient of ⟨g_c, f⟩, summed over the entries of x that
        belong to an example.
        """
        places = list(moving)
        along = [moving[p].dense(*size).flatten(0, 1) for p in places]
        with torch.enable_grad():
            given = {p: self._values[p].detach().requires_grad_() for p in places}
            found = step.call(lambda p: given.get(p, self._values[p]))
            results = list(found) if step.many else [found]
            if site.adjoint is not None:
                share = self._share(results[0], site, given, along)
                site.add(share.unflatten(0, size))
            if not site.live:
                return [None] * len(results)
            return [self._moved(x, given, along, size) for x in results]

    def _moved(self, result: Tensor, given, along, size) -> Tangent | None:
        if not result.requires_grad:
            return None
        w = torch.zeros_like(result).requires_grad_()
        moved: dict[str, Any] = {"create_graph": True, "allow_unused": True}
        slopes = torch.autograd.grad(result, list(given.values()), w, **moved)
        pairs = [(s, x) for s, x in zip(slopes, along, strict=True) if s is not None]
        if not pairs:
            return None
        (first,) = _derivatives([s for s, _ in pairs], [w], [x for _, x in pairs])
        return Tangent(result.shape, (first.unflatten(0, size),))

    def _share(self, result: Tensor, site: Site, given, along) -> Tensor:
        """Return the share of v, [direction, batch, output]."""
        assert site.adjoint is not None
        if all(place in self._owners for place in given):
            shares = []
            for g in site.adjoint:
                bent = self._bent(result, g, given, along)
                parts = [
                    self._by_example(h, self._owners[p]) for p, h in zip(given, bent, strict=True)
                ]
                shares.append(torch.stack(parts).sum(0))
            return torch.stack(shares, -1)
        owner = site.owner
        if owner is None:
            raise NoTape("an operation mixes examples")
        marks = torch.eye(self._batch).to(result)
        shape = [1] * (result.ndim + 1)
        shape[owner.axis + (owner.order == "position")] = self._batch
        sizes = (self._batch, -1) if owner.order == "batch" else (-1, self._batch)

        def of_example(g: Tensor, mark: Tensor) -> Tensor:
            mine = g.unflatten(owner.axis, sizes) * mark.reshape(shape)
            bent = self._bent(result, mine.reshape(g.shape), given, along)
            return torch.stack([h.flatten(1).sum(1) for h in bent]).sum(0)

        found = [torch.stack([of_example(g, mark) for mark in marks], 1) for g in site.adjoint]
        return torch.stack(found, -1)

    def _bent(self, result: Tensor, g: Tensor, given, along) -> list[Tensor]:
        """Return ẋ ∘ H ẋ for every argument that moves, [direction, *value]."""
        inputs = list(given.values())
        moved: dict[str, Any] = {"create_graph": True, "allow_unused": True}
        slopes = torch.autograd.grad(result, inputs, g, **moved)
        pairs = [(s, x) for s, x in zip(slopes, along, strict=True)
                 if s is not None and s.requires_grad]  # fmt: skip
        bent = _derivatives([s for s, _ in pairs], inputs, [x for _, x in pairs])
        return [x * h for x, h in zip(along, bent, strict=True)]

    def _by_example(self, values: Tensor, owner: Owner) -> Tensor:
        """Return the sums of values [direction, *value] over the entries of each example."""
        axis = 1 + owner.axis
        sizes = (self._batch, -1) if owner.order == "batch" else (-1, self._batch)
        values = values.unflatten(axis, sizes).movedim(axis + (owner.order == "position"), 1)
        return values.flatten(2).sum(2)


def _derivatives(outputs: list[Tensor], inputs: list[Tensor], seeds: list[Tensor]) -> list[Tensor]:
    """Return ∂⟨seed, outputs⟩/∂inputs for every seed, [seed, *input].

    They are taken together where that gives what one alone gives: some batched derivatives
    of torch are wrong.
    """
    if not outputs:
        return [x.new_zeros(()) for x in inputs]
    given: dict[str, Any] = {
        "retain_graph": True, "allow_unused": True, "materialize_grads": True
    }  # fmt: skip
    r = torch.linspace(0.5, 1.5, len(seeds[0]), dtype=seeds[0].dtype, device=seeds[0].device)
    mixed = [torch.tensordot(r, seed, dims=1) for seed in seeds]
    alone = torch.autograd.grad(outputs, inputs, mixed, **given)
    try:
        found = torch.autograd.grad(outputs, inputs, seeds, is_grads_batched=True, **given)
        loose = (1e3 * torch.finfo(r.dtype).eps) ** 0.5
        sums = [torch.tensordot(r, x, dims=1) for x in found]
        if all(near(x, y, loose) for x, y in zip(sums, alone, strict=True)):
            return list(found)
    except (RuntimeError, NotImplementedError):
        pass  # there is no batched form
    rows = [
        torch.autograd.grad(outputs, inputs, list(row), **given) for row in zip(*seeds, strict=True)
    ]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]
