"""The instrument itself: independent, calibrated, and as powerful as it says."""

import builtins
import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch

import fimsym
from fimsym.engine.quantities import QUANTITIES
from fimsym.errors import DomainError, SpecError, UnsupportedError
from fimsym.families import Density, Family, Sampler
from fimsym.laws import Law
from fimsym.validation import cells, output, simulate
from fimsym.validation.carried import Plan
from fimsym.validation.estimates import CLOSED_FORM, ESTIMATES, estimate
from fimsym.validation.links import questions
from fimsym.validation.montecarlo import Derivatives, derivatives, direct, estimators
from fimsym.validation.network import OfNetwork, Question
from fimsym.validation.output import AtPoints, Point, random_points
from fimsym.validation.simulate import Drawing, counted, listed
from fimsym.validation.sizes import labels_for
from fimsym.validation.streams import BLOCK, Stream
from fimsym.validation.tasks import TASKS
from fimsym.validation.verdict import Measured, judge, number_of_tests
from tests.tolerances import POWER

DRAWN_LABELS, COUNTED_LABELS = 150_000, 1_000_000
SMALL = {"samples": 2000, "inputs": 2, "output_samples": 20_000, "progress": False}
FAMILIES = fimsym.families()
RAYLEIGH = Family(
    name="rayleigh",
    log_partition="-log(-h)",
    sufficient_statistics=("y**2",),
    domain=("h < 0",),
    density=Density("2 * y", "positive"),
)


def measured(subject, samples, seed=0):
    """Return both sides of a subject, without processes and checkpoints."""
    found = {cell: cells.measure(subject, cell, samples, seed)
             for cell in cells.cells(subject, samples, "main")}  # fmt: skip
    sampled = cells.combine(subject, found)
    return Measured(subject, samples, subject.closed(range(subject.points)), sampled)


@functools.cache
def at_points(name):
    """One family's law at random points, measured once."""
    spec = fimsym.family(name)
    subject = AtPoints(spec, random_points(spec, 0), output.RANDOM)
    counts = subject.support(0) is not None
    return measured(subject, COUNTED_LABELS if counts else DRAWN_LABELS)


@functools.cache
def on_data(name):
    """A family's first network, measured once."""
    subject = OfNetwork(TASKS[name][0](0, 8), 0)
    return measured(subject, {"categorical": 300_000, "gaussian": 40_000}[name])


@pytest.fixture(scope="module")
def networks():
    return {name: on_data(name) for name in ("categorical", "gaussian")}


def planted(measurement, quantity, factor, part=slice(None)):
    """Return a measurement whose evaluator is off by a factor in one quantity."""
    wrong = measurement.closed[quantity].copy()
    wrong[part] *= factor
    return dataclasses.replace(measurement, closed={**measurement.closed, quantity: wrong})


def rows(report, quantity):
    return [c for c in report.comparisons if CLOSED_FORM[c.quantity] == quantity]


def verdict(*measurements):
    return judge(measurements)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_closed_forms_agree_at_random_points(name):
    m = at_points(name)
    reports, _, tests = judge([m])
    assert reports[0].agrees
    assert 5 * (m.subject.size + 2) <= tests <= number_of_tests([m.subject])


CASES = list(itertools.product(FAMILIES, QUANTITIES))


def detectable(m, quantity, layer=None):
    """Return the smallest error that a row claims to catch, None if none is random."""
    found = [c.detectable for c in rows(verdict(m)[0], quantity) if layer in (None, c.layer)]
    found = [x for x in found if math.isfinite(x)]
    return min(found, default=None)


@pytest.mark.parametrize(("name", "quantity"), CASES)
def test_an_error_of_the_size_that_is_claimed_is_caught(name, quantity):
    """In both directions; checks without randomness are left aside."""
    m, size = at_points(name), detectable(at_points(name), quantity)
    assert (size is None) == ((name, quantity) == ("gaussian", "covariance"))
    for sign in (1, -1) if size else ():
        report = verdict(planted(m, quantity, 1 + 1.2 * sign * size))[0]
        assert not all(c.agrees for c in rows(report, quantity))
        report = verdict(planted(m, quantity, 1 + 0.2 * sign * size))[0]
        assert all(c.agrees for c in rows(report, quantity))


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", ["categorical", "gaussian"])
@pytest.mark.parametrize("layer", ["0", "2"])
def test_an_error_in_one_layer_of_a_network_is_caught(networks, name, quantity, layer):
    m = networks[name]
    size = detectable(m, quantity, layer)
    if size is None:
        closed = m.closed[quantity][m.subject.layers[layer]]
        assert not closed.any()
        return
    wrong = planted(m, quantity, 1 + 1.2 * size, m.subject.layers[layer])
    (report,) = verdict(wrong)
    found = {c.layer for c in rows(report, quantity) if not c.agrees}
    assert found == {layer}


