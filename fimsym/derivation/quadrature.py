"""Route (b) where the density's moments have no closed form: high-precision quadrature.

E[s^a w^b] is integrated from π(y) exp(⟨t(y), h⟩) at a few points and compared with the
cumulants of F there. Such a comparison is recorded as quadrature, not as a proof.
"""

from __future__ import annotations

import functools
import math

import sympy as sp

from fimsym.derivation import stable
from fimsym.derivation.functions import exact
from fimsym.derivation.identity import Proof
from fimsym.derivation.integrals import Weight, from_line
from fimsym.derivation.multiprecision import context
from fimsym.derivation.normal import unroll
from fimsym.derivation.symbols import axis, constants, directions, naturals, u, v
from fimsym.derivation.targets import in_sums
from fimsym.errors import DerivationError
from fimsym.families import Family

DIGITS = 12
_POINTS = 2
_NODES = 1200
_REACH = 6
_U = (sp.Rational(4, 5), sp.Rational(-11, 10))
_V = (sp.Rational(-1, 2), sp.Rational(7, 10))
_OFFSETS = ((sp.Rational(5, 3), sp.Rational(7, 2)), (sp.Rational(9, 4), sp.Rational(4, 5)))
_SUPPORTS = ("real", "positive", "unit", "angle", "simplex")


def applies(family: Family) -> bool:
    """Tell whether the density is one over an interval, so that it can be integrated."""
    return family.density is not None and family.density.support in _SUPPORTS


def proofs(family: Family) -> tuple[Proof, ...]:
    """Return the comparison of every quantity with the density's own moments.

    Raises:
        DerivationError: a moment and a cumulant differ; the message shows both.
    """
    found = []
    for name, cumulants in stable.in_cumulants(family).items():
        pairs = []
        for n in range(_POINTS):
            moment = _moments(family, n)[name]
            value = _at_point(family, cumulants, n)
            pairs.append((moment, value))
            if abs(moment - value) > sp.Float(10) ** -DIGITS * (abs(value) + sp.Float(10) ** -5):
                raise DerivationError(
                    f"{name} of {family.name} by quadrature of the density is {moment}, by "
                    f"cumulants of F it is {value}. One of the two, F or the density, is wrong."
                )
        statement = f"{name} by quadrature of the density, {DIGITS} digits at {_POINTS} points"
        left, right = (sp.Tuple(*side) for side in zip(*pairs, strict=True))
        found.append(
            Proof(f"quadrature: {name}", statement, left, right, sp.Integer(0), "quadrature")
        )
    return tuple(found)


def _values(family, n):
    """Return the natural parameters of the n-th point."""
    size = 2 if family.vector else family.components
    found = []
    for place in range(size):
        limits = family.limits[0 if family.vector else place]
        offset = _OFFSETS[n][place % 2]
        if math.isfinite(limits.low):
            found.append(sp.Rational(limits.low) + offset)
        elif math.isfinite(limits.high):
            found.append(sp.Rational(limits.high) - offset)
        else:
            found.append(offset * (-1) ** place)
    return found


def _numbers(family, n):
    fixed = {
        symbol: sp.Rational(constant.default)
        for constant, symbol in zip(family.constants, constants(family).values(), strict=True)
    }
    vectors = (
        (naturals(family), _values(family, n)),
        (directions(family, u), _U),
        (directions(family, v), _V),
    )
    for bases, values in vectors:
        for place, value in enumerate(values):
            node = bases[0][place + 1] if family.vector else None
            if node is None and place < len(bases):
                node = bases[place][1]
            if node is not None:
                fixed[node] = value
    return fixed


def _at_point(family, expression, n):
    explicit = unroll(in_sums(expression, family), axis(family), 2 if family.vector else 1)
    return sp.N(exact(explicit).xreplace(_numbers(family, n)), 30)


@functools.cache
def _moments(family, n):
    """Return every quantity from moments of the density at the n-th point."""
    values = [context.mpf(x.p) / x.q for x in _values(family, n)]
    fixed = {c.name: context.mpf(c.default) for c in family.constants}
    with context.workdps(40):
        weight = Weight(family, tuple(values), fixed)
        nodes = list(_nodes(weight, family.density.support))
        whole = context.fsum(p for p, _ in nodes)
        statistics = [[t[k] for _, t in nodes] for k in range(len(values))]
        means = [
            context.fsum(p * t for (p, _), t in zip(nodes, values_of, strict=True)) / whole
            for values_of in statistics
        ]
        scores = []
        for directions_of in (_U, _V):
            part = [context.mpf(x.p) / x.q for x in directions_of[: len(values)]]
            scores.append(
                [
                    context.fsum(c * (t - m) for c, t, m in zip(part, ts, means, strict=True))
                    for _, ts in nodes
                ]
            )

        def moment(a, b):
            terms = (p * s**a * w**b for (p, _), s, w in zip(nodes, *scores, strict=True))
            return context.fsum(terms) / whole

        fisher = moment(2, 0)
        found = {
            "fisher": fisher,
            "third": moment(3, 0),
            "variance_score_squared": moment(4, 0) - fisher**2,
            "variance_negative_hessian": moment(0, 2),
            "covariance": -moment(2, 1),
        }
        return {name: sp.Float(context.nstr(value, 35), 30) for name, value in found.items()}


def _nodes(weight, support):
    """Yield (weight, statistics) at the nodes of the trapezoidal rule."""
    if support == "angle":
        for n in range(256):
            y = -context.pi + 2 * context.pi * n / 256
            yield context.exp(weight(y)), weight.statistics(y, {**weight.names, "y": y})
        return
    for n in range(-_NODES, _NODES + 1):
        x = context.sinh(context.mpf(n) * _REACH / _NODES)
        log = weight.on_line(support, x) + context.log(context.cosh(context.asinh(x)))
        if log > -250:
            y, _ = from_line(support, x)
            yield context.exp(log), weight.statistics(y, {**weight.names, "y": y})
