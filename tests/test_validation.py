"""The instrument itself: independent, calibrated, and powerful enough to see 2%."""

import builtins
import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import integrate, stats

import fimsym
from fimsym.cli import main
from fimsym.engine.analysis import QUANTITIES
from fimsym.errors import DomainError, SpecError, UnsupportedError
from fimsym.families import Density, Family, Sampler
from fimsym.laws.algebra import evaluate
from fimsym.laws.law import Law
from fimsym.runtime import Moments
from fimsym.validation import network, output
from fimsym.validation.agreement import _critical, _log_tail, compare
from fimsym.validation.measurement import natural_points
from fimsym.validation.montecarlo import (
    ESTIMATES,
    Derivatives,
    derivatives,
    direct,
    estimators,
    simulate,
)
from fimsym.validation.tasks import TASKS
from fimsym.validation.validate import judge
from tests.tolerances import POWER

DEFAULT_SAMPLES = 100_000
OUTPUT_SAMPLES = 200_000
FEWER = math.sqrt(1_000_000 / OUTPUT_SAMPLES)
"""Factor by which errors are larger than at the default of 10⁶ labels."""

SMALL = {"samples": 2000, "inputs": 2, "output_samples": 20_000, "progress": False}
ON_A_LINE = ("real", "positive", "unit", "angle", "counts")
FAMILIES = fimsym.families()
LINKS = [(name, link.name) for name in FAMILIES for link in fimsym.family(name).links]
RAYLEIGH = Family(
    name="rayleigh",
    log_partition="-log(-h)",
    sufficient_statistics=("y**2",),
    domain=("h < 0",),
    density=Density("2 * y", "positive"),
)


@functools.cache
def at_output(name):
    """One family's law at random points, measured once."""
    return output.measure(fimsym.family(name), OUTPUT_SAMPLES, 0)


@functools.cache
def on_data(name):
    """A family's first network at the default sample size, measured once."""
    return network.measure(TASKS[name][0](0, 16), DEFAULT_SAMPLES, 0)


@pytest.fixture(scope="module")
def measured():
    return {name: on_data(name) for name in ("categorical", "gaussian")}


def planted(measurement, quantity, factor):
    """Return a measurement whose evaluator is off by a factor in one quantity."""
    closed = {**measurement.closed, quantity: factor * measurement.closed[quantity]}
    return dataclasses.replace(measurement, closed=closed)


def log_partition(law, h):
    """Return F(h) from the specification's own text."""
    names = {**law.constants, **law._natural(h)}
    value = evaluate(law.family.log_partition, names)
    return value if law.family.structure == "matrix" else value.sum(-1)


def statistics(law, h, y):
    """Return t(y), one entry per entry of h, in the layout of h."""
    family = law.family
    if family.name == "categorical":
        return torch.nn.functional.one_hot(y.long(), h.shape[-1]).double()
    if family.name == "multinomial":
        return y
    if family.structure == "matrix":
        rows, columns = torch.tril_indices(y.shape[-1], y.shape[-1])
        products = y[..., rows] * y[..., columns] * torch.where(rows == columns, 1.0, 2.0)
        return torch.cat([y, products], -1)
    names = {**law.constants, "y": y}
    return torch.cat([evaluate(t, names) for t in family.sufficient_statistics], -1)


def laws(family):
    """Yield the family's law, h, u and v at each random point."""
    for point in output.random_points(family, 1):
        yield Law(family, point.constants), point.at


def draw(law, h, count):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return law.given(h).sample((count,))


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_have_the_mean_of_the_log_partition(name):
    for law, at in laws(fimsym.family(name)):
        h = at.h.clone().requires_grad_()
        (mean,) = torch.autograd.grad(log_partition(law, h), h)
        t = statistics(law, at.h, draw(law, at.h, 20_000))
        z = (t.mean(0) - mean) / (t.std(0) / math.sqrt(len(t)))
        assert z.abs().max() < 6


@pytest.mark.parametrize("name", FAMILIES)
def test_log_p_is_that_of_the_family(name):
    """ℓ(h) − ℓ(h') = ⟨t(y), h − h'⟩ − F(h) + F(h'), for every label."""
    for law, at in laws(fimsym.family(name)):
        other, y = 0.9 * at.h, draw(law, at.h, 50)
        difference = law.log_prob(at.h, y) - law.log_prob(other, y)
        expected = statistics(law, at.h, y) @ (at.h - other)
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
    natural = linked.natural(outputs)
    y = draw(linked, outputs, 20)
    torch.testing.assert_close(linked.log_prob(outputs, y), plain.log_prob(natural, y))
    u, v = (torch.randn(len(outputs), 2).double() for _ in range(2))
    at = Derivatives(outputs, u, v)
    along = Derivatives(*(x[0] for x in natural_points(linked, [at])))
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


