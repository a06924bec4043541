"""A result of an operation, and where examples lie in it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

Edge = tuple[Any, int]
"""An operation, and which of its results."""

ACTIVATIONS = frozenset(
    {
        "Cos", "Elu", "Erf", "Exp", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu",
        "LogSigmoid", "Mish", "Relu", "Sigmoid", "Silu", "Sin", "Softplus", "Tanh", "Threshold",
    }
)  # fmt: skip
"""Operations by the names of their nodes, without what follows "Backward"; these have one input
and a diagonal Jacobian."""
ELEMENTWISE = ACTIVATIONS | frozenset(
    {
        "Abs", "Acos", "Add", "Addcdiv", "Addcmul", "Alias", "Asin", "Atan", "Atan2", "Clamp",
        "ClampMax", "ClampMin", "Clone", "Cosh", "Div", "Erfc", "Exp2", "Expand", "Expm1", "Fmod",
        "Lerp", "Lgamma", "Log", "Log10", "Log1P", "Log2", "Logaddexp", "MaskedFill", "Maximum",
        "Minimum", "Mul", "NanToNum", "Neg", "Pow", "PreluKernel", "Reciprocal", "Rsqrt", "Rsub",
        "Sinh", "Softshrink", "Sqrt", "Sub", "Tan", "ToCopy", "Tril", "Triu", "Where", "Xlogy",
    }
)  # fmt: skip
"""These broadcast."""
RESHAPED = frozenset({"ReshapeAlias", "Squeeze", "UnsafeView", "Unsqueeze", "View"})
REDUCED = frozenset(
    {
        "Amax", "Amin", "LinalgVectorNorm", "Logsumexp", "Max", "Mean", "Median", "Min", "Prod",
        "Std", "Sum", "Var",
    }
)  # fmt: skip
PRODUCTS = {"Addmm": 1, "Baddbmm": 1, "Bmm": 0, "Mm": 0}
"""Matrix products, and which argument is the first factor."""
_PLAIN = {
    *ELEMENTWISE, *RESHAPED, *REDUCED, *PRODUCTS, "Cat", "Dot", "Mv", "Permute", "Repeat", "Select",
    "Slice", "Softmax", "Stack", "T", "Transpose", "Vdot", "WeightNormInterface",
}  # fmt: skip
"""Operations in which no data can give a parameter rows that are examples."""


class Unplaced(Exception):  # noqa: N818
    """Operations alone do not tell where examples lie."""


@dataclasses.dataclass
class Result:
    """A result of an operation, and where examples are in it.

    Attributes:
        node: The operation.
        number: Which of its results.
        batch: Number of examples.
        outer: Entries that examples come after.
        grown: What is known of results of parameters, see `_grown`.
    """

    node: Any
    number: int
    batch: int
    outer: int
    grown: dict[Any, bool | None]

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return _shape((self.node, self.number))

    @functools.cached_property
    def axis(self) -> int:
        """The axis that holds examples, alone or among other entries."""
        before = 1
        for axis, size in enumerate(self.shape):
            within, rest = divmod(self.outer, before)
            if not rest and size and size % (within * self.batch) == 0:
                return axis
            before *= size
        raise Unplaced

    def argument(self, number: int) -> tuple[int, ...] | None:
        """Return the shape of an argument; None if it depends on no parameter."""
        edge = self.node.next_functions[number]
        return None if edge[0] is None else _shape(edge)

    def at(self, number: int, axis: int) -> Iterator[Edge]:
        """Yield that an argument holds examples in an axis as the result does in its own."""
        shape = self.argument(number)
        if shape is None:
            return
        if shape[axis] != self.shape[self.axis]:
            raise Unplaced
        within = self.outer // math.prod(self.shape[: self.axis])
        yield number, math.prod(shape[:axis]) * within

    def saved(self, name: str, axes: int) -> list[int]:
        """Return axes that the operation has noted, of a value with so many."""
        noted = getattr(self.node, f"_saved_{name}")
        noted = noted if isinstance(noted, tuple) else (noted,)
        return [(axis - 2**64 if axis >= 2**63 else axis) % axes for axis in noted]

    def of_parameters(self, first: int, count: int | None = 1) -> None:
        """Raise Unplaced unless arguments follow from parameters alone."""
        for other, _ in self.node.next_functions[first:][:count]:
            if other is not None and _grown(other, self.grown) is None:
                raise Unplaced


def kind_of(node: Any) -> str:
    """Return what an operation of torch is, without the number of the overload."""
    name, _, number = node.name().rpartition("Backward")
    return name if number.isdigit() else node.name()  # functions of the user's own have no number


def _shape(edge: Edge) -> tuple[int, ...]:
    node, number = edge
    leaf = getattr(node, "variable", None)
    return tuple(node._input_metadata[number].shape if leaf is None else leaf.shape)


def _grown(node: Any, known: dict[Any, bool | None]) -> bool | None:
    """Tell whether a result of parameters is larger than they are; None if data may shape it.

    Rows of a parameter that was repeated may be multiplied by rows of data, so that its use there
    has as many; what is no larger than before meets data as one row.
    """
    if node not in known:
        known[node] = _grows(node, known)
    return known[node]


def _grows(node: Any, known: dict[Any, bool | None]) -> bool | None:
    if not node.next_functions:
        return False if hasattr(node, "variable") else None
    kind, edges = kind_of(node), node.next_functions
    given = [edge for edge in edges if edge[0] is not None]
    if kind not in _PLAIN:
        return None
    parts = [_grown(other, known) for other, _ in given]
    if None in parts:
        return None
    largest = max((math.prod(_shape(edge)) for edge in given), default=0)
    grown = any(parts) or math.prod(_shape((node, 0))) > largest
    if len(given) == len(edges) or _with_number(node):
        return grown
    rows_of_data = kind in PRODUCTS or (kind == "Mv" and edges[0][0] is None)
    return None if grown or rows_of_data else False


def _with_number(node: Any) -> bool:
    """Tell whether the argument that follows from no parameter is a single number."""
    names = ("_saved_self", "_saved_other")
    missing = [
        name for name, (other, _) in zip(names, node.next_functions, strict=False) if not other
    ]
    values = [getattr(node, name, None) for name in missing]
    return bool(values) and all(value is not None and value.numel() == 1 for value in values)
