"""Variances of every estimator: by enumeration, to fifty digits, by Monte Carlo, at corners."""

import dataclasses
import itertools

import mpmath as mp
import pytest
import torch
from torch.func import vmap

import fimsym
from fimsym.runtime import EstimatorVariances, Moments, estimator_variances
from tests.cases import CASES, points
from tests.reference import estimators, highprecision
from tests.tolerances import ENUMERATION, EVALUATOR

LABELS = ("score_squared", "score_squared_cv", "negative_hessian", "mixed")
VARIANCES = (*LABELS, "gaussian_probe", "rademacher_probe", "exact")
FINITE = {"bernoulli": 4, "binomial": 4, "categorical": 3, "multinomial": 2, "gaussian": 2}
"""Families whose labels of several targets can be multiplied out, and numbers of outputs."""


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def fields(record):
    return [field.name for field in dataclasses.fields(record)]


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_enumeration(name):
    """Regression over every label knows no cumulants and no root."""
    case = CASES[name]
    outputs = FINITE.get(name, case.outputs[0])
    for constants in case.constants[:2]:
        h, u, v = points(case, outputs, "normal", seed=5, batch=3)
        bound = fimsym.family(name).bind(constants)
        module = fimsym.evaluator(name)
        got = module.estimator_variances(h, u, v, **constants)
        for b in range(len(h)):
            expected = estimators.variances(*estimators.labels(name, h[b], u[b], v[b], **bound))
            smaller = torch.minimum(expected["score_squared"], expected["negative_hessian"])
            spread = (expected["score_squared"] / module.fisher(h[b], u[b], **constants)).sqrt()
            sizes = {"score_squared_cv": expected["score_squared"], "mixed": smaller}
            sizes["control"] = spread
            for quantity in (*LABELS, "control", "mixing"):
                size = sizes.get(quantity, expected[quantity].abs())
                error = (getattr(got, quantity)[b] - expected[quantity]).abs()
                assert (error <= 10 * ENUMERATION * size + 1e-300).all(), (quantity, constants)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_agrees_with_fifty_digits(case, dtype):
    """The variances that cancel are right relative to V₁ and V₂, in every region."""
    limit = 20 * EVALUATOR[str(dtype).removeprefix("torch.")]
    tiny = torch.finfo(dtype).tiny
    for outputs, region in itertools.product(case.outputs[:2], case.scales):
        h, u, v = points(case, outputs, region, seed=7, batch=4, dtype=dtype)
        constants = fimsym.family(case.family).bind({})
        got = fimsym.evaluator(case.family).estimator_variances(h, u, v)
        for b, k in itertools.product(range(len(h)), range(u.shape[-1])):
            point = (h[b].tolist(), u[b, :, k].tolist(), v[b, :, k].tolist())
            truth = highprecision.moments(case.family, *point, **constants)
            with mp.workdps(60):
                fisher, first = truth["fisher"], truth["variance_score_squared"]
                second, shared = truth["variance_negative_hessian"], truth["covariance"]
                apart = first + second - 2 * shared
                expected = {
                    "score_squared": (first, first),
                    "negative_hessian": (second, second),
                    "gaussian_probe": (2 * fisher**2, 2 * fisher**2),
                    "score_squared_cv": (first - truth["third"] ** 2 / fisher, first),
                    "mixed": ((first * second - shared**2) / apart, min(first, second)),
                }
            for name, (value, size) in expected.items():
                error = abs(float(getattr(got, name)[b, k]) - value)
                assert error <= limit * size + tiny, (name, region, outputs)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_classes_to_the_last_digits_of_what_cancels(classes, scale):
    """Sums of squares are right relative to themselves, where differences of moments are not."""
    h, u, v = points(CASES["categorical"], classes, f"logits {scale:g}" if scale != 1 else "normal")
    got = fimsym.evaluator("categorical").estimator_variances(h, u, v)
    for b in range(len(h)):
        point = (h[b].tolist(), u[b, :, 0].tolist(), v[b, :, 0].tolist())
        expected = estimators.of_classes(*point)
        for name, value in expected.items():
            found = float(getattr(got, name)[b, 0])
            size = expected["score_squared"]
            size = min(size, expected["negative_hessian"]) if name == "mixed" else size
            assert abs(found - value) <= 1e-10 * value + 1e-27 * size + 1e-300, name