TABULATED = [
    name for name in FAMILIES
    if fimsym.family(name).density.support in ON_A_LINE
]  # fmt: skip


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
        t = statistics(law, at.h, y)
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


@pytest.mark.parametrize("name", FAMILIES)
def test_closed_forms_agree_at_random_points(name):
    m = at_output(name)
    (report,), tests = judge([m])
    assert report.agrees
    assert tests == 5 * (len(m.closed["fisher"]) + 2)


# At the default of 10⁶ labels each of these is an error of 2%.
AT_OUTPUT = [
    (name, quantity)
    for name, quantity in itertools.product(FAMILIES, QUANTITIES)
    if (name, quantity) != ("gaussian", "covariance")
]


@pytest.mark.parametrize(("name", "quantity"), AT_OUTPUT)
def test_two_percent_at_random_points_is_caught(name, quantity):
    first = quantity in ("fisher", "variance_negative_hessian")
    for sign in (1, -1):
        wrong = planted(at_output(name), quantity, 1 + sign * POWER * (1 if first else FEWER))
        assert not judge([wrong])[0][0].agrees


def test_random_points_are_inside_the_domain_and_reproducible():
    tight = dataclasses.replace(RAYLEIGH, domain=("-3 < h < -2",))
    for spec in (tight, *map(fimsym.family, FAMILIES)):
        first, again = (output.random_points(spec, 3) for _ in range(2))
        assert all(torch.equal(a.at.h, b.at.h) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0].at.h, output.random_points(spec, 4)[0].at.h)
        for point in first:
            law = Law(spec, point.constants)
            assert log_partition(law, point.at.h).isfinite()
    values = torch.cat([point.at.h for point in output.random_points(tight, 3)])
    assert ((values > -3) & (values < -2)).all()


def test_a_family_of_the_user_is_validated_without_networks():
    shown = fimsym.validate(RAYLEIGH, **SMALL)
    assert shown.agrees
    assert [model.subject.name for model in shown.models] == [output.NAME]
    for concentration, agrees in (("2", True), ("2.2", False)):
        sampler = Sampler("Weibull", {"scale": "1 / sqrt(-h)", "concentration": concentration})
        spec = dataclasses.replace(RAYLEIGH, sampler=sampler)
        assert fimsym.validate([spec], **SMALL).agrees is agrees


@pytest.mark.parametrize("name", sorted(name for name in FAMILIES if TASKS[name]))
def test_every_network_agrees(name):
    shown = fimsym.validate(name, **SMALL)
    assert shown.agrees
    assert len(shown.models) == 1 + len(TASKS[name])
    assert all(model.autograd_gap < 1e-8 for model in shown.models)


@pytest.mark.parametrize(("name", "package"), [("gaussian", "sklearn"), ("gamma", "statsmodels")])
def test_a_missing_data_package_is_named(monkeypatch, name, package):
    true = builtins.__import__

    def absent(module, *arguments, **options):
        if module.partition(".")[0] == package:
            raise ImportError(module)
        return true(module, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UnsupportedError, match=r'pip install "fimsym\[data\]"'):
        fimsym.validate(name, **SMALL)


def test_all_and_names_exclude_each_other():
    shown = CliRunner().invoke(main, ["validate", "gaussian", "--all", "--no-report"])
    assert shown.exit_code == 2
    assert "gaussian and --all" in shown.output


def test_closed_forms_agree_at_the_default_size(measured):
    reports, tests = judge(list(measured.values()))
    assert all(report.agrees for report in reports)
    assert tests == sum(
        5 * (len(m.closed["fisher"]) + 2 * len(m.layers)) for m in measured.values()
    )


# The Gaussian's covariance is zero, so that no relative error can be planted in it.
PLANTS = [
    (name, quantity, sign)
    for name, quantity, sign in itertools.product(("categorical", "gaussian"), QUANTITIES, (1, -1))
    if (name, quantity) != ("gaussian", "covariance")
]


