"""Evaluators in blocks equal evaluators of the whole, for every layout of memory."""

import dataclasses

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import jvp, vmap

import fimsym
from fimsym import runtime
from fimsym.runtime import blocks
from tests.cases import CASES, points

LAYOUTS = {
    "contiguous": lambda x: x,
    "outputs first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "params first": lambda x: x.mT.contiguous().mT,
    "one for the batch": lambda x: x[:1].expand_as(x),
    "every other": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "two batch axes": lambda x: x.unflatten(0, (4, 5)),
}


def values(moments):
    return [getattr(moments, field.name) for field in dataclasses.fields(moments)]


def wide(case, copies=50):
    h, u, v = points(case, case.outputs[-1], 1.0)
    return h, u.repeat(1, 1, copies), v.repeat(1, 1, copies)


@pytest.fixture
def cut(monkeypatch):
    """Count blocks, of at most 500 entries of u or 64 parameters."""
    sizes = []
    each = blocks._each

    def counted(dtype, block, columns, directions, chunks):
        sizes.append(chunks)
        return each(dtype, block, columns, directions, chunks)

    monkeypatch.setattr(blocks, "ENTRIES", 500)
    monkeypatch.setattr(blocks, "_each", counted)
    return sizes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_equal_the_whole(case, layout, monkeypatch, cut):
    h, u, v = (LAYOUTS[layout](x) for x in wide(case))
    if layout != "two batch axes":
        h = wide(case)[0]
    module = fimsym.evaluator(case.family)
    given = [x.clone() for x in (h, u, v)]

    def found():
        several = [
            call(h, *directions)
            for call in (module.moments, module.estimator_variances)
            for directions in ((u,), (u, v))
        ]
        return [value for one in several for value in values(one) if value is not None] + [
            module.fisher(h, u),
            module.variance_score_squared(h, u), module.variance_negative_hessian(h, v),
            module.covariance(h, u, v), module.variance_rademacher_probe(h, u),
        ]  # fmt: skip

    parts = found()
    assert len(cut) == 9
    assert all(torch.equal(x, y) for x, y in zip((h, u, v), given, strict=True))
    monkeypatch.setattr(blocks, "ENTRIES", 10**9)
    whole = found()
    assert len(cut) == 9
    for one, other in zip(parts, whole, strict=True):
        size = other.abs().amax(-1, keepdim=True)
        assert ((one - other).abs() <= 1e-12 * size).all()


def test_blocks_of_single_precision(case, monkeypatch, cut):
    h, u, v = (x.float() for x in wide(case))
    module = fimsym.evaluator(case.family)
    parts = [*values(module.moments(h, u, v)), module.fisher(h, u)]
    assert len(cut) == 2
    monkeypatch.setattr(blocks, "ENTRIES", 10**9)
    whole = [*values(module.moments(h, u, v)), module.fisher(h, u)]
    for one, other in zip(parts, whole, strict=True):
        size = other.abs().amax(-1, keepdim=True)
        assert one.dtype == torch.float32
        assert ((one - other).abs() <= 1e-5 * size).all()


@pytest.mark.parametrize("params", [1, 63, 64, 65, 1000])
def test_every_entry_is_in_one_block(params, cut):
    h = torch.zeros(7, 3)
    u = torch.arange(7.0 * params).reshape(7, 1, params).expand(7, 3, params)
    found = fimsym.evaluator("gaussian").fisher(h.double(), u.double())
    assert torch.equal(found, 3 * u[:, 0].double() ** 2)


def test_a_graph_is_one_block(cut):
    h, u, _ = wide(CASES["categorical"])
    module = fimsym.evaluator("categorical")
    module.fisher(h, u.requires_grad_()).sum().backward()
    assert not cut
    assert u.grad is not None
    with torch.no_grad():
        module.fisher(h, u)
    assert cut


