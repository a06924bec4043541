"""Special functions against mpmath, with 60 digits and more."""

from __future__ import annotations

import mpmath
import pytest
import torch

from fimsym.errors import DomainError
from fimsym.special import (
    log_bessel_i0,
    polygamma,
    polygamma_difference,
    polygamma_remainder,
)

VALUE = 4e-15  # eighteen roundings; the worst measured is six
GRADIENT = 8e-15  # the same sums differentiated term by term

ORDERS = [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (2, 0)]
SIGN_CHANGES = {(0, 4), (1, 2)}  # judged by the condition number, |f| + |r f'|
LIMITS = {  # at r = 0, from log I₀ = r²/4 − r⁴/64 + …
    (0, 0): 0.0,
    (0, 1): 0.0,
    (0, 2): 1 / 2,
    (0, 3): 0.0,
    (0, 4): -3 / 8,
    (1, 0): 1 / 2,
    (1, 1): 0.0,
    (1, 2): -1 / 8,
    (2, 0): -1 / 8,
}


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(60):
        yield


def log_uniform(low: float, high: float, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, dtype=torch.float64, generator=generator)
    return 10 ** (low + (high - low) * uniform)


def around(*points: float) -> torch.Tensor:
    """Points a step of rounding and a few per cent around thresholds."""
    steps = [-0.03, -1e-3, -1e-15, 0.0, 1e-15, 1e-3, 0.03]
    return torch.tensor([p * (1 + s) for p in points for s in steps], dtype=torch.float64)


def derivatives(function, *arguments: torch.Tensor) -> tuple[list, list]:
    """Return a function's values and its gradient by each argument, as lists."""
    arguments = [argument.clone().requires_grad_() for argument in arguments]
    values = function(*arguments)
    assert values.dtype == torch.float64
    gradients = torch.autograd.grad(values.sum(), arguments)
    return values.tolist(), [gradient.tolist() for gradient in gradients]


def assert_close(got: list, exact: list, tolerance: float, scale: list | None = None) -> None:
    for index, (value, truth) in enumerate(zip(got, exact, strict=True)):
        size = abs(truth) if scale is None else scale[index]
        assert abs(value - truth) <= tolerance * size, (index, value, mpmath.nstr(truth, 20))


def exact_remainder(n: int, x):
    if n == -1:
        return mpmath.loggamma(x) - (x * mpmath.log(x) - x)
    if n == 0:
        return mpmath.digamma(x) - mpmath.log(x)
    return mpmath.polygamma(n, x) - (-1) ** (n + 1) * mpmath.factorial(n - 1) / x**n


POSITIVE = torch.cat([log_uniform(-8, 12, 90, 0), log_uniform(-1, 1.5, 30, 1), around(1, 12)])


@pytest.mark.parametrize("n", range(-1, 7))
def test_remainder(n):
    values, (gradient,) = derivatives(lambda x: polygamma_remainder(n, x), POSITIVE)
    points = [mpmath.mpf(x) for x in POSITIVE.tolist()]
    exact = [exact_remainder(n, x) for x in points]
    scale = [max(1, abs(value)) for value in exact] if n == -1 else None
    assert_close(values, exact, VALUE, scale)
    slopes = [exact_remainder(n + 1, x) for x in points]
    assert_close(gradient, slopes, GRADIENT)


@pytest.mark.parametrize("n", range(7))
def test_polygamma(n):
    values, (gradient,) = derivatives(lambda x: polygamma(n, x), POSITIVE)
    points = [mpmath.mpf(x) for x in POSITIVE.tolist()]
    exact = [mpmath.polygamma(n, x) for x in points]
    scale = [max(1, abs(value)) for value in exact] if n == 0 else None
    assert_close(values, exact, VALUE, scale)
    assert_close(gradient, [mpmath.polygamma(n + 1, x) for x in points], GRADIENT)


