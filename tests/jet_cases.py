"""Arguments for every operation that second-order jets go through."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from fimsym.engine.jets import RULES


@dataclasses.dataclass(frozen=True)
class Moving:
    """A tensor argument that may depend on the direction, drawn between two bounds."""

    shape: tuple[int, ...]
    low: float = 0.2
    high: float = 0.8


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an operation."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(*args: Any, **kwargs: Any) -> Call:
    return Call(args, kwargs)


def fixed(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return 0.2 + 0.6 * torch.rand(*shape, generator=generator, dtype=torch.float64)


ONE = Moving((2, 3))
WIDE = Moving((2, 3), -2.0, 2.0)
CUBE = Moving((2, 3, 4))
SQUARE = Moving((3, 3))
ROW = Moving((3,))
MASK = torch.tensor([[True, False, True], [False, True, True]])
INDEX = torch.tensor([0, 2, 1])


def _image(dimension):
    return Moving((2, 4, *[5] * dimension), -1.0, 1.0)


CASES: dict[str, list[Call]] = {}


def cases(names: str, *calls: Call) -> None:
    for name in names.split():
        CASES[name] = list(calls)


# Elementwise.
cases(
    """tanh sigmoid F.gelu F.silu F.softplus F.elu F.celu F.selu F.mish F.hardswish F.logsigmoid
    F.softsign F.tanhshrink exp exp2 expm1 square erf erfc sin cos tan sinh cosh atan asinh sinc
    relu F.relu6 F.leaky_relu F.hardtanh F.hardsigmoid F.softshrink F.hardshrink abs absolute
    __abs__""",
    call(WIDE),
)
cases(
    "log log2 log10 log1p sqrt rsqrt reciprocal erfinv asin acos atanh lgamma digamma logit",
    call(ONE),
)
cases("acosh", call(Moving((2, 3), 1.5, 3.0)))
CASES["F.gelu"].append(call(WIDE, approximate="tanh"))
CASES["F.softplus"].append(call(WIDE, beta=2.0, threshold=3.0))
CASES["F.elu"].append(call(WIDE, alpha=0.5))
cases("pow __pow__ float_power", call(ONE, 3), call(ONE, 2.5), call(ONE, fixed(2, 3)))
CASES["pow"].append(call(fixed(2, 3), ONE))
CASES["pow"].append(call(ROW, fixed(2, 3)))
cases("__rpow__", call(ONE, 2.0))
cases("atan2 hypot logaddexp xlogy", call(ONE, fixed(2, 3)))
cases("F.threshold", call(WIDE, 0.1, 0.5))
cases("clamp clip", call(WIDE, -0.5, 0.5), call(WIDE, max=0.5))
cases("clamp_min clamp_max", call(WIDE, 0.3), call(WIDE, fixed(2, 3)))

# Linear.
cases(
    """neg negative __neg__ positive __pos__ trace t adjoint ravel contiguous clone
    diagonal diag flip fliplr flipud rot90 tril triu double .T .mT .H .mH .real view_as
    reshape_as expand_as type_as atleast_1d atleast_2d diag_embed unbind""",
    call(SQUARE),
)
cases("float half bfloat16 bool int long", call(ONE))
cases("sum mean nansum", call(CUBE), call(CUBE, dim=(0, 2), keepdim=True))
cases("cumsum unbind", call(CUBE, dim=1))
cases("flatten", call(CUBE, 1))
cases("flip", call(CUBE, (0, 2)))
cases("unflatten", call(CUBE, 2, (2, 2)))
cases("reshape view", call(CUBE, (6, 4)))
cases("view_as reshape_as", call(CUBE, fixed(6, 4)), call(fixed(6, 4), CUBE), call(CUBE, CUBE))
cases("expand_as type_as", call(ONE, fixed(2, 3)), call(fixed(2, 3), ONE))
cases("transpose swapaxes swapdims movedim moveaxis", call(CUBE, 0, 2))
cases("permute", call(CUBE, (2, 0, 1)))
cases("squeeze", call(Moving((2, 1, 3)), 1))
cases("unsqueeze", call(ONE, 1))
cases("chunk tensor_split", call(CUBE, 2, 2))
cases("split", call(CUBE, 3, 2), call(CUBE, [1, 3], dim=2))
cases("split_with_sizes", call(CUBE, [1, 3], dim=2))
cases("select", call(CUBE, 1, 2))
cases("narrow", call(CUBE, 1, 1, 2))
cases("index_select", call(CUBE, 1, INDEX))
cases("gather take_along_dim", call(SQUARE, dim=1, index=INDEX[None].expand(3, 3)))
CASES["take_along_dim"] = [call(SQUARE, INDEX[None], 1)]
cases("__getitem__", call(CUBE, (slice(None), 1)), call(CUBE, INDEX[:1]), call(ONE, MASK))
cases("expand broadcast_to", call(ROW, (2, 3)))
cases("repeat tile", call(ONE, (2, 1)))
cases("repeat_interleave", call(ONE, 2, 1))
cases("roll", call(ONE, 1, 1))
cases("unfold", call(CUBE, 2, 2, 1))
cases("to type", call(ONE, torch.float64))
cases("cat concat concatenate hstack vstack dstack", call([ONE, fixed(2, 3), WIDE]))
cases("stack", call([ONE, fixed(2, 3), WIDE]))
cases("broadcast_tensors", call(ONE, ROW, fixed(1)))
cases("Tensor.where", call(ONE, MASK, WIDE), call(ONE, MASK, 0.5))
cases("torch.where", call(MASK, ONE, WIDE), call(MASK, ONE, 0.5), call(MASK, ROW, fixed(2, 3)))
cases("masked_fill", call(ONE, MASK, 0.5), call(ONE, MASK, Moving(())))
cases("scatter scatter_add", call(ONE, 1, INDEX[None].expand(2, 3), WIDE))
cases("index_add index_copy", call(ONE, 0, torch.tensor([1]), Moving((1, 3))))
cases("F.fold", call(Moving((1, 8, 4)), (3, 3), (2, 2)))
cases("F.pixel_shuffle", call(Moving((1, 4, 2, 2)), 2))
cases("F.pixel_unshuffle", call(Moving((1, 1, 4, 4)), 2))
cases("F.channel_shuffle", call(Moving((1, 4, 2, 2)), 2))
for n in (1, 2, 3):
    cases(f"F.avg_pool{n}d", call(_image(n), 2, 2, 1))
    cases(f"F.adaptive_avg_pool{n}d", call(_image(n), 2))
    cases(f"F.max_pool{n}d F.max_pool{n}d_with_indices", call(_image(n), 3, 2, 1))
    CASES[f"F.max_pool{n}d"].append(call(_image(n), 2, dilation=2, return_indices=True))
    cases(f"F.adaptive_max_pool{n}d F.adaptive_max_pool{n}d_with_indices", call(_image(n), 2))
    kernel = Moving((6, 2, *[2] * n), -1.0, 1.0)
    cases(
        f"F.conv{n}d",
        call(_image(n), kernel, Moving((6,)), stride=2, padding=1, groups=2),
        call(_image(n), weight=Moving((3, 4, *[2] * n)), dilation=2),
    )
    cases(
        f"F.conv_transpose{n}d",
        call(_image(n), Moving((4, 3, *[2] * n)), Moving((6,)), 2, 1, 0, 2),
    )
cases("F.interpolate", call(_image(2), scale_factor=2.0, mode="bilinear"))
cases("F.pad", call(ONE, (1, 2), "constant", 3.0), call(CUBE, (1, 2), mode="reflect"))

# Arithmetic and products.
TWO = call(ONE, WIDE), call(ONE, fixed(2, 3)), call(fixed(2, 3), ROW), call(ONE, 2.0)
cases("add sub subtract", *TWO, call(ONE, WIDE, alpha=2.0), call(ONE, ONE))
cases("__add__ __radd__ __sub__ mul multiply __mul__ __rmul__", *TWO, call(ONE, ONE))
cases("div divide true_divide __truediv__", *TWO, call(WIDE, ONE), call(ONE, 0.3))
CASES["div"].append(call(ONE, 0.3, rounding_mode="floor"))
cases("rsub __rsub__", *TWO)
cases("__rtruediv__ __rdiv__", call(ONE, 2.0), call(ONE, WIDE))
cases("addcmul addcdiv", call(ONE, WIDE, Moving((2, 3)), value=0.5))
cases("lerp", call(ONE, WIDE, 0.3), call(ONE, WIDE, Moving((2, 3))))
cases("addmm", call(ROW, ONE, SQUARE, beta=0.5, alpha=2.0))
cases("addmv", call(Moving((2,)), ONE, ROW))
cases("baddbmm", call(CUBE, Moving((2, 3, 3)), CUBE, beta=0.5))
cases("matmul __matmul__", call(ONE, SQUARE), call(CUBE, fixed(4, 2)), call(SQUARE, SQUARE))
cases("__rmatmul__", call(SQUARE, ONE))
cases("mm", call(ONE, SQUARE))
cases("bmm", call(CUBE, Moving((2, 4, 2))))
cases("mv", call(ONE, ROW))
cases("dot inner outer kron", call(ROW, Moving((3,), -1.0, 1.0)))
cases("linalg.cross", call(ONE, WIDE))
cases("tensordot", call(CUBE, Moving((4, 3)), dims=([2, 1], [0, 1])))
cases("einsum", call("ij,jk->ik", ONE, SQUARE), call("i,j,k->", ROW, ROW, Moving((3,))))
cases("maximum minimum fmax fmin", call(ONE, WIDE), call(ONE, fixed(2, 3)))
cases("__iter__", call(ONE))

# Layers.
cases("F.linear", call(ONE, Moving((4, 3)), Moving((4,))), call(CUBE, Moving((2, 4))))
CASES["F.linear"].append(call(input=ONE, weight=Moving((4, 3)), bias=Moving((4,))))
cases("F.bilinear", call(ONE, Moving((2, 4)), Moving((2, 3, 4)), Moving((2,))))
cases("F.embedding", call(INDEX, SQUARE), call(INDEX, SQUARE, padding_idx=-1))
for kind in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"):
    cases(f"F.{kind}", call(_image(1 if kind == "dropout1d" else 2), p=0.5, training=False))
cases("F.glu", call(CUBE), call(Moving((4, 3)), dim=0))
cases("prelu", call(WIDE, Moving((1,))), call(WIDE, Moving((3,))))
cases("softmax log_softmax F.softmin", call(WIDE, dim=1), call(CUBE, dim=0))
cases("logsumexp", call(WIDE, 1), call(CUBE, (0, 2), True))
cases("F.layer_norm", call(CUBE, (3, 4), Moving((3, 4)), Moving((3, 4))), call(CUBE, (4,)))
cases("F.rms_norm", call(CUBE, (4,), Moving((4,))), call(CUBE, (3, 4), eps=1e-3))
cases("F.group_norm", call(_image(2), 2, Moving((4,)), Moving((4,))), call(_image(1), 4))
STATISTICS = fixed(4), 0.5 + fixed(4)
cases("F.batch_norm", call(_image(2), *STATISTICS, Moving((4,)), Moving((4,))))
CASES["F.batch_norm"].append(call(Moving((3, 4)), *STATISTICS, eps=1e-3))
cases("F.instance_norm", call(_image(2), None, None, Moving((4,)), Moving((4,))))
CASES["F.instance_norm"].append(call(_image(1), *STATISTICS, use_input_stats=False))
cases("var std", call(CUBE, 1), call(CUBE, (0, 2), unbiased=False, keepdim=True), call(CUBE))
CASES["var"].append(call(CUBE, dim=1, correction=2))
CASES["var"].append(call(CUBE, False))
cases("norm", call(ROW), call(CUBE, 2, 1), call(CUBE, dim=-1, keepdim=True))
cases("linalg.norm linalg.vector_norm", call(CUBE, dim=1), call(ROW))
cases("max min", call(WIDE), call(CUBE, 1), call(CUBE, dim=-1, keepdim=True), call(ONE, WIDE))
cases("sort", call(CUBE, 1), call(CUBE, descending=True))
cases("topk", call(CUBE, 2), call(CUBE, 2, 1))
cases("amax amin", call(CUBE, 1), call(CUBE, (0, 2), True), call(CUBE))
HEADS = Moving((2, 2, 3, 4), -1.0, 1.0)
OTHER = Moving((2, 2, 3, 4), -1.5, 1.0)
IDLE = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
cases(
    "F.scaled_dot_product_attention",
    call(HEADS, OTHER, Moving((2, 2, 3, 5))),
    call(HEADS, OTHER, OTHER, is_causal=True, scale=0.3),
    call(HEADS, OTHER, OTHER, attn_mask=fixed(3, 3)),
    call(HEADS, OTHER, OTHER, attn_mask=IDLE),
)
cases("F.normalize", call(CUBE, dim=1))
cases(
    "F.multi_head_attention_forward",
    call(
        Moving((3, 2, 4)), Moving((3, 2, 4)), Moving((3, 2, 4)), 4, 2, Moving((12, 4)),
        Moving((12,)), None, None, False, 0.0, Moving((4, 4)), Moving((4,)), training=False,
    ),
)  # fmt: skip

# What does not move.
cases(
    """size dim ndimension numel nelement is_contiguous is_floating_point is_complex stride
    element_size get_device __len__ detach zeros_like ones_like empty_like isnan isinf
    isfinite any all argmax argmin argsort floor ceil round trunc sign sgn logical_not
    count_nonzero .ndim .device .layout .requires_grad .is_nested .is_sparse .is_cuda .is_cpu
    .is_quantized .is_mkldnn .is_meta .is_leaf .itemsize .nbytes .data""",
    call(ONE),
)
cases("__bool__ is_nonzero", call(Moving(())))
cases("full_like", call(ONE, 2.0))
cases("new_zeros new_ones new_empty", call(ONE, (2,)))
cases("new_full", call(ONE, (2,), 3.0))
cases(
    "eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__", call(ONE, WIDE), call(ONE, 0.5)
)
cases("equal allclose is_same_size", call(ONE, ONE))

UNTESTED = set(RULES) ^ set(CASES)

#: What to differentiate where torch's own derivative is missing.
WRITTEN_OUT = {torch.nn.functional.hardsigmoid: lambda x: torch.nn.functional.relu6(x + 3) / 6}
