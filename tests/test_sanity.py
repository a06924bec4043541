"""Numerical checks of a log-partition: what they accept, refuse, and say."""

import mpmath
import pytest

import fimsym
from fimsym.derivation.domain import points
from fimsym.derivation.integrals import log_integral
from fimsym.derivation.sanity import check
from fimsym.errors import SpecError
from fimsym.families import Constant, Density, Family

NORMAL = "exp(-y**2 / 2) / sqrt(2 * pi)"
TWO = {"natural": ("h1", "h2"), "sufficient_statistics": ("log(y)", "y")}


def family(log_partition, **fields):
    return Family(name="mine", log_partition=log_partition, **fields)


@pytest.mark.parametrize("name", fimsym.families())
def test_accepts_built_in_families(name):
    check(fimsym.family(name))


ACCEPTED = [
    family("exp(-h)"),  # −y for Poisson y
    family("exp(exp(h)) - 1"),
    family("log(expm1(h) / h)", density=Density("1", "unit")),
    family("-log(cos(h))", domain="-1.5 < h < 1.5"),
    family(
        "-sqrt(-2 * h)",
        domain="h < 0",
        density=Density("exp(-1 / (2 * y)) / sqrt(2 * pi * y**3)", "positive"),
    ),
    family(
        "lgamma(h)",
        domain="h > 0",
        sufficient_statistics="log(y)",
        density=Density("exp(-y) / y", "positive"),
    ),
    family(
        "-log(-h) + a * h",
        domain="h < 0",
        sufficient_statistics="y + a",
        constants=(Constant("a", "shift"),),
        density=Density("1", "positive"),
    ),
    family(
        "log(1 + exp(h) + exp(2 * h))",
        density=Density("1", "counts", "2"),
    ),
    family(
        "log(sum(exp(h)))",
        structure="joint",
        density=Density("1", "one_hot"),
    ),
    family(
        "2 * log(sum(exp(h)))",
        structure="joint",
        density=Density("2 / exp(sum(lgamma(y + 1)))", "count_vectors", "2"),
    ),
]


@pytest.mark.parametrize("spec", ACCEPTED, ids=lambda spec: spec.log_partition)
def test_accepts_other_laws(spec):
    check(spec)


REFUSED = [
    (family("-h**2"), "not convex at h = 0.001: ∂²F has the eigenvalue -2.0"),
    (family("h**3"), "not convex at h = -0.001: ∂²F has the eigenvalue -0.006"),
    (family("sin(h)"), "not convex at h = "),
    (family("log(h)", domain="h > 0"), r"not convex at h = 0.001: .* -1.0e\+6"),
    (family("h1 * h2", **TWO), r"not convex at h1 = \S+, h2 = \S+: ∂²F has the eigenvalue -1.0"),
    (family("exp(h1) - h2**4", **TWO), "not convex at h1 = "),
    (family("h"), "affine in h"),
    (family("3"), "affine in h"),
    (family("exp(h1) + h2", **TWO), "affine in h2"),
    (family("h**4"), r"convex, yet no law has its derivatives at h = 0.001"),
    (family("-log(-h)"), 'not finite at h = 0.001 .* give its domain, e.g. domain = "h < 0"'),
    (family("-log(h)"), 'not finite at h = -0.001 .* e.g. domain = "h > 0"'),
    (family("-log(1 - h)"), 'e.g. domain = "h < 1"'),
    (
        family("lgamma(h1 + 1) - (h1 + 1) * log(-h2)", domain=("h1 > -2", "h2 < 0"), **TWO),
        'narrow its domain, e.g. domain = "h1 > -1"',
    ),
    (family("exp(exp(exp(h)))"), "not finite at h = 10 "),
    (family("sqrt(h**2 - 1)"), "not finite at h = 0.001"),
    (family("exp(-h)", density=Density("1 / gamma(y + 1)", "counts")), "differs from the density"),
    (
        family("h**2 / 2", density=Density("exp(-y**2 / 2)", "real")),
        "log ∫ .* = 1.0439.* F = 0.125",
    ),
    (family("h**2 / 2 + 1e-14", density=Density(NORMAL, "real")), "differs from the density"),
    (family("h**2 / 2", density=Density(NORMAL, "positive")), "differs from the density"),
    (
        family("h**2 / 2", sufficient_statistics="2 * y", density=Density(NORMAL, "real")),
        "differs from the density",
    ),
    (
        family(
            "a**2 * log(1 + exp(h))",
            constants=(Constant("a", "", integer=True),),
            density=Density("gamma(a + 1) / (gamma(y + 1) * gamma(a - y + 1))", "counts", "a"),
        ),
        "differs from the density at h = 0.5, a = 3.0",
    ),
    (
        family("log(sum(exp(h))) + 1e-14", structure="joint", density=Density("1", "one_hot")),
        r"differs from the density at h = \(",
    ),
    (family("exp(h)", density=Density("-1 / gamma(y + 1)", "counts")), "negative at y = 0.0"),
    (family("exp(h)", density=Density("1 / gamma(y - 1)", "counts")), "not finite at y = 0.0"),
    (family("exp(h)", density=Density("1", "counts")), "not settled"),
    (family("h**2 / 2", density=Density("1", "real")), "integral is not finite"),
    (family("h**2 / 2", density=Density("1 / y", "positive")), "integral is not finite"),
    (family("h**2 / 2", density=Density("0", "real")), "is 0 or not finite everywhere"),
    (family("exp(h)", structure="joint"), r"Add them up with sum\(...\)"),
]


