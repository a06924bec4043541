"""What a family of the user's must not do: run text, shadow names, lose digits unseen."""

import dataclasses
from pathlib import Path

import pytest
import torch

import fimsym
from fimsym.errors import SpecError

RAYLEIGH = Path(__file__).parent.parent / "docs/families/rayleigh.toml"
PLANTED = 'x""" ; import os; os.mkdir("{}"); """'


def test_text_cannot_leave_its_docstring(tmp_path):
    for change in (
        {"title": PLANTED},
        {"sufficient_statistics": (PLANTED,), "structure": "joint"},
        {"constants": (fimsym.Constant("c", PLANTED),)},
    ):
        with pytest.raises(SpecError, match="without quotes"):
            fimsym.Family(**{"name": "planted", "log_partition": "exp(h)", **change})


@pytest.mark.parametrize("name", ["information", "deviation", "dtype", "directions", "LAYOUT"])
def test_constants_cannot_shadow_generated_names(name):
    spec = fimsym.Family(
        name="shadow",
        log_partition=f"{name} * log(1 + exp(h))",
        constants=(fimsym.Constant(name, "count", 2.0),),
    )
    with pytest.raises(SpecError, match=f"{name!r} is a name of the generated code"):
        fimsym.generate(spec)


@pytest.mark.parametrize("outputs", [("h1", "h2"), ("first1", "b"), ("slope_11", "b"), ("u1", "b")])
def test_link_outputs_cannot_shadow_generated_names(outputs):
    a, b = outputs
    spec = dataclasses.replace(
        fimsym.family("gaussian_mean_variance"),
        name="shadow",
        links=(fimsym.Link("mine", outputs, (f"{a} * exp(-{b})", f"-exp(-{b}) / 2")),),
    )
    with pytest.raises(SpecError, match=f"{a!r} is a name of the generated code"):
        fimsym.generate(spec)


def test_three_parameters_and_two_that_do_not_interact():
    one = torch.ones(1, dtype=torch.float64)
    names, statistics = ("a", "b", "c"), ("y", "y", "y")
    partition = "exp(a) + log(1 + exp(b)) + c**2 / 2"
    three = fimsym.Family("three", partition, natural=names, sufficient_statistics=statistics)
    h = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    rate, odds = torch.exp(h[0]), torch.sigmoid(h[1])
    expected = rate + odds * (1 - odds) + 1
    found = fimsym.evaluator(three).fisher(h, one.expand(3, 1))
    torch.testing.assert_close(found, expected.reshape(1))
    two = fimsym.Family(
        "two", "exp(a) + log(1 + exp(b))", natural=names[:2], sufficient_statistics=("y", "y")
    )
    moments = fimsym.evaluator(two).moments(h[:2], one.expand(2, 1), one.expand(2, 1))
    torch.testing.assert_close(moments.fisher, (expected - 1).reshape(1))


def test_a_formula_that_cancels_is_warned_of():
    truncated = fimsym.Family("truncated", "log(expm1(h) / h)")
    with pytest.warns(fimsym.AccuracyWarning, match="in float64 at h"):
        fimsym.derive(truncated)


def test_a_sampler_of_another_law_disagrees():
    """Gamma(3/2, −h) has the log-partition of Maxwell's t = y², but is the law of y²."""
    maxwell = fimsym.Family(
        "maxwell",
        "-3 / 2 * log(-h)",
        domain=("h < 0",),
        sufficient_statistics=("y**2",),
        density=fimsym.Density("4 * y**2 / sqrt(pi)", "positive"),
        sampler=fimsym.Sampler("Gamma", {"concentration": "3 / 2", "rate": "-h"}),
    )
    result = fimsym.validate(maxwell, output_samples=2000, progress=False)
    assert not result.agrees
    right = dataclasses.replace(maxwell, sampler=None)
    assert fimsym.validate(right, output_samples=2000, progress=False).agrees


def test_a_link_that_misses_the_domain_is_refused():
    spec = dataclasses.replace(
        fimsym.load_family(RAYLEIGH),
        links=(fimsym.Link("wrong", ("o",), ("exp(-2 * o) / 2",)),),
    )
    with pytest.raises(SpecError, match="no sampled output gives natural parameters"):
        fimsym.derive(spec)
