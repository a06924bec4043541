"""The laws that Monte Carlo samples: log p, links, and densities without a sampler."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import fimsym
from fimsym.errors import SpecError, UnsupportedError
from fimsym.families import Density, Family, Sampler
from fimsym.laws import Law
from fimsym.laws.algebra import evaluate
from fimsym.laws.statistics import statistics
from fimsym.validation import output
from fimsym.validation.draws import draw as drawn
from fimsym.validation.montecarlo import Derivatives, estimators
from fimsym.validation.streams import Stream
from fimsym.validation.subject import natural

FAMILIES = fimsym.families()
LINKS = [(name, link.name) for name in FAMILIES for link in fimsym.family(name).links]
RAYLEIGH = Family(
    name="rayleigh",
    log_partition="-log(-h)",
    sufficient_statistics=("y**2",),
    domain=("h < 0",),
    density=Density("2 * y", "positive"),
)


def log_partition(law, h):
    """Return F(h) from the specification's own text."""
    names = {**law.constants, **law._natural(h)}
    value = evaluate(law.family.log_partition, names)
    return value if law.family.structure == "matrix" else value.sum(-1)


def laws(family):
    """Yield the family's law, h, u and v at each random point."""
    for point in output.random_points(family, 1):
        yield Law(family, point.constants), point.at


def draw(law, h, count):
    return drawn(law.given(h), Stream(1, "test").generator(), count)


@pytest.mark.parametrize("name", FAMILIES)
def test_log_p_is_that_of_the_family(name):
    """ℓ(h) − ℓ(h') = ⟨t(y), h − h'⟩ − F(h) + F(h'), for every label."""
    for law, at in laws(fimsym.family(name)):
        other, y = 0.9 * at.h, draw(law, at.h, 50)
        difference = law.log_prob(at.h, y) - law.log_prob(other, y)
        expected = statistics(law.family, law.constants, y, len(at.h)) @ (at.h - other)
        expected = expected - log_partition(law, at.h) + log_partition(law, other)
        torch.testing.assert_close(difference, expected, rtol=1e-11, atol=1e-11)


LIMITS = {"real": (-np.inf, np.inf), "positive": (0, np.inf), "unit": (0, 1),
          "angle": (-np.pi, np.pi)}  # fmt: skip


