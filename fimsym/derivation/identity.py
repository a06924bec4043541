"""Identities, and the proof that each residual reduces to zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import sympy as sp

from fimsym.derivation.normal import normal
from fimsym.errors import DerivationError


@dataclasses.dataclass(frozen=True)
class Identity:
    """A claim left = right.

    Attributes:
        name: What is claimed.
        statement: The claim in a line.
        left: One side, from one derivation.
        right: The other side, from an independent one.
        reduce: Brings the difference to a form that is zero exactly when the sides agree.
    """

    name: str
    statement: str
    left: sp.Expr
    right: sp.Expr
    reduce: Callable[[sp.Expr], sp.Expr] = normal


@dataclasses.dataclass(frozen=True, repr=False)
class Proof:
    """An identity whose residual, left − right, is zero.

    Attributes:
        method: ``"symbolic"``, reduced to zero by SymPy, or ``"quadrature"``, compared at
            points to the digits that the statement names.
    """

    name: str
    statement: str
    left: sp.Expr
    right: sp.Expr
    residual: sp.Expr
    method: str = "symbolic"

    def __repr__(self) -> str:
        return f"Proof({self.name}: {self.statement}; {self.method})"


def prove(identity: Identity) -> Proof:
    """Return the proof of an identity.

    Raises:
        DerivationError: the residual is not zero; the message shows it.
    """
    residual = identity.reduce(identity.left - identity.right)
    if residual != 0:
        shown = str(residual)
        shown = shown if len(shown) <= 300 else shown[:300] + " …"
        raise DerivationError(
            f"not proven: {identity.name} ({identity.statement}). Expected left − right = 0; "
            f"got {shown}. One of the two sides, or the specification, is wrong."
        )
    return Proof(identity.name, identity.statement, identity.left, identity.right, residual)
