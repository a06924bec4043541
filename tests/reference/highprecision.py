"""Cumulants from F alone to forty digits and more, by truncated power series of balls.

F(h + εu) and F(h + δv) are expanded to fourth order in ball arithmetic. Coefficients times
a! are the cumulants κ_a0 and κ_0a; the mixed κ₂₁ follows from third cumulants along u ± v.
The working precision doubles until every radius is small, so no cancellation goes unseen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import flint
import mpmath as mp
from flint import arb, arb_series

LENGTH = 5
"""Coefficients of a series: up to the fourth power of ε."""

PRECISIONS = tuple(192 * 2**n for n in range(7))
"""Working precisions tried in turn, in bits."""

RADIUS = arb(10) ** -40
"""Largest radius of a result relative to its size."""

Series = arb_series
Place = tuple[int, int]


def _log1p(x: Series) -> Series:
    """Return log(1 + x); every coefficient is relatively accurate where x is small."""
    return (x.derivative() / (1 + x)).integral() + x[0].log1p()


def _softplus(x: Series) -> Series:
    """Return log(1 + exp x), its curvature relatively accurate at any x."""
    return x + _log1p((-x).exp()) if x[0] > 0 else _log1p(x.exp())


@functools.lru_cache(maxsize=64)
def _lgamma_at(middle: Place, radius: Place, _precision: int) -> Series:
    return arb_series([arb(middle, radius), 1]).lgamma()


@functools.lru_cache(maxsize=64)
def _log_hypergeometric_at(middle: Place, radius: Place, _precision: int) -> Series:
    """Expand log ₀F₁(;1;z), from ₀F₁(;1;z)⁽ᵏ⁾ = ₀F₁(;1+k;z) / k!."""
    z = arb(middle, radius)
    terms = [z.hypgeom_0f1(arb(k + 1)) / math.factorial(k) ** 2 for k in range(LENGTH)]
    return arb_series(terms).log()


def _compose(expand: Callable[[Place, Place, int], Series], x: Series) -> Series:
    """Return f(x) from the Taylor series of f at the constant term, shared by directions."""
    series = expand(x[0].mid().man_exp(), x[0].rad().man_exp(), flint.ctx.prec)
    rest = arb_series([0, *x.coeffs()[1:]])
    return series(rest) if rest.length() else arb_series([series[0]])


def _lgamma(x: Series) -> Series:
    return _compose(_lgamma_at, x)


def _targets(h: list[Series]) -> zip:
    """Pair the first half of the outputs with the second half."""
    half = len(h) // 2
    return zip(h[:half], h[half:], strict=True)


def gaussian(h: list[Series], sigma: arb) -> Series:
    """Return σ²‖h‖²/2."""
    return sum(x * x for x in h) * (sigma * sigma / 2)


def categorical(h: list[Series]) -> Series:
    """Return log Σ exp h, around its largest term."""
    top = max(range(len(h)), key=lambda n: float(h[n][0]))
    return h[top] + _log1p(sum((x - h[top]).exp() for n, x in enumerate(h) if n != top))


def multinomial(h: list[Series], n: arb) -> Series:
    """Return n log Σ exp h."""
    return categorical(h) * n


def binomial(h: list[Series], n: arb) -> Series:
    """Return n Σ log(1 + exp h)."""
    return sum(_softplus(x) for x in h) * n


def bernoulli(h: list[Series]) -> Series:
    """Return Σ log(1 + exp h)."""
    return sum(_softplus(x) for x in h)


def poisson(h: list[Series]) -> Series:
    """Return Σ exp h."""
    return sum(x.exp() for x in h)


def geometric(h: list[Series]) -> Series:
    """Return −Σ log(1 − exp h)."""
    return -sum(_log1p(-x.exp()) for x in h)


def negative_binomial(h: list[Series], r: arb) -> Series:
    """Return −r Σ log(1 − exp h)."""
    return geometric(h) * r


def exponential(h: list[Series]) -> Series:
    """Return −Σ log(−h)."""
    return -sum((-x).log() for x in h)


def gamma(h: list[Series]) -> Series:
    """Return Σ lnΓ(h₁ + 1) − (h₁ + 1) log(−h₂)."""
    return sum(_lgamma(a + 1) - (a + 1) * (-b).log() for a, b in _targets(h))


def beta(h: list[Series]) -> Series:
    """Return Σ lnΓ(h₁) + lnΓ(h₂) − lnΓ(h₁ + h₂)."""
    return sum(_lgamma(a) + _lgamma(b) - _lgamma(a + b) for a, b in _targets(h))


def dirichlet(h: list[Series]) -> Series:
    """Return Σ lnΓ(h) − lnΓ(Σh)."""
    return sum(map(_lgamma, h)) - _lgamma(sum(h))


def gaussian_mean_variance(h: list[Series]) -> Series:
    """Return −Σ h₁²/4h₂ + ½ log(−2h₂)."""
    return -sum(a * a / (4 * b) + (-2 * b).log() / 2 for a, b in _targets(h))


def inverse_gaussian(h: list[Series]) -> Series:
    """Return −Σ 2√(h₁h₂) + ½ log(−2h₂)."""
    return -sum(2 * (-a).sqrt() * (-b).sqrt() + (-2 * b).log() / 2 for a, b in _targets(h))


def von_mises(h: list[Series]) -> Series:
    """Return Σ log I₀(‖h‖), with I₀(r) = ₀F₁(;1;r²/4)."""
    return sum(_compose(_log_hypergeometric_at, (a * a + b * b) / 4) for a, b in _targets(h))


def multivariate_gaussian(h: list[Series]) -> Series:
    """Return −¼ h₁ᵀH₂⁻¹h₁ − ½ log det(−2H₂), by elimination in −2H₂ = Λ beside h₁."""
    size = math.isqrt(2 * len(h)) - 1
    vector, packed = h[:size], iter(h[size:])
    lower = [[-2 * next(packed) for _ in range(a + 1)] for a in range(size)]
    result = arb_series([0])
    for k in range(size):
        pivot = lower[k][k]
        result = result + (vector[k] * vector[k] / pivot - pivot.log()) / 2
        for a in range(k + 1, size):
            factor = lower[a][k] / pivot
            vector[a] = vector[a] - factor * vector[k]
            for b in range(k + 1, a + 1):
                lower[a][b] = lower[a][b] - factor * lower[b][k]
    return result


LOG_PARTITIONS: dict[str, Callable[..., Series]] = {
    function.__name__: function
    for function in (
        *(gaussian, categorical, bernoulli, binomial, multinomial, poisson, geometric),
        *(negative_binomial, exponential, gamma, beta, dirichlet, gaussian_mean_variance),
        *(multivariate_gaussian, inverse_gaussian, von_mises),
    )
}
"""(one series for each output, constants) -> F, as in the table of families."""


def _cumulants(family: str, h, u, v, constants) -> dict[str, arb]:
    """Return each quantity as a ball, at the working precision."""

    def along(direction) -> list[arb]:
        series = LOG_PARTITIONS[family](
            [arb_series(list(pair)) for pair in zip(h, direction, strict=True)], **constants
        )
        return [series[order] * math.factorial(order) for order in range(LENGTH)]

    value, _, fisher, third, fourth = along(u)
    _, _, other, skew, _ = along(v)
    # κ₂₁ is linear in v, which a power of two brings to the size of u.
    sizes = [max(abs(x) for x in direction) for direction in (u, v)]
    exponents = [size.man_exp()[1] + size.man_exp()[0].bit_length() for size in sizes]
    factor = arb((1, exponents[0] - exponents[1] if all(sizes) else 0))
    scaled = [factor * x for x in v]
    above = along([a + b for a, b in zip(u, scaled, strict=True)])[3]
    below = along([a - b for a, b in zip(u, scaled, strict=True)])[3]
    return {
        "log_partition": value,
        "fisher": fisher,
        "variance_score_squared": fourth + 2 * fisher * fisher,
        "third": third,
        "variance_negative_hessian": other,
        "covariance": -((above - below) / factor - 2 * factor * factor * skew) / 6,
    }


def _settled(balls: dict[str, arb]) -> dict[str, bool]:
    """Say which balls are small: relative to themselves, or to what they can be at most."""
    first, second = balls["variance_score_squared"].mid(), balls["variance_negative_hessian"].mid()
    largest = {
        "log_partition": arb(1),
        "third": abs(first * balls["fisher"].mid()).sqrt(),
        "covariance": abs(first * second).sqrt(),
    }
    return {
        name: bool(ball.rad() <= RADIUS * abs(ball.mid()))
        or bool(name in largest and ball.rad() <= RADIUS * largest[name].mid())
        for name, ball in balls.items()
    }


def balls(
    family: str,
    h: Sequence[float],
    u: Sequence[float],
    v: Sequence[float],
    **constants: float,
) -> dict[str, arb]:
    """Return F, I, V₁, κ₃₀, V₂ and Cov at one point as balls of relative radius 1e-40.

    The third cumulant and the covariance, which change sign, have that radius relative to
    √(I V₁) and √(V₁V₂). A variance that is zero at the highest precision is zero.

    Args:
        family: Its name.
        h: Natural parameters, one number for each output.
        u: First derivatives ∂h/∂θ of one parameter.
        v: Second derivatives ∂²h/∂θ².
        **constants: Every constant of the family.

    Raises:
        ArithmeticError: h lies outside the domain, or no precision was enough.
    """
    context = flint.ctx.prec, flint.ctx.cap
    exact = [[arb(x) for x in vector] for vector in (h, u, v)]
    fixed = {name: arb(value) for name, value in constants.items()}
    try:
        flint.ctx.cap = LENGTH
        for precision in PRECISIONS:
            flint.ctx.prec = precision
            found = _cumulants(family, *exact, fixed)
            settled = _settled(found)
            if all(settled.values()):
                return found
    finally:
        flint.ctx.prec, flint.ctx.cap = context
    for name in (name for name, done in settled.items() if not done):
        if not (found[name].is_finite() and found[name].contains(0)):
            raise ArithmeticError(
                f"{name} of {family} at h = {h} is {found[name]}; expected h inside the domain."
            )
        found[name] = arb(0)
    return found


def moments(
    family: str,
    h: Sequence[float],
    u: Sequence[float],
    v: Sequence[float],
    **constants: float,
) -> dict[str, mp.mpf]:
    """Return the middles of `balls` as exact mpmath numbers."""
    with flint.ctx.workprec(PRECISIONS[-1]):
        found = balls(family, h, u, v, **constants)
        return {name: mp.mp.make_mpf(ball._mpf_) for name, ball in found.items()}
