"""From the lines of a Gaussian vector's program to the statements of its evaluator.

Formulas are interpreted in an algebra of code: products of matrices print as ``@``, and what
depends on a factorisation as a call of the runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fimsym.codegen import estimators
from fimsym.codegen.division import divide, halves
from fimsym.codegen.matrix_links import layout, link_function
from fimsym.codegen.program import Function, Statement
from fimsym.derivation import Derivation, bounds, stable
from fimsym.derivation.letters import Letter
from fimsym.derivation.matrix_bounds import BOUNDS
from fimsym.derivation.matrix_program import (
    INPUTS,
    PROGRAM,
    Line,
    definitions,
    needed,
)
from fimsym.derivation.matrix_whitening import ROOT, WHITENING
from fimsym.derivation.record import equation
from fimsym.families.formula import interpret

COMPONENTS = {letter: [f"vector_{letter}", f"matrix_{letter}"] for letter in "huv"}
"""Names of the parts of each argument."""

_SUM, _PRODUCT, _ATOM = range(3)
_WHITENING = Statement("whitening", "runtime.whitening(matrix_h)")
_UNITS = (
    Statement("vector_u, matrix_u", "runtime.vector_and_matrix(runtime.unit_directions(h))"),
    Statement("slope_w, curvature_w", "runtime.unit_scores(h)"),
)


@dataclasses.dataclass(frozen=True)
class Code:
    """Code of an expression: how tightly it binds, and whether it is a number for each param."""

    code: str
    binds: int = _ATOM
    number: bool = False

    def __str__(self) -> str:
        return self.code

    def inside(self, binds: int) -> str:
        """Return the code as an operand of an operator that binds so tightly."""
        return self.code if self.binds >= binds else f"({self.code})"

    def __add__(self, other: Code) -> Code:
        return Code(f"{self} + {other}", _SUM, self.number)

    def __sub__(self, other: Code) -> Code:
        return Code(f"{self} - {other.inside(_PRODUCT)}", _SUM, self.number)

    def __neg__(self) -> Code:
        return Code(f"-{self.inside(_PRODUCT)}", _PRODUCT, self.number)

    def __mul__(self, other: Code) -> Code:
        sign = "*" if self.number or other.number else "@"
        code = f"{self.inside(_PRODUCT)} {sign} {other.inside(_ATOM)}"
        return Code(code, _PRODUCT, self.number and other.number)

    def __truediv__(self, other: Code) -> Code:
        return Code(f"{self.inside(_PRODUCT)} / {other.inside(_ATOM)}", _PRODUCT, self.number)

    def __pow__(self, other: Code) -> Code:
        return Code(f"{self.inside(_ATOM)}**{other.inside(_ATOM)}", _ATOM, self.number)


def _call(name: str, number: bool = False, *before: str):
    def code(*arguments: Code) -> Code:
        return Code(f"runtime.{name}({', '.join([*before, *map(str, arguments)])})", number=number)

    return code


_FUNCTIONS = {
    "dot": _call("inner", True),
    "transpose": lambda x: Code(f"{x.inside(_ATOM)}.mT"),
    "whiten": _call("whiten", False, "whitening"),
    "congruence": _call("congruence", False, "whitening"),
    "logdet": _call("log_determinant", True),
    "largest_information": _call("largest_information", True),
    "largest_square": _call("largest_square", True),
    "relative_rounding": _call("relative_rounding", True),
    "largest_curvature": _call("largest_curvature", True),
    "smaller": lambda one, other: Code(f"torch.minimum({one}, {other})", number=True),
}
_NAMES = {
    **{name: Code(name) for name in INPUTS},
    "factor": Code("whitening.factor"),
    "whitener": Code("whitening.inverse"),
    "precision": Code("whitening"),
}


def statements(lines: Iterable[Line]) -> tuple[Statement, ...]:
    """Return one assignment for each line."""
    names = dict(_NAMES)
    found = []
    for line in lines:
        code = interpret(line.formula, names, _FUNCTIONS, lambda n: Code(n, number=True))
        names[line.name] = Code(line.name, number=not isinstance(line.symbol, Letter))
        found.append(Statement(line.name, str(code), isinstance(line.symbol, Letter)))
    return tuple(found)


def functions(arguments: Mapping[str, tuple[str, ...]]) -> list[Function]:
    """Return every function of the module but ``moments`` and those of links.

    Args:
        arguments: The quantities that have a function, each with its tensor arguments.
    """
    found = [
        _function("mean", ["mean_vector", "mean_matrix"], ("h",), "Mean η = ∇F(h) of t."),
        _function("log_partition", ["log_partition"], ("h",), "Log-partition F(h)."),
    ]
    columns = (
        Statement("mean1", "runtime.vector_column(mean_vector)"),
        Statement("mean2", "runtime.matrix_column(mean_matrix, beside=2)"),
    )
    found[0] = dataclasses.replace(
        found[0], statements=(*found[0].statements, *columns), results=("mean1", "mean2")
    )
    for name, needs in arguments.items():
        summary = stable.QUANTITIES[name]
        found.append(_function(name, [name], needs, f"{summary[0].upper()}{summary[1:]}."))
    return [*found, _bounds()]


def _function(name, results, arguments, summary):
    lines = needed(PROGRAM, results)
    return Function(
        name=name,
        summary=summary,
        equations=_equations(lines),
        arguments=arguments,
        statements=(_WHITENING, *statements(lines)),
        results=tuple(results),
        columns=COMPONENTS,
    )


def _equations(lines: Sequence[Line], before: Sequence[Line] = PROGRAM) -> tuple[str, ...]:
    return tuple(equation(line) for line in definitions(lines, before))


def _bounds():
    lines = needed((*PROGRAM, *BOUNDS), bounds.QUANTITIES)
    return Function(
        name="bounds",
        summary=bounds.SUMMARY,
        equations=_equations([line for line in lines if line in BOUNDS]),
        arguments=("h",),
        statements=(_WHITENING, *_UNITS, *statements(lines)),
        results=tuple(bounds.QUANTITIES),
    )


def moments() -> dict[str, Any]:
    """Return the two halves of ``moments``: what needs u alone, and what v adds."""
    of_u = needed(PROGRAM, ["fisher", "variance_score_squared", "third"])
    both = needed(PROGRAM, stable.QUANTITIES)
    equations = _equations(both)
    first, both = (
        divide((_WHITENING, *statements(lines)), COMPONENTS, ("u", "v")) for lines in (of_u, both)
    )
    return {**halves(first, both), "equations": equations}


def _estimators() -> dict[str, Any]:
    """Return the functions of the root and of estimators' variances."""
    lines = (*PROGRAM, *WHITENING)
    label = ("slope_u", "curvature_u", "tilted_u", "spread_u", "remainder")

    def of(results, arguments, *last):
        wanted = needed(lines, results)
        found = (_WHITENING, *statements(wanted), *last)
        return Function("", "", _equations(wanted, lines), arguments, found, (), COMPONENTS)

    def coordinates(name, slope, curvature):
        return Statement(name, f"runtime.coordinates({slope}, {curvature})", wide=True)

    of_u = (
        coordinates("whitened_u", "slope_u", "curvature_u"),
        coordinates("coskewness", "tilted_u", "spread_u"),
        estimators.OF_U,
    )
    of_v = (coordinates("whitened_v", "slope_v", "curvature_v"), estimators.OF_BOTH)
    both = (*label, "slope_v", "curvature_v")
    return estimators.described(
        _root(),
        of(label[:2], ("h", "u"), of_u[0], estimators.RADEMACHER),
        of(label, ("h", "u"), *of_u),
        of(both, ("h", "u", "v"), *of_u, *of_v),
    )


def _root() -> Function:
    wanted = needed((*PROGRAM, *ROOT), ["root_vector", "root_matrix"])
    columns = "runtime.vector_column(root_vector), runtime.matrix_column(root_matrix, beside=2)"
    found = (
        _WHITENING,
        Statement("slope_probe, curvature_probe", "runtime.of_coordinates(probe)"),
        *statements(wanted),
        Statement("root_probe", f"runtime.joined({columns})", wide=True),
    )
    equations = _equations(wanted, (*PROGRAM, *ROOT))
    return Function("", "", equations, ("h", "probe"), found, (), COMPONENTS)


def parts(derivation: Derivation, arguments: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return what the template lays out.

    Args:
        derivation: Of a Gaussian vector.
        arguments: The quantities that have a function, each with its tensor arguments.
    """
    family = derivation.family
    return {
        "functions": functions(arguments),
        "moments": moments(),
        "links": [link_function(family, link) for link in family.links if not link.identity],
        "log_partition": f"F({', '.join(family.natural)}) = {family.log_partition}",
        "domain": f" Domain: {', '.join(family.domain)}.",
        "layout": layout(family),
        "components": COMPONENTS,
        **_estimators(),
    }
