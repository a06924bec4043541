"""Estimated second derivatives: unbiased, with a standard error that is true."""

import itertools
import math
import signal

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine import stochastic
from fimsym.engine.functional import Functional
from tests.networks import Language, Recurrent, build, flat, inputs

BENT = ("variance_negative_hessian", "covariance")


def _small():
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)
    )


def _two():
    """Its parameters are taken in several blocks."""
    layers = nn.Conv1d(1, 10, 3), nn.Tanh(), nn.Conv1d(10, 10, 2), nn.Tanh(), nn.Flatten()
    return nn.Sequential(nn.Unflatten(1, (1, 5)), *layers, nn.Linear(20, 2))


CASES = {
    "convolution": (_small, inputs(3, 5), {"family": "categorical"}),
    "gru": (Recurrent, inputs(2, 3, 2), {"family": "categorical"}),
    "link": (_small, inputs(3, 5), {"family": "exponential", "link": "log_rate"}),
    "padded": (Language, torch.tensor([[0, 1, 2], [3, 4, 0]]), {"family": "categorical"}),
}


@pytest.mark.parametrize("case", CASES)
def test_estimates_scatter_about_the_exact_values_as_they_say(case):
    factory, data, law = CASES[case]
    model = build(factory)
    given = {**law, "quantities": "all", "progress": False}
    exact = fimsym.analyze(model, data, **given)
    runs = [
        fimsym.analyze(model, data, second_derivative="stochastic", probes=20, seed=seed, **given)
        for seed in range(20)
    ]
    for quantity in BENT:
        truth = flat(exact.values[quantity])
        found = torch.stack([flat(run.values[quantity]) for run in runs])
        errors = torch.stack([flat(run.standard_errors[quantity]) for run in runs])
        same = errors.max(0).values <= 1e-12 * truth.abs().max()
        torch.testing.assert_close(found[0][same], truth[same], rtol=1e-9, atol=1e-14)
        assert not same.all()
        error = (errors.square().mean(0) / len(runs)).sqrt()[~same]
        z = (found.mean(0) - truth)[~same] / error
        assert z.abs().max() < 6, (case, quantity, z)
        scatter = found.var(0)[~same].sum() / errors.square().mean(0)[~same].sum()
        assert 0.6 < scatter < 1.6, (case, quantity, scatter)
    torch.testing.assert_close(flat(runs[0].fisher), flat(exact.fisher), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("groups", ["layer", "parameter", "model"])
def test_sums_over_groups_scatter_as_they_say(groups):
    """Chunks of parameters and inputs are smaller than the groups in every other run."""
    model, data = build(_small), inputs(6, 5)
    given = {"family": "categorical", "quantities": "all", "groups": groups, "progress": False}
    exact = fimsym.analyze(model, data, **given)
    budgets = itertools.cycle([None, "20kB"])
    runs = [
        fimsym.analyze(
            model, data, second_derivative="stochastic", seed=n, max_memory=next(budgets), **given
        )
        for n in range(60)
    ]
    for quantity in BENT:
        estimated = 0
        for place, truth in enumerate(exact.groups):
            found = torch.tensor([run.groups[place].sums[quantity] for run in runs])
            errors = torch.tensor([run.groups[place].standard_errors[quantity] for run in runs])
            if not errors.any():
                assert found.numpy() == pytest.approx(truth.sums[quantity], 1e-5, 1e-9)
                continue
            estimated += 1
            error = errors.square().mean().sqrt()
            assert abs(found.mean() - truth.sums[quantity]) < 4 * error / len(runs) ** 0.5
            assert 0.7 < found.std() / error < 1.4
        assert estimated
    assert {group.name for group in exact.groups if group.standard_errors} == set()


def test_it_is_repeated_by_the_seed_saved_and_exact_where_it_can_be(tmp_path):
    model, data = build(_small), inputs(3, 5)
    given = {"family": "categorical", "quantities": "all", "second_derivative": "stochastic"}
    one, same, other = (fimsym.analyze(model, data, seed=seed, **given) for seed in (1, 1, 2))
    for quantity in BENT:
        assert torch.equal(flat(one.values[quantity]), flat(same.values[quantity]))
        assert not torch.equal(flat(one.values[quantity]), flat(other.values[quantity]))
        assert not one.standard_errors[quantity]["4.weight"].any()
    assert "stochastic, 8 pairs" in one.ways["second"]
    one.save(tmp_path / "one.safetensors")
    loaded = fimsym.Analysis.load(tmp_path / "one.safetensors")
    for quantity in BENT:
        assert torch.equal(
            flat(loaded.standard_errors[quantity]), flat(one.standard_errors[quantity])
        )
    assert loaded.groups == one.groups
    shown = str(one).splitlines()
    assert shown[1].count("± s.e.") == 2
    error = one.groups[0].standard_errors["covariance"]
    assert shown[2].endswith(f" {error:.2g}")
    assert one.to_frame()["covariance_standard_error"].iloc[0] == error
    exact = fimsym.analyze(model, data, "categorical")
    assert not exact.standard_errors
    assert "±" not in str(exact)


def test_what_a_signal_leaves_of_a_chunk_is_not_counted(monkeypatch):
    add = Functional._add_estimates

    def stopping(self, block, h, u, inputs, count, sums):
        add(self, block, h, u, inputs, count, sums)
        if count:
            signal.raise_signal(signal.SIGINT)

    model, data = build(_two), inputs(100, 5)
    given = {"quantities": "all", "second_derivative": "stochastic", "max_memory": "60kB"}
    with monkeypatch.context() as patched:
        patched.setattr(Functional, "_add_estimates", stopping)
        part = fimsym.analyze(model, data, "categorical", **given)
    assert part.interrupted
    assert 0 < part.inputs < 100
    whole = fimsym.analyze(model, data[: part.inputs], "categorical", **given)
    for quantity in BENT:
        found, errors = part.group_errors[quantity], whole.group_errors[quantity]
        assert found == pytest.approx(errors, rel=1e-9)


def test_a_wrong_product_is_not_taken(monkeypatch):
    right = stochastic.forward_over_reverse
    monkeypatch.setattr(stochastic, "forward_over_reverse", lambda *given: 1.01 * right(*given))
    model, data = build(_small), inputs(3, 5)
    given = {"quantities": "all", "second_derivative": "stochastic"}
    found = fimsym.analyze(model, data, "categorical", **given)
    assert "double_backward" in found.ways["second"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"second_derivative": "random"}, "'exact' or 'stochastic'"),
        ({"second_derivative": "stochastic", "probes": 1}, "at least 2"),
        ({"probes": math.pi}, "whole number"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"seed": 2**32}, "got 4294967296"),
        ({"seed": 0.5}, "got 0.5"),
    ],
)
def test_mistakes(options, says):
    with pytest.raises(fimsym.SpecError, match=says):
        fimsym.analyze(build(_small), inputs(3, 5), "categorical", **options)


def test_seeds_of_32_bits_all_draw():
    model, data = build(_small), inputs(3, 5)
    given = {"family": "categorical", "quantities": "all", "second_derivative": "stochastic"}
    found = [
        flat(fimsym.analyze(model, data, seed=seed, **given).covariance)
        for seed in (0, 2**31 - 1, 2**31, 2**32 - 1)
    ]
    for n, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:n])
