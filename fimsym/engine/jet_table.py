"""The table of operations that second-order Taylor expansions go through exactly."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

Rule = Callable[[Any, tuple, dict], Any]

#: Name of an operation to its rule. An entry without a prefix holds for the function, the
#: method and the functional of that name; ``F.`` and ``linalg.`` say which one is meant.
RULES: dict[str, Rule] = {}
BY_FUNCTION: dict[Any, Rule] = {}
IN_PLACE: dict[Any, Any] = {}
_EVERYWHERE = (torch, Tensor, F, torch._C._nn, torch.special)  # pyright: ignore[reportAttributeAccessIssue]
_PREFIXES = {"F": (F,), "linalg": (torch.linalg,), "torch": (torch,), "Tensor": (Tensor,)}


class NoJetRule(NotImplementedError):  # noqa: N818
    """An operation has no exact rule for jets; derivatives must be taken another way."""


def refuse(func: Any, why: str = "is not in the table") -> NoJetRule:
    """Return the exception that names an operation."""
    owner = getattr(func, "__self__", None)  # a getter is bound to the property it reads
    name = getattr(owner, "__name__", None) if _name(func) == "__get__" else None
    return NoJetRule(f"second-order jets: {name or _name(func)} {why}.")


def operations(name: str) -> list[tuple[Any, Any]]:
    """Return the functions an entry stands for, each with its in-place form or None."""
    if name.startswith("."):
        return [(getattr(Tensor, name[1:]).__get__, None)]
    prefix, _, bare = name.rpartition(".")
    spaces = _PREFIXES[prefix] if prefix else _EVERYWHERE
    if bare.startswith("__"):
        spaces = (Tensor,)
    found = {getattr(space, bare, None): getattr(space, f"{bare}_", None) for space in spaces}
    return [(function, inplace) for function, inplace in found.items() if callable(function)]


def table(names: str, rule: Rule) -> None:
    """Enter a rule for operations named in a string, and for their in-place forms."""
    for name in names.split():
        RULES[name] = rule
        for function, inplace in operations(name):
            BY_FUNCTION[function] = rule
            if callable(inplace):
                IN_PLACE[inplace] = function


for _operator in ("add", "sub", "mul", "truediv", "pow"):
    IN_PLACE[getattr(Tensor, f"__i{_operator}__")] = getattr(Tensor, f"__{_operator}__")


def rule(names: str) -> Callable[[Callable], Callable]:
    """Enter a function with the operation's own signature as its rule."""

    def enter(body: Callable) -> Callable:
        signature = inspect.signature(body)

        def bound(func, args, kwargs):
            try:
                call = signature.bind(*args, **kwargs)
            except TypeError as error:
                raise refuse(func, f"was called in a form not in the table ({error})") from None
            return body(*call.args, **call.kwargs)

        table(names, bound)
        return body

    return enter


def _name(func: Any) -> str:
    return getattr(func, "__name__", None) or str(func)