@pytest.mark.parametrize("n", range(4))
def test_difference(n):
    a = torch.cat([log_uniform(-6, 9, 120, 2), around(12, 1e-6)])
    b = torch.cat([log_uniform(-6, 9, 120, 3), around(12, 1e-6)])  # b = a at the switch
    values, gradients = derivatives(lambda a, b: polygamma_difference(n, a, b), a, b)
    pairs = [(mpmath.mpf(x), mpmath.mpf(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)]

    def exact(m):
        return [mpmath.polygamma(m, x) - mpmath.polygamma(m, x + y) for x, y in pairs]

    assert_close(values, exact(n), VALUE)
    assert_close(gradients[0], exact(n + 1), GRADIENT)
    assert_close(gradients[1], [-mpmath.polygamma(n + 1, x + y) for x, y in pairs], GRADIENT)


def test_difference_broadcasts():
    a, b = POSITIVE[:4, None], POSITIVE[4:7]
    result = polygamma_difference(1, a, b)
    assert result.shape == (4, 3)
    torch.testing.assert_close(result, polygamma(1, a) - polygamma(1, a + b))


def exact_bessel(r: float) -> dict[tuple[int, int], mpmath.mpf]:
    """Return d^n g_j/dr^n from Taylor coefficients of A at r, by A' = 1 − A/r − A²."""
    with mpmath.workdps(100):
        r, result = mpmath.mpf(r), {}
        ratio = [mpmath.besseli(1, r) / mpmath.besseli(0, r)]
        for k in range(6):  # (r + t) A' = (r + t) (1 − A²) − A, coefficient of t^k
            square = [1 - ratio[0] ** 2] + [
                -sum(ratio[i] * ratio[m - i] for i in range(m + 1)) for m in range(1, k + 1)
            ]
            right = r * square[k] + (square[k - 1] if k else 0) - (k + 1) * ratio[k]
            ratio.append(right / (r * (k + 1)))
        series = [mpmath.log(mpmath.besseli(0, r))]
        series += [c / (n + 1) for n, c in enumerate(ratio)]
        for j in range(3):
            result |= {(j, n): mpmath.factorial(n) * c for n, c in enumerate(series)}
            series, slope = [], [n * c for n, c in enumerate(series)][1:]
            for c in slope:  # division by r + t
                series.append((c - (series[-1] if series else 0)) / r)
        return result


def test_the_reference_differentiates_log_i0():
    for r in map(mpmath.mpf, (0.3, 4.0, 60.0)):
        g = mpmath.taylor(lambda z: mpmath.log(mpmath.besseli(0, z)), r, 5)
        exact = exact_bessel(r)
        for n, coefficient in enumerate(g):
            assert mpmath.almosteq(exact[0, n], coefficient * mpmath.factorial(n), 1e-30)
        g2 = (exact[0, 2] / r - exact[0, 1] / r**2) / r
        assert mpmath.almosteq(exact[2, 0], g2, 1e-30)
        slope = mpmath.diff(lambda z: mpmath.besseli(1, z) / mpmath.besseli(0, z) / z, r, 2)
        assert mpmath.almosteq(exact[1, 2], slope, 1e-30)


@pytest.fixture(scope="module")
def bessel():
    """Radii over the whole line with every g_j and its derivatives there."""
    radii = torch.cat([log_uniform(-8, 8, 100, 4), log_uniform(-1, 2, 160, 5), around(1, 30)])
    return radii, [exact_bessel(r) for r in radii.tolist()]


@pytest.mark.parametrize(("j", "n"), ORDERS)
def test_bessel(j, n, bessel):
    radii, truths = bessel
    values, (gradient,) = derivatives(lambda r: log_bessel_i0(j, n, r), radii)
    exact = [truth[j, n] for truth in truths]
    slopes = [truth[j, n + 1] for truth in truths]
    scale = [abs(f) + abs(r * d) for r, f, d in zip(radii.tolist(), exact, slopes, strict=True)]
    assert_close(values, exact, VALUE, scale if (j, n) in SIGN_CHANGES else None)
    # A derivative may itself change sign; f/r is its natural size where f does not vanish.
    sizes = [
        abs(d) + (abs(f) / max(1, r) if r > 0.1 else 0)
        for r, f, d in zip(radii.tolist(), exact, slopes, strict=True)
    ]
    assert_close(gradient, slopes, GRADIENT, sizes)


@pytest.mark.parametrize(("j", "n"), ORDERS)
def test_bessel_at_zero(j, n):
    zero = torch.zeros(1, dtype=torch.float64)
    (value,), ((slope,),) = derivatives(lambda r: log_bessel_i0(j, n, r), zero)
    assert value == LIMITS[j, n]
    assert slope == {(0, 1): 0.5, (0, 3): -0.375, (1, 1): -0.125}.get((j, n), 0.0)


EXTREMES = torch.logspace(-35, 150, 75, dtype=torch.float64)
FUNCTIONS = (
    [pytest.param(lambda x, n=n: polygamma_remainder(n, x), id=f"R{n}") for n in range(-1, 7)]
    + [pytest.param(lambda x, n=n: polygamma(n, x), id=f"psi{n}") for n in range(7)]
    + [
        pytest.param(lambda x, n=n: polygamma_difference(n, x, x.flip(0)), id=f"difference{n}")
        for n in range(4)
    ]
    + [pytest.param(lambda x, o=o: log_bessel_i0(*o, x), id=f"bessel{o}") for o in ORDERS]
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_extremes_have_finite_gradients(function):
    x = EXTREMES.clone().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert not second.isnan().any()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_meta_and_vmap(function):
    points = torch.stack([POSITIVE[:5], POSITIVE[100:105]])
    batched = torch.func.vmap(function)(points)
    torch.testing.assert_close(batched, torch.stack([function(x) for x in points]))
    empty = function(points[0].to("meta"))  # fails on anything that reads a value
    assert (empty.shape, empty.dtype) == (points[0].shape, torch.float64)


def test_gradient_under_vmap():
    radii = torch.tensor([0.0, 0.5, 3.0, 50.0], dtype=torch.float64)
    slopes = torch.func.vmap(torch.func.grad(lambda r: log_bessel_i0(1, 0, r)))(radii)
    torch.testing.assert_close(slopes, log_bessel_i0(1, 1, radii), rtol=GRADIENT, atol=1e-17)


def test_compiles_without_graph_breaks():
    def function(r):
        return log_bessel_i0(0, 3, r)

    radii = torch.tensor([0.5, 3.0, 50.0], dtype=torch.float64)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        derivatives(compiled, radii), derivatives(function, radii), rtol=1e-15, atol=0
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda x: polygamma_remainder(-2, x),
        lambda x: polygamma(7, x),
        lambda x: polygamma(1.0, x),
        lambda x: polygamma_difference(4, x, x),
        lambda x: log_bessel_i0(2, 1, x),
    ],
)
def test_unknown_orders_are_refused(call):
    with pytest.raises(DomainError, match=r"must be .*; got .*Differentiate"):
        call(POSITIVE)
