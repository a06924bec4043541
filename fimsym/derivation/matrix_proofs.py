"""The identities that a Gaussian vector's derivation rests on; those in words hold for every D."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import sympy as sp

from fimsym.derivation import estimators, matrix_bounds, matrix_whitening
from fimsym.derivation.identity import Identity
from fimsym.derivation.letters import FACTOR, PRECISION, SIZE, Letter, LogDeterminant
from fimsym.derivation.matrices import dot, trace, words
from fimsym.derivation.matrix_bounds import BOUNDS
from fimsym.derivation.matrix_moments import SIZES, moment_identities
from fimsym.derivation.matrix_program import (
    INPUTS,
    PROGRAM,
    Line,
    cumulant,
    evaluate,
    in_cumulants,
    log_partition,
    values,
)
from fimsym.derivation.matrix_whitening import ROOT, WHITENING
from fimsym.derivation.symbols import constants, labels
from fimsym.errors import UnsupportedError
from fimsym.families import Family
from fimsym.families.formula import interpret


def identities(
    family: Family,
    program: Sequence[Line] = PROGRAM,
    bounds: Sequence[Line] = BOUNDS,
    whitening: Sequence[Line] = WHITENING,
    root: Sequence[Line] = ROOT,
) -> tuple[Identity, ...]:
    """Return every identity, of the lines of a program, its bounds and its whitening.

    Raises:
        UnsupportedError: the family states theorems, which are not proven in words.
    """
    if family.theorems:
        raise UnsupportedError(
            f"{family.name} has the structure 'matrix', for which no theorems are read; remove "
            "them."
        )
    return (
        *_density_identities(family),
        *(identity for size in SIZES for identity in moment_identities(program, size)),
        _label_identity(),
        *_program_identities(family, program),
        *matrix_whitening.identities(family, program, whitening, root),
        *estimators.identities(),
        *matrix_bounds.identities(program, bounds),
        *_link_identities(family),
    )


def _density_identities(family):
    """Substitute y = μ + L⁻ᵀe in the density and the score; e is standard normal then."""
    e = words(Letter("e", vector=1))
    h, a, b = (words(INPUTS[name]) for name in ("vector_h", "vector_u", "matrix_u"))
    mean, root = words(PRECISION.inverse) * h, words(FACTOR.inverse)
    y = mean + root.transposed * e
    matrix = words(PRECISION) / -2
    jacobian = -LogDeterminant(PRECISION) / 2
    curvature = root * b * root.transposed
    slope = root * (a + 2 * b * mean)
    expected = dot(a, mean) + dot(mean, b * mean) + trace(b * words(PRECISION.inverse))
    named = _names(family)
    base = sp.log(interpret(family.density.base_measure, named, {}, sp.Rational))
    return (
        Identity(
            "normaliser",
            "π(y) exp(⟨t, h⟩ − F) |dy/de| is the standard normal density of e",
            base + dot(h, y) + dot(y, matrix * y) - log_partition(family) + jacobian,
            -dot(e, e) / 2 - SIZE * sp.log(2 * sp.pi) / 2,
            _reduce_logs,
        ),
        Identity(
            "normaliser (D = 2)",
            "log ∫ π(y) exp⟨t, h⟩ dy = F(h)",
            *_integrated(family),
            _reduce_logs,
        ),
        Identity(
            "score",
            "⟨t − E t, u⟩ = cᵀe + eᵀAe − tr A",
            dot(a, y) + dot(y, b * y) - expected,
            dot(slope, e) + dot(e, curvature * e) - trace(curvature),
            sp.expand,
        ),
    )


def _names(family):
    return {"pi": sp.pi, family.axis: SIZE, **constants(family)}


def _reduce_logs(difference):
    return sp.expand(sp.expand_log(sp.cancel(sp.expand(difference)), force=True))


@functools.cache
def _integrated(family):
    """Return log ∫ π exp⟨t, h⟩ dy over R², one coordinate after the other, and F there."""
    p, r = sp.symbols("p r", positive=True)
    q, h1, h2 = sp.symbols("q h_1 h_2", real=True)
    y = sp.symbols("y_1 y_2", real=True)
    scale, tilt = sp.Symbol("alpha", positive=True), sp.Symbol("beta", real=True)
    x = sp.Symbol("x", real=True)
    one_coordinate = sp.integrate(sp.exp(tilt * x - scale * x**2), (x, -sp.oo, sp.oo))
    gaussian = sp.log(sp.simplify(one_coordinate))
    lower, vector = sp.Matrix([[p, 0], [q, r]]), sp.Matrix([h1, h2])
    matrix, label = -lower * lower.T, sp.Matrix(y)
    exponent = sp.sympify((label.T * matrix * label + vector.T * label)[0])
    named = {**_names(family), family.axis: sp.Integer(2)}
    exponent += sp.log(interpret(family.density.base_measure, named, {}, sp.Rational))
    for one in y:
        square, linear, rest = (sp.sympify(sp.expand(exponent).coeff(one, k)) for k in (2, 1, 0))
        value = gaussian.subs({scale: sp.factor(-square), tilt: linear}, simultaneous=True)
        exponent = rest + sp.expand_log(value, force=True)
    functions = {
        "dot": lambda a, b: (a.T * b)[0],
        "solve": lambda m, b: m.inv() * b,
        "logdet": lambda m: sp.log(sp.factor(m.det())),
    }
    first, second = family.natural
    names = {**_names(family), first: vector, second: matrix}
    return exponent, interpret(family.log_partition, names, functions, sp.Rational)


def _label_identity():
    """Prove Var of the mean of N labels from E[(Σ_k s_k²)²] over independent labels."""
    second, fourth = sp.symbols("E_s2 E_s4", positive=True)
    of_the_sum = labels * fourth + labels * (labels - 1) * second**2
    return Identity(
        "labels",
        "Var of the mean of N squared scores = V₁/N",
        of_the_sum / labels**2 - second**2,
        (fourth - second**2) / labels,
        sp.expand,
    )


def _program_identities(family, program):
    found = values(program)
    a, b = (words(INPUTS[name]) for name in ("vector_u", "matrix_u"))
    return (
        Identity(
            "mean",
            "⟨E[t], u⟩ = κ₁₀",
            dot(found["mean_vector"], a) + dot(found["mean_matrix"], b),
            cumulant(family, 1, 0),
            sp.expand,
        ),
        *(
            Identity(
                f"stable form: {name}",
                f"{name} in c and A equals its cumulants",
                found[name],
                expression,
                sp.expand,
            )
            for name, expression in in_cumulants(family).items()
        ),
    )


def _link_identities(family):
    """Prove that a link's outputs are the mean and a factor of the covariance."""
    mean, factor = words(Letter("mean", vector=1)), words(Letter("cholesky"))
    for link in family.links:
        if link.identity:
            continue
        names = dict(zip(link.outputs, (mean, factor), strict=True))
        vector, matrix = (evaluate(formula, names) for formula in link.natural)
        covariance = (-2 * matrix).inverse
        for name, left, right in (
            ("mean", covariance * vector, mean),
            ("covariance", covariance, factor * factor.transposed),
        ):
            yield Identity(
                f"link {link.name}: {name}",
                f"{name} of h = g(o) is that of o",
                left.expression,
                right.expression,
                sp.expand,
            )
