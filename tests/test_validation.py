"""The instrument itself: independent, calibrated, and powerful enough to see 2%."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import fimsym
from fimsym.engine.analysis import QUANTITIES
from fimsym.errors import DomainError, SpecError
from fimsym.runtime import Moments
from fimsym.validation.agreement import _critical, _log_tail, compare
from fimsym.validation.law import Law
from fimsym.validation.montecarlo import (
    ESTIMATES,
    Derivatives,
    derivatives,
    direct,
    estimators,
    simulate,
)
from fimsym.validation.tasks import TASKS
from fimsym.validation.validate import judge, measure
from tests.cases import CASES, points
from tests.tolerances import POWER

DEFAULT_SAMPLES = 100_000


@pytest.fixture(scope="module")
def measured():
    """Both tasks at the default sample size, measured once."""
    return {name: measure(task(0, 16), DEFAULT_SAMPLES, 0, False) for name, task in TASKS.items()}


def planted(measurement, quantity, factor):
    """Return a measurement whose evaluator is off by a factor in one quantity."""
    analysis = measurement.analysis
    scaled = {name: factor * value for name, value in analysis.values[quantity].items()}
    values = {**analysis.values, quantity: scaled}
    return dataclasses.replace(measurement, analysis=dataclasses.replace(analysis, values=values))


def test_closed_forms_agree_at_the_default_size(measured):
    reports, tests = judge(list(measured.values()))
    assert all(report.agrees for report in reports)
    assert tests == sum(
        5 * (sum(g.size for g in m.analysis.groups) + 2 * len(m.analysis.groups))
        for m in measured.values()
    )


# The Gaussian's covariance is zero, so that no relative error can be planted in it.
PLANTS = [
    (name, quantity, sign)
    for name, quantity, sign in itertools.product(sorted(TASKS), QUANTITIES, (1, -1))
    if (name, quantity) != ("gaussian", "covariance")
]


@pytest.mark.parametrize(("name", "quantity", "sign"), PLANTS)
def test_two_percent_in_an_evaluator_is_caught(measured, name, quantity, sign):
    others = [m for other, m in measured.items() if other != name]
    wrong = planted(measured[name], quantity, 1 + sign * POWER)
    reports, _ = judge([wrong, *others])
    assert not reports[0].agrees
    assert all(report.agrees for report in reports[1:])


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_wrong_evaluator_is_caught_from_end_to_end(monkeypatch, quantity):
    module = fimsym.evaluator("categorical")
    true = module.moments

    def wrong(*arguments, **constants) -> Moments:
        moments = true(*arguments, **constants)
        scaled = (1 + POWER) * getattr(moments, quantity)
        return dataclasses.replace(moments, **{quantity: scaled})

    monkeypatch.setattr(module, "moments", wrong)
    assert not fimsym.validate(["categorical"], progress=False).agrees


@pytest.mark.parametrize(
    "name", ["fisher", "variance_score_squared", "variance_negative_hessian", "covariance"]
)
def test_a_wrong_function_of_one_quantity_is_caught(monkeypatch, name):
    module = fimsym.evaluator("categorical")
    true = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: (1 + POWER) * true(*arguments))
    shown = fimsym.validate(["categorical"], samples=1000, inputs=2, progress=False)
    assert not shown.agrees
    assert shown.models[0].agreement.agrees


def test_a_wrong_bound_is_caught(monkeypatch):
    module = fimsym.evaluator("categorical")
    true = module.bounds

    def wrong(h):
        given = true(h)
        return dataclasses.replace(given, fisher_max=given.fisher_max / 100)

    monkeypatch.setattr(module, "bounds", wrong)
    assert not fimsym.validate(["categorical"], samples=1000, inputs=2, progress=False).agrees


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_two_percent_in_one_layer_is_caught(seed):
    """Also where a layer's sum cancels: every row that is random detects less than 2%."""
    result = fimsym.validate("categorical", seed=seed, progress=False)
    rows = [c for m in result.models for c in m.agreement.comparisons if c.tested]
    assert max(row.detectable for row in rows) < POWER


@pytest.mark.parametrize("seed", range(1, 6))
def test_other_seeds_agree(seed):
    assert fimsym.validate(["categorical"], seed=seed, progress=False).agrees


def test_values_where_nothing_is_random_are_compared_exactly(measured):
    task = measured["gaussian"]
    analysis = task.analysis
    zero = analysis.values["variance_negative_hessian"]["2.bias"]
    assert (zero == 0).all()
    values = {
        **analysis.values,
        "variance_negative_hessian": {
            **analysis.values["variance_negative_hessian"],
            "2.bias": zero + 1e-6,
        },
    }
    wrong = dataclasses.replace(analysis, values=values)
    assert not judge([dataclasses.replace(task, analysis=wrong)])[0][0].agrees


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


def test_the_law_is_the_family(case):
    """Sampler against the evaluator's mean and F: frequencies, and log p up to π(y)."""
    h = points(case, case.outputs[-1], 1.0)[0][0]
    law = Law(
        fimsym.family(case.family), {c.name: 1.0 for c in fimsym.family(case.family).constants}
    )
    module = fimsym.evaluator(case.family)
    torch.manual_seed(0)
    labels = law.given(h).sample((20_000,))
    if case.family == "categorical":
        observed = torch.bincount(labels, minlength=len(h)).numpy()
        expected = module.mean(h).numpy() * len(labels)
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-6
        log_p = law.log_prob(h, torch.arange(len(h)))
        torch.testing.assert_close(log_p, h - module.log_partition(h))
    else:
        z = (labels.mean(0) - module.mean(h)) * math.sqrt(len(labels))
        assert z.abs().max() < 6
        y, other = labels[:1], labels[1:2]
        difference = law.log_prob(h, y) - law.log_prob(h, other)
        by_family = ((y - other) @ h) - (y.square() - other.square()).sum(-1) / 2
        torch.testing.assert_close(difference, by_family)


def test_simulation_is_reproducible_and_depends_on_the_seed():
    at = Derivatives(
        *(x[0].T if x.ndim == 3 else x[0] for x in points(CASES["categorical"], 3, 1.0))
    )
    at = Derivatives(at.h, at.u.T, at.v.T)
    for name, constants in (("categorical", {}), ("gaussian", {"sigma": 0.5})):
        law = Law(fimsym.family(name), constants)
        runs = [simulate(law, [at], 2000, seed)["covariance"].mean for seed in (1, 1, 2)]
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])


def test_global_random_state_is_untouched():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fimsym.validate(["gaussian"], samples=1000, inputs=1, progress=False)
    assert torch.equal(torch.rand(1), expected)


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
    closed = {
        q: torch.cat([t.reshape(-1) for t in m.analysis.values[q].values()]) for q in QUANTITIES
    }
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
        ({"inputs": 0}, DomainError, "between 1 and"),
        ({"inputs": 10**6}, DomainError, "between 1 and"),
        ({"names": ["gausian"]}, SpecError, "Did you mean 'gaussian'"),
    ],
)
def test_mistakes(options, error, message):
    with pytest.raises(error, match=message):
        fimsym.validate(**{"progress": False, **options})
