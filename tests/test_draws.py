"""What estimators draw: labels, probes, and the random numbers behind them."""

import math

import pytest
import torch
from scipy import stats

import fimsym
from fimsym.engine.head import Head
from fimsym.estimation.drawn import dof, groups
from fimsym.estimation.noise import BLOCK, Noise
from fimsym.estimation.seeds import Labels, Probes
from fimsym.families import Density, Family
from fimsym.laws import Law, inversion
from tests.cases import CASES, points
from tests.networks import build, flat, inputs, mlp

INVERTED = {
    "gaussian", "categorical", "bernoulli", "geometric", "exponential", "gaussian_mean_variance",
    "multivariate_gaussian",
}  # fmt: skip
DRAWS = 4000


def law_of(case):
    return Law(fimsym.family(case.family), {**case.constants[0]})


def test_numbers_belong_to_rows():
    noise = Noise(3, "labels", 0)
    rows = torch.arange(50)
    for draw in (noise.uniform, noise.normal, noise.signs):
        whole = draw(rows, 5, 2)
        assert whole.shape == (5, 50, 2)
        for part in (rows[7:8], rows[3:40], rows[1::3], rows[BLOCK : 2 * BLOCK]):
            assert torch.equal(draw(part, 5, 2), whole[:, part])
    others = [Noise(4, "labels", 0), Noise(3, "labels", 1), Noise(3, "probes", 0)]
    for other in others:
        assert not torch.equal(other.uniform(rows, 5, 2), noise.uniform(rows, 5, 2))


def test_numbers_have_their_law():
    noise, rows = Noise(0, "test"), torch.arange(2000)
    uniform = noise.uniform(rows, 20, 3)
    assert uniform.dtype == torch.float64
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(noise.normal(rows, 20, 3).flatten().numpy(), "norm").pvalue > 1e-3
    signs = noise.signs(rows, 20, 3)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 4 / signs.numel() ** 0.5


@pytest.mark.parametrize(
    ("draws", "sizes"), [(1, [1]), (2, [2]), (8, [8]), (9, [5, 4]), (25, [7, 6, 6, 6])]
)
def test_groups_of_draws_have_a_scatter_each(draws, sizes):
    assert groups(draws) == sizes
    assert dof([draws, draws]) == 2 * (draws - len(sizes))


def test_labels_have_the_moments_of_their_law(case):
    """E[t − η] = 0 and Var = I for every statistic, at random natural parameters."""
    outputs = case.outputs[-1]
    h, *_ = points(case, outputs, batch=20)
    head = Head(case.family, None, case.constants[0])
    assert (inversion.width(law_of(case).given(h[:1])) is not None) == (case.family in INVERTED)
    scores = Labels(head, 0)(h, torch.arange(20), DRAWS, 0)
    eye = torch.eye(outputs).to(h).expand(20, outputs, outputs)
    truth = head.values(("fisher", "variance_score_squared"), h, eye, None)
    deviation = (truth["fisher"] / DRAWS).sqrt()
    assert (scores.mean(0) / deviation).abs().max() < 5
    spread = (
        (truth["variance_score_squared"] / DRAWS).sqrt().clamp(min=1e-12 * truth["fisher"].max())
    )
    assert ((scores.square().mean(0) - truth["fisher"]) / spread).abs().max() < 6


@pytest.mark.parametrize(
    ("family", "h", "law"),
    [
        ("gaussian", [0.7], stats.norm(0.7)),
        ("exponential", [-2.0], stats.expon(scale=0.5)),
        ("geometric", [-0.3], stats.geom(-math.expm1(-0.3), loc=-1)),
        ("bernoulli", [0.4], stats.bernoulli(1 / (1 + math.exp(-0.4)))),
        ("gaussian_mean_variance", [1.5, -0.5], stats.norm(1.5)),
    ],
)
def test_labels_are_the_quantiles_of_uniform_numbers(family, h, law):
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    given = Law(fimsym.family(family), {}).given(torch.tensor([h], dtype=torch.float64))
    found = inversion.labels(given, u.reshape(-1, 1, 1)).flatten()
    if family in ("bernoulli", "geometric"):  # in another order
        found = found.sort().values
    torch.testing.assert_close(found, torch.from_numpy(law.ppf(u.numpy())), rtol=1e-9, atol=1e-9)