def test_gradients_of_constants_of_large_calls(cut):
    sigma = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    h, u, _ = wide(CASES["gaussian"])
    value = fimsym.evaluator("gaussian").fisher(h, u, sigma=sigma).sum()
    value.backward()
    assert sigma.grad is not None
    assert float(sigma.grad) == pytest.approx(float(2 * value.detach() / 0.5))


def test_transforms_of_large_calls(case, cut):
    h, u, _ = wide(case)
    module = fimsym.evaluator(case.family)
    plain = module.variance_score_squared(h, u)
    torch.testing.assert_close(vmap(module.variance_score_squared)(h, u), plain)
    value, slope, *_ = jvp(lambda u: module.variance_score_squared(h, u), (u,), (u,))
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(slope, 4 * plain)


def test_forward_derivatives_of_large_calls(case, cut):
    h, u, _ = wide(case)
    with forward_ad.dual_level():
        value = fimsym.evaluator(case.family).fisher(h, forward_ad.make_dual(u, u))
        plain, slope = forward_ad.unpack_dual(value)
    torch.testing.assert_close(slope, 2 * plain)


@pytest.mark.parametrize("which", ["u", "v"])
def test_values_that_are_not_finite_in_any_block(which, cut):
    h, u, v = wide(CASES["categorical"])
    {"u": u, "v": v}[which][13, 2, 149] = float("nan")
    with pytest.raises(fimsym.DomainError, match=rf"{which} must be finite.*\[13, 2, 149\]"):
        fimsym.evaluator("categorical").moments(h, u, v)


def test_rows_of_large_tensors(monkeypatch):
    values = torch.randn(2, 3, 5, 4)
    place = torch.randint(5, (2, 3, 1, 1))
    expected = torch.take_along_dim(values, place, dim=-2)
    for few in (0, 10**9):
        monkeypatch.setattr(blocks, "_FEW", few)
        assert torch.equal(runtime.at(values, place), expected)
        assert torch.equal(runtime.at(values[0, 0], place[0, 0]), expected[0, 0])


def test_weighted_sums_keep_their_digits_where_products_do_not():
    weights, values = torch.rand(3, 7, 1), torch.rand(3, 7, 5)
    truth = (weights.double() * values.double()).sum(-2, keepdim=True)
    torch.testing.assert_close(
        runtime.weighted_sum(weights, values).double(), truth, rtol=1e-6, atol=0
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = runtime.weighted_sum(weights, values)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=0)
    mixed = runtime.weighted_sum(weights.double(), values)
    torch.testing.assert_close(mixed, truth, rtol=1e-15, atol=0)


def test_arguments_of_a_family_whose_directions_are_whitened_apart_are_left_alone(cut):
    """Its generated code has names for parts of u itself, which nothing may be written over."""
    spec = fimsym.Family(
        name="apart",
        natural=("h1", "h2"),
        log_partition="exp(h1) + exp(h2)",
        sufficient_statistics=("y", "y**2"),
    )
    module = fimsym.evaluator(spec)
    h = torch.randn(8, 4, dtype=torch.float64)
    u, v = torch.randn(2, 8, 4, 300, dtype=torch.float64)
    given = [x.clone() for x in (u, v)]
    once, twice = (
        [
            *values(module.moments(h, u, v)), module.fisher(h, u), module.covariance(h, u, v),
            module.variance_score_squared(h, u), module.variance_negative_hessian(h, v),
        ]
        for _ in "ab"
    )  # fmt: skip
    assert cut
    assert all(torch.equal(x, y) for x, y in zip((u, v), given, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(once, twice, strict=True))


@pytest.mark.parametrize("batch", [(), (6,), (2, 3)])
def test_large_rows_are_taken_on_a_device_without_reading_a_value(batch):
    values = torch.empty(*batch, 10, 4000, device="meta")
    place = torch.zeros(*batch, 1, 1, dtype=torch.long, device="meta")
    for found in blocks.rows(values, place, place):
        assert found.shape == (*batch, 1, 4000)
