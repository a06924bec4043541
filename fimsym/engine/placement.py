"""A result of an operation, and where examples lie in it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

Edge = tuple[Any, int]
"""An operation, and which of its results."""

ELEMENTWISE = frozenset(
    {
        "Abs", "Acos", "Add", "Addcdiv", "Addcmul", "Alias", "Asin", "Atan", "Atan2", "Clamp",
        "ClampMax", "ClampMin", "Clone", "Cos", "Cosh", "Div", "Elu", "Erf", "Erfc", "Exp", "Exp2",
        "Expand", "Expm1", "Fmod", "Gelu", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyRelu",
        "Lerp", "Lgamma", "Log", "Log10", "Log1P", "Log2", "LogSigmoid", "Logaddexp", "MaskedFill",
        "Maximum", "Minimum", "Mish", "Mul", "NanToNum", "Neg", "Pow", "PreluKernel", "Reciprocal",
        "Relu", "Rsqrt", "Rsub", "Sigmoid", "Silu", "Sin", "Sinh", "Softplus", "Softshrink",
        "Sqrt", "Sub", "Tan", "Tanh", "Threshold", "ToCopy", "Tril", "Triu", "Where", "Xlogy",
    }
)  # fmt: skip
"""Operations by the names of their nodes, without what follows "Backward"; these broadcast."""
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
    """

    node: Any
    number: int
    batch: int
    outer: int

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
            if other is not None and not follows_from_parameters(other):
                raise Unplaced


def kind_of(node: Any) -> str:
    """Return what an operation is, without the number of the overload."""
    return node.name().rpartition("Backward")[0]


def _shape(edge: Edge) -> tuple[int, ...]:
    node, number = edge
    leaf = getattr(node, "variable", None)
    return tuple(node._input_metadata[number].shape if leaf is None else leaf.shape)


def follows_from_parameters(node: Any) -> bool:
    """Tell whether no row of data can be in what leads to the result of an operation."""
    if not node.next_functions:
        return hasattr(node, "variable")
    kind, given = kind_of(node), [edge for edge in node.next_functions if edge[0] is not None]
    if kind not in _PLAIN:
        return False
    if len(given) < len(node.next_functions):
        largest = max(math.prod(_shape(edge)) for edge in given)
        if kind in PRODUCTS or math.prod(_shape((node, 0))) > largest:
            return False
    return all(follows_from_parameters(other) for other, _ in given)
