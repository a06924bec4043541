"""From a model and data to its Fisher diagonal and the variances of the estimators."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from fimsym.engine import data as inputs_of
from fimsym.engine.analysis import (
    Accumulator,
    Analysis,
    check_grouping,
    check_quantities,
)
from fimsym.engine.derivatives import Differentiator
from fimsym.engine.head import Head
from fimsym.engine.memory import budget, first_order_chunks, second_order_chunks
from fimsym.engine.network import (
    Block,
    Network,
    check_examples_independent,
    check_finite,
    check_outputs,
    differentiable_kernels,
)
from fimsym.engine.roads import Roads
from fimsym.errors import ShapeError, SpecError, nearest
from fimsym.families import Family
from fimsym.families import family as family_of
from fimsym.report.progress import progress as progress_bar


def analyze(
    model: nn.Module,
    data: inputs_of.Data,
    family: str | Family | None = None,
    link: str | None = None,
    quantities: str | tuple[str, ...] = ("fisher", "variance_score_squared"),
    groups: str = "layer",
    max_memory: int | str | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    **constants: float,
) -> Analysis:
    """Return a network's exact Fisher diagonal with the variances of its estimators.

    For every trainable scalar θ_i and input x, with u = ∂h/∂θ_i and v = ∂²h/∂θ_i², the
    closed forms of the output family give I = Var⟨u, t−η⟩ and, for one label, V₁, V₂ and
    Cov(Î₁, Î₂); they are averaged over the inputs.

    Args:
        model: Any module that maps inputs [batch, …] to natural parameters h, or what the
            link expects, [batch, output], in evaluation mode. It is not changed.
        data: A tensor, an array, a DataLoader or an iterable of batches, of inputs or of
            (inputs, labels); or one tuple (inputs, labels).
        family: Name or specification of the output family.
        link: What the model puts out instead of h: a name in ``family(...).links``, such as
            ``"mean_log_variance"``; None or ``"natural"`` for h itself. With d targets the
            first d outputs are the first parameter of every target, and so on.
        quantities: Some of ``fisher``, ``variance_score_squared``,
            ``variance_negative_hessian``, ``covariance``; or ``"all"``. Without the last
            two no second derivative is taken.
        groups: ``"layer"``, ``"parameter"`` or ``"model"``.
        max_memory: Budget of the chunks, in bytes or as ``"2GB"``; None for a quarter of
            the free memory, at most 1 GB.
        device: Where to compute; the model's own device if None.
        progress: Show a progress bar on standard error when it is a terminal.
        **constants: Constants of the family, such as ``sigma=0.5``.

    Returns:
        The analysis; tensors are float64 and shaped like the parameters.

    Raises:
        SpecError: an unknown family, constant, quantity, link or grouping.
        ShapeError: empty data, or an output that does not fit the family.
        DomainError: values that are not finite, or a model in training mode with dropout
            or batch statistics.
        UnsupportedError: second derivatives are asked of a model that has none.

    Source:
        Soen & Sun (2024), Lemma 3.1; formulas from ``fimsym derive``.
    """
    _check_keywords(family, constants)
    head = Head(family, link, constants)
    asked = check_quantities(quantities)
    grouping = check_grouping(groups)
    with differentiable_kernels(), torch.enable_grad():
        network = Network(model, device)
        run = _Run(network, head, asked, budget(max_memory, network.device))
        return run.analyze(data, grouping, progress)


_LOOKED_AT = 8


class _Run:
    """One call of `analyze`: what stays the same over batches, and the sums."""

    def __init__(self, network, head, asked, limit):
        self.network: Network = network
        self.head: Head = head
        self.asked: tuple[str, ...] = asked
        self.limit: int = limit
        self.sums = Accumulator(asked, network.size, network.device)
        self.count = 0
        self.outputs = 0
        first, second = head.orders(asked)
        self.roads = Roads(network, head, asked, limit, "fisher" in asked)
        self.first = Differentiator(network, "first") if first else None
        self.second = Differentiator(network, "second") if second else None

    def analyze(self, data, grouping, show) -> Analysis:
        total = inputs_of.length(data)
        with progress_bar("analyzing", total, show) as advance:
            for inputs, labels in inputs_of.batches(data, self.network.device, self.network.dtype):
                self._add(inputs, labels, advance)
        return self._result(grouping)

    def _add(self, inputs: Tensor, labels: Tensor | None, advance) -> None:
        if self.count == 0:
            self._start(inputs[:_LOOKED_AT])
        start = 0
        while start < inputs.shape[0]:
            part = slice(start, start + self.rows)
            self._add_chunk(inputs[part], None if labels is None else labels[part])
            start += len(inputs[part])
            advance(len(inputs[part]))

    def _start(self, inputs: Tensor) -> None:
        """Fix the number of outputs, of inputs to take at a time, and the blocks."""
        h = check_outputs(self.network, inputs, self.head.minimum_outputs)
        self.outputs = h.shape[1]
        width = self.head.width(self.network.dtype)
        self.rows, rest = self.roads.rows(inputs)
        rest |= set(self.network.names) if self.second else set()
        self.blocks: dict[frozenset[str], list[Block]] = {}
        if rest:
            self.rows = min(self.rows, self._blocks_of(frozenset(rest), width)[1])

    def _blocks_of(self, names, width) -> tuple[list[Block], int]:
        """Return the blocks of parameters on the functional road, and how many inputs fit."""
        chunks = []
        if self.first:
            chunks.append(first_order_chunks(self.network, names, self.outputs, self.limit, width))
        if self.second:
            chunks.append(second_order_chunks(self.network, names, self.outputs, self.limit))
        return chunks[-1][0], min(rows for _, rows in chunks)

    def _add_chunk(self, inputs: Tensor, labels: Tensor | None) -> None:
        graph = self.roads.trace(inputs)
        h = graph.h.detach()
        check_finite(h, self.count)
        self.head.check(h, self.count)
        _check_width(h, self.outputs)
        check_examples_independent(self.network, inputs, h, self.count)
        if labels is not None:
            inputs_of.check_labels(labels, self.outputs, self.count, self.head.targets(h.shape[1]))
        if self.second:
            rest = set(self.network.names)
        else:
            rest = self.roads.add(graph, inputs, self.count, self.sums)
        if rest:
            for block in self._blocks_of(frozenset(rest), self.head.width(self.network.dtype))[0]:
                self._add_block(block, inputs, h)
        self.count += len(h)

    def _add_block(self, block: Block, inputs: Tensor, h: Tensor) -> None:
        at = (block, inputs, self.count, self.outputs)
        first = self.first(*at) if self.first else None
        second = self.second(*at) if self.second else None
        values = self.head.values(self.asked, h, first, second)
        self.sums.add(slice(block.start, block.stop), self.count, values)

    def _result(self, grouping) -> Analysis:
        network = self.network
        values = {
            quantity: network.split((total / self.count).cpu())
            for quantity, total in self.sums.sums.items()
        }
        spread = {}
        if "fisher" in self.asked:
            divisor = self.count - 1 if self.count > 1 else float("nan")
            spread = network.split((self.sums.squares / divisor).cpu())
        ways = {"first": self.first, "second": self.second}
        taken = {order: way.way for order, way in ways.items() if way}
        return Analysis(
            family=self.head.spec.name,
            link=self.head.link,
            constants=self.head.constants,
            inputs=self.count,
            outputs=self.outputs,
            values=values,
            input_variance=spread,
            grouping=grouping,
            roads=self.roads.taken,
            ways=taken,
            frozen=network.frozen,
        )


def _check_keywords(family, constants):
    """Refuse a misspelt argument, which Python takes for a constant of the family."""
    known = {c.name for c in family_of(family).constants} if family is not None else set()
    arguments = [name for name in inspect.signature(analyze).parameters if name != "constants"]
    for name in constants:
        if name not in known and (hint := nearest(name, arguments)):
            raise SpecError(f"analyze has no argument {name!r}.{hint}")


def _check_width(h, outputs):
    if h.shape[1] != outputs:
        raise ShapeError(
            f"the model returned {outputs} outputs for the first batch and {h.shape[1]} for a "
            "later one; expected the same number."
        )
