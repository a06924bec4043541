"""Rewrite cumulants into stable forms, one line per named quantity.

Each rewriting is an identity that is checked before it is used: the definitions are
inlined again and their normal form is compared with the cumulants they came from.

For laws with a log-sum-exp partition the cumulants are polynomials in raw moments
Σ p u^a v^b that cancel badly. They do not change when a constant is added to u, so u is
centred; a fourth-order quantity becomes a sum of squares, which cannot be negative.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import sympy as sp

from fimsym.derivation import concentration, targets
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.functions import exact
from fimsym.derivation.normal import Definition, inline, normal
from fimsym.derivation.symbols import (
    h,
    index,
    probability,
    total,
    u,
    v,
)
from fimsym.errors import DerivationError
from fimsym.families import Family

QUANTITIES = {
    "fisher": "Fisher information of one parameter, Var(s) = E[Î₁] = E[Î₂]",
    "third": "third cumulant of the score, κ₃₀ = E[s³]",
    "variance_score_squared": "variance of Î₁ = s² from one label",
    "variance_negative_hessian": "variance of Î₂ = −∂²ℓ from one label",
    "covariance": "covariance of Î₁ and Î₂ from the same label",
}
"""The derived quantities, in the order in which evaluators return them."""

mean_of = {u: sp.Symbol("mean_u", real=True), v: sp.Symbol("mean_v", real=True)}
centred = {u: sp.IndexedBase("centred_u", real=True), v: sp.IndexedBase("centred_v", real=True)}
excess = sp.IndexedBase("excess", real=True)
second_moment, fisher = sp.symbols("second_moment fisher", real=True)


def in_cumulants(family: Family) -> dict[str, sp.Expr]:
    """Return every quantity as MATH's table states it in cumulants κ_ab of F."""
    fisher, fourth = cumulant(family, 2, 0), cumulant(family, 4, 0)
    variance = fourth + 2 * fisher**2
    return {
        "fisher": fisher,
        "third": cumulant(family, 3, 0),
        "variance_score_squared": normal(variance) if family.vector else variance,
        "variance_negative_hessian": cumulant(family, 0, 2),
        "covariance": normal(-cumulant(family, 2, 1)),
    }


@functools.cache
def definitions(family: Family) -> tuple[Definition, ...]:
    """Return the stable program for every quantity, each line using earlier ones.

    Raises:
        DerivationError: a rewriting changed the value of a quantity.
    """
    raw = in_cumulants(family)
    if not family.vector:
        program = described(targets.program(family, readable=True))
    elif uses_probabilities(raw.values()):
        program = _centred_program(family, raw)
    elif concentration.applies(family):
        program = described(concentration.program(family))
    else:
        program = _direct_program(raw)
    check_program(program, raw, reduction(family))
    return program


def reduction(family: Family) -> Callable[[sp.Expr], sp.Expr]:
    """Return what brings a difference of two of the family's expressions to zero."""
    if not family.vector:
        return targets.Reduction(family)
    return lambda difference: normal(exact(difference))


def described(lines: Sequence[Definition]) -> tuple[Definition, ...]:
    """Say what each quantity is, in the lines that compute it."""
    return tuple(
        dataclasses.replace(line, meaning=QUANTITIES.get(line.name, line.meaning)) for line in lines
    )


def check_program(
    program: tuple[Definition, ...],
    raw: dict[str, sp.Expr],
    reduce: Callable[[sp.Expr], sp.Expr] = normal,
) -> None:
    """Raise DerivationError unless a program computes every quantity of `raw`."""
    for name, expression in raw.items():
        check_same(name, inlined(program, name), expression, reduce)


def inlined(program: tuple[Definition, ...], name: str) -> sp.Expr:
    """Return a quantity in u, v and p, which stays a symbol: all that is used is Σp = 1."""
    lines = [line for line in program if line.name != "probability"]
    return _without_atoms(inline(symbol_of(program, name), lines))


def _without_atoms(expression):
    """Replace functions that exist for accuracy by what they are in probabilities."""
    return expression.replace(
        lambda node: hasattr(node, "in_probabilities"), lambda node: node.in_probabilities()
    )


def uses_probabilities(expressions) -> bool:
    """Tell whether the cumulants are expectations under p = softmax(h)."""
    return any(expression.has(probability) for expression in expressions)


