"""The variance of every estimator of I from one label or one probe.

An estimator is a polynomial T(s, w) of a label, or the square of a random combination of
outputs. Its mean and variance follow from the joint cumulants of s and w, or of the probe.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import normal
from fimsym.derivation.symbols import index

QUANTITIES = {
    "score_squared": "Î₁ = s²",
    "negative_hessian": "Î₂ = −∂²ℓ",
    "mixed": "α Î₁ + (1 − α) Î₂ from one label, at the best α",
    "score_squared_cv": "s² + c s, at the best c",
    "gaussian_probe": "⟨Lᵀu, g⟩², g standard normal",
    "rademacher_probe": "⟨Lᵀu, g⟩², g random signs",
    "exact": "the closed form",
}
"""Each estimator of I, by name."""

_s, _w, _alpha, _c, _t = sp.symbols("s w alpha c t", real=True)
_K20, _K02, _K40, _K30, _K21 = sp.symbols("kappa_20 kappa_02 kappa_40 kappa_30 kappa_21", real=True)
_MOMENTS = {
    (0, 0): sp.Integer(1),
    (1, 0): sp.Integer(0),
    (0, 1): sp.Integer(0),
    (2, 0): _K20,
    (3, 0): _K30,
    (4, 0): _K40 + 3 * _K20**2,
    (0, 2): _K02,
    (2, 1): _K21,
}
"""E[s^a w^b] in joint cumulants, by (a, b)."""
_IN_CUMULANTS = {
    "fisher": _K20,
    "third": _K30,
    "variance_score_squared": _K40 + 2 * _K20**2,
    "variance_negative_hessian": _K02,
    "covariance": -_K21,
}


def coefficients(quantities: Mapping[str, sp.Expr]) -> dict[str, sp.Expr]:
    """Return the best coefficients, α of `mixed` and c of `score_squared_cv`."""
    first, second = quantities["variance_score_squared"], quantities["variance_negative_hessian"]
    shared = quantities["covariance"]
    return {
        "mixed": (second - shared) / (first + second - 2 * shared),
        "score_squared_cv": -quantities["third"] / quantities["fisher"],
    }


def variances(
    quantities: Mapping[str, sp.Expr], fourth: sp.Expr | None = None
) -> dict[str, sp.Expr]:
    """Return the variance of every estimator.

    Args:
        quantities: I, κ₃₀, V₁, V₂ and the covariance, by name.
        fourth: Σ a⁴ of a = Lᵀu; without it the Rademacher probe is left out.
    """
    fisher, first = quantities["fisher"], quantities["variance_score_squared"]
    second, shared = quantities["variance_negative_hessian"], quantities["covariance"]
    found = {
        "score_squared": first,
        "negative_hessian": second,
        "mixed": (first * second - shared**2) / (first + second - 2 * shared),
        "score_squared_cv": first - quantities["third"] ** 2 / fisher,
        "gaussian_probe": 2 * fisher**2,
        "exact": sp.Integer(0),
    }
    if fourth is not None:
        found["rademacher_probe"] = 2 * (fisher**2 - fourth)
    return {name: found[name] for name in QUANTITIES if name in found}


def identities() -> tuple[Identity, ...]:
    """Prove that each estimator is unbiased, its variance, and that no coefficient is better."""
    return (*_of_labels(), *_squares(), *_of_probes())


def _of_labels():
    mixed = _alpha * _s**2 + (1 - _alpha) * (_K20 - _w)
    labels = {
        "score_squared": _s**2,
        "negative_hessian": _K20 - _w,
        "mixed": mixed,
        "score_squared_cv": _s**2 + _c * _s,
    }
    best, stated = coefficients(_IN_CUMULANTS), variances(_IN_CUMULANTS)
    at_best = {_alpha: best["mixed"], _c: best["score_squared_cv"]}
    for name, estimator in labels.items():
        yield _claim(f"{name}, unbiased", "E[T] = I", _mean(estimator), _K20)
        yield _claim(
            name,
            f"the variance of {QUANTITIES[name]}",
            _variance(estimator).xreplace(at_best),
            stated[name],
        )
    first, second = _IN_CUMULANTS["variance_score_squared"], _K02
    for name, letter, curvature in (
        ("mixed", _alpha, first + second + 2 * _K21),
        ("score_squared_cv", _c, _K20),
    ):
        yield _claim(
            f"{name}, best coefficient",
            "Var T − its least value = Var(∂T) (coefficient − best)² ≥ 0",
            _variance(labels[name]) - stated[name],
            curvature * (letter - best[name]) ** 2,
        )


def _squares():
    """Write variances as sums of squares in a, b, k and R, which evaluators compute."""
    aa, kk, bb, ka, kb, rest = sp.symbols("aa kk bb ka kb R", real=True)
    quantities = {
        "fisher": aa,
        "third": ka,
        "variance_score_squared": rest + kk,
        "variance_negative_hessian": bb,
        "covariance": -kb,
    }
    best, stated = coefficients(quantities), variances(quantities)
    alpha, c = best["mixed"], best["score_squared_cv"]
    yield _claim(
        "mixed, in squares",
        "α²R + ‖αk − (1 − α)b‖²",
        stated["mixed"],
        alpha**2 * (rest + kk) - 2 * alpha * (1 - alpha) * kb + (1 - alpha) ** 2 * bb,
    )
    yield _claim(
        "score_squared_cv, in squares",
        "R + ‖k + c a‖²",
        stated["score_squared_cv"],
        rest + kk + 2 * c * ka + c**2 * aa,
    )


def _of_probes():
    """Take cumulants of ⟨a, g⟩ from log E exp(t⟨a, g⟩), a sum over independent entries."""
    a, m = sp.IndexedBase("a", real=True), sp.Symbol("m", integer=True, positive=True)

    def total(term):
        return sp.Sum(term, (index, 1, m))

    entry = a[index]
    squares, fourth = total(entry**2), total(entry**4)
    quantities = dict.fromkeys(_IN_CUMULANTS, sp.Integer(0)) | {"fisher": squares}
    quantities["variance_negative_hessian"] = sp.Integer(1)
    stated = variances(quantities, fourth)
    generating = {
        "gaussian_probe": total((_t * entry) ** 2 / 2),
        "rademacher_probe": total(sp.log(sp.cosh(_t * entry))),
    }
    for name, value in generating.items():
        second, last = (value.diff(_t, order).subs(_t, 0).doit(deep=False) for order in (2, 4))
        yield Identity(f"estimator {name}, unbiased", "E⟨a, g⟩² = ‖a‖²", second, squares, normal)
        yield Identity(
            f"estimator {name}",
            f"the variance of {QUANTITIES[name]}",
            last + 2 * second**2,
            stated[name],
            normal,
        )


def _claim(name, statement, left, right):
    return Identity(f"estimator {name}", statement, left, right, _numerator)


def _numerator(difference):
    return sp.expand(sp.fraction(sp.together(difference))[0])


def _mean(estimator):
    polynomial = sp.Poly(sp.expand(estimator), _s, _w)
    return sp.Add(*(factor * _MOMENTS[powers] for powers, factor in polynomial.terms()))


def _variance(estimator):
    return _mean(sp.expand(estimator**2)) - _mean(estimator) ** 2
