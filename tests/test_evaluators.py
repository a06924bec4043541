"""The generated evaluators against 50-digit derivatives of F, and as torch citizens."""

import itertools

import mpmath as mp
import pytest
import torch
from torch.func import grad, vmap

import fimsym
from fimsym.runtime import Moments
from tests.cases import CASES, points
from tests.reference import highprecision
from tests.tolerances import EVALUATOR

QUANTITIES = (
    "fisher",
    "variance_score_squared",
    "third",
    "variance_negative_hessian",
    "covariance",
)


def worst_errors(case, outputs, scale, constants, dtype, seed=0):
    """Return the worst relative error of each quantity.

    The third cumulant and the covariance change sign; their errors are relative to
    the largest they can be, sqrt(I V₁) and sqrt(V₁ V₂), or to themselves where larger.
    A result below the smallest normal number counts as zero.
    """
    h, u, v = points(case, outputs, scale, seed, dtype=dtype)
    got = fimsym.evaluator(case.family).moments(h, u, v, **constants)
    bound = fimsym.family(case.family).bind(constants)
    tiny = torch.finfo(dtype).tiny
    worst = dict.fromkeys(QUANTITIES, 0.0)
    for b, k in itertools.product(range(h.shape[0]), range(u.shape[2])):
        point = (h[b].tolist(), u[b, :, k].tolist(), v[b, :, k].tolist())
        truth = highprecision.moments(case.family, *point, **bound)
        sizes = {name: abs(truth[name]) for name in QUANTITIES}
        spread = mp.sqrt(truth["variance_score_squared"] * truth["variance_negative_hessian"])
        sizes["covariance"] = max(sizes["covariance"], spread)
        skew = mp.sqrt(truth["fisher"] * truth["variance_score_squared"])
        sizes["third"] = max(sizes["third"], skew)
        for name in QUANTITIES:
            value = float(getattr(got, name)[b, k])
            assert value == value
            error = abs(value - truth[name])
            if error > 10 * tiny:
                worst[name] = max(worst[name], float(error / max(sizes[name], tiny)))
    return worst


ALL = [
    (name, outputs, scale, constants)
    for name, case in CASES.items()
    for outputs in case.outputs
    for scale in case.scales
    for constants in case.constants
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "outputs", "scale", "constants"), ALL)
def test_agrees_with_fifty_digits(name, outputs, scale, constants, dtype):
    worst = worst_errors(CASES[name], outputs, scale, constants, dtype)
    limit = EVALUATOR[str(dtype).removeprefix("torch.")]
    assert max(worst.values()) <= limit, worst


