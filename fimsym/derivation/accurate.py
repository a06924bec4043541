"""Rewrite stable forms so that they are accurate relative to themselves, in few passes over u.

For laws with a log-sum-exp partition three things would lose digits:

* u − ū, where one output has nearly all the probability: u is taken relative to that output
  first, so that the mean is as small as the other probabilities.
* ũ² − I, where two outputs share the probability evenly: there Î₁ hardly varies. The two
  most probable outputs 1 and 2 are therefore set apart. Off them ũ² − I is computed as it
  stands. With x = u − u_1, the sums Q = Σ p and x̄ = Σ p x over the other outputs and

      s = x̄ − (Q + p_1 − p_2)/2 · x_2,

  half the distance of 2ū from u_1 + u_2, in which p_1 − p_2 is −p_1 expm1(h_2 − h_1),

      I − ũ_1² = Σ p ũ² − Q ũ_1² − 2 p_2 s x_2        over the other outputs,
      I − ũ_2² = I − ũ_1² + 2 s x_2.

* p x², where p underflows and x is large: such probabilities are kept as multiples of the
  smallest normal number, and √p_2 comes from log p_2.
"""

from __future__ import annotations

import dataclasses
import functools

import sympy as sp

from fimsym.derivation import moments, stable, targets
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import (
    AxisFunction,
    h,
    index,
    probability,
    second,
    top,
    total,
    u,
    v,
)
from fimsym.families import Family


class Rest(AxisFunction):
    """p_i, with zero for the two most probable outputs."""

    def in_probabilities(self) -> sp.Expr:
        """Return the same in Kronecker deltas, for proofs."""
        (value,) = self.args
        place = value.indices[0]
        return value * (1 - sp.KroneckerDelta(place, top) - sp.KroneckerDelta(place, second))


class Weights(sp.Function):
    """n p_i of n draws, zero for the two, as weights of a sum that count where they underflow."""

    nargs = 3

    def in_probabilities(self) -> sp.Expr:
        """Return the product, for proofs."""
        _, rest, draws = self.args
        return draws * rest


class LogProbability(AxisFunction):
    """log p_i, where p_i may underflow; of h."""

    def in_probabilities(self) -> sp.Expr:
        """Return the logarithm, for proofs."""
        return sp.log(probability[self.args[0].indices[0]])


class Lead(sp.Function):
    """p_1 − p_2 of two outputs, accurate relative to itself; of h_1, h_2 and p_1."""

    nargs = 3

    def in_probabilities(self) -> sp.Expr:
        """Return the difference, for proofs."""
        return self.args[2] - probability[self.args[1].indices[0]]


def _indexed(name):
    return sp.IndexedBase(name, real=True)[index]


def _of(name):
    """Return the symbols of a quantity of u and of the same of v."""
    return {base: sp.Symbol(f"{name}_{base}", real=True) for base in (u, v)}


_shifted = {base: _indexed(f"shifted_{base}") for base in (u, v)}
_likeliest, _second, _gap, _reach = map(_of, ("likeliest", "second", "gap", "reach"))
_lean, _excess = _of("lean"), stable.excess[index]
_rest, _weights, _square = map(_indexed, ("rest", "weights", "square"))
_log = _indexed("log_probability")
_likeliest_h, _second_h, _largest = sp.symbols("likeliest_h second_h largest", real=True)
_leader, _runner_up, _root_second = sp.symbols("leader runner_up root_second", real=True)
_mass, _tilt = sp.symbols("mass tilt", real=True)
_of_rest, _square_of_top = sp.symbols("square_of_rest square_of_top", real=True)
_offset, _cross, _level, _below = sp.symbols("offset cross level below", real=True)
_leading, _trailing = sp.symbols("leading trailing", real=True)


@functools.cache
def program(family: Family) -> tuple[Definition, ...]:
    """Return the definitions that code is generated from.

    Raises:
        DerivationError: a rewriting changed the value of a quantity.
    """
    readable = stable.definitions(family)
    raw = stable.in_cumulants(family)
    if not family.vector and family.components > 1:
        return readable
    if not family.vector:
        lines = stable.described(targets.program(family))
        stable.check_program(lines, raw, stable.reduction(family))
        return lines
    if not stable.uses_probabilities(raw.values()):
        return readable
    rewritten = (*_probabilities(family, readable), *_moments(family, readable))
    stable.check_program(rewritten, raw)
    return rewritten