@pytest.mark.parametrize(("name", "quantity", "sign"), PLANTS)
def test_two_percent_in_an_evaluator_is_caught(measured, name, quantity, sign):
    others = [m for other, m in measured.items() if other != name]
    wrong = planted(measured[name], quantity, 1 + sign * POWER)
    reports, _ = judge([wrong, *others])
    assert not reports[0].agrees
    assert all(report.agrees for report in reports[1:])


def sabotaged(monkeypatch, family, quantity):
    """Let a family's evaluator be 2% too large in one quantity."""
    module = fimsym.evaluator(family)
    true = module.moments

    def wrong(*arguments, **constants) -> Moments:
        moments = true(*arguments, **constants)
        scaled = (1 + POWER) * getattr(moments, quantity)
        return dataclasses.replace(moments, **{quantity: scaled})

    monkeypatch.setattr(module, "moments", wrong)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_wrong_evaluator_is_caught_from_end_to_end(monkeypatch, quantity):
    sabotaged(monkeypatch, "categorical", quantity)
    shown = fimsym.validate("categorical", **{**SMALL, "output_samples": 1_000_000})
    assert not shown.models[0].agreement.agrees
    assert not shown.agrees


@pytest.mark.parametrize(
    "name", ["fisher", "variance_score_squared", "variance_negative_hessian", "covariance"]
)
def test_a_wrong_function_of_one_quantity_is_caught(monkeypatch, name):
    module = fimsym.evaluator("categorical")
    true = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: (1 + POWER) * true(*arguments))
    shown = fimsym.validate("categorical", **SMALL)
    assert not any(model.agrees for model in shown.models)
    assert all(model.agreement.agrees for model in shown.models)


def test_a_wrong_bound_is_caught(monkeypatch):
    module = fimsym.evaluator("categorical")
    true = module.bounds

    def wrong(h):
        given = true(h)
        return dataclasses.replace(given, fisher_max=given.fisher_max / 100)

    monkeypatch.setattr(module, "bounds", wrong)
    assert not any(model.agrees for model in fimsym.validate("categorical", **SMALL).models)


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_two_percent_in_one_layer_is_caught(seed):
    """Also where a layer's sum cancels: every row that is random detects less than 2%."""
    result = fimsym.validate("categorical", seed=seed, progress=False)
    assert result.agrees
    rows = [c for m in result.models for c in m.agreement.comparisons if c.tested]
    assert max(row.detectable for row in rows) < POWER


@pytest.mark.parametrize("seed", range(1, 6))
def test_other_seeds_agree(seed):
    chosen = ("categorical", "gaussian", "poisson", "gamma")
    assert fimsym.validate(chosen, seed=seed, **SMALL).agrees


def test_values_where_nothing_is_random_are_compared_exactly(measured):
    m = measured["gaussian"]
    zero = m.closed["variance_negative_hessian"]
    assert (zero[m.layers["2"]] == 0).all()
    wrong = zero.clone()
    wrong[-1] += 1e-6
    closed = {**m.closed, "variance_negative_hessian": wrong}
    assert not judge([dataclasses.replace(m, closed=closed)])[0][0].agrees


def test_labels_are_drawn_in_chunks_without_bias(measured):
    reports, _ = judge([measured["gaussian"]])
    rows = [c for c in reports[0].agreement.comparisons if c.tested and c.closed_form]
    assert max(row.detectable for row in rows) < POWER


def test_a_closed_form_that_is_not_a_number_disagrees(measured):
    wrong = planted(measured["categorical"], "fisher", math.nan)
    assert not judge([wrong])[0][0].agrees


def test_z_scores_are_standard(measured):
    """Independent labels per parameter: mean 0 and variance 1 over parameters."""
    reports, _ = judge(list(measured.values()))
    for report in reports:
        for name, z in report.agreement.z.items():
            count = len(z)
            if count:
                assert abs(float(z.mean())) < 5 / math.sqrt(count), name
                assert abs(float(z.var()) - 1) < 0.35, name


def test_network_derivatives_and_paths_equal_autograd_through_the_network():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3)
    ).double()
    example = torch.randn(3, dtype=torch.float64)
    at = derivatives(model, example)
    law = Law(fimsym.family("categorical"), {})
    first, second = estimators(law, at, torch.arange(3).unsqueeze(-1))
    for label, position in itertools.product(range(3), range(at.u.shape[1])):
        whole = direct(law, model, example, torch.tensor(label), position)
        along = (first[label, position], second[label, position])
        assert [float(x) for x in along] == pytest.approx(whole, rel=1e-9, abs=1e-14)