def test_what_is_zero_is_zero():
    """Laws of two points: the score's square is linear in the score, and Î₂ in both."""
    module = fimsym.evaluator("bernoulli")
    h, u, v = points(CASES["bernoulli"], 1, "normal", batch=50)
    got = module.estimator_variances(h, u, v)
    assert (got.score_squared_cv <= 1e-28 * got.score_squared).all()
    assert (got.mixed <= 1e-28 * torch.minimum(got.score_squared, got.negative_hessian)).all()
    assert (got.rademacher_probe == 0).all()
    assert (got.exact == 0).all()
    plain = estimator_variances(module.moments(h, u, v))
    assert (plain.mixed <= 1e-14 * plain.score_squared).all()


def test_a_poisson_rate_that_is_small():
    """V₁ = λ + 2λ² and κ₃²/κ₂ = λ: what is left, 2λ², is lost in their difference."""
    rate = double(1e-12)
    got = fimsym.evaluator("poisson").estimator_variances(rate.log(), torch.ones(1, 1).double())
    assert float(got.score_squared_cv) == pytest.approx(2e-24, rel=1e-12)


CORNERS = {
    "no direction": (double(0.3, -1.0), double(0.0, 0.0), double(0.0, 0.0)),
    "a direction that changes nothing": (double(0.3, -1.0), double(2.0, 2.0), double(1.0, 1.0)),
    "a linear parameter": (double(0.3, -1.0), double(1.0, 0.0), double(0.0, 0.0)),
    "an even split": (double(0.0, 0.0), double(1.0, -1.0), double(1.0, 2.0)),
    "no class but one": (double(2000.0, 0.0), double(1.0, -1.0), double(1.0, 2.0)),
    "the same estimator twice": (double(0.4, -0.4), double(1.0, -1.0), None),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_divisions_by_zero_have_their_limit(corner):
    module = fimsym.evaluator("categorical")
    h, u, v = CORNERS[corner]
    if v is None:  # v with w = −(s² − I), so that Î₂ = Î₁
        p = h.softmax(-1)
        score = u - (p * u).sum()
        v = -(score**2)
    moments = module.moments(h, u[:, None], v[:, None])
    for got in (
        module.estimator_variances(h, u[:, None], v[:, None]),
        estimator_variances(moments, module.variance_rademacher_probe(h, u[:, None])),
    ):
        for name in fields(got):
            value = getattr(got, name)
            assert value.isfinite().all(), name
            assert name in ("control", "mixing") or (value >= 0).all(), name
        least = torch.minimum(got.score_squared, got.negative_hessian)
        assert (got.mixed <= least).all()
        if corner == "the same estimator twice":
            torch.testing.assert_close(got.mixed, got.score_squared)
        if corner == "a linear parameter":
            assert float(got.mixed) == float(got.mixing) == 0.0


def test_order_of_the_variances(case):
    for outputs, region, dtype in itertools.product(
        case.outputs, case.scales, (torch.float32, torch.float64)
    ):
        h, u, v = points(case, outputs, region, seed=1, batch=1000, dtype=dtype)
        module = fimsym.evaluator(case.family)
        got, moments = module.estimator_variances(h, u, v), module.moments(h, u, v)
        for name in VARIANCES:
            assert (getattr(got, name) >= 0).all(), name
        assert (got.mixed <= torch.minimum(got.score_squared, got.negative_hessian)).all()
        assert (got.score_squared_cv <= got.score_squared).all()
        assert (got.rademacher_probe <= got.gaussian_probe * (1 + 1e-6)).all()
        tolerance = EVALUATOR[str(dtype).removeprefix("torch.")]
        for name, one in (
            ("score_squared", moments.variance_score_squared),
            ("negative_hessian", moments.variance_negative_hessian),
        ):
            limit = 20 * tolerance * one + torch.finfo(dtype).tiny
            assert ((getattr(got, name) - one).abs() <= limit).all(), (name, region)


def test_moments_alone_give_the_same_where_nothing_cancels(case):
    h, u, v = points(case, case.outputs[-1], 1.0, batch=50)
    module = fimsym.evaluator(case.family)
    got = module.estimator_variances(h, u, v)
    plain = estimator_variances(module.moments(h, u, v), module.variance_rademacher_probe(h, u))
    sizes = {"mixed": torch.minimum(got.score_squared, got.negative_hessian)}
    sizes["score_squared_cv"] = got.score_squared
    for name in VARIANCES:
        limit = 1e-10 * sizes.get(name, getattr(got, name))
        assert ((getattr(plain, name) - getattr(got, name)).abs() <= limit).all(), name


def test_sums_over_inputs_share_their_coefficients():
    """Var of Σ_x (αÎ₁ + (1 − α)Î₂) is least at the α of the summed moments."""
    h, u, v = points(CASES["categorical"], 3, 1.0, batch=7)
    moments = fimsym.evaluator("categorical").moments(h, u, v)
    sums = Moments(*(getattr(moments, name).sum(0) for name in fields(moments)))
    got = estimator_variances(sums)
    first, second = sums.variance_score_squared, sums.variance_negative_hessian

    def variance(alpha):
        return (
            alpha**2 * first + (1 - alpha) ** 2 * second + 2 * alpha * (1 - alpha) * sums.covariance
        )

    torch.testing.assert_close(variance(got.mixing), got.mixed)
    for step in (-1e-3, 1e-3):
        assert (variance(got.mixing + step) > got.mixed).all()
        assert (first + 2 * (got.control + step) * sums.third
                + (got.control + step) ** 2 * sums.fisher > got.score_squared_cv).all()  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_signs_are_enumerated_through_the_root(name):
    """The probe's variance is that of the very root that draws it, and its mean is I."""
    case = CASES[name]
    module = fimsym.evaluator(name)
    for outputs, constants in itertools.product(case.outputs, case.constants[:2]):
        if outputs > 6:
            continue
        h, u, _ = points(case, outputs, "normal", seed=2, batch=2)
        for b in range(len(h)):

            def products(probes, h=h[b], u=u[b], constants=constants):
                return module.root(h, probes, **constants).mT @ u

            mean, variance = estimators.of_signs(products, outputs)
            fisher = module.fisher(h[b], u[b], **constants)
            found = module.variance_rademacher_probe(h[b], u[b], **constants)
            torch.testing.assert_close(mean, fisher, rtol=1e-9, atol=0)
            assert ((variance - found).abs() <= 1e-9 * fisher**2).all()


MONTE_CARLO = ("categorical", "bernoulli", "gaussian", "poisson", "gamma", "multivariate_gaussian")
DRAWS = 400_000


@pytest.mark.parametrize("name", MONTE_CARLO)
def test_agrees_with_monte_carlo(name):
    """Means and variances of drawn estimators, each within six of its standard errors."""
    from fimsym.laws.law import Law

    case = CASES[name]
    h, u, v = points(case, case.outputs[0], "normal", seed=11, batch=1)
    module = fimsym.evaluator(name)
    got = module.estimator_variances(h[0], u[0], v[0])
    fisher = module.fisher(h[0], u[0])
    score, curvature = drawn(
        Law(fimsym.family(name), fimsym.family(name).bind({})), name, h[0], u[0], v[0]
    )
    generator = torch.Generator().manual_seed(3)
    shape = (len(h[0]), DRAWS)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    signs = normal.sign()
    first, second = score**2, -curvature
    samples = {
        "score_squared": first,
        "negative_hessian": second,
        "mixed": got.mixing * first + (1 - got.mixing) * second,
        "score_squared_cv": first + got.control * score,
        "gaussian_probe": (module.root(h[0], normal).mT @ u[0]) ** 2,
        "rademacher_probe": (module.root(h[0], signs).mT @ u[0]) ** 2,
    }
    for estimator, values in samples.items():
        variance = getattr(got, estimator)
        squares = (values - fisher) ** 2
        error = (values.mean(0) - fisher).abs()
        assert (error <= 6 * (variance / DRAWS).sqrt() + 1e-12 * fisher).all(), estimator
        spread = squares.std(0) / DRAWS**0.5
        gap = (squares.mean(0) - variance).abs()
        assert (gap <= 6 * spread + 1e-12 * fisher**2).all(), estimator


def drawn(law, name, h, u, v):
    """Return s and ∂²ℓ [label, param] of labels from the family's sampler."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        labels = law.given(h).sample((DRAWS,))
    reference = estimators.enumeration.LAWS[name]
    if name == "categorical":
        labels = torch.nn.functional.one_hot(labels, len(h))
    if reference.outputs:
        outputs = torch.arange(len(h)).reshape(reference.outputs, -1)
        labels = labels.reshape(DRAWS, -1)
        parts = [(place, labels[:, n]) for n, place in enumerate(outputs.unbind(-1))]
    else:
        parts = [(torch.arange(len(h)), labels)]
    score, curvature = torch.zeros(1, 1).double(), torch.zeros(1, 1).double()
    for place, found in parts:
        gradient, hessian = estimators.enumeration.by_outputs(
            reference, None, h[place], found.double(), {}
        )
        bent = torch.einsum("lab,ap,bp->lp", hessian, u[place], u[place])
        score = score + gradient @ u[place]
        curvature = curvature + bent + gradient @ v[place]
    return score, curvature


COMPILED = ("categorical", "poisson", "beta", "multivariate_gaussian")
"""Families of every structure; to compile one takes seconds."""


def test_as_torch_citizens(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    flat = module.estimator_variances(h, u, v)
    half = module.estimator_variances(h, u)
    assert half.mixed is half.mixing is half.negative_hessian is None
    assert torch.equal(half.rademacher_probe, flat.rademacher_probe)
    alone = module.variance_rademacher_probe(h, u)
    torch.testing.assert_close(alone, flat.rademacher_probe, rtol=1e-13, atol=0)
    mapped = vmap(module.estimator_variances)(h, u, v)
    assert isinstance(mapped, EstimatorVariances)
    deep = module.estimator_variances(*(x.unflatten(0, (4, 5)) for x in (h, u, v)))
    graph = flat
    if case.family in COMPILED:
        compiled = torch.compile(module.estimator_variances, backend="aot_eager", fullgraph=True)
        graph = compiled(h, u, v)
    meta = module.estimator_variances(*(x.to("meta") for x in (h, u, v)))
    for name in fields(flat):
        one = getattr(flat, name)
        size = one.abs().amax() * 1e-9
        assert getattr(meta, name).shape == (20, 3)
        for other in (
            getattr(mapped, name),
            getattr(deep, name).flatten(0, 1),
            getattr(graph, name),
        ):
            torch.testing.assert_close(other, one, rtol=1e-6, atol=float(size))


def test_scaling(case):
    """Every variance is of degree four in u, where v counts twice."""
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    one, two = module.estimator_variances(h, u, v), module.estimator_variances(h, 2 * u, 4 * v)
    powers = {"control": 1, "mixing": 0, **dict.fromkeys(VARIANCES, 4)}
    for name, power in powers.items():
        expected = 2**power * getattr(one, name)
        torch.testing.assert_close(getattr(two, name), expected, rtol=1e-12, atol=0)