def _probabilities(family, readable):
    """Return the lines in h alone.

    With n draws the weights are n p, so that no sum underflows before it is multiplied by n.
    """
    draws = moments.draws(family)
    root = sp.sqrt(draws) * sp.exp(_log.base[second] / 2)
    lead = Lead(_likeliest_h, _second_h, _largest)
    probabilities = next(line for line in readable if line.name == "probability")
    return [
        probabilities,
        *_lines(
            (_rest, Rest(probability[index]), "p, zero for the two most probable"),
            (_log, LogProbability(h[index]), "log p"),
            (_weights, Weights(_log, _rest, draws), "n p, likewise"),
            (_likeliest_h, h[top], "h₁"),
            (_second_h, h[second], "h₂"),
            (_largest, probability[top], "p₁"),
            (_leader, draws * _largest, "n p₁"),
            (_runner_up, probability[second], "p₂"),
            (_root_second, root, "√(n p₂)"),
            (_mass, total(family, _rest), "Q"),
            (_tilt, (total(family, _rest) + lead) / 2, "½ − p₂"),
        ),
    ]


def _moments(family, readable):
    """Return the lines in u and v."""
    draws = moments.draws(family)
    of_rest = total(family, _weights * _square)
    known = _sums(family)
    quantities = {
        line.name: dataclasses.replace(line, expression=line.expression.xreplace(known))
        for line in readable
        if line.name in stable.QUANTITIES
    }
    return [
        *_centring(family, u),
        Definition("square", _square, stable.centred[u][index] ** 2, "ũ²"),
        *_lines(
            (_square_of_top, stable.mean_of[u] ** 2, "ũ₁²"),
            (_of_rest, of_rest, "n Σ p ũ² off the two most probable"),
        ),
        quantities["fisher"],
        Definition("excess", _excess, _square - stable.fisher / draws, "ũ² − I of one draw"),
        *_two_most_probable(draws),
        quantities["third"],
        quantities["variance_score_squared"],
        *_centring(family, v),
        quantities["variance_negative_hessian"],
        quantities["covariance"],
    ]


def _centring(family, base):
    """Return the lines that centre u or v, by way of the most probable output."""
    likeliest, other, mean = _likeliest[base], _second[base], stable.mean_of[base]
    lean = total(family, _weights * _shifted[base]) / moments.draws(family)
    return _lines(
        (likeliest, base[top], f"{base}₁"),
        (other, base[second], f"{base}₂"),
        (_shifted[base], base[index] - likeliest, "x"),
        (_gap[base], other - likeliest, "x₂"),
        (_lean[base], lean, "x̄"),
        (mean, _lean[base] + _runner_up * _gap[base], f"mean of {base}, less {base}₁"),
        (stable.centred[base][index], _shifted[base] - mean, f"{base} less its mean"),
        (_reach[base], _root_second * (_gap[base] - mean), "√(n p₂) times that of the second"),
    )


def _two_most_probable(draws):
    """Return the lines of I − ũ² at the two most probable outputs."""
    level = _of_rest / draws - _mass * _square_of_top - 2 * _runner_up * _cross
    return _lines(
        (_offset, _lean[u] - _tilt * _gap[u], "s"),
        (_cross, _gap[u] * _offset, "s x₂"),
        (_level, level, "I − ũ₁²"),
        (_below, _level + 2 * _cross, "I − ũ₂²"),
        (_leading, _leader * _level, "weighted"),
        (_trailing, _root_second * _below, "weighted"),
    )


def _sums(family):
    """Return the sums of the readable form, with the two most probable outputs set apart.

    Σ p ũ³ is taken as Σ p (ũ² − I) ũ, since Σ p ũ = 0.
    """
    p, draws = probability[index], moments.draws(family)
    centred = {base: stable.centred[base][index] for base in (u, v)}
    variance = total(family, _weights * _excess**2) + _leading * _level + _trailing**2
    of_score = _of_rest + _leader * _square_of_top + _reach[u] ** 2
    sums = {
        p * centred[u] ** 2: of_score,
        p * centred[u] ** 3: _product(family, u),
        p * _excess**2: variance,
        p * centred[v] ** 2: _square_sum(family, v),
        p * _excess * centred[v]: _product(family, v),
    }
    known = {total(family, summand): value / draws for summand, value in sums.items()}
    return {**known, stable.second_moment: stable.fisher / draws}


def _square_sum(family, base):
    of_rest = total(family, _weights * stable.centred[base][index] ** 2)
    return of_rest + _leader * stable.mean_of[base] ** 2 + _reach[base] ** 2


def _product(family, base):
    """Return n Σ p (ũ² − I) times the centred u or v."""
    of_rest = total(family, _weights * _excess * stable.centred[base][index])
    return of_rest + _leading * stable.mean_of[base] - _trailing * _reach[base]


def _lines(*lines):
    """Return definitions named after their symbols."""
    return [
        Definition(str(symbol.base.label if symbol.is_Indexed else symbol), symbol, value, meaning)
        for symbol, value, meaning in lines
    ]