def symbol_of(program: tuple[Definition, ...], name: str) -> sp.Expr:
    """Return the symbol that stands for `name` in `program`."""
    return next(definition.symbol for definition in program if definition.name == name)


def check_same(
    name: str, stable: sp.Expr, raw: sp.Expr, reduce: Callable[[sp.Expr], sp.Expr] = normal
) -> None:
    """Raise DerivationError unless the difference reduces to zero, given Σp = 1."""
    residual = reduce(stable - raw)
    if residual != 0:
        raise DerivationError(
            f"the stable form of {name} differs from its cumulants by {residual}; "
            "expected zero. Its rewriting rule does not hold for this log-partition."
        )


def softmax(family: Family) -> Definition:
    """Return the definition p_i = exp(h_i)/Σ exp(h)."""
    return Definition(
        "probability",
        probability[index],
        sp.exp(h[index]) / total(family, sp.exp(h[index])),
        "probability of each class",
    )


def _direct_program(raw):
    """Use the cumulants as they are."""
    return tuple(_quantity(name, raw[name]) for name in QUANTITIES)


def _centred_program(family, raw):
    """Centre u and v under p, then write fourth-order quantities as sums of squares."""
    p = probability[index]
    centred_u, centred_v = centred[u][index], centred[v][index]
    second = total(family, p * centred_u**2)
    about_mean = {name: _centre(family, name, raw[name]) for name in QUANTITIES}
    spread = total(family, p * excess[index] ** 2)
    joint = total(family, p * excess[index] * centred_v)
    fourth = total(family, p * centred_u**4)
    mixed = total(family, p * centred_u**2 * centred_v)
    squares = _replace_linear(
        about_mean["variance_score_squared"], fourth, spread + second_moment**2
    )
    product = _replace_linear(about_mean["covariance"], mixed, joint)
    same = normal(about_mean["fisher"] - second) == 0
    name_of_second = fisher if same else second_moment
    in_second = {second: name_of_second, second_moment: name_of_second}
    program = [
        softmax(family),
        *_centring(family, u),
        _quantity("fisher", about_mean["fisher"]),
    ]
    if not same:
        program.append(Definition("second_moment", second_moment, second, "Σ p ũ²"))
    program += [
        Definition(
            "excess",
            excess[index],
            centred_u**2 - name_of_second,
            "squared score of each class minus its mean",
        ),
        _quantity("third", about_mean["third"]),
        _quantity("variance_score_squared", _in_factors(squares.xreplace(in_second))),
        *_centring(family, v),
        _quantity("variance_negative_hessian", about_mean["variance_negative_hessian"]),
        _quantity("covariance", product),
    ]
    return tuple(program)


def _in_factors(expression):
    """Return a polynomial in a sum's square with factors as coefficients, 2n(n − 1) S²."""
    collected = sp.collect(sp.expand(expression), (second_moment, fisher), evaluate=False)
    return sp.Add(*(sp.factor(c) * power for power, c in collected.items()))


def _centring(family, base):
    """Return the lines that centre u or v under p."""
    return (
        Definition(
            f"mean_{base}",
            mean_of[base],
            total(family, probability[index] * base[index]),
            f"mean of {base} under p",
        ),
        Definition(
            f"centred_{base}",
            centred[base][index],
            base[index] - mean_of[base],
            f"{base} minus its mean",
        ),
    )


def _centre(family, name, expression):
    """Replace raw moments of u, v by moments of ũ, ṽ, whose first moments vanish."""
    firsts = {total(family, probability[index] * base[index]): 0 for base in (u, v)}
    about_mean = sp.expand(expression.xreplace(firsts)).replace(
        lambda node: isinstance(node, sp.Indexed) and node.base in centred,
        lambda node: centred[node.base][node.indices[0]],
    )
    program = (*_centring(family, u), *_centring(family, v))
    check_same(name, inline(about_mean, program), expression)
    return about_mean


def _replace_linear(expression, old, new):
    """Replace `old`, which occurs linearly, by `new`."""
    coefficient = expression.coeff(old, 1)
    return sp.expand(expression - coefficient * old) + sp.expand(coefficient * new)


def _quantity(name, expression):
    return Definition(name, sp.Symbol(name, real=True), expression, QUANTITIES[name])
