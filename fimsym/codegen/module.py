"""Lay out a derivation as the source of one torch module."""

from __future__ import annotations

import hashlib
import json
import subprocess
import textwrap
from pathlib import Path

import jinja2
import sympy as sp
from ruff.__main__ import find_ruff_bin

from fimsym.codegen import estimators, matrix
from fimsym.codegen.division import halves, targets
from fimsym.codegen.links import layout, link_function
from fimsym.codegen.passes import arranged
from fimsym.codegen.program import Function, Statement, component_names, function, precise
from fimsym.derivation import Derivation, bounds, derive, stable
from fimsym.derivation.extremes import OverDirections
from fimsym.derivation.normal import Definition
from fimsym.derivation.record import equation
from fimsym.derivation.symbols import index
from fimsym.errors import DerivationError, SpecError
from fimsym.families import Family, families

GENERATED = Path(__file__).parent.parent / "generated"
"""Where the built-in evaluators are checked in."""

_LINE_LENGTH = 100
_ARGUMENTS = {
    "fisher": ("h", "u"),
    "variance_score_squared": ("h", "u"),
    "variance_negative_hessian": ("h", "v"),
    "covariance": ("h", "u", "v"),
}


def generate(name_or_family: str | Family) -> str:
    """Return the source of a family's evaluator module.

    Everything in it follows from the family's derivation, whose proofs are run first.

    Args:
        name_or_family: A built-in family's name, or a `Family`.

    Raises:
        SpecError: the name or a formula is wrong.
        DerivationError: a proof fails, or a formula cannot be printed.
    """
    derivation = derive(name_or_family)
    family = derivation.family
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["wrapped"] = _wrapped
    matrices = family.structure == "matrix"
    parts = matrix.parts(derivation, _ARGUMENTS) if matrices else _parts(derivation)
    functions, links = parts["functions"], parts["links"]
    statements = [s for f in (*functions, *links) for s in f.statements]
    statements += estimators.statements(parts)
    body = environment.get_template("evaluator.py.jinja").render(
        family=family,
        statistics=", ".join(family.sufficient_statistics),
        precise=precise(derivation),
        uses_torch=any("torch." in s.code or ".square()" in s.code for s in statements),
        uses_special=any("special." in statement.code for statement in statements),
        **parts,
    )
    body = _format(body)
    return _header(derivation, functions, body) + body


def _parts(derivation):
    """Return what the template lays out."""
    family = derivation.family
    functions, moments = _functions(derivation), _moments(derivation)
    links = [link_function(family, link) for link in family.links if not link.identity]
    known = bool(derivation.whitening)
    of_estimators = (estimators.parts if known else estimators.from_numbers)(derivation)
    more = [s.name for s in estimators.statements(of_estimators)]
    _check_locals(family, functions, moments, links, more)
    return {
        "functions": functions,
        "moments": moments,
        "links": links,
        "log_partition": _sentence(family),
        "domain": _domain(family),
        "layout": _layout(derivation),
        "components": component_names(family),
        **of_estimators,
    }


def _layout(derivation):
    family = derivation.family
    names = component_names(family)["h"] if family.components > 1 else ["h"]
    minimum = max(family.minimum_outputs, family.components)
    return layout(names, family.limits, minimum, precise(derivation))


def _domain(family):
    limited = [str(limits) for limits in family.limits if "in R" not in str(limits)]
    return f" Domain: {', '.join(limited)}." if limited else ""


def _wrapped(text, indent):
    """Return a docstring's paragraph in lines that fit, later ones set in."""
    room = _LINE_LENGTH - 2 - indent
    inset = " " * 4 * bool(indent)
    lines = textwrap.wrap(text, room, subsequent_indent=inset, break_long_words=False)
    return ("\n" + " " * indent).join(lines)


_TEMPLATE_NAMES = (
    "h u v probe dtype directions block of_u of_both found probes layout given outputs first "
    "second derivatives float list dict tuple torch runtime special annotations Tensor Bounds "
    "EstimatorVariances Moments LAYOUT LINKS top reuse"
)
_LOCALS = frozenset(_TEMPLATE_NAMES.split())
"""Every name that the template itself uses."""


def _check_locals(family, functions, moments, links, more):
    """Refuse constants and link outputs that a generated body would overwrite."""
    evaluators = {f.name for f in functions} | {"moments", *estimators.SUMMARIES}
    taken = _LOCALS | evaluators | {f"from_{link.link.name}" for link in links}
    statements = [s for f in functions for s in f.statements]
    statements += [s for part in ("before", "of_u", "of_v") for s in moments[part]]
    bodies = [name for s in statements for name in targets(s.name)] + more
    columns = {name for names in component_names(family).values() for name in names}
    _refuse_taken({c.name for c in family.constants}, taken | columns | {*bodies}, "constant")
    for link in links:
        numbered = {name for names in link.naturals.values() for name in names}
        names = taken | numbered | {s.name for s in link.statements}
        known = {c.name for c in family.constants}
        _refuse_taken({*link.outputs} | known, names - evaluators, f"link {link.link.name}:")


