"""`analyze` through every link of every family against the law written in the output itself."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch import nn

import fimsym
from tests.networks import flat, inputs
from tests.reference import enumeration, quadrature
from tests.reference.enumeration import LAWS

RELATIVE = 1e-10
"""The oracle is good to 1e-13; torch's own trigamma, off by 5e-10, would not pass."""
OF_LARGEST = 1e-11
"""Of the largest entry: what remains where the terms of one parameter cancel."""

QUANTITIES = ("fisher", "variance_score_squared", "variance_negative_hessian", "covariance")
CONSTANTS = {
    "gaussian": {"sigma": 0.7},
    "binomial": {"n": 3},
    "multinomial": {"n": 4},
    "negative_binomial": {"r": 2.5},
}
CASES = [(family, link) for family, law in LAWS.items() for link in law.links]


def _positive(z):
    return nn.functional.softplus(z) + 0.5


def _negative(z):
    return -_positive(z)


def _same(z):
    return z


def _natural_vector(z):
    """Make two natural means and a negative definite matrix, packed by rows."""
    first, (a, b, c) = z[..., :2], z[..., 2:].unbind(-1)
    packed = torch.stack([-1 - a**2, a * b / 2, -1 - b**2 - c**2], -1)
    return torch.cat([first, packed], -1)


RANGES = {
    ("bernoulli", "mean"): (torch.sigmoid,),
    ("binomial", "mean"): (lambda z: 3 * torch.sigmoid(z),),
    **dict.fromkeys(
        [(name, "mean") for name in ("poisson", "geometric", "negative_binomial", "exponential")]
        + [("exponential", "rate"), ("dirichlet", None)],
        (_positive,),
    ),
    **dict.fromkeys(
        [(name, None) for name in ("geometric", "negative_binomial", "exponential")], (_negative,)
    ),
    ("gamma", None): (_positive, _negative),
    ("beta", None): (_positive, _positive),
    ("gaussian_mean_variance", None): (_same, _negative),
    ("gaussian_mean_variance", "mean_variance"): (_same, _positive),
    ("multivariate_gaussian", None): (_natural_vector,),
    ("inverse_gaussian", None): (_negative, _negative),
    ("von_mises", "mean_direction_concentration"): (_same, _positive),
}


class Ranged(nn.Module):
    """A network whose outputs are mapped, component by component, into a domain."""

    def __init__(self, outputs, ranges):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, outputs))
        self.ranges = ranges

    def forward(self, x):
        parts = self.body(x).chunk(len(self.ranges), dim=-1)
        return torch.cat([into(part) for into, part in zip(self.ranges, parts, strict=True)], -1)


class Line(nn.Module):
    """One parameter, at zero: h, ∂h = u and ∂²h = v are what is given."""

    def __init__(self, h, u, v):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.h, self.u, self.v = (torch.as_tensor(a, dtype=torch.float64) for a in (h, u, v))

    def forward(self, x):
        return (self.h + self.theta * self.u + self.theta**2 / 2 * self.v).expand(len(x), -1)


def network(family, link):
    """Two targets for a scalar law; three classes, or two dimensions, for a joint one."""
    outputs = {None: 5 if family == "multivariate_gaussian" else 3, 1: 2, 2: 4}
    torch.manual_seed(3)
    return Ranged(outputs[LAWS[family].outputs], RANGES.get((family, link), (_same,))).double()


@functools.cache
def truth(family, link):
    constants = CONSTANTS.get(family, {})
    return enumeration.moments(family, network(family, link), inputs(2, 2), link, **constants)


def at(family, h, u, v, **constants):
    """Return the oracle's moments at one point, in the order of QUANTITIES."""
    found = enumeration.moments(family, Line(h, u, v), torch.zeros(1, 1), **constants)
    return [float(found[name]) for name in QUANTITIES]


def from_cumulants(two, four, square, mixed):
    """Return the moments for κ₂₀, κ₄₀, κ₀₂ and κ₂₁."""
    return [two, four + 2 * two**2, square, -mixed]


def test_the_oracle_knows_every_link():
    for name in fimsym.families():
        links = {link.name for link in fimsym.family(name).links}
        assert set(LAWS[name].links) == {None} | links, name


def disagreement(found, expected):
    """Return the largest error of each quantity, in units of what is allowed."""
    scales = {name: expected[name].abs().max() for name in QUANTITIES}
    scales["covariance"] = (
        scales["variance_score_squared"] * scales["variance_negative_hessian"]
    ).sqrt()
    errors = {}
    for name, scale in scales.items():
        allowed = RELATIVE * expected[name].abs() + OF_LARGEST * scale
        errors[name] = float(((found[name] - expected[name]).abs() / allowed).max())
    return errors


