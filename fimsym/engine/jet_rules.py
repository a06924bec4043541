"""Rules for elementary operations: constants, linear maps, products, elementwise functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from fimsym.engine.jet_tensor import (
    Column,
    Jet,
    jet,
    jets_in,
    parts,
    properties,
    refuse,
    replaced,
    rule,
    table,
    total,
    value_of,
)


def of_values(func, args, kwargs):
    """Apply an operation whose result does not move: shapes, comparisons, rounding."""
    return func(*replaced(args, value_of), **replaced(kwargs, value_of))


@dataclasses.dataclass(frozen=True)
class Linear:
    """y = f(x, …) linear or affine in some arguments taken together.

    Args:
        slots: Positions of those arguments.
        names: Their keywords.
        donors: Position of an argument that gives its shape or dtype only.
        component: The operation for the derivatives, where it differs.
    """

    slots: tuple[int, ...] = (0,)
    names: tuple[str, ...] = ("input", "self", "tensors")
    donors: tuple[int, ...] = ()
    component: Any = None

    def __call__(self, func, args, kwargs):
        """Apply the map to the value and to each derivative."""
        args = tuple(value_of(a) if i in self.donors else a for i, a in enumerate(args))
        moving = [args[i] for i in self.slots if i < len(args)]
        moving += [kwargs[name] for name in self.names if name in kwargs]
        if len(list(jets_in(moving))) != len(list(jets_in((args, kwargs)))):
            raise refuse(func, "depends on the direction through an argument not in the table")
        results = [self._order(func, args, kwargs, order, moving) for order in range(3)]
        value = results[0]
        if not isinstance(value, list | tuple):
            return _moving(*results)
        none = [None] * len(value)
        return type(value)(_moving(*one) for one in zip(*(r or none for r in results), strict=True))

    def _order(self, func, args, kwargs, order, moving):
        if order and all(parts(x)[order] is None for x in jets_in(moving)):
            return None
        args = tuple(_term(a, order) if i in self.slots else a for i, a in enumerate(args))
        kwargs = {k: _term(x, order) if k in self.names else x for k, x in kwargs.items()}
        return (self.component if order and self.component else func)(*args, **kwargs)


def _term(tree: Any, order: int) -> Any:
    """Return one Taylor coefficient of nested arguments; that of a constant is zero."""

    def coefficient(x):
        found = parts(x)[order]
        if order == 0 or found is not None or x is None:
            return found
        return torch.zeros_like(value_of(x)) if isinstance(x, Tensor) else 0.0

    return replaced(tree, coefficient)


def _moving(value, first, second):
    """Return a jet, or the value alone if it has become an integer."""
    return jet(value, first, second) if value.is_floating_point() else value


@dataclasses.dataclass(frozen=True)
class Product:
    """y = f(a, b, …) linear in each of several arguments."""

    slots: tuple[int, ...] = (0, 1)

    def __call__(self, func, args, kwargs):
        """Apply the product rule to second order."""
        args = list(args)
        moving = [i for i in self.slots if i < len(args) and isinstance(args[i], Jet)]
        if len(moving) != len(list(jets_in((args, kwargs)))):
            raise refuse(func, "depends on the direction through an argument not in the table")

        def term(orders):
            terms = {i: parts(args[i])[order] for i, order in orders.items()}
            if any(x is None for x in terms.values()):
                return None
            given = [terms[i] if i in terms else value_of(a) for i, a in enumerate(args)]
            return func(*given, **kwargs)

        pairs = [(i, j) for n, i in enumerate(moving) for j in moving[n + 1 :]]
        twice = total(*(term({i: 1, j: 1}) for i, j in pairs))
        return jet(
            func(*map(value_of, args), **kwargs),
            total(*(term({i: 1}) for i in moving)),
            total(*(term({i: 2}) for i in moving), None if twice is None else 2 * twice),
        )


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """y = φ(x) for each element; φ' and φ'' are autograd's, at the value alone.

    Args:
        smooth: False where φ'' vanishes off the kinks.
    """

    smooth: bool = True

    def __call__(self, func, args, kwargs):
        """Apply the chain rule to second order."""
        moving = list(jets_in((args, kwargs)))
        if any(x is not moving[0] for x in moving):
            raise refuse(func, "has two arguments that depend on the direction")
        x = moving[0]

        def at(z):
            change = lambda leaf: z if leaf is x else leaf  # noqa: E731
            return func(*replaced(args, change), **replaced(kwargs, change))

        value = at(x.value)
        if value.dtype != x.dtype:
            raise refuse(func, "changes the dtype")
        z = x.value.expand(value.shape)
        value, slope, curvature = _slopes(at, z, self.smooth and x.raw[0] is not None)
        if value.shape == x.shape and (column := only_column(x)):
            return jet(value, *_along_column(x, column.unit, slope, curvature))
        first, second = (_spread(component, value) for component in (x.first, x.second))
        curved = curvature is not None and first is not None
        return jet(
            value,
            _times(slope, first),
            _bent(curvature, first, slope, second) if curved else _times(slope, second),
        )


def only_column(x: Any) -> Column | None:
    """Return x' if x moves in one position of its last axis only."""
    first, second = x.raw if isinstance(x, Jet) else (None, None)
    return first if isinstance(first, Column) and not isinstance(second, Tensor) else None