def test_an_error_in_one_model_is_that_model_s(networks):
    reports = verdict(planted(networks["gaussian"], "fisher", 1.05), networks["categorical"])
    assert [report.agrees for report in reports] == [False, True]


LISTED = [name for name in FAMILIES if fimsym.family(name).density.support in
          ("one_hot", "count_vectors", "counts")]  # fmt: skip


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("quantity", QUANTITIES)
def test_errors_far_below_the_noise_are_seen_where_labels_are_listed(name, quantity):
    """Sums over all labels have none."""
    reports = verdict(planted(at_points(name), quantity, 1 + 1e-6))
    checks = {check.name: check.passes for check in reports[0].checks}
    assert not checks["sums"]
    assert not checks["functions"]
    assert all(c.agrees for c in reports[0].comparisons)


def test_random_points_are_inside_the_domain_and_reproducible():
    tight = dataclasses.replace(RAYLEIGH, domain=("-3 < h < -2",))
    for spec in (tight, *map(fimsym.family, FAMILIES)):
        first, again = (random_points(spec, 3) for _ in range(2))
        assert all(torch.equal(a.at.h, b.at.h) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0].at.h, random_points(spec, 4)[0].at.h)
        for point in first:
            given = Law(spec, point.constants).given(point.at.h)
            assert bool(torch.as_tensor(given.sample((3,))).isfinite().all())
    values = torch.cat([point.at.h for point in random_points(tight, 3)])
    assert ((values > -3) & (values < -2)).all()


def test_a_family_of_the_user_is_validated_without_networks():
    shown = fimsym.validate(RAYLEIGH, **SMALL)
    assert shown.agrees
    assert [model.description.name for model in shown.models] == [output.RANDOM]
    assert any("Networks of rayleigh" in sentence for sentence in shown.untested)
    for concentration, agrees in (("2", True), ("2.2", False)):
        sampler = Sampler("Weibull", {"scale": "1 / sqrt(-h)", "concentration": concentration})
        spec = dataclasses.replace(RAYLEIGH, sampler=sampler)
        assert fimsym.validate([spec], **SMALL).agrees is agrees


def test_two_families_of_one_name_are_refused():
    other = dataclasses.replace(fimsym.family("poisson"), title="another")
    with pytest.raises(SpecError, match="same name"):
        fimsym.validate(["poisson", other], **SMALL)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_its_links_and_networks(name):
    shown = fimsym.validate(name, **SMALL)
    assert shown.agrees
    links = [link for link in fimsym.family(name).links if not link.identity]
    assert len(shown.models) == 1 + len(links) + len(TASKS[name])
    for model in shown.models:
        assert {check.name for check in model.checks} >= {"functions", "bounds", "autograd"}


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


def sabotaged(monkeypatch, family, quantity):
    """Let a family's evaluator be 2% too large in one quantity, in every function alike."""
    module = fimsym.evaluator(family)
    moments, function = module.moments, getattr(module, quantity)

    def wrong(*arguments, **constants):
        found = moments(*arguments, **constants)
        scaled = getattr(found, quantity)
        scaled = None if scaled is None else (1 + POWER) * scaled
        return dataclasses.replace(found, **{quantity: scaled})

    monkeypatch.setattr(module, "moments", wrong)
    monkeypatch.setattr(module, quantity, lambda *a, **c: (1 + POWER) * function(*a, **c))


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize("name", ["categorical", "gamma"])
def test_a_wrong_evaluator_is_caught_from_end_to_end(monkeypatch, name, quantity):
    """By labels alone: the evaluator's functions agree with each other."""
    sabotaged(monkeypatch, name, quantity)
    points = random_points(fimsym.family(name), 0)
    error = POWER * 0.9
    shown = fimsym.validate(name, points=points, relative_error=error, progress=False)
    assert not shown.agrees
    assert not any(c.agrees for c in rows(shown.models[0], quantity))
    assert "functions" not in {k.name for k in shown.models[0].checks if not k.passes}