def analysed(family, link):
    """Return every quantity, and the variance over inputs, as flat vectors."""
    got = fimsym.analyze(
        network(family, link),
        inputs(2, 2),
        family,
        link,
        quantities="all",
        progress=False,
        **CONSTANTS.get(family, {}),
    )
    found = {name: flat(got.values[name]) for name in QUANTITIES}
    return found, flat(got.input_variance)


@pytest.mark.parametrize(("family", "link"), CASES, ids=str)
def test_analyze_equals_enumeration(family, link):
    found, spread = analysed(family, link)
    expected = truth(family, link)
    assert max(disagreement(found, expected).values()) <= 1
    error = (spread - expected["input_variance"]).abs()
    assert (error <= RELATIVE * expected["input_variance"].max()).all()


@pytest.mark.parametrize(
    ("family", "link", "wrong"),
    [
        ("gaussian_mean_variance", "mean_log_variance", lambda o1, o2: (o1, o2.exp())),
        ("exponential", "log_mean", lambda o: (o.exp(),)),
        ("gamma", "log_shape_log_mean", lambda o1, o2: (o1.exp(), o2.exp())),
    ],
)
def test_a_wrong_link_is_noticed(family, link, wrong, monkeypatch):
    law = dataclasses.replace(LAWS[family], links={**LAWS[family].links, link: wrong})
    monkeypatch.setitem(LAWS, family, law)
    planted = enumeration.moments(family, network(family, link), inputs(2, 2), link)
    found, _ = analysed(family, link)
    assert max(disagreement(found, planted).values()) > 1e3


@pytest.mark.parametrize(("family", "link"), CASES, ids=str)
def test_both_estimators_have_one_mean(family, link):
    """Holds only if the density is normalised for every o, and the labels exhaust it."""
    found = truth(family, link)
    error = (found["fisher"] - found["fisher_negative_hessian"]).abs()
    assert (error <= 1e-12 * found["fisher"].max()).all()


@pytest.mark.parametrize(
    ("family", "link"),
    [("bernoulli", "mean"), ("gaussian_mean_variance", "mean_log_scale"), ("binomial", None)],
)
def test_targets_equal_the_product_of_their_labels(family, link):
    """The shortcuts of the oracle against autograd through the network, label by label."""
    law, model, x = LAWS[family], network(family, link), inputs(2, 2)[:1]
    constants = CONSTANTS.get(family, {})
    o = model(x).squeeze(0)
    columns = o.reshape(law.outputs, 2).unbind(-1)
    nodes = [enumeration.likelihood(law, link, c.detach(), constants) for c in columns]
    weights, scores, curvatures = [], [], []
    for y, weight in zip(*nodes[0], strict=True):
        for z, other in zip(*nodes[1], strict=True):
            log_p = sum(
                law.log_density(label, *law.parameters(link, c, constants))
                for label, c in zip((y, z), columns, strict=True)
            )
            score, curvature = enumeration.by_parameters(model, log_p)
            weights.append(weight * other)
            scores.append(score)
            curvatures.append(curvature)
    whole = quadrature.moments(torch.stack(weights), torch.stack(scores), torch.stack(curvatures))
    found = enumeration.moments(family, model, x, link, **constants)
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-13)


def test_poisson_in_closed_form():
    h, u, v = (np.array(a) for a in ([0.3, -1.0], [0.4, -0.7], [0.2, 0.5]))
    rate = np.exp(h)
    expected = from_cumulants(*((rate * a).sum() for a in (u**2, u**4, v**2, u**2 * v)))
    assert at("poisson", h, u, v) == pytest.approx(expected, rel=1e-11)


def test_exponential_in_closed_form():
    h, u, v = -1.7, 0.6, -0.9
    expected = [u**2 / h**2, 8 * u**4 / h**4, v**2 / h**2, 2 * u**2 * v / h**3]
    assert at("exponential", [h], [u], [v]) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(
    ("family", "size"), [("gaussian_mean_variance", 1), ("multivariate_gaussian", 2)]
)
def test_gaussian_in_closed_form(family, size):
    """The score is ⟨c, z⟩ + zᵀAz − tr A in standard normal z, and w alike."""
    mean, root = np.array([0.4, -1.1])[:size], np.array([[1.2, 0.0], [0.5, 0.8]])[:size, :size]
    packed = np.tril_indices(size)
    precision = np.linalg.inv(root @ root.T)
    h = np.concatenate([precision @ mean, -precision[packed] / 2])
    u = np.array([0.3, -0.6, 0.5, 0.2, -0.4])[: len(h)]
    v = np.array([0.7, 0.1, -0.3, 0.6, 0.2])[: len(h)]

    def in_z(direction):
        matrix = np.zeros((size, size))
        matrix[packed] = direction[size:]
        matrix = np.tril(matrix) + np.tril(matrix, -1).T
        return root.T @ (direction[:size] + 2 * matrix @ mean), root.T @ matrix @ root

    (c, a), (d, b) = in_z(u), in_z(v)
    expected = from_cumulants(
        c @ c + 2 * np.trace(a @ a),
        48 * np.trace(a @ a @ a @ a) + 48 * c @ a @ a @ c,
        d @ d + 2 * np.trace(b @ b),
        2 * c @ b @ c + 4 * c @ a @ d + 8 * np.trace(a @ a @ b),
    )
    assert at(family, h, u, v) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("family", "h"), [("dirichlet", [1.3, 0.7, 2.4]), ("beta", [2.2, 0.9])])
