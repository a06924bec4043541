"""Where examples lie in the results of operations, by the rules of these alone.

A result is laid out as [outer, batch, inner] if it is that after a reshape: outer is 1 where
examples come first, and the number of positions where those do. From h, of outer 1, the rule of
each operation says how what it was given must be laid out. Where all have one, no data can put
rows elsewhere. There is none for what may follow data: matrix products along examples, or
indices, cuts and sorting of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fimsym.engine.placement import (
    ELEMENTWISE,
    PRODUCTS,
    REDUCED,
    RESHAPED,
    Edge,
    Result,
    Unplaced,
    kind_of,
)

_OTHER_FORMS = (
    ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What rules raise where an operation has noted less, or else, than they read."""


def layout(root: Edge, batch: int) -> dict[Edge, int] | None:
    """Return outer of the result of every operation on the way down; None if one has no rule.

    What follows from parameters alone is left out.

    Args:
        root: Where h [batch, output] comes from.
        batch: Number of examples; a single one is everywhere.
    """
    if batch == 1:
        return {}
    found, stack, grown = {root: 1}, [root], {}
    try:
        while stack:
            node, number = stack.pop()
            if not node.next_functions:
                continue
            result = Result(node, number, batch, found[node, number], grown)
            for argument, outer in _RULES[kind_of(node)](result):
                edge = node.next_functions[argument]
                if edge not in found:
                    found[edge] = outer
                    stack.append(edge)
                elif found[edge] != outer:
                    return None
    except (Unplaced, *_OTHER_FORMS):
        return None  # an operation without a rule, or of a form that the rule does not know
    return found


def ruled(nodes: Iterable[Any]) -> bool:
    """Tell whether all operations have a rule."""
    return all(kind_of(node) in _RULES for node in nodes if node.next_functions)


Rule = Callable[[Result], Iterable[Edge]]
"""From a result to the arguments that hold examples, each with its outer."""


def _broadcast(result: Result, count: int | None = None) -> Iterator[Edge]:
    for number in range(len(result.node.next_functions))[:count]:
        shape = result.argument(number)
        if shape is None:
            continue
        axis = result.axis - len(result.shape) + len(shape)
        if axis < 0 or shape[axis] == 1:
            result.of_parameters(number)
        else:
            yield from result.at(number, axis)


def _repeated(result: Result) -> Iterator[Edge]:
    shape = result.argument(0) or ()
    axis = result.axis - len(result.shape) + len(shape)
    if axis < 0 or shape[axis] != result.shape[result.axis]:
        result.of_parameters(0)
    else:
        yield from result.at(0, axis)


def _reshaped(result: Result) -> Iterator[Edge]:
    yield 0, result.outer


def _unmoved(result: Result) -> Iterator[Edge]:
    for number in range(len(result.node.next_functions)):
        yield from result.at(number, result.axis)


def _transposed(result: Result) -> Iterator[Edge]:
    yield from result.at(0, 1 - result.axis)


def _swapped(result: Result) -> Iterator[Edge]:
    axes = len(result.shape)
    one, other = (result.saved(name, axes)[0] for name in ("dim0", "dim1"))
    yield from result.at(0, {one: other, other: one}.get(result.axis, result.axis))


def _permuted(result: Result) -> Iterator[Edge]:
    yield from result.at(0, result.saved("dims", len(result.shape))[result.axis])


def _reduced(result: Result) -> Iterator[Edge]:
    shape = result.argument(0) or ()
    gone = result.saved("dim", len(shape))
    kept = [axis for axis in range(len(shape)) if axis not in gone or result.node._saved_keepdim]
    yield from result.at(0, kept[result.axis])


def _along(name: str) -> Rule:
    """Return the rule of what mixes entries along axes it has noted."""

    def rule(result: Result) -> Iterator[Edge]:
        noted = result.saved(name, len(result.shape))
        if result.axis in noted or not noted:
            raise Unplaced
        yield from result.at(0, result.axis)

    return rule


def _picked(result: Result) -> Iterator[Edge]:
    (gone,) = result.saved("dim", len(result.shape) + 1)
    yield from result.at(0, result.axis + (result.axis >= gone))


def _stacked(result: Result) -> Iterator[Edge]:
    (new,) = result.saved("dim", len(result.shape))
    if result.axis == new:
        raise Unplaced
    for number in range(len(result.node.next_functions)):
        yield from result.at(number, result.axis - (result.axis > new))


def _indexed(result: Result) -> Iterator[Edge]:
    with contextlib.suppress(Unplaced):
        result.of_parameters(0)
        return
    indices = [axis for axis, index in enumerate(result.node._saved_indices) if index is not None]
    if indices[0] <= result.axis or indices != list(range(indices[0], indices[-1] + 1)):
        raise Unplaced
    yield from result.at(0, result.axis)