def test_the_number_of_labels_catches_the_error_that_was_asked_for():
    """Whatever is asked for, every random row catches it; more labels where less is."""
    spec = fimsym.family("exponential")
    points, samples = random_points(spec, 0), []
    for error in (0.1, 0.04):
        shown = fimsym.validate(spec, points=points, relative_error=error, progress=False)
        assert shown.agrees
        assert shown.relative_error == error
        found = [c.detectable for m in shown.models for c in m.comparisons if c.tested]
        assert error / 2 < max(x for x in found if math.isfinite(x)) <= error
        samples.append([model.samples for model in shown.models])
    assert all(many > few for few, many in zip(*samples, strict=True))


def test_the_pilot_s_labels_are_not_used_again():
    """Its stream is another: the main run does not change when the pilot's labels do."""
    subject = AtPoints(RAYLEIGH, random_points(RAYLEIGH, 0), output.RANDOM)
    stages = [
        cells.measure(subject, cells.Cell(stage, subject.key, 0, 0, 1), BLOCK, 0)
        for stage in ("pilot", "main")
    ]
    means = [found.arrays["sample"][1] for found in stages]
    assert not (means[0] == means[1]).any()


def test_given_numbers_of_labels_take_no_pilot(monkeypatch):
    monkeypatch.setattr("fimsym.validation.carried.labels_for", None)
    shown = fimsym.validate("poisson", **SMALL)
    assert shown.relative_error is None
    assert {model.samples for model in shown.models} == {2000, 20_000}


def test_more_labels_than_can_be_drawn_are_not_asked_for():
    subject = AtPoints(RAYLEIGH, random_points(RAYLEIGH, 0), output.RANDOM)
    samples = cells.pilot_labels(subject)
    found = {cell: cells.measure(subject, cell, samples, 0)
             for cell in cells.cells(subject, samples, "pilot")}  # fmt: skip
    pilot = cells.combine(subject, found)
    few, many = (labels_for(subject, pilot, error, 1000) for error in (0.5, 1e-4))
    assert few < many <= 2**34 / subject.size * 1.1


def test_values_where_nothing_is_random_are_compared_exactly(networks):
    m = networks["gaussian"]
    zero = m.closed["variance_negative_hessian"]
    assert (zero[m.subject.layers["2"]] == 0).all()
    wrong = zero.copy()
    wrong[-1] += 1e-6
    closed = {**m.closed, "variance_negative_hessian": wrong}
    (report,) = verdict(dataclasses.replace(m, closed=closed))
    assert [c.layer for c in report.comparisons if not c.agrees] == ["2"]


def test_a_closed_form_that_is_not_a_number_disagrees(networks):
    assert not verdict(planted(networks["categorical"], "fisher", math.nan))[0].agrees


def test_z_scores_are_standard(networks):
    reports, fits, _ = judge(list(networks.values()))
    assert {fit.quantity for fit in fits} == set(ESTIMATES)
    for fit in (*fits, *(fit for report in reports for fit in report.fits)):
        assert abs(fit.mean) < 5 / math.sqrt(fit.scores)
        assert abs(fit.variance - 1) < 5 * math.sqrt(2 / fit.scores)
        assert fit.agrees


@pytest.mark.parametrize("factor", [1.4, 0.6])
def test_standard_errors_of_the_wrong_size_are_seen(networks, factor):
    """Too large an error rejects no closed form: only the z-scores show it."""
    m = networks["categorical"]
    wrong = {
        name: dataclasses.replace(one, variance=factor**2 * one.variance)
        for name, one in m.sampled.estimates.items()
    }
    sampled = dataclasses.replace(m.sampled, estimates=wrong)
    (report,), fits, _ = judge([dataclasses.replace(m, sampled=sampled)])
    assert not all(fit.agrees for fit in fits)
    assert not report.agrees
    if factor > 1:
        assert all(c.agrees for c in report.comparisons)


