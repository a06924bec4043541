"""One natural parameter per target: cumulants in factors that do not cancel.

With √κ₂ and √(V₁/κ₂) at hand, I = (√κ₂ u)² and V₁ = I (√(V₁/κ₂) u)² neither cancel nor
leave the range of floating-point numbers before the result does.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.functions import Expm1, Logistic, RootLogistic, TanhHalf
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import index, u, v
from fimsym.derivation.target import Target, cumulant_of, target, tidy
from fimsym.families import Family

_scaled = {u: sp.IndexedBase("scaled_u", real=True), v: sp.IndexedBase("scaled_v", real=True)}
_P, _Q = sp.symbols("success failure", positive=True)


def readable(family: Family) -> list[Definition]:
    """Return the lines of each target's quantities as a reader would write them."""
    one = target(family)
    second, third, fourth = (cumulant_of(family, (0,) * order) for order in (2, 3, 4))
    variance, cubic, quartic = (
        sp.IndexedBase(name, real=True)[index] for name in ("variance", "cubic", "quartic")
    )
    values = {
        "information": variance * u[index] ** 2,
        "asymmetry": cubic * u[index] ** 3,
        "variance_of_target": quartic * u[index] ** 4,
        "information_v": variance * v[index] ** 2,
        "mixed": cubic * u[index] ** 2 * v[index],
    }
    return [
        Definition("variance", variance, stable(second, one), "κ₂ of t"),
        Definition("cubic", cubic, stable(third, one), "κ₃ of t"),
        Definition("quartic", quartic, stable(tidy(fourth + 2 * second**2), one), "κ₄ + 2κ₂² of t"),
        *(
            Definition(name, sp.IndexedBase(name, real=True)[index], value, name)
            for name, value in values.items()
        ),
    ]


def program(family: Family) -> list[Definition]:
    """Return the lines of each target's quantities, accurate to the last digits."""
    one = target(family)
    second, third, fourth = (cumulant_of(family, (0,) * order) for order in (2, 3, 4))
    deviation, slope, spread = (_line(name) for name in ("deviation", "slope", "spread"))
    slope_u, spread_u, skewed_u, tail_u = map(_line, ("slope_u", "spread_u", "skewed_u", "tail_u"))
    scaled_u, scaled_v = (_scaled[base][index] for base in (u, v))
    ratio = stable(tidy(third / second), one)
    width = root(tidy((fourth + 2 * second**2) / second), one)
    of_spread = [
        Definition("spread", spread, width, "√(V₁/κ₂) of t alone"),
        Definition("spread_u", spread_u, spread * u[index], "times u"),
        Definition("tail_u", tail_u, scaled_u * spread_u, "standard deviation of s²"),
    ]
    if (ratio / width).is_number:  # s and s² are correlated perfectly
        of_slope = []
        skewed = ratio / width * tail_u
    else:
        bend = slope if ratio.has(sp.Indexed) else ratio
        of_slope = [
            Definition("slope", slope, ratio, "∂ log Var(t)/∂h, so that κ₃ = κ₂ slope"),
            Definition("slope_u", slope_u, bend * u[index], "times u"),
        ]
        skewed = scaled_u * slope_u
    values = {
        "asymmetry": (skewed_u * scaled_u, "κ₃ u³"),
        "variance_of_target": (tail_u**2, "its V₁"),
        "information_v": (scaled_v**2, "its square"),
        "mixed": (skewed_u * scaled_v, "κ₃ u² v"),
    }
    rest = [Definition(name, _line(name), *value) for name, value in values.items()]
    return [
        Definition("deviation", deviation, root(second, one), "standard deviation of t"),
        Definition("scaled_u", scaled_u, deviation * u[index], "standard deviation of s"),
        Definition("information", _line("information"), scaled_u**2, "its square"),
        *of_spread,
        *of_slope,
        Definition("skewed_u", skewed_u, skewed, "third cumulant over scaled u"),
        *rest[:2],
        Definition("scaled_v", scaled_v, deviation * v[index], "standard deviation of w"),
        *rest[2:],
    ]


