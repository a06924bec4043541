"""Rewrite stable forms so that they are accurate relative to themselves.

Two differences still cancel for laws with a log-sum-exp partition, and a product loses
range:

* u − ū, where one output has nearly all the probability: taking u relative to that output
  first leaves a mean that is as small as the other probabilities.
* ũ² − I, where two outputs share the probability evenly: there Î₁ hardly varies. With
  the two most probable outputs 1 and 2, g_i = (u_i − u_1)(u_i − u_2), and s the mean of
  u relative to the midpoint of u_1 and u_2,

      ũ_i² − I = g_i − 2 s (u_i − u_1) − (Σ p g − 2 s (ū − u_1)),

  in which g vanishes at both. In s their probabilities enter as b_1 = p_1 − p_2, which is
  computed as −p_1 expm1(h_2 − h_1), and b_2 = 0. With b_i = p_i elsewhere, one sum gives

      ū − u_1 = Σ b_i (u_i − u_1) + p_2 (u_2 − u_1),
      2 s = 2 Σ b_i (u_i − u_1) − (Σ b_i) (u_2 − u_1).
* p x², where p underflows and x is large: it is computed as (√p x)², with √p from log p.
"""

from __future__ import annotations

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

_shifted = {u: sp.IndexedBase("shifted_u", real=True), v: sp.IndexedBase("shifted_v", real=True)}
_opposite = sp.IndexedBase("opposite_u", real=True)
_product = sp.IndexedBase("product", real=True)
_mean_product, _offset, _level = sp.symbols("mean_product offset level", real=True)
_balance = sp.IndexedBase("balance", real=True)
_tilt, _gap, _lean = sp.symbols("tilt gap_u lean_u", real=True)
_runner_up, _second = sp.symbols("runner_up second_u", real=True)


_weighted = {
    base: sp.IndexedBase(f"weighted_{name}", real=True)
    for base, name in ((u, "u"), (v, "v"), (stable.excess, "excess"))
}
_root = sp.IndexedBase("root", real=True)


class Root(AxisFunction):
    """√p_i, from log p_i."""

    def in_probabilities(self) -> sp.Expr:
        """Return the same in p, for proofs."""
        return sp.sqrt(probability[self.args[0].indices[0]])


class Balance(AxisFunction):
    """p_i with p_1 − p_2 at the most probable output and zero at the second."""

    def in_probabilities(self) -> sp.Expr:
        """Return the same in p and Kronecker deltas, for proofs."""
        (natural,) = self.args
        place = natural.indices[0]
        either = sp.KroneckerDelta(place, top) + sp.KroneckerDelta(place, second)
        return probability[place] - probability[second] * either


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
    rewritten: list[Definition] = []
    for line in readable:
        rewritten += _REWRITE.get(line.name, _in_weighted)(family, line)
    stable.check_program(tuple(rewritten), raw)
    return tuple(rewritten)


def _shift(base):
    likeliest = sp.Symbol(f"likeliest_{base}", real=True)
    return [
        Definition(likeliest.name, likeliest, base[top], f"{base} of the most probable output"),
        Definition(
            f"shifted_{base}", _shifted[base][index], base[index] - likeliest, "relative to that"
        ),
    ]


def _mean_u(family, line):
    balanced = Balance(h[index])
    lean = total(family, _balance[index] * _shifted[u][index])
    return [
        Definition("balance", _balance[index], balanced, "p with p_1 − p_2 and 0 for p_1, p_2"),
        Definition("runner_up", _runner_up, probability[second], "the second probability"),
        *_shift(u),
        Definition("second_u", _second, u[second], "u of the second"),
        Definition("gap_u", _gap, _second - sp.Symbol("likeliest_u", real=True), "their gap"),
        Definition("lean_u", _lean, lean, "mean of u as shifted, without the second"),
        Definition(line.name, line.symbol, _lean + _runner_up * _gap, line.meaning),
    ]


def _mean_v(family, line):
    mean = total(family, probability[index] * _shifted[v][index])
    return [*_shift(v), Definition(line.name, line.symbol, mean, line.meaning)]


def _centre(base):
    def lines(family, line):
        expression = _shifted[base][index] - stable.mean_of[base]
        return [
            Definition(line.name, line.symbol, expression, line.meaning),
            _weigh(base, line.symbol),
        ]

    return lines


def _probability(family, line):
    root = sp.sqrt(moments.draws(family)) * Root(h[index])
    return [line, Definition("root", _root[index], root, "square root of n p, for n draws")]


def _excess(family, line):
    shifted, opposite, product = _shifted[u][index], _opposite[index], _product[index]
    mean_product = total(family, probability[index] * product)
    tilt = total(family, _balance[index])
    level = _mean_product - _offset * stable.mean_of[u]
    return [
        Definition("opposite_u", opposite, u[index] - _second, "u relative to the second"),
        Definition("product", product, shifted * opposite, "zero at the two most probable"),
        Definition("mean_product", _mean_product, mean_product, "its mean"),
        Definition("tilt", _tilt, tilt, "how far the two are from sharing the probability evenly"),
        Definition("offset", _offset, 2 * _lean - _tilt * _gap, "2 s"),
        Definition("level", _level, level, "minus the excess at the most probable output"),
        Definition(line.name, line.symbol, product - _offset * shifted - _level, line.meaning),
        _weigh(stable.excess, line.symbol),
    ]


def _weigh(base, symbol):
    """Return the line √p x of an indexed quantity x."""
    weighted = _weighted[base]
    return Definition(str(weighted.label), weighted[index], _root[index] * symbol, "times the root")


def _in_weighted(family, line):
    """Write Σ p x y as Σ (√p x)(√p y), and Σ p ũ³ as Σ p (ũ² − I) ũ, since Σ p ũ = 0.

    With n draws the roots are √(n p), so that no sum underflows before it is multiplied by n.
    """
    p, excess = probability[index], stable.excess[index]
    centred_u, centred_v = stable.centred[u][index], stable.centred[v][index]
    of_u, of_v, of_excess = (_weighted[base][index] for base in (u, v, stable.excess))
    sums = {
        p * centred_u**2: of_u**2,
        p * centred_v**2: of_v**2,
        p * excess**2: of_excess**2,
        p * excess * centred_v: of_excess * of_v,
        p * centred_u**3: of_excess * of_u,
    }
    draws = moments.draws(family)
    replaced = line.expression.xreplace(
        {total(family, old): total(family, new) / draws for old, new in sums.items()}
    )
    return [Definition(line.name, line.symbol, replaced, line.meaning)]


_REWRITE = {
    "probability": _probability,
    "mean_u": _mean_u,
    "centred_u": _centre(u),
    "excess": _excess,
    "mean_v": _mean_v,
    "centred_v": _centre(v),
}