def _product(first: int) -> Rule:
    """Return the rule of a matrix product whose factors are arguments from a number on."""

    def rule(result: Result) -> Iterator[Edge]:
        yield from _broadcast(result, first)
        axis, rows = result.axis, len(result.shape) - 2
        if axis < rows:  # a product for each entry of the first axis
            yield from result.at(first, axis)
            yield from result.at(first + 1, axis)
        else:
            result.of_parameters(first + (axis == rows))
            yield from result.at(first + (axis != rows), axis)

    return rule


def _times_vector(result: Result) -> Iterator[Edge]:
    result.of_parameters(1)
    yield from result.at(0, 0)


def _of_first_axis(result: Result) -> Iterator[Edge]:
    if result.axis:
        raise Unplaced
    yield from result.at(0, 0)


def _before(axes: int) -> Rule:
    """Return the rule of what mixes the last axes."""

    def rule(result: Result) -> Iterator[Edge]:
        if result.axis >= len(result.shape) - axes:
            raise Unplaced
        yield from result.at(0, result.axis)

    return rule


def _by_parameters(rule: Rule) -> Rule:
    """Return the rule of what takes parameters, and nothing else, after its first argument."""

    def both(result: Result) -> Iterator[Edge]:
        result.of_parameters(1, None)
        yield from rule(result)

    return both


def _normalised(result: Result) -> Iterator[Edge]:
    yield from _before(len(result.node._saved_normalized_shape))(result)


def _batch_norm(result: Result) -> Iterator[Edge]:
    if result.node._saved_training or result.axis == 1:
        raise Unplaced
    yield from result.at(0, result.axis)


def _padded(result: Result) -> Iterator[Edge]:
    yield from _before(len(result.node._saved_pad) // 2)(result)


def _looked_up(result: Result) -> Iterator[Edge]:
    result.of_parameters(0)
    return iter(())


def _recurrent(result: Result) -> Iterator[Edge]:
    if result.axis != len(result.shape) - 2:
        raise Unplaced
    yield from result.at(0, 1)


_ALONG_ONE = (
    "Cumprod", "Cumsum", "Gather", "Glu", "IndexSelect", "LogSoftmax", "SafeSoftmax", "Softmax",
    "Sort", "Topk",
)  # fmt: skip
_LAST = {
    1: ("ReflectionPad1D", "ReplicationPad1D", "UpsampleLinear1D", "UpsampleNearest1D"),
    2: (
        "AdaptiveAvgPool2D", "AdaptiveMaxPool2D", "AvgPool2D", "MaxPool2DWithIndices",
        "ReflectionPad2D", "ReplicationPad2D", "UpsampleBicubic2D", "UpsampleBilinear2D",
        "UpsampleNearest2D",
    ),
    3: (
        "AdaptiveAvgPool3D", "AdaptiveMaxPool3D", "AvgPool3D", "MaxPool3DWithIndices",
        "PixelShuffle", "PixelUnshuffle", "ReflectionPad3D", "ReplicationPad3D",
        "UpsampleNearest3D", "UpsampleTrilinear3D",
    ),
}  # fmt: skip
"""Operations that mix so many axes, the last ones."""
_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _broadcast),
    **dict.fromkeys(RESHAPED, _reshaped),
    **dict.fromkeys(REDUCED, _reduced),
    **dict.fromkeys(_ALONG_ONE, _along("dim")),
    **dict.fromkeys(("Flip", "Roll"), _along("dims")),
    **dict.fromkeys(("Slice", "Split", "SplitWithSizes", "UnsafeSplit", "Cat"), _unmoved),
    **{kind: _product(first) for kind, first in PRODUCTS.items()},
    **{kind: _before(axes) for axes, kinds in _LAST.items() for kind in kinds},
    **dict.fromkeys(("Select", "Unbind"), _picked),
    **dict.fromkeys(("Im2Col", "Col2Im"), _of_first_axis),
    **dict.fromkeys(("NativeLayerNorm", "FusedRmsNorm"), _by_parameters(_normalised)),
    **dict.fromkeys(
        ("BatchNorm", "CudnnBatchNorm", "NativeBatchNorm"), _by_parameters(_batch_norm)
    ),
    **dict.fromkeys(("Convolution", "NativeGroupNorm"), _by_parameters(_of_first_axis)),
    "ConstantPadNd": _padded,
    "Embedding": _looked_up,
    "EmbeddingBag": _looked_up,
    "Index": _indexed,
    "MkldnnRnnLayer": _by_parameters(_recurrent),
    "Mv": _times_vector,
    "Permute": _permuted,
    "Repeat": _repeated,
    "Stack": _stacked,
    "T": _transposed,
    "Transpose": _swapped,
}
