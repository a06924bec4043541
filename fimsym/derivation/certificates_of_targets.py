"""Certificates of Theorem 4.1 for independent targets, from the lines that state it."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from fimsym.derivation import bounds, concentration, radial, target
from fimsym.derivation.functions import exact
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import inline
from fimsym.derivation.symbols import (
    AxisMax,
    AxisMin,
    LargestPair,
    Norm,
    RoundedUp,
    SmallestPair,
    index,
    naturals,
    total,
)
from fimsym.errors import DerivationError
from fimsym.families import Family

_n, _form = sp.IndexedBase("n", real=True), sp.IndexedBase("q", real=True)
_variance = sp.IndexedBase("lambda", real=True)
_PAIRS = {"min": (AxisMin, SmallestPair, sp.Min), "max": (AxisMax, LargestPair, sp.Max)}


def certificates(family: Family) -> tuple[Identity, ...]:
    """Return the identities that prove the six inequalities of Theorem 4.1."""
    if family.components > 2:
        return ()
    lines = bounds.definitions(family)
    values = {line.name: inline(line.expression, lines) for line in lines}
    if not any(value.atoms(sp.Indexed) for value in values.values()):
        return tuple(_constants(family, values))
    return (*_splitting(family), *_every(family, values))


def _constants(family, values):
    """Prove that both sides are the constant curvature κ₂, and 2κ₂²."""
    curvature = target.cumulant_of(family, (0, 0))
    stated = {"fisher": curvature, "quartic": 2 * curvature**2}
    for name, value in values.items():
        yield _claim(
            f"{name}: equality", "the form is this times the norm", value, stated[name[:-4]]
        )


def _splitting(family):
    """Split V₁ − q‖u‖⁴ into terms that q bounds from one side each."""
    n, form, variance = _n[index], _form[index], _variance[index]
    constant = sp.Symbol("constant", real=True)
    across = total(family, variance * n) ** 2 - total(family, (variance * n) ** 2)
    norm = total(family, n)
    rest = norm**2 - total(family, n**2)
    gap = total(family, (form - constant) * n**2)
    yield Identity(
        "theorem 4.1: several targets",
        "V₁ − c(Σn)² = Σ(q_j − c)n_j² + Σ_{j≠k}(2λ_jλ_k − c)n_jn_k, bounded from one side each",
        total(family, form * n**2) + 2 * across - constant * norm**2,
        gap + 2 * across - constant * rest,
    )


def _every(family, values) -> Iterator[Identity]:
    """Read each target's constants off the lines and prove them."""
    single = {}
    for side, (extreme, pair, choose) in _PAIRS.items():
        single[f"fisher_{side}"] = _argument(values[f"fisher_{side}"], extreme)
        both = values[f"quartic_{side}"]
        if side == "min" and both == 0:
            yield _claim("quartic_min", "a variance is not negative", both, sp.Integer(0))
            continue
        parts = {type(part) for part in both.args} if isinstance(both, choose) else set()
        of_pair = next(iter(both.atoms(pair)), None)
        of_one = next((part for part in both.args if isinstance(part, extreme)), None)
        if extreme not in parts or of_pair is None or of_one is None or len(both.args) != 2:
            raise DerivationError(
                f"expected quartic_{side} of single targets and of pairs; got {both}."
            )
        single[f"quartic_{side}"] = of_one.args[0]
        yield _claim(
            f"pairs, {side}",
            "2 λ_j λ_k over pairs of targets",
            sp.Add(*(part for part in both.args if part is not of_one)).xreplace(
                {of_pair: sp.Symbol("pair")}
            ),
            2 * sp.Symbol("pair"),
        )
        yield _claim(
            f"pairs of, {side}", "λ is the target's", of_pair.args[0], single[f"fisher_{side}"]
        )
    single = _in_symbols(family, single)
    if family.components == 1:
        yield from _one_parameter(family, single)
    elif radial.applies(family):
        yield from _radial(single)
    elif concentration.applies(family):
        yield from _concentration(family, single)
    else:
        yield from _two_parameters(family, single)


def _one_parameter(family, single):
    second, fourth = (target.cumulant_of(family, (0,) * order) for order in (2, 4))
    stated = {"fisher": second, "quartic": fourth + 2 * second**2}
    for name, value in single.items():
        yield _claim(name, "it is κ₂, or κ₄ + 2κ₂², of the target", value, stated[name[:-4]])


def _radial(single):
    """1 = (a² + b²)² = a⁴ + 2a²b² + b⁴ for unit vectors: the form is a weighted mean."""
    r = sp.Symbol("r", positive=True)
    kappa = {key: radial.cumulant_at(*key) for key in ((2, 0), (0, 2), (4, 0), (2, 2), (0, 4))}
    along, across = kappa[2, 0], kappa[0, 2]
    quartic = (
        kappa[4, 0] + 2 * along**2,
        (6 * kappa[2, 2] + 4 * along * across) / 2,
        kappa[0, 4] + 2 * across**2,
    )
    for name, value in single.items():
        choose = sp.Min if name.endswith("min") else sp.Max
        stated = (along, across) if name.startswith("fisher") else quartic
        norms = value.atoms(Norm)
        value = value.xreplace(dict.fromkeys(norms, r))
        yield _claim(
            name, "the least or largest of the weights", value, choose(*stated), structural
        )