def _along_column(x, unit, slope, curvature):
    """Return both derivatives of φ(x) at the one position where x moves."""
    first, second = (c and c.entries for c in x.raw)
    steep = slope.index_select(-1, unit.reshape(1)).squeeze(-1)
    bent = None
    if curvature is not None:
        bent = curvature.index_select(-1, unit.reshape(1)).squeeze(-1) * first.square()
    moving = steep * first, total(bent, _times(steep, second))
    return [None if c is None else Column(c, unit, x.value) for c in moving]


def _times(a, b):
    return None if b is None else a * b


def _bent(curvature, first, slope, second):
    """Return φ'' first² + φ' second in as few passes over memory as there are."""
    bent = (curvature * first).mul_(first)
    return bent if second is None else bent.add_(slope * second)


def _slopes(at, z, twice):
    """Return φ, φ' and, if asked for, φ'' at every element."""

    def slope(z):
        value, pull = vjp(at, z)
        return pull(torch.ones_like(value))[0], value

    if not twice:
        first, value = slope(z)
        return value, first, None
    first, pull, value = vjp(slope, z, has_aux=True)
    return value, first, pull(torch.ones_like(first))[0]


def _spread(component, value):
    return component if component is None else component.expand(value.shape)


@rule("add __add__ __radd__")
def _add(input, other, *, alpha=1):
    a, b = parts(input), parts(other)
    scaled = [x if alpha == 1 or x is None else alpha * x for x in b]
    return jet(a[0] + scaled[0], total(a[1], scaled[1]), total(a[2], scaled[2]))


@rule("sub subtract __sub__")
def _sub(input, other, *, alpha=1):
    return _add(input, other, alpha=-alpha)


@rule("rsub __rsub__")
def _rsub(input, other, *, alpha=1):
    return _add(other, input, alpha=-alpha)


@rule("div divide true_divide __truediv__")
def _div(input, other, *, rounding_mode=None):
    if rounding_mode is not None:
        return of_values(torch.div, (input, other), {"rounding_mode": rounding_mode})
    return input * other.reciprocal() if isinstance(other, Jet) else _scale(input, other)


def _scale(input, other):
    return Linear((0,))(torch.div, (input, other), {})


@rule("__rtruediv__ __rdiv__")
def _rdiv(self, other):
    return other * self.reciprocal()


@rule("addcmul")
def _addcmul(input, tensor1, tensor2, *, value=1):
    return input + value * (tensor1 * tensor2)


@rule("addcdiv")
def _addcdiv(input, tensor1, tensor2, *, value=1):
    return input + value * (tensor1 / tensor2)


@rule("lerp")
def _lerp(input, end, weight):
    return input + weight * (end - input)


@rule("addmm addmv baddbmm")
def _addmm(input, mat1, mat2, *, beta=1, alpha=1):
    return beta * input + alpha * (mat1 @ mat2)


@rule("einsum")
def _einsum(equation, *operands):
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    return Product(tuple(range(1, len(operands) + 1)))(torch.einsum, (equation, *operands), {})