def integral(law, h, label, low, high):
    def density(y):
        return math.exp(law.log_prob(h, torch.tensor(label(y), dtype=torch.float64)))

    return integrate.quad(density, low, high, epsabs=1e-9, full_output=True)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_log_p_is_normalised(name):
    for law, at in laws(fimsym.family(name)):
        support = law.support(at.h)
        if support is not None:
            total = float(law.log_prob(at.h, support.labels).exp().sum())
        elif law.independent:
            one = at.h.unflatten(0, (law.family.components, -1))[:, 0]
            low, high = LIMITS[law.family.density.support]
            total = integral(law, one, lambda y: [y], low, high)
        elif name == "dirichlet":
            total = integral(law, at.h[:2], lambda y: [y, 1 - y], 0, 1)
        else:
            given, y = law.given(at.h), draw(law, at.h, 20)
            oracle = stats.multivariate_normal(given.mean, given.covariance_matrix).logpdf(y)
            total = float((given.log_prob(y) - torch.from_numpy(oracle)).exp().mean())
        assert total == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_estimators_equal_finite_differences_of_log_p(name):
    for law, at in laws(fimsym.family(name)):
        at = Derivatives(at.h, at.u[:, :3] / 4, at.v[:, :3] / 4)
        y, step = draw(law, at.h, 10), 2e-3

        def along(e, law=law, at=at, y=y):
            paths = (at.h + e * at.u.T + e**2 / 2 * at.v.T).unbind()
            return torch.stack([law.log_prob(h, y) for h in paths], dim=1)

        near, far, middle = (
            [along(step), along(-step)],
            [along(2 * step), along(-2 * step)],
            along(0),
        )
        score = (8 * (near[0] - near[1]) - (far[0] - far[1])) / (12 * step)
        second = (16 * sum(near) - sum(far) - 30 * middle) / (12 * step**2)
        first, negative = estimators(law, at, y.unsqueeze(1))
        torch.testing.assert_close(first, score.square(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(negative, -second, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "link"), LINKS)
def test_a_link_is_the_law_of_its_natural_parameters(name, link):
    """For outputs inside the link's domain: one law, whichever way it is written."""
    spec = fimsym.family(name)
    constants = {c.name: 3.0 for c in spec.constants}
    linked, plain = Law(spec, constants, link), Law(spec, constants)
    outputs = torch.tensor([0.4, 0.7, 0.2, 0.6, 0.3], dtype=torch.float64)
    outputs = outputs[: 5 if spec.structure == "matrix" else 4]
    h = linked.natural(outputs)
    y = draw(linked, outputs, 20)
    torch.testing.assert_close(linked.log_prob(outputs, y), plain.log_prob(h, y))
    u, v = (torch.randn(len(outputs), 2).double() for _ in range(2))
    at = Derivatives(outputs, u, v)
    along = Derivatives(*natural(linked, at))
    for one, other in zip(
        estimators(linked, at, y.unsqueeze(1)),
        estimators(plain, along, y.unsqueeze(1)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_links_mean_what_they_are_called():
    """Each law's own mean and spread, from torch, at outputs whose meaning is the name."""
    o = torch.tensor([0.4, 0.7], dtype=torch.float64)
    law = Law(fimsym.family("gaussian_mean_variance"), {}, "mean_log_variance").given(o)
    assert float(law.mean) == pytest.approx(0.4)
    assert float(law.variance) == pytest.approx(math.exp(0.7))
    law = Law(fimsym.family("gamma"), {}, "log_shape_log_rate").given(o).base_dist
    assert float(law.concentration) == pytest.approx(math.exp(0.4))
    assert float(law.rate) == pytest.approx(math.exp(0.7))
    law = Law(fimsym.family("negative_binomial"), {"r": 0.47}, "log_mean").given(o)
    torch.testing.assert_close(law.mean, o.exp())
    law = Law(fimsym.family("gaussian"), {"sigma": 3.0}, "mean").given(o)
    torch.testing.assert_close(law.mean, o)
    packed = torch.tensor([0.4, 0.7, 0.2, 0.6, -0.3], dtype=torch.float64)
    law = Law(fimsym.family("multivariate_gaussian"), {}, "mean_cholesky").given(packed)
    factor = torch.tensor([[math.exp(0.2), 0], [0.6, math.exp(-0.3)]], dtype=torch.float64)
    torch.testing.assert_close(law.mean, packed[:2])
    torch.testing.assert_close(law.covariance_matrix, factor @ factor.T)


ON_A_LINE = ("real", "positive", "unit", "angle", "counts")
TABULATED = [name for name in FAMILIES if fimsym.family(name).density.support in ON_A_LINE]


@pytest.mark.parametrize("name", TABULATED)
def test_a_density_alone_gives_the_same_law(name):
    spec = fimsym.family(name)
    bare = dataclasses.replace(spec, sampler=None)
    for (law, at), (other, _) in zip(laws(spec), laws(bare), strict=True):
        y = draw(other, at.h, 20_000)
        torch.testing.assert_close(
            law.log_prob(at.h, y[:50]), other.log_prob(at.h, y[:50]), rtol=1e-8, atol=1e-8
        )
        h = at.h.clone().requires_grad_()
        (mean,) = torch.autograd.grad(log_partition(law, h), h)
        t = statistics(law.family, law.constants, y, len(at.h))
        assert ((t.mean(0) - mean) / (t.std(0) / math.sqrt(len(t)))).abs().max() < 6
        for one, two in zip(
            estimators(law, at, y[:20].unsqueeze(1)),
            estimators(other, at, y[:20].unsqueeze(1)),
            strict=True,
        ):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("change", [{"density": None}, {"density": Density("1", "vector")}])
def test_a_law_without_sampler_and_line_is_refused(change):
    spec = dataclasses.replace(fimsym.family("multivariate_gaussian"), sampler=None, **change)
    with pytest.raises(UnsupportedError, match=r"\[sampler\].*\[density\]"):
        Law(spec, {})


def test_a_base_measure_that_overflows_is_refused():
    wide = dataclasses.replace(fimsym.family("poisson"), sampler=None)
    with pytest.raises(UnsupportedError, match="beside y = 170"):
        Law(wide, {}).given(torch.tensor([5.3], dtype=torch.float64))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (Sampler("Wiebull", {"scale": "-h"}), "Did you mean 'Weibull'"),
        (Sampler("Weibull", {"scale": "-h"}), "concentration"),
    ],
)
def test_a_sampler_that_torch_cannot_make_is_refused(sampler, message):
    spec = dataclasses.replace(RAYLEIGH, sampler=sampler)
    with pytest.raises(SpecError, match=message):
        Law(spec, {}).given(-torch.ones(2).double())


@pytest.mark.parametrize("outputs", [[6.0], [6.0, 0.1], [11.5]])
def test_labels_of_large_counts_are_listed_where_they_are(outputs):
    h = torch.tensor(outputs, dtype=torch.float64)
    law = Law(fimsym.family("poisson"), {})
    support = law.support(h)
    if support is None:  # too many to list
        assert outputs == [11.5]
        return
    p = law.log_prob(h, support.labels).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    mean = (p.unsqueeze(1) * support.labels).sum(0)
    torch.testing.assert_close(mean, h.exp(), rtol=1e-9, atol=0)


def test_a_label_outside_the_density_is_a_gap(monkeypatch):
    """One of fifty labels has no density where the specification has one."""
    spec = fimsym.family("gamma")
    subject = output.AtPoints(spec, output.random_points(spec, 0), output.RANDOM)
    assert subject.density_gap(0, lambda *purpose: Stream(0, *purpose)) < 1e-8
    true = Law.log_prob

    def log_prob(self, h, labels):
        found = true(self, h, labels).clone()
        found[3] = -math.inf
        return found

    monkeypatch.setattr(Law, "log_prob", log_prob)
    assert subject.density_gap(0, lambda *purpose: Stream(0, *purpose)) == math.inf
