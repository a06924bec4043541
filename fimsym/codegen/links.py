"""From a family's links h = g(o) to functions that return h, u and v.

u = g'[o'] and v = g''[o', o'] + g'[o''], where o' and o'' are derivatives of the network's
output; g' and g'' are taken symbolically.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import sympy as sp

from fimsym.codegen.printer import TorchPrinter
from fimsym.codegen.program import Statement
from fimsym.derivation.symbols import read
from fimsym.derivation.text import text
from fimsym.families import Family, Limits, Link
from fimsym.families.spec import limits


@dataclasses.dataclass(frozen=True)
class LinkFunction:
    """A generated function that maps a network's output to natural parameters.

    Attributes:
        link: The link.
        equations: h = g(o), one line of Unicode per natural parameter.
        layout: Code of the outputs' layout.
        outputs: Names of the outputs' columns.
        of_outputs: Statements of h and of what u and v share.
        of_first: Statements of u.
        of_second: Statements of v.
        naturals: Names of h, u and v by natural parameter.
    """

    link: Link
    equations: tuple[str, ...]
    layout: str
    outputs: tuple[str, ...]
    of_outputs: tuple[Statement, ...]
    of_first: tuple[Statement, ...]
    of_second: tuple[Statement, ...]
    naturals: dict[str, tuple[str, ...]]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Every statement of its body."""
        return (*self.of_outputs, *self.of_first, *self.of_second)


def layout(
    names: Sequence[str], limited: Sequence[Limits], minimum: int, precise: bool, role: str = "h"
) -> str:
    """Return the code of a `runtime.Layout`."""
    intervals = ", ".join(f"({_number(one.low)}, {_number(one.high)})" for one in limited)
    quoted = ", ".join(f'"{name}"' for name in names)
    return (
        f"runtime.Layout(names=({quoted},), minimum_outputs={minimum}, limits=({intervals},), "
        f'precise={precise}, role="{role}")'
    )


def _number(value):
    return repr(value) if math.isfinite(value) else f'float("{value}")'


def link_function(family: Family, link: Link) -> LinkFunction:
    """Return the function of one link, with its derivatives."""
    count = len(link.outputs)
    positive = [one.low >= 0 for one in limits(link.outputs, link.domain)]
    outputs = [
        sp.Symbol(name, positive=True) if sign else sp.Symbol(name, real=True)
        for name, sign in zip(link.outputs, positive, strict=True)
    ]
    values = [read(family, g, dict(zip(link.outputs, outputs, strict=True))) for g in link.natural]
    code = TorchPrinter({}).code
    parts = {letter: _numbered(letter, len(values)) for letter in "huv"}
    first, second = _numbered("first", count), _numbered("second", count)
    of_outputs = [Statement(n, code(x)) for n, x in zip(parts["h"], values, strict=True)]
    of_first, of_second = [], []
    for k, value in enumerate(values):
        slopes, u, v = _derivatives(k, value, outputs, first, second)
        of_first += [*slopes, Statement(parts["u"][k], u)]
        of_second.append(Statement(parts["v"][k], v))
    minimum = max(family.minimum_outputs, count)
    return LinkFunction(
        link=link,
        equations=tuple(
            f"{name} = {text(value)}" for name, value in zip(parts["h"], values, strict=True)
        ),
        layout=layout(link.outputs, limits(link.outputs, link.domain), minimum, True, "outputs"),
        outputs=link.outputs,
        of_outputs=tuple(of_outputs),
        of_first=tuple(of_first),
        of_second=tuple(of_second),
        naturals={
            **{k: tuple(v) for k, v in parts.items()},
            "first": tuple(first),
            "second": tuple(second),
        },
    )


def _derivatives(k, value, outputs, first, second):
    """Return the statements of ∂g_k/∂o and the code of u_k and v_k in them."""
    code = TorchPrinter({}).code
    slopes, linear, quadratic = [], [], []
    for a, output in enumerate(outputs):
        slope = _simple(sp.diff(value, output))
        if slope == 0:
            continue
        name = f"slope_{k + 1}{a + 1}"
        slopes.append(Statement(name, code(slope)))
        linear.append((name, a))
        for b in range(a, len(outputs)):
            curvature = _simple(sp.diff(slope, outputs[b]))
            if curvature != 0:
                factor = code(curvature * (1 if a == b else 2))
                quadratic.append(f"({factor}) * {first[a]} * {first[b]}")
    flat = [f"{name} * {second[a]}" for name, a in linear]
    u = " + ".join(f"{name} * {first[a]}" for name, a in linear)
    return slopes, u, " + ".join([*quadratic, *flat])


def _simple(expression):
    return sp.factor_terms(expression)


def _numbered(letter, count):
    return [letter] if count == 1 else [f"{letter}{n}" for n in range(1, count + 1)]