def test_the_oracle_itself_sees_a_wrong_formula(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    got = fimsym.evaluator(case.family).fisher(h, u)
    truth = highprecision.moments(
        case.family, h[0].tolist(), u[0, :, 0].tolist(), v[0, :, 0].tolist(),
        **{c.name: 1.0 for c in fimsym.family(case.family).constants},
    )  # fmt: skip
    assert abs(1.02 * float(got[0, 0]) / float(truth["fisher"]) - 1) > 0.019


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_one_hot_to_the_last_bit(dtype):
    categorical = fimsym.evaluator("categorical")
    gap = 60.0 if dtype == torch.float64 else 40.0
    h = torch.tensor([0.0, -gap, -2 * gap], dtype=dtype)
    assert float(categorical.mean(h)[0]) == 1.0
    u = torch.tensor([[1.0], [-2.0], [7.0]], dtype=dtype)
    v = torch.tensor([[0.5], [3.0], [-1.0]], dtype=dtype)
    got = categorical.moments(h, u, v)
    truth = highprecision.moments("categorical", h.tolist(), u[:, 0].tolist(), v[:, 0].tolist())
    for name in QUANTITIES:
        assert float(getattr(got, name)) == pytest.approx(
            float(truth[name]), rel=1e-12 if dtype == torch.float64 else 1e-5
        )


@pytest.mark.parametrize("gap", [1e-12, 1e-7, 1e-3])
def test_relative_accuracy_near_an_even_split(gap):
    """V₁ of two classes vanishes at p = ½; it must be right relative to itself there."""
    module = fimsym.evaluator("categorical")
    for h in ([gap, 0.0], [0.0, gap], [-gap, 0.0, -800.0]):
        u = [2.0, -1.0, 5.0][: len(h)]
        column = torch.tensor(u, dtype=torch.float64).unsqueeze(-1)
        got = module.moments(torch.tensor(h, dtype=torch.float64), column, column)
        truth = highprecision.moments("categorical", h, u, u)
        for name in QUANTITIES:
            assert float(getattr(got, name)) == pytest.approx(float(truth[name]), rel=1e-13)


def test_probabilities_that_underflow_keep_their_digits():
    """In float32 the probability 1e-42 is not representable, but p u⁴ is."""
    h, u = [0.0, -97.0, -99.0], [1.0, 150.0, -80.0]
    column = torch.tensor(u).unsqueeze(-1)
    got = fimsym.evaluator("categorical").moments(torch.tensor(h), column, column)
    truth = highprecision.moments("categorical", h, u, u)
    for name in ("variance_score_squared", "covariance"):
        assert float(getattr(got, name)) == pytest.approx(float(truth[name]), rel=1e-5)


def test_large_common_offset_of_u_does_not_matter():
    h = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    u = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    module = fimsym.evaluator("categorical")
    shifted = module.moments(h, u + 2.0**30)
    plain = module.moments(h, u)
    assert torch.equal(shifted.variance_score_squared, plain.variance_score_squared)


def test_exact_zeros_where_the_truth_is_zero():
    module = fimsym.evaluator("categorical")
    h = torch.zeros(4, dtype=torch.float64)
    u = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    assert float(module.variance_score_squared(h, u)) == 0.0
    assert float(module.fisher(h, torch.full_like(u, 0.1))) == 0.0
    assert float(module.variance_score_squared(h[:2], u[:2])) == 0.0


def test_variances_are_never_negative(case):
    for outputs, scale in itertools.product(case.outputs, case.scales):
        for dtype in (torch.float32, torch.float64):
            h, u, v = points(case, outputs, scale, seed=1, batch=3000, dtype=dtype)
            got = fimsym.evaluator(case.family).moments(h, u, v)
            for name in ("fisher", "variance_score_squared", "variance_negative_hessian"):
                assert (getattr(got, name) >= 0).all()
            tiny = torch.finfo(dtype).tiny
            roots = (
                (got.variance_score_squared.double() + tiny).sqrt(),
                (got.variance_negative_hessian.double() + tiny).sqrt(),
            )
            assert (got.covariance.abs() <= roots[0] * roots[1] * (1 + 1e-4) + 1e-30).all()


def test_single_functions_equal_moments(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    got = module.moments(h, u, v)
    assert torch.equal(got.fisher, module.fisher(h, u))
    assert torch.equal(got.variance_score_squared, module.variance_score_squared(h, u))
    assert torch.equal(got.variance_negative_hessian, module.variance_negative_hessian(h, v))
    assert torch.equal(got.covariance, module.covariance(h, u, v))
    alone = module.moments(h, u)
    assert torch.equal(alone.fisher, got.fisher)
    assert alone.covariance is None
    assert alone.variance_negative_hessian is None


def test_mean_and_log_partition(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    truth = [
        highprecision.moments(case.family, row.tolist(), a[:, 0].tolist(), b[:, 0].tolist(),
                              **{c.name: 1.0 for c in fimsym.family(case.family).constants})
        for row, a, b in zip(h, u, v, strict=True)
    ]  # fmt: skip
    expected = torch.tensor([float(t["log_partition"]) for t in truth], dtype=h.dtype)
    torch.testing.assert_close(module.log_partition(h), expected, rtol=1e-14, atol=1e-14)
    gradient = vmap(grad(module.log_partition))(h)
    torch.testing.assert_close(module.mean(h), gradient, rtol=1e-13, atol=1e-15)


def test_mean_and_log_partition_where_they_cancel_or_overflow():
    """Against 60 digits: odds that overflow, h → 0⁻, unequal concentrations, ‖h‖ = 0 and 1e200."""

    def column(*values):
        return torch.tensor(values, dtype=torch.float64)

    bernoulli, geometric = fimsym.evaluator("bernoulli"), fimsym.evaluator("geometric")
    assert bernoulli.mean(column(710.0, -710.0))[0] == 1.0
    assert float(bernoulli.log_partition(column(710.0))) == 710.0
    for h in (-1e-16, -1e-10, -700.0):
        with mp.workdps(60):
            odds = mp.exp(mp.mpf(h))
            mean, partition = odds / (1 - odds), -mp.log(1 - odds)
        assert float(geometric.mean(column(h))) == pytest.approx(float(mean), rel=1e-14)
        found = float(geometric.log_partition(column(h)))
        assert found == pytest.approx(float(partition), rel=1e-14)
    with mp.workdps(60):
        first = mp.digamma(mp.mpf(10) ** 6) - mp.digamma(mp.mpf(10) ** 6 + mp.mpf(1e-3))
    for name in ("beta", "dirichlet"):
        found = fimsym.evaluator(name).mean(column(1e6, 1e-3))
        assert float(found[0]) == pytest.approx(float(first), rel=1e-12)
    von_mises = fimsym.evaluator("von_mises")
    assert von_mises.mean(column(0.0, 0.0)).tolist() == [0.0, 0.0]
    torch.testing.assert_close(von_mises.mean(column(1e200, 1e200)), column(0.5, 0.5).sqrt())
    h = column(0.0, 0.0).requires_grad_()
    von_mises.log_partition(h).backward()
    assert h.grad is not None
    assert h.grad.tolist() == [0.0, 0.0]


def test_outside_the_domain_without_values_gives_nan():
    h = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    found = vmap(fimsym.evaluator("exponential").fisher)(h, torch.ones(2, 1, 1).double())
    assert found.isnan().flatten().tolist() == [True, False]


def test_one_dimensional_gaussian_vector_is_mean_and_variance():
    h = torch.tensor([0.5, -0.7], dtype=torch.float64)
    u = torch.tensor([[1.0, -0.3], [0.4, 2.0]], dtype=torch.float64)
    one = fimsym.evaluator("multivariate_gaussian").moments(h, u, u)
    other = fimsym.evaluator("gaussian_mean_variance").moments(h, u, u)
    for name in QUANTITIES:
        torch.testing.assert_close(getattr(one, name), getattr(other, name))


def test_metamorphic_scaling(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    one, two = module.moments(h, u, v), module.moments(h, 2 * u, 4 * v)
    powers = dict(zip(QUANTITIES, (2, 4, 3, 4, 4), strict=True))
    for name, power in powers.items():
        torch.testing.assert_close(getattr(two, name), 2**power * getattr(one, name))


def test_metamorphic_permutation():
    h, u, v = points(CASES["categorical"], 10, 1.0)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    module = fimsym.evaluator("categorical")
    one, two = module.moments(h, u, v), module.moments(h[:, order], u[:, order], v[:, order])
    for name in QUANTITIES:
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-12, atol=1e-14)


def test_bounds_hold(case):
    for outputs, scale in itertools.product(case.outputs, case.scales):
        h, u, v = points(case, outputs, scale, seed=2, batch=5000)
        module = fimsym.evaluator(case.family)
        got, bounds = module.moments(h, u, v), module.bounds(h)
        first, second = u.square().sum(-2), v.square().sum(-2)
        slack = 1e-12
        low, high = bounds.fisher_min[:, None], bounds.fisher_max[:, None]
        assert (got.fisher >= first * low * (1 - slack)).all()
        # Where p underflows, so does a bound that is a multiple of it.
        tiny = torch.finfo(h.dtype).tiny
        assert (got.fisher <= first * (high * (1 + slack) + tiny)).all()
        assert (got.variance_negative_hessian >= second * low * (1 - slack)).all()
        limit = second * (high * (1 + slack) + tiny)
        assert (got.variance_negative_hessian <= limit).all()
        squared = first.square()
        limit = squared * bounds.quartic_min[:, None] * (1 - slack)
        assert (got.variance_score_squared >= limit).all()
        limit = squared * (bounds.quartic_max[:, None] * (1 + slack) + tiny)
        assert (got.variance_score_squared <= limit).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_quartic_bound_is_certified_near_an_even_split(dtype):
    module = fimsym.evaluator("categorical")
    gaps = 10.0 ** torch.arange(-12, 1, dtype=dtype)
    h = torch.stack([gaps, torch.zeros_like(gaps)], dim=-1)
    u = (torch.tensor([1.0, -1.0], dtype=dtype) / 2**0.5).expand_as(h).unsqueeze(-1)
    h64, u64 = h.double(), u.double()
    variance = module.variance_score_squared(h64, u64)[:, 0] / u64.square().sum(-2)[:, 0].square()
    assert (variance <= module.bounds(h).quartic_max.double()).all()


def test_bounds_are_equalities_where_claimed():
    h, u, v = points(CASES["gaussian"], 7, 1.0)
    module = fimsym.evaluator("gaussian")
    got, bounds = module.moments(h, u, v, sigma=0.3), module.bounds(h, sigma=0.3)
    torch.testing.assert_close(got.fisher, bounds.fisher_max[:, None] * u.square().sum(-2))
    assert torch.equal(bounds.fisher_min, bounds.fisher_max)
    h = points(CASES["categorical"], 2, 1.0)[0]
    u = torch.tensor([1.0, -1.0], dtype=h.dtype).expand_as(h).unsqueeze(-1) / 2**0.5
    module = fimsym.evaluator("categorical")
    got, bounds = module.moments(h, u), module.bounds(h)
    torch.testing.assert_close(got.fisher[:, 0], bounds.fisher_max)
    torch.testing.assert_close(got.variance_score_squared[:, 0], bounds.quartic_max)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(case, dtype):
    h, u, v = (x.to(dtype) for x in points(case, case.outputs[-1]))
    module = fimsym.evaluator(case.family)
    got = module.moments(h, u.clamp(-5, 5), v.clamp(-5, 5))
    full = module.moments(h.float(), u.clamp(-5, 5).float(), v.clamp(-5, 5).float())
    assert got.fisher.dtype == torch.float32
    assert torch.equal(got.variance_score_squared, full.variance_score_squared)


def test_any_batch_shape(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    flat = module.moments(h, u, v)
    deep = module.moments(h.reshape(4, 5, -1), u.reshape(4, 5, -1, 3), v.reshape(4, 5, -1, 3))
    none = module.moments(h[0], u[0], v[0])
    empty = module.moments(h[:0], u[:0], v[:0])
    for name in QUANTITIES:
        torch.testing.assert_close(
            getattr(deep, name).reshape(20, 3), getattr(flat, name), rtol=1e-13, atol=0
        )
        torch.testing.assert_close(getattr(none, name), getattr(flat, name)[0], rtol=1e-13, atol=0)
        assert getattr(empty, name).shape == (0, 3)


def test_under_vmap(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    for arguments in ((h, u, v), (h, u)):
        mapped, plain = vmap(module.moments)(*arguments), module.moments(*arguments)
        assert isinstance(mapped, Moments)
        for name in QUANTITIES[: 5 if len(arguments) == 3 else 3]:
            torch.testing.assert_close(getattr(mapped, name), getattr(plain, name))
    bounds = vmap(module.bounds)(h)
    torch.testing.assert_close(bounds.quartic_max, module.bounds(h).quartic_max)


def test_under_autograd(case):
    outputs = min(case.outputs, key=lambda count: abs(count - 3))
    h, u, v = points(case, outputs, 1.0, batch=2)
    h, u, v = h, u / u.abs().amax(), v / v.abs().amax()
    module = fimsym.evaluator(case.family)
    for name, arguments in {
        "fisher": (h, u),
        "variance_score_squared": (h, u),
        "variance_negative_hessian": (h, v),
        "covariance": (h, u, v),
    }.items():
        inputs = tuple(x.clone().requires_grad_() for x in arguments)
        assert torch.autograd.gradcheck(getattr(module, name), inputs)


def test_gradient_flows_to_constants():
    sigma = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    h, u, _ = points(CASES["gaussian"], 2, 1.0)
    value = fimsym.evaluator("gaussian").fisher(h, u, sigma=sigma).sum()
    value.backward()
    assert float(sigma.grad) == pytest.approx(float(2 * value.detach() / 0.5))


def test_under_compile(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    module = fimsym.evaluator(case.family)
    compiled = torch.compile(module.moments, backend="aot_eager", fullgraph=True)
    got, plain = compiled(h, u, v), module.moments(h, u, v)
    for name in QUANTITIES:
        torch.testing.assert_close(getattr(got, name), getattr(plain, name))


def test_no_host_synchronisation(case):
    """On the meta device every read of a value raises, as it would wait on a GPU."""
    h, u, v = (x.to("meta") for x in points(case, case.outputs[-1], 1.0))
    got = fimsym.evaluator(case.family).moments(h, u, v)
    assert got.covariance.shape == (20, 3)
    assert fimsym.evaluator(case.family).bounds(h).fisher_max.shape == (20,)