def test_labels_shared_by_all_parameters_are_seen():
    """The z-scores of one quantity are then one and the same number, not a sample."""
    m = on_data("categorical")
    scores = verdict(m)[0].scores
    name = "fisher_score_squared"
    one = m.sampled.estimates[name]
    same = m.closed["fisher"] - 0.7 * np.abs(scores[name].standard_error)
    estimates = {**m.sampled.estimates, name: dataclasses.replace(one, mean=same)}
    sampled = dataclasses.replace(m.sampled, estimates=estimates)
    _, fits, _ = judge([dataclasses.replace(m, sampled=sampled)])
    assert [fit.quantity for fit in fits if not fit.agrees] == [name]


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.LayerNorm(4), torch.nn.Linear(4, 3)
    ).double()


def test_network_derivatives_and_paths_equal_autograd_through_the_network():
    model = small_network()
    example = torch.randn(3, dtype=torch.float64)
    at = derivatives(model, example)
    law = Law(fimsym.family("categorical"), {})
    first, second = estimators(law, at, torch.arange(3).unsqueeze(-1))
    places = [(n, e) for n, p in enumerate(model.parameters()) for e in range(p.numel())]
    for label, (position, place) in itertools.product(range(3), enumerate(places)):
        whole = direct(law, model, example, torch.tensor(label), place)
        along = (first[label, position], second[label, position])
        assert [float(x) for x in along] == pytest.approx(whole, rel=1e-9, abs=1e-14)


def test_derivatives_of_some_parameters_are_those_of_all():
    model = small_network()
    example = torch.randn(3, dtype=torch.float64)
    sizes = [p.numel() for p in model.parameters()]
    chosen = [torch.arange(0, size, 3) for size in sizes]
    starts = np.cumsum([0, *sizes[:-1]])
    flat = torch.cat([at + int(start) for at, start in zip(chosen, starts, strict=True)])
    some, whole = derivatives(model, example, chosen), derivatives(model, example)
    torch.testing.assert_close(some.u, whole.u[:, flat])
    torch.testing.assert_close(some.v, whole.v[:, flat])


