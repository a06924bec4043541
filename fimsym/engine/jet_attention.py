"""Rules for attention, and for functions of torch that can be looked into."""

from __future__ import annotations

import math
import types

import torch
import torch.nn.functional as F  # noqa: N812

from fimsym.engine.jet_table import refuse, rule, table


@rule("F.scaled_dot_product_attention")
def _attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    if dropout_p > 0 or enable_gqa:
        raise refuse(F.scaled_dot_product_attention, "drops weights or groups its queries")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        return scores.softmax(-1) @ value
    boolean = attn_mask.dtype == torch.bool
    blocked = ~attn_mask if boolean else attn_mask.detach() == -math.inf
    idle = blocked.all(-1, keepdim=True)  # a query that may look nowhere sees zero
    scores = scores if boolean else scores + attn_mask
    scores = scores.masked_fill(blocked & ~idle, -math.inf).masked_fill(idle, 0.0)
    return scores.softmax(-1).masked_fill(idle, 0.0) @ value


def _opened(function):
    """Return torch's own Python function with its gate open, so that the operations inside
    it meet the jets one by one."""  # noqa: D205, D209
    closed = {"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"}
    scope = dict(function.__globals__) | {name: lambda *_: False for name in closed}
    copy = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    if not closed & set(function.__code__.co_names):
        return lambda *_, **__: _raise(function)
    return lambda func, args, kwargs: copy(*args, **kwargs)


def _raise(function):
    raise refuse(function, "cannot be looked into in this version of torch")


for _name in ("multi_head_attention_forward", "normalize"):
    table(f"F.{_name}", _opened(getattr(F, _name)))