@rule("maximum torch.fmax")
def _maximum(input, other):
    return _choose(torch.maximum, input, other, 1)


@rule("minimum torch.fmin")
def _minimum(input, other):
    return _choose(torch.minimum, input, other, -1)


def _choose(func, a, b, sign):
    """Take the larger (or smaller) of two; where equal, torch takes the mean derivative."""
    (x, *of_a), (y, *of_b) = parts(a), parts(b)
    share = (x == y).to(x.dtype) / 2 + (sign * x > sign * y).to(x.dtype)
    taken = [
        total(None if p is None else share * p, None if q is None else (1 - share) * q)
        for p, q in zip(of_a, of_b, strict=True)
    ]
    return jet(func(x, y), *taken)


@rule("__iter__")
def _iter(self):
    return iter(self.unbind(0))


table(
    """size dim ndimension numel nelement is_contiguous is_floating_point is_complex stride
    element_size get_device __len__ __bool__ is_nonzero detach zeros_like ones_like full_like
    empty_like new_zeros new_ones new_full new_empty eq ne lt le gt ge __eq__ __ne__ __lt__ __le__
    __gt__ __ge__ isnan isinf isfinite any all argmax argmin argsort floor ceil round trunc sign
    sgn floor_divide __floordiv__ bool int long equal allclose is_same_size logical_not
    count_nonzero""",
    of_values,
)
properties(
    "ndim layout requires_grad is_nested is_sparse is_cuda is_cpu is_quantized is_mkldnn is_meta "
    "is_leaf itemsize nbytes data grad_fn",
    of_values,
)
table(
    """neg negative __neg__ positive __pos__ sum mean nansum cumsum trace flatten unflatten
    reshape transpose swapaxes swapdims permute movedim moveaxis t adjoint squeeze unsqueeze ravel
    contiguous clone chunk split tensor_split split_with_sizes unbind select narrow index_select
    gather take_along_dim __getitem__ diagonal diag diag_embed expand broadcast_to repeat tile
    repeat_interleave roll flip fliplr flipud rot90 tril triu unfold float double half bfloat16 to
    type""",
    Linear(),
)
properties("T mT H mH real", Linear())
table("view", Linear(component=Tensor.reshape))
table("view_as", Linear(donors=(1,), component=Tensor.reshape_as))
table("reshape_as expand_as type_as", Linear(donors=(1,)))
table(
    """cat concat concatenate stack hstack vstack dstack column_stack broadcast_tensors
    atleast_1d atleast_2d""",
    Linear(),
)
table("where", Linear((1, 2), ("input", "other", "self")))
table("masked_fill", Linear((0, 2), ("input", "value")))
table("scatter scatter_add index_add index_copy", Linear((0, 3), ("input", "src", "source")))
table(
    """F.fold F.pixel_shuffle F.pixel_unshuffle F.channel_shuffle F.avg_pool1d F.avg_pool2d
    F.avg_pool3d F.adaptive_avg_pool1d F.adaptive_avg_pool2d F.adaptive_avg_pool3d F.interpolate""",
    Linear(),
)
table("F.pad", Linear((0, 3), ("input", "value")))

table("mul multiply __mul__ __rmul__ matmul __matmul__ mm bmm mv dot inner outer", Product())
table("tensordot kron linalg.cross", Product())
table("__rmatmul__", lambda func, args, kwargs: torch.matmul(args[1], args[0]))

table(
    """tanh sigmoid F.gelu F.silu F.softplus F.elu F.celu F.selu F.mish F.hardswish F.logsigmoid
    F.softsign F.tanhshrink exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal pow
    __pow__ __rpow__ float_power erf erfc erfinv sin cos tan sinh cosh asin acos atan asinh acosh
    atanh sinc lgamma digamma logit atan2 hypot logaddexp xlogy""",
    Elementwise(),
)
table(
    """relu F.relu6 F.leaky_relu F.hardtanh F.hardsigmoid F.threshold F.softshrink F.hardshrink
    abs absolute __abs__ clamp clip clamp_min clamp_max""",
    Elementwise(smooth=False),
)
