"""A square root L of I, and the estimators in coordinates that it whitens.

With e = L⁺(t − η), whose entries do not correlate and have variance one, s = ⟨a, e⟩ and
w = ⟨b, e⟩ for a = Lᵀu and b = Lᵀv. The part of s² that is linear in e has the coefficients
k = E[s² e], the rest of it the variance R, so that

    I = ‖a‖²,    κ₃₀ = ⟨k, a⟩,    V₁ = R + ‖k‖²,    V₂ = ‖b‖²,    Cov(Î₁, Î₂) = −⟨k, b⟩,

and every estimator's variance is a sum of squares in a, b, k and R.
"""

from __future__ import annotations

import functools

import sympy as sp

from fimsym.derivation import (
    accurate,
    concentration,
    cumulants,
    moments,
    stable,
    whitened_concentrations,
    whitened_targets,
)
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import (
    Others,
    directions,
    h,
    index,
    probability,
    probe,
    total,
    u,
    v,
)
from fimsym.derivation.targets import in_sums
from fimsym.families import Family

MEANINGS = {
    "whitened_u": "a = Lᵀu",
    "coskewness": "k = E[s² e]",
    "remainder": "R, the variance of what of s² is not linear in t",
    "whitened_v": "b = Lᵀv",
    "root_probe": "L g",
}
"""Names of the parts; all but R are numbered where a target has several parameters."""


def available(family: Family) -> bool:
    """Tell whether L has a formula; that of other laws is taken from numbers."""
    if family.vector:
        return cumulants.draws(family) is not None or concentration.applies(family)
    return family.components <= 2


def concentrated(family: Family) -> bool:
    """Tell whether I is a diagonal minus a rank-one term of concentrations."""
    return (family.vector or family.components == 2) and concentration.applies(family)


def names(family: Family, part: str) -> tuple[str, ...]:
    """Return the names of a part, one for each natural parameter of a target."""
    if family.components == 1 or part == "remainder":
        return (part,)
    return tuple(f"{part}{n}" for n in range(1, family.components + 1))


@functools.cache
def program(family: Family, readable: bool = False) -> tuple[Definition, ...]:
    """Return the lines of a, k, R, b and L g, and of all that they use.

    Args:
        family: Whose L has a formula.
        readable: As people prefer them, not as their last digits need it.
    """
    if not family.vector:
        lines = whitened_targets.program(family)
    elif concentration.applies(family):
        lines = whitened_concentrations.program(family)
    else:
        lines = _of_draws(family, readable)
    return tuple(lines)


def _of_draws(family, readable):
    """Whiten by √p: s² is linear in one-hot labels, and so is all but 2n(n−1)I₁² of n of them.

    L g = √p g − p ⟨√p, g⟩ times √n, in which √p_i g_i (1 − p_i) is not computed by a difference.
    """
    root, complement = (
        sp.IndexedBase(name, real=True)[index] for name in ("root_probability", "complement")
    )
    draws, p = moments.draws(family), probability[index]
    scale = sp.sqrt(draws)
    fisher = sp.Symbol("fisher", real=True)
    values = {
        "whitened_u": root * stable.centred[u][index],
        "coskewness": root * stable.excess[index],
        "remainder": sp.factor(2 * draws * (draws - 1)) * (fisher / draws) ** 2,
        "whitened_v": root * stable.centred[v][index],
    }
    parts = [_line(name, value) for name, value in values.items()]
    if readable:
        product = root * probe[index]
        spread = Definition("root_probability", root, scale * sp.sqrt(p), "√(n p)")
        last = _line("root_probe", product - p * total(family, product))
        return [*stable.definitions(family), spread, *parts, last]
    weighted = sp.IndexedBase("weighted_probe", real=True)[index]
    half = accurate.LogProbability(h[index]) / 2
    return [
        *accurate.program(family),
        Definition("root_probability", root, scale * sp.exp(half), "√(n p)"),
        *parts,
        Definition("complement", complement, Others(p), "1 − p without cancellation"),
        Definition("weighted_probe", weighted, root * probe[index], "√(n p) g"),
        _line("root_probe", complement * weighted - p * Others(weighted)),
    ]


def _line(name, value):
    """Return the line of a part of a family with one parameter."""
    scalar = name == "remainder"
    symbol = sp.Symbol(name, real=True) if scalar else sp.IndexedBase(name, real=True)[index]
    return Definition(name, symbol, value, MEANINGS[name])


def identities(family: Family) -> tuple[Identity, ...]:
    """Return the identities that make L a square root of I, and a, b, k, R what they are."""
    if concentrated(family):
        return tuple(whitened_concentrations.identities(family))
    found = list(_claims(family, "whitened form", program(family)))
    if program(family, True) != program(family):
        found += _claims(family, "readable whitened form", program(family, True))
    return tuple(found)


def values(family: Family, part: str) -> list[sp.Expr]:
    """Return a part in h, u, v and probes, one expression for each parameter of a target."""
    return _values(family, program(family, True), part)


def _values(family, lines, part):
    return [in_sums(stable.inlined(lines, one), family) for one in names(family, part)]


def _claims(family, kind, lines):
    raw, reduce = stable.in_cumulants(family), stable.reduction(family)
    part = {name: _values(family, lines, name) for name in MEANINGS}

    def inner(one, other):
        pairs = zip(part[one], part[other], strict=True)
        return sp.Add(*(total(family, x * y) for x, y in pairs))

    probes = [base[index] for base in directions(family, probe)]
    against = [base[index] for base in directions(family, u)]
    of_root = sum(total(family, x * y) for x, y in zip(part["root_probe"], against, strict=True))
    of_whitened = sum(total(family, x * y) for x, y in zip(part["whitened_u"], probes, strict=True))
    claims = {
        "fisher": ("‖Lᵀu‖² = I", inner("whitened_u", "whitened_u")),
        "third": ("⟨k, a⟩ = κ₃₀", inner("coskewness", "whitened_u")),
        "variance_score_squared": (
            "R + ‖k‖² = V₁",
            part["remainder"][0] + inner("coskewness", "coskewness"),
        ),
        "variance_negative_hessian": ("‖Lᵀv‖² = V₂", inner("whitened_v", "whitened_v")),
        "covariance": ("−⟨k, b⟩ = Cov(Î₁, Î₂)", -inner("coskewness", "whitened_v")),
    }
    for name, (statement, value) in claims.items():
        yield Identity(f"{kind}: {name}", statement, value, raw[name], reduce)
    yield Identity(f"{kind}: root", "⟨u, L g⟩ = ⟨Lᵀu, g⟩", of_root, of_whitened, reduce)