def _concentration(family, single):
    """Use that κ_n is Σ ψ(h_k)u_kⁿ − ψ(Σh)(Σu)ⁿ."""
    one = target.target(family)
    whole = sp.Add(*one.parameters)
    for order, power in ((1, 2), (3, 4)):
        entries = zip(one.parameters, one.first, strict=True)
        diagonal = sp.Add(*(sp.polygamma(order, a) * entry**power for a, entry in entries))
        rest = sp.polygamma(order, whole) * sp.Add(*one.first) ** power
        form = target.directional(family, power, 0)
        yield _claim(
            f"κ of order {power}",
            "diagonal minus a non-negative term",
            exact(form),
            diagonal - rest,
        )
    variances = [sp.polygamma(1, a) for a in one.parameters]
    share = sp.polygamma(1, whole) * sp.Add(*(1 / value for value in variances))
    fourth = sp.Max(*(sp.polygamma(3, a) for a in one.parameters))
    stated = {
        "fisher_min": sp.Max(0, RoundedUp(1 - share, -1 - share)) * sp.Min(*variances),
        "fisher_max": sp.Max(*variances),
        "quartic_max": fourth + 2 * sp.Max(*variances) ** 2,
    }
    for name, value in single.items():
        yield _claim(
            name, "the bound of a diagonal minus one term", value, stated[name], structural
        )


def _two_parameters(family, single):
    """(λ − a)(λ − b) = c² at both ends; and ⟨M, e⁴⟩ ≤ ‖M‖ by Lagrange's identity."""
    a, b, c = (target.cumulant_of(family, word) for word in ((0, 0), (1, 1), (0, 1)))
    high = single["fisher_max"]
    if not isinstance(high, RoundedUp):
        raise DerivationError(f"expected a largest eigenvalue with an allowance; got {high}.")
    plain, size = high.args
    yield _claim(
        "fisher_max",
        "the larger root of (λ − a)(λ − b) = c²",
        plain,
        (a + b) / 2 + sp.sqrt((a - b) ** 2 / 4 + c**2),
        structural,
    )
    yield _claim("allowance for rounding", "a multiple of the trace", size, a + b)
    yield _claim(
        "fisher_min",
        "(ab − c²)/λ_max, below the smaller root",
        single["fisher_min"] * high,
        a * b - c**2,
    )
    entries = bounds.tensor(family)
    norm = sp.Add(*(sp.binomial(4, k) * entry**2 for k, entry in enumerate(entries)))
    yield _claim("quartic_max", "the norm of the tensor M", single["quartic_max"] ** 2, norm)
    one = target.target(family)
    first, second = one.first
    form = sp.Add(
        *(
            sp.binomial(4, k) * value * first ** (4 - k) * second**k
            for k, value in enumerate(bounds.tensor(family))
        )
    )
    variance = target.directional(family, 4, 0) + 2 * target.directional(family, 2, 0) ** 2
    yield _claim("tensor M", "M(u, u, u, u) = V₁", form, variance)
    yield from _lagrange()


def _lagrange():
    m = sp.symbols("m0:5", real=True)
    x, y = sp.symbols("x y", real=True)
    weights = [sp.binomial(4, k) for k in range(5)]
    powers = [x ** (4 - k) * y**k for k in range(5)]
    inner = sp.Add(*(w * a * b for w, a, b in zip(weights, m, powers, strict=True)))
    norm = sp.Add(*(w * a**2 for w, a in zip(weights, m, strict=True)))
    gaps = sp.Add(
        *(
            weights[k] * weights[n] * (m[k] * powers[n] - m[n] * powers[k]) ** 2
            for k in range(5)
            for n in range(k)
        )
    )
    yield _claim(
        "norm",
        "‖M‖²(x² + y²)⁴ − M(x, y)² = Σ (m_k x_l − m_l x_k)² ≥ 0",
        norm * (x**2 + y**2) ** 4 - inner**2,
        gaps,
    )


def structural(expression: sp.Expr) -> sp.Expr:
    """Reduce a difference of two expressions that SymPy orders alike."""
    return sp.expand(expression)


def _claim(name, statement, left, right, reduce=target.canonical):
    return Identity(f"theorem 4.1: {name}", statement, left, right, reduce)


def _in_symbols(family, values):
    """Write the constants of the i-th target in plain symbols."""
    one = target.target(family)
    symbols = {
        base[index]: value for base, value in zip(naturals(family), one.naturals, strict=True)
    }
    return {name: value.xreplace(symbols) for name, value in values.items()}


def _argument(value, extreme):
    if not isinstance(value, extreme):
        raise DerivationError(f"expected {extreme.__name__} over targets; got {value}.")
    return value.args[0]
