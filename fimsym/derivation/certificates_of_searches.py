"""Proofs that searches keep what `extremes` promises of them, wherever they stop.

Sums run over all entries but the first, which is set apart: its d, w and g are d₁, w₁ and
g₁, and a_k = λ − d_k is positive for the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import BOUND, normal
from fimsym.derivation.symbols import index

_m = sp.Symbol("m", integer=True, positive=True)
_other = BOUND[1]
_w, _a, _g, _p = (sp.IndexedBase(name, real=True) for name in ("w", "a", "g", "p"))
_delta = sp.Symbol("delta", real=True)
"""d₁ − λ."""


def _sum(term, over=index):
    return sp.Sum(term, (over, 1, _m))


def _pairs(term):
    """Return ½ Σ_i Σ_j of a term in i and j."""
    return _sum(_sum(sp.expand(term), _other)) / 2


def _claim(name, statement, left, right, reduce=normal):
    return Identity(f"search: {name}", statement, left, right, reduce)


def centred() -> Iterator[Identity]:
    """Prove when λ bounds Σ w d g²/Σ w g² over Σ w g = 0, and how far λ is from that."""
    w, a, g = _w[index], _a[index], _g[index]
    own, inverse = _sum(w * a * g**2), _sum(w / a)
    first = 1 - _sum(w)
    gap = _lagrange(w)
    share = _sum(w * (_delta + a) / a)
    yield _claim(
        "Cauchy",
        "(Σ w/a)(Σ w a g²) − (Σ w g)² = ½ ΣΣ w_i w_j (a_i g_i − a_j g_j)²/(a_i a_j)",
        inverse * own - _sum(w * g) ** 2,
        gap,
    )
    yield _claim(
        "largest centred",
        "w₁(λ Σ w g² − Σ w d g²) = (1 − S) Σ w a g² + (d₁ − λ) × the above, g₁ = −Σ w g/w₁",
        first * own - _delta * _sum(w * g) ** 2,
        (1 - share) * own + _delta * gap,
    )
    mass = _w[index]
    yield _claim(
        "slope of 1/S",
        "(Σ m)(Σ m/a²) − (Σ m/a)² = ½ ΣΣ m_i m_j (1/a_i − 1/a_j)², so that ∂(1/S) ≥ 1/Σ m",
        _sum(mass) * _sum(mass / a**2) - _sum(mass / a) ** 2,
        _pairs(mass * _w[_other] * (1 / a - 1 / _a[_other]) ** 2),
    )


def _lagrange(weight):
    other = weight.xreplace({index: _other})
    difference = _a[index] * _g[index] - _a[_other] * _g[_other]
    return _pairs(weight * other * difference**2 / (_a[index] * _a[_other]))


def reduced() -> Iterator[Identity]:
    """Prove when Σ d u² − c(Σ u)² ≥ λ Σ u², with a = d − λ > 0."""
    a, u = _a[index], _g[index]
    c, level = sp.symbols("c lambda", real=True)
    inverse = _sum(1 / a)
    yield _claim(
        "smallest reduced",
        "Σ a u² − c(Σ u)² = (1 − c Σ 1/a) Σ a u² + c ½ ΣΣ (a_i u_i − a_j u_j)²/(a_i a_j)",
        _sum(a * u**2) - c * _sum(u) ** 2,
        (1 - c * inverse) * _sum(a * u**2) + c * _lagrange(sp.Integer(1)),
    )
    weight = c / (a + level)
    yield _claim(
        "smallest reduced, in weights",
        "with w = c/d, 1 − c Σ 1/a = (1 − Σ w) − λ Σ w/a",
        1 - c * inverse,
        1 - _sum(weight) - level * _sum(weight / a),
        _of_summand,
    )


def _of_summand(difference):
    """Add all sums up and bring their summand over one denominator."""
    expression = sp.expand(difference)
    constant = sp.Add(*(x for x in sp.Add.make_args(expression) if not x.has(sp.Sum)))
    summand = sp.Integer(0)
    for term in sp.Add.make_args(expression - constant):
        (one,) = term.atoms(sp.Sum)
        summand += term / one * one.function
    return constant + sp.expand(sp.fraction(sp.together(summand))[0])


def classes() -> Iterator[Identity]:
    """Prove λ Σ p φ² ≥ Σ D p φ² + ω(Σ p²φ)² for ω Φ(λ) ≤ 1, and what follows for V₁.

    With θ = (D₁ − λ)/p₁, the left less the first term on the right is
    H(φ) = Σ p a φ² − θ(Σ p φ)², and Σ p²φ = Σ p b φ, b = p − p₁.
    """
    p, a, g, b = (base[index] for base in (_p, _a, _g, sp.IndexedBase("b", real=True)))
    theta, gamma, peak = sp.symbols("theta gamma Phi", real=True)
    flat, tilt, square = _sum(p / a), _sum(p * b / a), _sum(p * b**2 / a)

    def form(direction):
        return _sum(p * a * direction**2) - theta * _sum(p * direction) ** 2

    scale = sp.Symbol("x", real=True)
    product = _sum(p * b * g)

    def reduce(difference):
        return _in_sums(difference, {gamma: theta * tilt / (1 - theta * flat)})

    yield _claim(
        "norm of classes",
        "H(φ − xψ) = H(φ) − 2x Σ p b φ + x²Φ for ψ = (b + γ)/a, γ = θ B/(1 − θA)",
        form(g - scale * (b + gamma) / a),
        form(g) - 2 * scale * product + scale**2 * (square + gamma * tilt),
        reduce,
    )
    gap = flat * _sum(p * a * g**2) - _sum(p * g) ** 2
    yield _claim(
        "definite form",
        "H(φ) = (1 − θA) Σ p a φ² + θ (A Σ p a φ² − (Σ p φ)²)",
        form(g),
        (1 - theta * flat) * _sum(p * a * g**2) + theta * gap,
    )
    yield from _matrix_norm(peak)


def _matrix_norm(peak):
    """Bound ⟨A, uuᵀ⟩² by ‖A‖² − κ(tr A)², for symmetric A on a space of d dimensions."""
    norm, trace, along, d, kappa, x, level = sp.symbols("N T q d kappa x lambda", real=True)
    eta = kappa / (1 - kappa * d)
    of_rest = norm - 2 * x * (along + eta * trace) + x**2 * (1 + 2 * eta + eta**2 * d)
    of_trace = trace - x * (1 + eta * d)
    yield _claim(
        "norm with trace",
        "N(A − xB) = N(A) − 2xq + x²(1 + η), N(A) = ‖A‖² − κ(tr A)², B = uuᵀ + ηΠ",
        of_rest - kappa * of_trace**2,
        norm - kappa * trace**2 - 2 * x * along + x**2 * (1 + eta),
        _numerator,
    )
    yield _claim(
        "norm is positive",
        "N(A) = ‖A − (tr A/d)Π‖² + (1/d − κ)(tr A)²",
        norm - kappa * trace**2,
        norm - 2 * trace / d * trace + (trace / d) ** 2 * d + (1 / d - kappa) * trace**2,
        _numerator,
    )
    stated = level * (d - 1 + (6 - 2 * d) * peak) / (d + (4 - 2 * d) * peak)
    yield _claim(
        "largest of classes",
        "λ(1 + κ/(1 − κd)) at 2 − 4κ = 1/Φ",
        (level * (1 + eta)).subs(kappa, (2 - 1 / peak) / 4),
        stated,
        _numerator,
    )


def circle() -> Iterator[Identity]:
    """Prove that a quartic form on the circle is a quadratic one, and its dual bound."""
    m = sp.symbols("m0:5", real=True)
    x, y = sp.symbols("x y", real=True)
    form = sp.Add(*(sp.binomial(4, k) * m[k] * x ** (4 - k) * y**k for k in range(5)))
    constant, tilt, turn = (m[0] + m[4]) / 4, (m[0] - m[4]) / 2, m[1] + m[3]
    middle, half = (m[0] + m[4] + 6 * m[2]) / 8, (m[0] + m[4] - 6 * m[2]) / 8
    beside = (m[1] - m[3]) / 2
    w, z = x**2 - y**2, 2 * x * y
    norm = x**2 + y**2
    yield _claim(
        "form on the circle",
        "M = c + bᵀw + wᵀQw in w = (x² − y², 2xy)",
        form,
        constant * norm**2
        + (tilt * w + turn * z) * norm
        + (middle + half) * w**2
        + (middle - half) * z**2
        + 2 * beside * w * z,
        sp.expand,
    )
    first, last, low, high, level = sp.symbols("w1 w2 e1 e2 mu", real=True)
    b1, b2 = sp.symbols("b1 b2", real=True)
    squares = sp.Add(
        *(
            (level - e) * (v - b / (2 * (level - e))) ** 2
            for e, v, b in ((low, first, b1), (high, last, b2))
        )
    )
    quarter = (b1**2 / (level - low) + b2**2 / (level - high)) / 4
    yield _claim(
        "dual on the circle",
        "μ‖w‖² + ¼ bᵀ(μ − Q)⁻¹b − bᵀw − wᵀQw is a sum of squares",
        level * (first**2 + last**2)
        + quarter
        - b1 * first
        - b2 * last
        - low * first**2
        - high * last**2,
        squares,
        _numerator,
    )


def targets() -> Iterator[Identity]:
    """Prove the bounds of Σ q_j n_j² + 2 Σ_{j≠k} λ_j λ_k n_j n_k on the simplex."""
    n, form, size = _w[index], _p[index], _a[index]
    constant = sp.Symbol("constant", real=True)
    score = _sum(size * n)
    across = score**2 - _sum((size * n) ** 2)
    whole = _sum(form * n**2) + 2 * across
    norm = _sum(n)
    rest = norm**2 - _sum(n**2)
    yield _claim(
        "several targets",
        "V − c(Σn)² = Σ(q_j − c)n_j² + Σ_{j≠k}(2λ_jλ_k − c)n_jn_k, bounded from one side each",
        whole - constant * norm**2,
        _sum((form - constant) * n**2) + 2 * across - constant * rest,
    )
    yield _claim(
        "one target at a time",
        "V = Σ κ n² + 2(Σ λn)², κ = q − 2λ²",
        whole,
        _sum((form - 2 * size**2) * n**2) + 2 * score**2,
    )
    yield _claim(
        "from above",
        "Σn Σλ²n − (Σλn)² = ½ ΣΣ n_i n_j (λ_i − λ_j)²",
        norm * _sum(size**2 * n) - score**2,
        _pairs(n * _w[_other] * (size - _a[_other]) ** 2),
    )
    yield _claim(
        "from below",
        "s² = 2cs − c² + (s − c)²",
        score**2,
        2 * constant * score - constant**2 + (score - constant) ** 2,
    )


def _in_sums(difference, values):
    """Return the numerator of an expression whose sums are atoms."""
    expression = normal(difference)
    sums = sorted(expression.atoms(sp.Sum), key=sp.default_sort_key)
    atoms = {one: sp.Symbol(f"sum{n}", real=True) for n, one in enumerate(sums)}
    known = {letter: normal(value).xreplace(atoms) for letter, value in values.items()}
    return _numerator(expression.xreplace(atoms).xreplace(known))


def _numerator(difference):
    return sp.expand(sp.fraction(sp.together(difference))[0])