def test_simulation_is_reproducible_and_depends_on_the_seed():
    for name in ("categorical", "gaussian", "poisson"):
        point = output.random_points(fimsym.family(name), 0)[0]
        law = Law(fimsym.family(name), point.constants)
        runs = [simulate(law, [point.at], 2000, seed)["covariance"].mean for seed in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])


def test_counted_labels_estimate_what_drawn_labels_estimate(monkeypatch):
    """Counting how often each label occurs and drawing labels one by one are one estimate."""
    point = output.random_points(fimsym.family("poisson"), 0)[0]
    law = Law(fimsym.family("poisson"), point.constants)
    at = Derivatives(point.at.h, point.at.u[:, :4], point.at.v[:, :4])
    counted = simulate(law, [at], 100_000, 0)
    monkeypatch.setattr(law, "support", lambda outputs: None)
    drawn = simulate(law, [at], 100_000, 0)
    for name in ESTIMATES:
        one, other = counted[name], drawn[name]
        error = (one.standard_error.square() + other.standard_error.square()).sqrt()
        assert ((one.mean - other.mean) / error).abs().max() < 6
        torch.testing.assert_close(one.standard_error, other.standard_error, rtol=0.2, atol=0)


def test_an_answer_does_not_depend_on_what_else_is_validated():
    together = fimsym.validate(["poisson", "geometric"], **SMALL).models[-1]
    alone = fimsym.validate("geometric", **SMALL).models[-1]
    for name in ESTIMATES:
        assert torch.equal(together.agreement.monte_carlo[name], alone.agreement.monte_carlo[name])


def test_global_random_state_is_untouched():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    state = np.random.get_state()[1].copy()
    fimsym.validate(["gaussian", "von_mises"], **SMALL)
    assert torch.equal(torch.rand(1), expected)
    assert (np.random.get_state()[1] == state).all()


def test_bernstein_bounds_every_binomial_tail():
    """The tail bound holds for rare events too, where a normal limit fails by far."""
    for count, p in itertools.product((1000, 100_000), (1e-6, 1e-4, 1e-2, 0.5)):
        error = math.sqrt(p * (1 - p) / count)
        ratio = (1 - p) / count / error
        for z in (2.0, 4.0, 6.5, 20.0):
            level = stats.binom.sf(math.ceil((p + z * error) * count) - 1, count, p)
            level += stats.binom.cdf(math.floor((p - z * error) * count), count, p)
            bound = float(_log_tail(torch.tensor(z), torch.tensor(ratio)))
            assert level == 0 or math.log(level) <= bound + 1e-9
    for ratio in (0.0, 0.1, 3.0):
        z = _critical(-25.0, ratio)
        assert float(_log_tail(torch.tensor(z), torch.tensor(ratio))) == pytest.approx(
            -25, rel=1e-5
        )


def test_swapped_and_signed_quantities_are_caught(measured):
    m = measured["categorical"]
    closed = m.closed
    layers = {"all": slice(0, len(closed["fisher"]))}
    assert compare(closed, m.estimates, layers).agrees
    swapped = {
        **closed,
        "variance_score_squared": closed["variance_negative_hessian"],
        "variance_negative_hessian": closed["variance_score_squared"],
    }
    fourth_moment = closed["variance_score_squared"] + closed["fisher"].square()
    for wrong in (
        swapped,
        {**closed, "covariance": -closed["covariance"]},
        {**closed, "variance_score_squared": fourth_moment},
        {**closed, "fisher": closed["fisher"].sqrt()},
    ):
        assert not compare(wrong, m.estimates, layers).agrees


def test_every_estimate_is_named_once():
    assert len(set(ESTIMATES)) == len(ESTIMATES) == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 10}, DomainError, "from 1000"),
        ({"samples": 1e5}, DomainError, "integer"),
        ({"seed": -1}, DomainError, "seed"),
        ({"samples": 10**8}, DomainError, "10,000,000"),
        ({"output_samples": 10}, DomainError, "output_samples must be"),
        ({"inputs": 0}, DomainError, "between 1 and"),
        ({"inputs": 10**6}, DomainError, "between 1 and"),
        ({"names": ["gausian"]}, SpecError, "Did you mean 'gaussian'"),
    ],
)
def test_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        fimsym.validate(**{"progress": False, **options})