def _refuse_taken(names, taken, role):
    for name in sorted(names & taken):
        raise SpecError(
            f"{role} {name!r} is a name of the generated code already; choose another name, such "
            f"as {name}_value."
        )


def stale() -> list[tuple[str, str, str]]:
    """Return (name, checked-in text, fresh text) of each generated file that differs.

    A missing file counts as empty text, a file that no family generates as one whose
    fresh text is empty.
    """
    fresh = {f"{name}.py": generate(name) for name in families()}
    present = {path.name: path.read_text() for path in GENERATED.glob("*.py")}
    present.pop("__init__.py", None)
    return [
        (name, present.get(name, ""), fresh.get(name, ""))
        for name in sorted({*fresh, *present})
        if present.get(name, "") != fresh.get(name, "")
    ]


def regenerate() -> list[str]:
    """Rewrite the checked-in evaluators; return the names of the files that changed."""
    changed = []
    for name, _, text in stale():
        path = GENERATED / name
        if text:
            path.write_text(text)
        else:
            path.unlink()
        changed.append(name)
    return changed


def _functions(derivation: Derivation) -> list[Function]:
    found = [
        _of_h(derivation, "mean", _mean_lines(derivation), "Mean η = ∇F(h) of t."),
        _of_h(
            derivation, "log_partition", [_log_partition_line(derivation)], "Log-partition F(h)."
        ),
    ]
    lines = arranged(derivation.family, derivation.program)
    for name, arguments in _ARGUMENTS.items():
        summary = stable.QUANTITIES[name]
        summary = f"{summary[0].upper()}{summary[1:]}."
        found.append(
            function(
                derivation,
                name,
                lines,
                [name],
                arguments,
                summary,
                derivation.definitions,
            )
        )
    return [*found, _bounds(derivation)]


def _bounds(derivation: Derivation) -> Function:
    """Return the function of bounds; of a law with nothing but its forms, by their values."""
    names, summary = list(bounds.QUANTITIES), bounds.SUMMARY
    lines = derivation.bound_definitions
    if not any(line.expression.has(OverDirections) for line in lines):
        return function(derivation, "bounds", lines, names, ("h",), summary)
    family = derivation.family
    components = None if family.vector else family.components
    given = "".join(f", {c.name}={c.name}" for c in family.constants)
    code = f"runtime.bounds_of_forms(h, fisher, variance_score_squared, {components}{given})"
    return Function(
        name="bounds",
        summary=summary,
        equations=tuple(map(equation, lines)),
        arguments=("h",),
        statements=(Statement(", ".join(names), code),),
        results=tuple(names),
        columns=component_names(family),
    )


def _of_h(derivation, name, lines, summary):
    """Return a function of h alone whose results are all its lines."""
    return function(derivation, name, lines, [line.name for line in lines], ("h",), summary)


def _mean_lines(derivation):
    if derivation.family.components == 1:
        symbol = sp.IndexedBase("η", real=True)[index]
        return [Definition("mean", symbol, derivation.mean, "")]
    return [
        Definition(f"mean{n}", sp.IndexedBase(f"η{n}", real=True)[index], value, "")
        for n, value in enumerate(derivation.mean, start=1)
    ]


def _log_partition_line(derivation):
    return Definition("log_partition", sp.Symbol("F", real=True), derivation.log_partition, "")


def _moments(derivation):
    """Return the two halves of ``moments``: what needs u alone, and what v adds."""
    of_u = ["fisher", "variance_score_squared", "third"]
    of_v = ["variance_negative_hessian", "covariance"]
    lines = arranged(derivation.family, derivation.program)
    readable = derivation.definitions
    first = function(derivation, "moments", lines, of_u, ("h", "u"), "", readable)
    both = function(derivation, "moments", lines, of_u + of_v, ("h", "u", "v"), "", readable)
    return {**halves(first.divided, both.divided), "equations": both.equations}


def _sentence(family):
    names = ", ".join(family.natural)
    return f"F({names}) = {family.log_partition}" + (
        "" if family.vector else ", added up over independent targets"
    )


def _header(derivation, functions, body):
    inputs = {
        "family": derivation.family.canonical(),
        "definitions": [
            [sp.srepr(line.symbol), sp.srepr(line.expression)]
            for lines in (derivation.program, derivation.bound_definitions, derivation.whitening)
            for line in lines
        ],
        "functions": [repr(f) for f in functions],
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    name = derivation.family.name
    again = "run `make generate`" if name in families() else "generate it again"
    return (
        f"# Generated by `fimsym generate {name}`. Do not edit:\n"
        f"# change what it is derived from, then {again}.\n"
        f"# SymPy {sp.__version__}\n"
        f"# inputs sha256 {digest}\n"
        f"# body sha256 {hashlib.sha256(body.encode()).hexdigest()}\n"
    )


def _format(source: str) -> str:
    """Format source text with ruff, independent of any configuration around it."""
    command = [find_ruff_bin(), "format", "--isolated", f"--line-length={_LINE_LENGTH}", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DerivationError(f"generated code is not valid Python: {done.stderr.strip()}")
    return done.stdout