class Recurrent(torch.nn.Module):
    """A network whose backward cannot be batched."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.GRU(2, 3, batch_first=True)
        self.last = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.last(self.cell(x)[0][:, -1])


def test_a_network_is_differentiated_one_by_one_where_it_must_be():
    torch.manual_seed(0)
    model = Recurrent().double()
    example = torch.randn(4, 2, dtype=torch.float64)
    at = derivatives(model, example)
    analysis = fimsym.analyze(
        model, example.unsqueeze(0), "gaussian", quantities="all", progress=False
    )
    moments = fimsym.evaluator("gaussian").moments(at.h, at.u, at.v, sigma=1.0)
    for quantity in QUANTITIES:
        flat = torch.cat([x.reshape(-1) for x in getattr(analysis, quantity).values()])
        torch.testing.assert_close(getattr(moments, quantity), flat)


def question(model, inputs, family="categorical", **options):
    spec = fimsym.family(family)
    return Question("model", "a model", spec, {}, model.eval(), inputs, "", **options)


def test_some_parameters_of_every_tensor_are_tested():
    model = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
    model[0].bias.requires_grad_(False)
    asked = question(model.double(), torch.randn(2, 30).double())
    subject = OfNetwork(asked, 0, 200)
    assert list(subject.places) == ["0.weight", "2.weight", "2.bias"]
    assert [len(at) for _, at in subject.places.values()] == [181, 18, 1]
    assert subject.size == 200
    told = subject.description.untested
    assert "200 were drawn at random" in told[0]
    assert told[1] == "0.bias: these do not require grad."
    other = OfNetwork(asked, 1, 200)
    assert any(not torch.equal(subject.places[n][1], other.places[n][1]) for n in subject.places)
    whole = OfNetwork(asked, 0, 10**6)
    assert whole.size == 30 * 40 + 3 * 40 + 3
    m = measured(subject, 2000)
    assert verdict(m)[0].agrees


def test_a_parameter_s_labels_do_not_depend_on_which_others_are_tested():
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    asked = question(model.double(), torch.randn(2, 4).double())
    whole, some = OfNetwork(asked, 0), OfNetwork(asked, 0, 20)
    found = [measured(subject, 2000).sampled.estimates for subject in (whole, some)]
    keys = [whole.keys(0).index(key) for key in some.keys(0)]
    for name in ESTIMATES:
        np.testing.assert_allclose(found[0][name].mean[keys], found[1][name].mean, rtol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_links_are_asked_at_moderate_outputs(name):
    spec = fimsym.family(name)
    asked = questions(spec, 0)
    assert [q.link for q in asked] == [link.name for link in spec.links if not link.identity]
    for q in asked:
        h = Law(spec, q.constants, q.link).natural(q.model(q.inputs).detach())
        assert h.isfinite().all()


DRAWN = [name for name in FAMILIES if name not in LISTED]


@pytest.mark.parametrize("name", DRAWN)
def test_fitted_derivatives_are_autograd_s(name):
    """Blocks of labels with coefficients fitted once, and with autograd of every label."""
    spec = fimsym.family(name)
    for point in random_points(spec, 0)[:2]:
        law = Law(spec, point.constants)

        def streams(*purpose):
            return Stream(0, "test", *purpose)

        fitted, each = (Drawing(law, point.at, streams, fitted=flag) for flag in (True, False))
        assert fitted.affine.gap < 1e-10
        assert each.affine is None
        for position in (0, 5):
            one, other = (d.block(position, position, 3, 500) for d in (fitted, each))
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)


def test_statistics_of_another_law_are_seen():
    """The log-density is not affine in a wrong t(y), whatever the closed forms are."""
    spec = fimsym.family("gamma")
    wrong = dataclasses.replace(spec, sufficient_statistics=("log(y)", "sqrt(y)"))
    point = random_points(spec, 0)[0]
    drawing = Drawing(Law(wrong, point.constants), point.at, lambda *p: Stream(0, *p))
    assert drawing.affine.gap > 1e-3


def test_counted_labels_estimate_what_drawn_labels_estimate(monkeypatch):
    """Counting how often each label occurs and drawing labels one by one are one estimate."""
    spec = fimsym.family("poisson")
    point = random_points(spec, 0)[0]
    law = Law(spec, point.constants)
    at = Derivatives(point.at.h, point.at.u[:, :4], point.at.v[:, :4])

    def streams(*purpose):
        return Stream(0, "test", *purpose)

    samples = 8 * BLOCK
    sample, of_law = counted(law, at, listed(law, at.h), samples, streams, range(4))
    drawn = Drawing(law, at, streams).moments(samples, range(8), range(4))
    one, other = estimate(sample, of_law), estimate(drawn)
    for name in ESTIMATES:
        error = np.hypot(one[name].standard_error, other[name].standard_error)
        assert (np.abs(one[name].mean - other[name].mean) / error).max() < 6
        np.testing.assert_allclose(one[name].standard_error, other[name].standard_error, rtol=0.2)


def test_laws_on_too_many_labels_are_drawn(monkeypatch):
    spec = fimsym.family("bernoulli")
    h = torch.linspace(-1, 1, 14, dtype=torch.float64)
    law = Law(spec, {})
    assert listed(law, h) is None
    assert listed(law, h[:12]) is not None
    classes = Law(fimsym.family("categorical"), {})
    assert len(listed(classes, torch.zeros(5000).double()).labels) == 5000
    u, v = (torch.randn(14, 3, dtype=torch.float64) for _ in range(2))
    subject = AtPoints(spec, [Point({}, Derivatives(h, u, v))], output.GIVEN)
    m = measured(subject, 100_000)
    (report,) = verdict(m)
    assert report.agrees
    assert "sums" not in {check.name for check in report.checks}
    assert {c.tested for c in report.comparisons} == {3}


def test_labels_that_float64_cannot_hold_are_refused():
    h = torch.tensor([0.01, 0.01], dtype=torch.float64)
    point = Point({}, Derivatives(h, torch.ones(2, 1).double(), torch.ones(2, 1).double()))
    with pytest.raises(UnsupportedError, match="so close to the edge"):
        fimsym.validate("beta", points=[point], output_samples=20_000, progress=False)


def test_points_are_given():
    spec = fimsym.family("gaussian")
    points = random_points(spec, 5)[:2]
    shown = fimsym.validate(spec, points=points, output_samples=50_000, progress=False)
    assert shown.agrees
    assert [model.description.name for model in shown.models] == [output.GIVEN]
    assert shown.models[0].comparisons[0].parameters == 24
    with pytest.raises(SpecError, match="of one family"):
        fimsym.validate(points=points)


@pytest.mark.parametrize("name", ["poisson", "exponential", "von_mises"])
def test_results_do_not_depend_on_how_the_work_is_divided(name):
    """Cells of one, two and eight blocks, and of all at once, give the same bits."""
    spec = fimsym.family(name)
    points = [Point(p.constants, p.at.of(slice(0, 3))) for p in random_points(spec, 0)[:2]]
    subject = AtPoints(spec, points, output.GIVEN)
    samples, results = 21 * BLOCK + 5, []
    for count in (1, 2, 8, 64):
        whole = cells.cells(subject, samples, "main", limit=3 * BLOCK * count)
        found = {cell: cells.measure(subject, cell, samples, 0) for cell in reversed(whole)}
        results.append(cells.combine(subject, found).estimates)
    for other in results[1:]:
        for quantity in ESTIMATES:
            assert (other[quantity].mean == results[0][quantity].mean).all()
            assert (other[quantity].variance == results[0][quantity].variance).all()


def test_results_are_reproducible_and_depend_on_the_seed():
    for name in ("categorical", "gaussian"):
        runs = [fimsym.validate(name, seed=seed, **SMALL).to_dict() for seed in (1, 1, 2)]
        assert runs[0] == runs[1]
        assert runs[0]["models"] != runs[2]["models"]


def test_results_do_not_depend_on_the_number_of_threads():
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(fimsym.validate(["gaussian", "digits"][:1], **SMALL).to_dict())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


def test_an_answer_does_not_depend_on_what_else_is_validated():
    together = fimsym.validate(["poisson", "geometric"], **SMALL).models[-1]
    alone = fimsym.validate("geometric", **SMALL).models[-1]
    for name in ESTIMATES:
        one, other = together.scores[name], alone.scores[name]
        assert (one.monte_carlo == other.monte_carlo).all()


def test_global_random_state_is_untouched():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    state = np.random.get_state()[1].copy()
    fimsym.validate(["gaussian", "von_mises"], **SMALL)
    assert torch.equal(torch.rand(1), expected)
    assert (np.random.get_state()[1] == state).all()


def test_swapped_and_signed_quantities_are_caught(networks):
    m = networks["categorical"]
    closed = m.closed
    swapped = {
        **closed,
        "variance_score_squared": closed["variance_negative_hessian"],
        "variance_negative_hessian": closed["variance_score_squared"],
    }
    other = networks["gaussian"]
    fourth_moment = other.closed["variance_score_squared"] + other.closed["fisher"] ** 2
    for measurement, wrong in (
        (m, swapped),
        (m, {**closed, "covariance": -closed["covariance"]}),
        (m, {**closed, "fisher": np.sqrt(closed["fisher"])}),
        (other, {**other.closed, "variance_score_squared": fourth_moment}),
    ):
        (report,) = verdict(dataclasses.replace(measurement, closed=wrong))
        assert not all(c.agrees for c in report.comparisons)


@pytest.mark.parametrize("seed", range(1, 4))
def test_other_seeds_agree(seed):
    chosen = ("multinomial", "gaussian", "poisson")
    assert fimsym.validate(chosen, seed=seed, **SMALL).agrees


def test_every_estimate_is_named_once():
    assert len(set(ESTIMATES)) == len(ESTIMATES) == 5
    assert set(CLOSED_FORM.values()) == set(QUANTITIES)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 10}, DomainError, "from 1,000"),
        ({"samples": 1e5}, DomainError, "integer"),
        ({"samples": True}, DomainError, "integer"),
        ({"seed": -1}, DomainError, "seed"),
        ({"samples": 10**11}, DomainError, "10,000,000,000"),
        ({"output_samples": 10}, DomainError, "output_samples must be"),
        ({"relative_error": 0}, DomainError, "relative_error must be"),
        ({"relative_error": "1%"}, DomainError, "relative_error must be"),
        ({"inputs": 0}, DomainError, "between 1 and"),
        ({"inputs": 10**6}, DomainError, "between 1 and"),
        ({"names": ["gausian"]}, SpecError, "Did you mean 'gaussian'"),
    ],
)
def test_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        fimsym.validate(**{"progress": False, **options})


def test_a_plan_is_checked_before_anything_is_built():
    with pytest.raises(DomainError):
        Plan(seed=2**32)
    assert simulate.Drawing is Drawing