def test_dirichlet_in_closed_form(family, h):
    h = np.array(h)
    u, v = np.array([0.5, -0.8, 0.3])[: len(h)], np.array([0.1, 0.4, -0.6])[: len(h)]

    def cumulant(a, b):
        entries = scipy.special.polygamma(a + b - 1, h) * u**a * v**b
        whole = scipy.special.polygamma(a + b - 1, h.sum()) * u.sum() ** a * v.sum() ** b
        return entries.sum() - whole

    expected = from_cumulants(*(cumulant(*ab) for ab in ((2, 0), (4, 0), (0, 2), (2, 1))))
    assert at(family, h, u, v) == pytest.approx(expected, rel=1e-10)


def test_multinomial_is_independent_draws():
    """Cumulants add up over draws, and a categorical is one draw."""
    point = ([0.3, -0.5, 1.1], [0.4, -0.9, 0.2], [0.6, 0.1, -0.7])
    fisher, variance, second, covariance = at("categorical", *point)
    fourth = variance - 2 * fisher**2
    expected = from_cumulants(5 * fisher, 5 * fourth, 5 * second, -5 * covariance)
    assert at("multinomial", *point, n=5) == pytest.approx(expected, rel=1e-11)


SCIPY = {
    "gaussian": (scipy.stats.norm(0.49 * 0.8, 0.7), (lambda y: y,), (0.8,)),
    "bernoulli": (scipy.stats.bernoulli(scipy.special.expit(0.4)), (lambda y: y,), (0.4,)),
    "binomial": (scipy.stats.binom(3, scipy.special.expit(-0.7)), (lambda y: y,), (-0.7,)),
    "geometric": (scipy.stats.geom(1 - math.exp(-0.5), loc=-1), (lambda y: y,), (-0.5,)),
    "negative_binomial": (scipy.stats.nbinom(2.5, 1 - math.exp(-0.6)), (lambda y: y,), (-0.6,)),
    "gamma": (scipy.stats.gamma(2.3, scale=1 / 0.8), (np.log, lambda y: y), (1.3, -0.8)),
    "inverse_gaussian": (
        scipy.stats.invgauss(1.5 / 2.1, scale=2.1),
        (lambda y: y, np.reciprocal),
        (-2.1 / (2 * 1.5**2), -2.1 / 2),
    ),
    "von_mises": (
        scipy.stats.vonmises(1.8, loc=0.7),
        (np.cos, np.sin),
        (1.8 * math.cos(0.7), 1.8 * math.sin(0.7)),
    ),
}
"""The law as SciPy writes it, its sufficient statistics, and its natural parameters."""


@pytest.mark.parametrize("family", SCIPY)
def test_equals_expectations_of_scipy(family):
    frozen, statistics, h = SCIPY[family]
    u, v = (0.6, -0.35)[: len(h)], (-0.4, 0.8)[: len(h)]

    def expect(f):
        if hasattr(frozen.dist, "pmf"):
            y = np.arange(400.0)
            return (f(y) * frozen.pmf(y)).sum()
        circle = family == "von_mises"
        low, high = frozen.mean() + np.pi * np.array([-1, 1]) if circle else frozen.support()
        cuts = [low, *frozen.ppf([0.001, 0.1, 0.5, 0.9, 0.999]), high]
        return sum(
            scipy.integrate.quad(lambda y: f(y) * frozen.pdf(y), *ends, epsabs=1e-13, limit=200)[0]
            for ends in itertools.pairwise(cuts)
        )

    means = [expect(t) for t in statistics]

    def along(direction):
        return lambda y: sum(
            d * (t(y) - mean) for d, t, mean in zip(direction, statistics, means, strict=True)
        )

    s, w = along(u), along(v)
    fisher = expect(lambda y: s(y) ** 2)
    expected = [
        fisher,
        expect(lambda y: (s(y) ** 2 - fisher) ** 2),
        expect(lambda y: w(y) ** 2),
        -expect(lambda y: s(y) ** 2 * w(y)),
    ]
    got = at(family, h, u, v, **CONSTANTS.get(family, {}))
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-11)
