"""Rules for elementary operations."""

from __future__ import annotations

import torch
from torch import Tensor

from fimsym.engine.jet_rules import Elementwise, Linear, Product, of_values
from fimsym.engine.jet_table import rule, table
from fimsym.engine.jet_tensor import Jet, jet, parts, total


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


@rule("maximum fmax")
def _maximum(input, other):
    return _choose(torch.maximum, input, other, 1)


@rule("minimum fmin")
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


@rule("masked_fill")
def _masked_fill(input, mask, value):
    return torch.where(mask, value, input)


@rule("__iter__")
def _iter(self):
    return iter(self.unbind(0))


table(
    """size dim ndimension numel nelement is_contiguous is_floating_point is_complex stride
    element_size get_device __len__ __bool__ is_nonzero detach zeros_like ones_like full_like
    empty_like new_zeros new_ones new_full new_empty eq ne lt le gt ge __eq__ __ne__ __lt__ __le__
    __gt__ __ge__ isnan isinf isfinite any all argmax argmin argsort floor ceil round trunc sign
    sgn bool int long equal allclose is_same_size logical_not
    count_nonzero""",
    of_values,
)
table(
    """.ndim .device .layout .requires_grad .is_nested .is_sparse .is_cuda .is_cpu .is_quantized
    .is_mkldnn .is_meta .is_leaf .itemsize .nbytes .data""",
    of_values,
)
table(
    """neg negative __neg__ positive __pos__ sum mean nansum cumsum trace flatten unflatten
    reshape transpose swapaxes swapdims permute movedim t adjoint squeeze unsqueeze ravel
    contiguous clone chunk split tensor_split split_with_sizes unbind select narrow index_select
    gather take_along_dim __getitem__ diagonal diag diag_embed expand broadcast_to repeat tile
    repeat_interleave roll flip fliplr flipud rot90 tril triu unfold float double half bfloat16 to
    type""",
    Linear(),
)
table(".T .mT .H .mH .real", Linear())
table("view", Linear(component=Tensor.reshape))
table("view_as", Linear(donors=(1,), component=Tensor.reshape_as))
table("reshape_as expand_as type_as", Linear(donors=(1,)))
table(
    """cat concat concatenate stack hstack vstack dstack
    atleast_1d atleast_2d""",
    Linear(),
)
table("torch.where", Linear((1, 2), ("input", "other", "self")))
table("Tensor.where", Linear((0, 2), ("self", "other")))
table("broadcast_tensors", Linear(tuple(range(16))))
table("moveaxis", Linear(component=Tensor.movedim))
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
    """relu F.relu6 F.leaky_relu F.hardtanh F.threshold F.softshrink F.hardshrink
    abs absolute __abs__ clamp clip clamp_min clamp_max""",
    Elementwise(smooth=False),
)
