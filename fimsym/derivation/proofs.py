"""Identities, and the proof that each residual reduces to zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import sympy as sp

from fimsym.derivation import accurate, cumulants, moments, stable
from fimsym.derivation.normal import inline, normal, unroll
from fimsym.derivation.symbols import (
    axis,
    h,
    index,
    labels,
    log_partition,
    probability,
    read,
    total,
    u,
)
from fimsym.derivation.tensors import contract, cumulant_tensor, tensors
from fimsym.errors import DerivationError, SpecError, nearest
from fimsym.families import Family


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


@dataclasses.dataclass(frozen=True)
class Proof:
    """An identity whose residual, left − right, SymPy reduced to zero."""

    name: str
    statement: str
    left: sp.Expr
    right: sp.Expr
    residual: sp.Expr


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
            f"got {shown}. One of the two derivations, or the specification, is wrong."
        )
    return Proof(identity.name, identity.statement, identity.left, identity.right, residual)


def identities(family: Family) -> tuple[Identity, ...]:
    """Return every identity that a family's derivation rests on, except its bounds."""
    return (
        *_density_identities(family),
        *_route_identities(family),
        *_stable_identities(family),
        _label_identity(family),
        *_tensor_identities(family),
        *_theorem_identities(family),
    )


def reduce_probabilities(expression: sp.Expr) -> sp.Expr:
    """Expand after replacing the last probability by one minus the others."""
    found = {node.indices[0] for node in expression.atoms(sp.Indexed) if node.base == probability}
    if found:
        last = max(found)
        rest = 1 - sp.Add(*(probability[n] for n in range(1, int(last))))
        expression = expression.xreplace({probability[last]: rest})
    return sp.expand(expression)


def _density_identities(family):
    derivative = cumulants.cumulant(family, 1, 0)
    return (
        Identity(
            "normaliser",
            "log ∫ π(y) exp⟨t, h⟩ dy = F(h)",
            moments.log_normaliser(family),
            log_partition(family),
        ),
        Identity(
            "mean",
            "⟨E[t], u⟩ = κ₁₀",
            total(family, moments.mean(family) * u[index]),
            derivative,
        ),
    )


def _route_identities(family):
    by_cumulants = stable.in_cumulants(family)
    statements = {
        "fisher": "Var(s) = κ₂₀",
        "third": "E[s³] = κ₃₀",
        "variance_score_squared": "Var(Î₁) = κ₄₀ + 2κ₂₀²",
        "variance_negative_hessian": "Var(Î₂) = κ₀₂",
        "covariance": "Cov(Î₁, Î₂) = −κ₂₁",
    }
    return tuple(
        Identity(
            f"two routes: {name}", statement, getattr(moments, name)(family), by_cumulants[name]
        )
        for name, statement in statements.items()
    )


def _stable_identities(family):
    programs = {"stable": stable.definitions(family), "accurate": accurate.program(family)}
    return tuple(
        Identity(
            f"{kind} form: {name}",
            f"{name} in the {kind} form equals its cumulants",
            stable.inlined(program, name),
            expression,
        )
        for kind, program in programs.items()
        for name, expression in stable.in_cumulants(family).items()
    )


def _label_identity(family):
    """Prove Var of the mean of N labels from E[(Σ_k s_k²)²] over independent labels."""
    second, fourth = (moments.score_moment(family, order, 0) for order in (2, 4))
    of_the_sum = labels * fourth + labels * (labels - 1) * second**2
    return Identity(
        "labels",
        "Var of the mean of N squared scores = V₁/N",
        of_the_sum / labels**2 - second**2,
        moments.variance_score_squared(family) / labels,
    )


def _tensor_identities(family):
    outputs = max(2, family.minimum_outputs + (family.structure == "joint"))
    given = tensors(family, outputs)
    size = axis(family)
    w = [sp.IndexedBase(letter, real=True) for letter in "abcd"]
    pairs = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
    products = sp.Add(
        *(
            contract(given.fisher, *(w[n] for n in left))
            * contract(given.fisher, *(w[n] for n in right))
            for left, right in pairs
        )
    )
    by_cumulants = stable.in_cumulants(family)
    return (
        Identity(
            "tensor: fourth central moment",
            f"K_abcd = κ_abcd + I_ab I_cd + I_ac I_bd + I_ad I_bc ({size} = {outputs})",
            contract(given.fourth, *w),
            contract(cumulant_tensor(family, outputs), *w) + products,
            reduce_probabilities,
        ),
        Identity(
            "tensor: fisher",
            f"I_ab u_a u_b = κ₂₀ ({size} = {outputs})",
            contract(given.fisher, u, u),
            unroll(by_cumulants["fisher"], size, outputs),
            reduce_probabilities,
        ),
        Identity(
            "tensor: variance_score_squared",
            f"M_abcd u_a u_b u_c u_d = κ₄₀ + 2κ₂₀², M = K − I⊗I ({size} = {outputs})",
            contract(given.quartic, u, u, u, u),
            unroll(by_cumulants["variance_score_squared"], size, outputs),
            reduce_probabilities,
        ),
    )


def _theorem_identities(family):
    by_cumulants = stable.in_cumulants(family)
    found = []
    for theorem in family.theorems:
        if theorem.quantity not in by_cumulants:
            raise SpecError(
                f"a theorem is about {theorem.quantity!r}; expected one of "
                f"{', '.join(by_cumulants)}.{nearest(theorem.quantity, by_cumulants)}"
            )
        left = by_cumulants[theorem.quantity]
        if theorem.outputs is None:
            right = read(family, theorem.formula, dict(by_cumulants))
            at, reduce = "", normal
        else:
            numbers = range(1, theorem.outputs + 1)
            names = {f"{base}{n}": base[n] for base in (h, u) for n in numbers}
            right = read(family, theorem.formula, names)
            left = inline(left, [stable.softmax(family)])
            left = unroll(left, axis(family), theorem.outputs)
            at, reduce = f" ({axis(family)} = {theorem.outputs})", reduce_exponentials
        statement = f"{theorem.quantity} = {theorem.formula}{at}"
        found.append(Identity(f"theorem: {theorem.quantity}{at}", statement, left, right, reduce))
    return tuple(found)


def reduce_exponentials(expression: sp.Expr) -> sp.Expr:
    """Cancel a rational function of exponentials to lowest terms."""
    weights = {node: sp.Dummy(positive=True) for node in expression.atoms(sp.exp)}
    return sp.cancel(sp.together(expression.xreplace(weights)))