def test_classes_are_as_often_as_their_probabilities():
    h = torch.tensor([[0.0, 2.0, -1.0], [50.0, 0.0, 0.0]], dtype=torch.float64)
    u = (
        ((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000)
        .reshape(-1, 1, 1)
        .expand(-1, 2, 1)
    )
    found = inversion.labels(Law(fimsym.family("categorical"), {}).given(h), u)
    often = torch.stack([(found == c).double().mean(0) for c in range(3)], dim=1)
    torch.testing.assert_close(often, h.softmax(-1), rtol=0, atol=1e-4)


def test_scores_next_to_certainty_keep_their_digits():
    """1 − p of the likeliest class is what the others have."""
    h = torch.tensor([[100.0, 0.0, 1.0]], dtype=torch.float64)
    scores = Law(fimsym.family("categorical"), {}).scores(h, torch.tensor([[0], [2]]))
    rest = math.exp(-100) + math.exp(-99)
    expected = torch.tensor(
        [[rest, -math.exp(-100), -math.exp(-99)], [rest - 1, -math.exp(-100), 1 - math.exp(-99)]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(scores.squeeze(1), expected, rtol=1e-14, atol=0)


def test_probes_of_all_classes_cost_no_matrix():
    """The root of the categorical is diagonal less rank one: L g in O(C)."""
    head = Head("categorical", None, {})
    h = torch.randn(1, 200_000, dtype=torch.float64)
    found = Probes(head, 0, False)(h, torch.arange(1), 2, 0)
    assert found.shape == (2, 1, 200_000)
    assert found.sum(-1).abs().max() < 1e-9  # I 1 = 0


RAYLEIGH = Family(
    name="rayleigh",
    natural=("h",),
    log_partition="-log(-2 * h)",
    sufficient_statistics=("y**2",),
    domain=("h < 0",),
    density=Density(base_measure="y", support="positive"),
)


def test_a_family_of_ones_own_without_a_sampler_is_estimated():
    model = build(lambda: torch.nn.Sequential(mlp(4, 3, 1), torch.nn.Softplus()))
    model.append(torch.nn.Linear(1, 1, bias=False).double())
    with torch.no_grad():
        model[2].weight.fill_(-1.0)
    data = inputs(30, 4)
    exact = fimsym.analyze(model, data, RAYLEIGH, progress=False)
    for estimator in ("score_squared", "gaussian_probe", "score_squared_cv"):
        got = fimsym.estimate(model, data, RAYLEIGH, estimator, 40, progress=False)
        assert got.family == "rayleigh"
        z = (flat(got.fisher) - flat(exact.fisher)) / flat(got.standard_error)
        assert z.abs().max() < 6


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"inputs": 0}, fimsym.SpecError, "inputs must be a whole number"),
        ({"labels_per_input": 1.5}, fimsym.SpecError, "labels_per_input must be"),
        ({"estimator": "scoresquared"}, fimsym.SpecError, "Did you mean 'score_squared'"),
        ({"estimator": "rademacher_probe"}, fimsym.UnsupportedError, r"fimsym\.plan"),
        ({"estimator": "mixed"}, fimsym.UnsupportedError, "variance_negative_hessian was not"),
    ],
)
def test_mistakes_about_variances_are_named(options, error, says):
    found = fimsym.analyze(build(lambda: mlp(4, 3)), inputs(5, 4), "categorical", progress=False)
    with pytest.raises(error, match=says):
        found.variance(**options)


def test_the_two_terms_of_the_variance():
    found = fimsym.analyze(
        build(lambda: mlp(4, 5, 3)), inputs(20, 4), "categorical", quantities="all", progress=False
    )
    spread, one = flat(found.input_variance), flat(found.variance_score_squared)
    torch.testing.assert_close(flat(found.variance()), spread / 20 + one / 20)
    torch.testing.assert_close(
        flat(found.variance("score_squared", 50, 4)), spread / 50 + one / 200
    )
    torch.testing.assert_close(flat(found.variance(labels_per_input=4, finite=True)), one / 80)
    torch.testing.assert_close(flat(found.variance("exact", 7)), spread / 7)
    two, both = flat(found.variance_negative_hessian), flat(found.covariance)
    mixed = flat(found.variance("mixed", 1, finite=True))
    apart = one + two - 2 * both
    expected = (one * two - both**2)[apart > 0] / apart[apart > 0]
    torch.testing.assert_close(mixed[apart > 0], expected, rtol=1e-6, atol=1e-18)
    noise = 2 * (flat(found.fisher) ** 2 + spread * 19 / 20)
    torch.testing.assert_close(flat(found.variance("gaussian_probe", 1, finite=True)), noise)


def test_every_family_has_a_case_here():
    assert set(CASES) == set(fimsym.families()) >= INVERTED
