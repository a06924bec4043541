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
    check_differentiable,
    check_examples_independent,
    check_outputs,
    differentiable_kernels,
)
from fimsym.engine.structured import Structured
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
        self.structured = Structured(network, head, asked)
        self.first = Differentiator(network, "first") if first else None
        self.second = Differentiator(network, "second") if second else None

    def analyze(self, data, grouping, show) -> Analysis:
        total = inputs_of.length(data)
        total = total * self.network.size if total is not None else None
        with progress_bar("analyzing", total, show) as advance:
            for inputs, labels in inputs_of.batches(data, self.network.device, self.network.dtype):
                self._add(inputs, labels, advance)
        return self._result(grouping)

    def _add(self, inputs: Tensor, labels: Tensor | None, advance) -> None:
        h = check_outputs(self.network, inputs, self.count, self.head.minimum_outputs)
        self.head.check(h, self.count)
        check_examples_independent(self.network, inputs, h, self.count)
        if self.count == 0:
            check_differentiable(self.network, inputs)
            self._start(h.shape[1])
        _check_width(h, self.outputs)
        if labels is not None:
            inputs_of.check_labels(labels, self.outputs, self.count, self.head.targets(h.shape[1]))
        start = 0
        while start < inputs.shape[0]:
            part = slice(start, start + self.rows)
            if self.structured.keep_what_holds(inputs[part]):
                self._start(self.outputs)
                continue
            if self.structured.layers:
                if not self.structured.add(inputs[part], self.count, self.sums):
                    self._start(self.outputs)
                    continue
                advance(self.structured.size * len(h[part]))
            for block in self.blocks:
                self._add_block(block, inputs[part], h[part])
                advance(block.size * len(h[part]))
            self.count += len(h[part])
            start += len(h[part])

    def _start(self, outputs: int) -> None:
        """Fix the number of outputs and the chunks."""
        self.outputs = outputs
        width = self.head.width(self.network.dtype)
        ruled = self.structured.names
        rest = [name for name in self.network.names if name not in ruled]
        chunks = [([], self.structured.rows(outputs, self.limit, width))]
        if self.first and rest:
            chunks.append(first_order_chunks(self.network, rest, outputs, self.limit, width))
        if self.second and rest:
            chunks.append(second_order_chunks(self.network, rest, outputs, self.limit))
        self.blocks: list[Block] = chunks[-1][0]
        self.rows: int = min(rows for _, rows in chunks)

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
        taken = {order: way.way for order, way in ways.items() if way and self.blocks}
        ruled = self.structured.names
        if ruled:
            for order, way in ways.items():
                if way:
                    taken[order] = "; ".join(filter(None, ("rank-one rule", taken.get(order))))
        return Analysis(
            family=self.head.spec.name,
            link=self.head.link,
            constants=self.head.constants,
            inputs=self.count,
            outputs=self.outputs,
            values=values,
            input_variance=spread,
            grouping=grouping,
            roads={n: "structured" if n in ruled else "functional" for n in network.names},
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
