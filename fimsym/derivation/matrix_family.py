"""The derivation of a Gaussian vector, whose size D stays a symbol."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sympy as sp

from fimsym.derivation import bounds, estimators, stable
from fimsym.derivation.derivation import Derivation
from fimsym.derivation.identity import prove
from fimsym.derivation.matrices import Words
from fimsym.derivation.matrix_bounds import BOUNDS
from fimsym.derivation.matrix_program import (
    PROGRAM,
    cumulant,
    definitions,
    log_partition,
    needed,
    values,
)
from fimsym.derivation.matrix_proofs import identities
from fimsym.derivation.matrix_whitening import ROOT, WHITENING
from fimsym.derivation.normal import normal
from fimsym.derivation.tensors import Tensors
from fimsym.errors import UnsupportedError
from fimsym.families import Family

_ORDERS = ((1, 0), (2, 0), (3, 0), (4, 0), (0, 1), (0, 2), (2, 1))


@dataclasses.dataclass(frozen=True, repr=False)
class MatrixDerivation(Derivation):
    """What follows from the log-partition of a Gaussian vector, with D symbolic.

    The expressions are SymPy scalars in `Form`, `Trace` and `LogDeterminant` of h, Λ and of
    the directions u = (a_u, B_u) and v = (a_v, B_v) of (h₁, H₂). There is no number of
    outputs at which to write them out.
    """

    def explicit(self, quantity: str | sp.Expr, outputs: int) -> sp.Expr:
        """Refuse: D is a symbol.

        Raises:
            UnsupportedError: always.
        """
        raise self._refusal("written out for a number of outputs")

    def evaluate(
        self,
        quantity: str,
        natural: Sequence[float],
        direction: Sequence[float] | None = None,
        second: Sequence[float] | None = None,
        digits: int = 50,
        **values: float,
    ) -> sp.Float:
        """Refuse: D is a symbol.

        Raises:
            UnsupportedError: always.
        """
        raise self._refusal("evaluated at numbers")

    def tensors(self, outputs: int) -> Tensors:
        """Refuse: D is a symbol.

        Raises:
            UnsupportedError: always.
        """
        raise self._refusal("written as tensors")

    def _reduce(self, difference):
        return normal(difference)

    def _refusal(self, what):
        return UnsupportedError(
            f"the size {self.outputs} of {self.family.name} is a symbol in its derivation, so "
            f"nothing in it can be {what}. For numbers use "
            f"fimsym.evaluator({self.family.name!r}); it computes with float64 tensors."
        )


def derive(family: Family) -> MatrixDerivation:
    """Derive and prove everything that follows from a Gaussian vector's log-partition.

    Raises:
        DerivationError: two routes to a quantity disagree.
        UnsupportedError: the family states theorems, or has no density.
    """
    proofs = tuple(map(prove, identities(family)))
    found = values((*PROGRAM, *ROOT))
    quantities = {name: found[name] for name in stable.QUANTITIES}
    lines = definitions(needed(PROGRAM, stable.QUANTITIES))
    bound_lines = definitions(BOUNDS, PROGRAM)
    return MatrixDerivation(
        family=family,
        log_partition=log_partition(family),
        mean=sp.Tuple(*(_expression(found[name]) for name in ("mean_vector", "mean_matrix"))),
        cumulants={key: cumulant(family, *key) for key in _ORDERS},
        central_moments={},
        definitions=lines,
        program=lines,
        bounds={
            line.name: _inlined(line, bound_lines)
            for line in bound_lines
            if line.name in bounds.QUANTITIES
        },
        bound_definitions=bound_lines,
        estimators=estimators.variances(quantities, sp.Symbol("Σ a⁴", real=True)),
        coefficients=estimators.coefficients(quantities),
        root=sp.Tuple(*(_expression(found[name]) for name in ("root_vector", "root_matrix"))),
        whitening=definitions((*WHITENING, *ROOT), PROGRAM),
        proofs=proofs,
        **quantities,
    )


def _expression(value):
    return value.expression if isinstance(value, Words) else value


def _inlined(line, lines):
    value = line.expression
    for earlier in reversed(lines):
        value = value.subs(earlier.symbol, earlier.expression)
    return value