def _line(name):
    return sp.IndexedBase(name, real=True)[index]


def root(expression: sp.Expr, one: Target) -> sp.Expr:
    """Return the square root of a positive expression, up to sign, with squares pulled out."""
    return one.at(_root(_factors(expression, one)))


def stable(expression: sp.Expr, one: Target) -> sp.Expr:
    """Return an expression in one natural parameter in factors that do not cancel."""
    return one.at(sp.Mul(*(base**power for base, power in _factors(expression, one))))


def _root(factors):
    outside, inside = sp.Integer(1), sp.Integer(1)
    for base, power in factors:
        even = power - power % 2 if isinstance(power, int) else 0
        outside *= base ** sp.Rational(even, 2)
        inside *= base ** (power - even)
    root = outside * sp.sqrt(inside)
    # SymPy keeps √(p q) together; each root by itself underflows later.
    return root.replace(_is_root_of_probabilities, _roots_of_probabilities)


def _is_root_of_probabilities(node):
    parts = sp.Mul.make_args(node.base) if node.is_Pow and node.exp == sp.Rational(1, 2) else ()
    return bool(parts) and all(isinstance(part, Logistic) for part in parts)


def _roots_of_probabilities(node):
    return sp.Mul(*(RootLogistic(part.args[0]) for part in sp.Mul.make_args(node.base)))


def _factors(expression, one):
    """Return the factors (base, power) of an expression."""
    (natural,), (parameter,) = one.naturals, one.parameters
    odds = sp.Symbol("odds", positive=True)
    sign = sp.diff(natural, parameter)
    offset = natural.xreplace({parameter: sp.Integer(0)})
    in_odds = expression.replace(
        lambda node: isinstance(node, sp.exp) and node.args[0].as_coeff_Mul()[1] == parameter,
        lambda node: (odds * sp.exp(-offset)) ** (sign * node.args[0].as_coeff_Mul()[0]),
    )
    if not in_odds.has(odds):
        return _plain_factors(expression)
    factors = _plain_factors(in_odds)
    over = any(base == 1 + odds and power < 0 for base, power in factors)
    if over and not in_odds.has(parameter):
        return _in_probabilities(factors, odds, natural)
    known = {1 - odds: -Expm1(natural), odds - 1: Expm1(natural)}
    return [
        (known.get(base, base.xreplace({odds: sp.exp(natural)})), power) for base, power in factors
    ]


def _plain_factors(expression):
    found = []
    for factor in sp.Mul.make_args(sp.factor(expression)):
        base, power = factor.as_base_exp()
        found.append((base, int(power)) if power.is_Integer else (factor, 1))
    return found


def _in_probabilities(factors, odds, natural):
    """Write a rational function of e^h over powers of 1 + e^h in p = σ(h) and q = σ(−h)."""
    found: list[tuple[sp.Expr, int]] = []
    failures = 0
    for base, power in factors:
        if not base.has(odds):
            found.append((base, power))
            continue
        form = sp.Poly(base, odds)
        failures -= power * form.degree()
        if base not in (odds, 1 + odds):
            found.append((_homogeneous(form, natural), power))
        elif base == odds:
            found.append((_P, power))
    found.append((_Q, failures))
    values = {_P: Logistic(natural), _Q: Logistic(-natural)}
    return [(base.xreplace(values), power) for base, power in found if power]


def _homogeneous(form, natural):
    """Return Σ c_k p^k q^(d−k), in p − q = tanh(h/2) where that avoids a difference."""
    highest, *_, lowest = coefficients = form.all_coeffs()
    degree = form.degree()
    if degree == 1 and highest == -lowest:
        return highest * TanhHalf(natural)
    if degree == 2 and highest == lowest:
        middle = sp.factor(coefficients[1] + 2 * highest)
        return highest * TanhHalf(natural) ** 2 + middle * _P * _Q
    return sp.Add(*(c * _P ** (degree - k) * _Q**k for k, c in enumerate(coefficients)))
