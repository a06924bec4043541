"""From a derivation's whitening to the functions of the root and of estimators' variances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fimsym.codegen.division import halves
from fimsym.codegen.program import Function, Statement, function
from fimsym.derivation import Derivation, whitening

SUMMARIES = {
    "root": "Square root of I times probes, L g with I(h) = L Lᵀ.",
    "variance_rademacher_probe": "Variance of ⟨Lᵀu, g⟩² for random signs g, 2 [I² − Σ a⁴].",
    "estimator_variances": "Variance of every estimator of I, from one label or one probe.",
}
OF_U = Statement("of_u", "runtime.of_label(whitened_u, coskewness, remainder)")
OF_BOTH = Statement("of_both", "runtime.of_labels(of_u, coskewness, remainder, whitened_v)")
RADEMACHER = Statement("rademacher", "runtime.rademacher(whitened_u)")


def parts(derivation: Derivation) -> dict[str, Any]:
    """Return the three functions for the template, of a family whose L has a formula."""
    family = derivation.family
    lines = whitening.program(family)
    readable = whitening.program(family, True)

    def of(results: Sequence[str], arguments: tuple[str, ...], *last: Statement) -> Function:
        names = [name for part in results for name in whitening.names(family, part)]
        found = function(derivation, "", lines, names, arguments, "", readable)
        joined = [_joined(part, whitening.names(family, part)) for part in results]
        return extended(found, (*(one for one in joined if one is not None), *last))

    label = ("whitened_u", "coskewness", "remainder")
    return described(
        of(["root_probe"], ("h", "probe")),
        of(["whitened_u"], ("h", "u"), RADEMACHER),
        of(label, ("h", "u"), OF_U),
        of([*label, "whitened_v"], ("h", "u", "v"), OF_U, OF_BOTH),
    )


def described(root: Function, rademacher: Function, one: Function, both: Function) -> dict:
    """Return what the template lays out of the functions' bodies.

    Args:
        root: Of probes, with L g as its last statement.
        rademacher: Of u, with the probe's variance.
        one: Of u, with what a label's estimators need.
        both: The same with v.
    """
    return {
        "root": root,
        "rademacher": rademacher,
        "estimators": {**halves(one.divided, both.divided), "equations": both.equations},
        "summaries": SUMMARIES,
    }


def extended(found: Function, last: Sequence[Statement]) -> Function:
    """Return a function with more statements at its end."""
    return Function(
        name=found.name,
        summary=found.summary,
        equations=found.equations,
        arguments=found.arguments,
        statements=(*found.statements, *last),
        results=found.results,
        columns=found.columns,
    )


def _joined(part: str, names: Sequence[str]) -> Statement | None:
    """Return the statement that puts the columns of several parameters one below the other."""
    if tuple(names) == (part,):
        return None
    return Statement(part, f"runtime.joined({', '.join(names)})", wide=True)


def from_numbers(derivation: Derivation) -> dict[str, Any]:
    """Return the same for a family without a formula for L, which is taken from values of I."""
    family = derivation.family
    settings = {"components": None if family.vector else family.components}
    given = "".join(f", {c.name}={c.name}" for c in family.constants)
    root = Statement(
        "square_root", f"runtime.root_of_form(h, fisher, {settings['components']}{given})"
    )

    def of(argument: str, *last: Statement) -> Function:
        return Function("", "", (), ("h", argument), (root, *last), (), {})

    whitened = Statement("whitened_u", "runtime.times_root(square_root, u)", wide=True)
    return {
        "root": of(
            "probe", Statement("root_probe", "runtime.times_root(square_root, probe)", True)
        ),
        "rademacher": of("u", whitened, RADEMACHER),
        "estimators": None,
        "summaries": SUMMARIES,
    }


def statements(found: Mapping[str, Any]) -> list[Statement]:
    """Return every statement of the functions, for checks of their names."""
    estimators = found["estimators"] or {}
    blocks = [estimators.get(part, ()) for part in ("before", "of_u", "of_v")]
    return [
        *found["root"].statements,
        *found["rademacher"].statements,
        *(statement for block in blocks for statement in block),
    ]