@pytest.mark.parametrize(
    ("spec", "message"), REFUSED, ids=lambda x: getattr(x, "log_partition", "")
)
def test_refuses_what_is_no_log_partition_and_names_the_point(spec, message):
    with pytest.raises(SpecError, match=message):
        check(spec)


def test_leaves_the_precision_of_mpmath_alone():
    before = mpmath.mp.dps
    check(fimsym.family("poisson"))
    assert mpmath.mp.dps == before


@pytest.mark.parametrize(
    ("name", "h", "expected"),
    [
        ("gamma", ("0.5", "-2"), lambda a, b: mpmath.loggamma(a + 1) - (a + 1) * mpmath.log(-b)),
        ("von_mises", ("1", "-2"), lambda a, b: mpmath.log(mpmath.besseli(0, mpmath.hypot(a, b)))),
        ("geometric", ("-0.5",), lambda a: -mpmath.log1p(-mpmath.exp(a))),
        ("beta", ("0.5", "3"), lambda a, b: mpmath.log(mpmath.beta(a, b))),
    ],
)
def test_integrals_have_fifteen_digits(name, h, expected):
    with mpmath.workdps(40):
        h = tuple(map(mpmath.mpf, h))
        value = log_integral(fimsym.family(name), h, {})
        assert abs(value - expected(*h)) < 1e-16


def test_an_angle_need_not_be_periodic():
    # t = y on (−π, π]: ∫ e^{hy} dy = 2 sinh(πh)/h.
    spec = family("log(exp(pi*h) - exp(-pi*h)) - log(h)", density=Density("1", "angle"))
    with mpmath.workdps(40):
        value = log_integral(spec, (mpmath.mpf("0.7"),), {})
        assert abs(value - mpmath.log(2 * mpmath.sinh(0.7 * mpmath.pi) / 0.7)) < 1e-15


def test_points_lie_in_the_domain_and_approach_its_bounds():
    limits = family(
        "exp(h1 + h2)", natural=("h1", "h2"), sufficient_statistics=("y", "y"), domain="0 < h1 < 1"
    ).limits
    found = points(limits, (0.001, 30.0), (0.001, 0.999), 24)
    assert len(found) == 24
    assert all(0 < a < 1 for a, _ in found)
    assert min(a for a, _ in found) < 0.01
    assert max(a for a, _ in found) > 0.99
    assert {b > 0 for _, b in found} == {True, False}
    assert found == points(limits, (0.001, 30.0), (0.001, 0.999), 24)
