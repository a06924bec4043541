"""A derivation as text for people and as plain data for programs."""

from __future__ import annotations

from typing import Any

import sympy as sp

from fimsym.derivation.derivation import Derivation
from fimsym.derivation.normal import Definition, letter_sums
from fimsym.derivation.stable import QUANTITIES
from fimsym.derivation.text import text


def pretty(derivation: Derivation) -> str:
    """Return the formulas, bounds and proofs as lines of Unicode text."""
    family = derivation.family
    lines = [f"{family.name}: {family.title}", "", f"  F(h) = {text(derivation.log_partition)}"]
    lines += [f"  {equation(line)}" for line in derivation.definitions]
    lines += ["", "Theorem 4.1, for unit vectors:"]
    lines += [
        f"  {text(line.symbol)} {_relation(line.name)} {text(letter_sums(line))}"
        for line in derivation.bound_definitions
        if line.name != "probability"
    ]
    for method, heading in (
        ("symbolic", "identities, each residual reduced to zero"),
        ("quadrature", "comparisons with the density's moments by quadrature, not proofs"),
    ):
        found = [proof for proof in derivation.proofs if proof.method == method]
        if found:
            lines += ["", f"{len(found)} {heading}:"]
            lines += [f"  {proof.name}: {proof.statement}" for proof in found]
    return "\n".join(lines)


def as_dict(derivation: Derivation) -> dict[str, Any]:
    """Return the derivation as plain data: formulas as text, LaTeX and explicit SymPy."""
    family = derivation.family
    return {
        "family": family.name,
        "title": family.title,
        "log_partition": str(derivation.log_partition),
        "mean": str(derivation.mean),
        "formulas": [
            {
                "name": line.name,
                "text": equation(line),
                "latex": " = ".join(derivation.formulas[line.name]),
            }
            for line in derivation.definitions
        ],
        "quantities": {name: str(getattr(derivation, name)) for name in QUANTITIES},
        "cumulants": {f"{a},{b}": str(v) for (a, b), v in derivation.cumulants.items()},
        "central_moments": {f"{a},{b}": str(v) for (a, b), v in derivation.central_moments.items()},
        "bounds": {name: str(value) for name, value in derivation.bounds.items()},
        "proofs": [
            {
                "name": p.name,
                "statement": p.statement,
                "residual": str(p.residual),
                "method": p.method,
            }
            for p in derivation.proofs
        ],
        "sympy": sp.__version__,
    }


def equation(line: Definition) -> str:
    """Return a definition as one line of Unicode."""
    return f"{text(line.symbol)} = {text(letter_sums(line))}"


def _relation(name):
    return {"_min": "≥", "_max": "≤"}.get(name[-4:], "=")
