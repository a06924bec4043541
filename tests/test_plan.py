"""`plan`: its prediction is what its recommendation gives, and its words are true."""

import json
import math

import pytest
import torch
from torch import nn

import fimsym
from fimsym.estimation.planned import needed
from tests.estimation import network, tokens
from tests.networks import build, convolution, flat, inputs, mlp

DRAWN = ("score_squared", "score_squared_cv", "gaussian_probe", "rademacher_probe")


def plan(model, data, family="categorical", **options):
    return fimsym.plan(model, data, family, progress=False, **options)


def realised(model, data, family, estimator, labels, groups, seeds, **options):
    """Return ‖Î − I‖/‖I‖ of every seed and group, [seed, group]."""
    exact = fimsym.analyze(model, data, family, quantities="fisher", progress=False, **options)
    found = []
    for seed in range(seeds):
        got = fimsym.estimate(
            model, data, family, estimator, labels, seed=seed, progress=False, **options
        )
        errors = []
        for group in groups:
            one, truth = (
                torch.cat([named[name].flatten() for name in group.parameters])
                for named in (got.fisher, exact.fisher)
            )
            errors.append((one - truth).norm() / truth.norm())
        found.append(torch.stack(errors))
    return torch.stack(found)


CASES = {
    "ten classes": (lambda: mlp(6, 8, 10), inputs(300, 6), "categorical", 0.05),
    "a convolution": (convolution, inputs(150, 2, 6, 6), "categorical", 0.3),
    "many targets": (lambda: mlp(4, 6, 8, activation=nn.Tanh), inputs(200, 4), "gaussian", 0.1),
    "yes or no": (lambda: mlp(4, 6, 8, activation=nn.ReLU), inputs(200, 4), "bernoulli", 0.1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_recommendation_has_the_error_that_was_predicted(case):
    factory, data, family, error = CASES[case]
    model = build(factory)
    found = plan(model, data, family, relative_error=error, pilot=len(data))
    if found.recommended == "exact":
        assert found.predicted_error == dict.fromkeys(found.predicted_error, 0.0)
        return
    errors = realised(
        model, data, family, found.recommended, found.labels_per_input, found.groups, 60
    )
    predicted = torch.tensor([found.predicted_error[group.name] for group in found.groups])
    ratio = errors.square().mean(0).sqrt()[predicted > 0] / predicted[predicted > 0]
    assert ratio.min() > 0.75, ratio
    assert ratio.max() < 1.3, ratio
    assert (errors > error).double().mean() <= 0.05 + 3 * math.sqrt(0.05 / errors.numel())


def test_every_estimator_has_the_error_that_was_predicted():
    factory, data, family, _ = CASES["ten classes"]
    model = build(factory)
    found = plan(model, data, family, pilot=len(data))
    for estimator in (*DRAWN, "negative_hessian", "mixed"):
        errors = realised(model, data, family, estimator, 2, found.groups, 60)
        predicted = [group.options[estimator].deviation / 2**0.5 for group in found.groups]
        for got, expected in zip(errors.square().mean(0).sqrt().tolist(), predicted, strict=True):
            if expected == 0:
                assert got < 1e-9
            else:
                assert 0.75 < got / expected < 1.3, (estimator, got, expected)


def test_a_few_inputs_spread_over_the_data_predict_nearly_the_same():
    factory, data, *_ = CASES["ten classes"]
    model, ordered = build(factory), data[data[:, 0].argsort()]
    whole, few = plan(model, ordered, pilot=300), plan(model, ordered, pilot=30)
    assert (few.pilot, few.inputs, whole.pilot) == (30, 300, 300)
    for one, other in zip(few.groups, whole.groups, strict=True):
        for estimator in DRAWN:
            ratio = one.options[estimator].deviation / max(
                1e-12, other.options[estimator].deviation
            )
            assert 0.7 < ratio < 1.4 or one.options[estimator].deviation == 0


def test_deviations_are_those_of_an_analysis():
    model, data = build(lambda: mlp(4, 5, 3)), inputs(40, 4)
    found = plan(model, data, pilot=40)
    whole = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    for estimator in ("score_squared", "negative_hessian", "mixed", "gaussian_probe"):
        variance = whole.variance(estimator, 40, 1, finite=True)
        for group in found.groups:
            top = sum(variance[n].sum() for n in group.parameters)
            norm = sum(whole.fisher[n].square().sum() for n in group.parameters)
            deviation = group.options[estimator].deviation
            assert deviation == pytest.approx(float((top / norm).sqrt()), rel=1e-9, abs=1e-12)


def test_labels_follow_from_chebyshev_and_the_normal_law():
    assert needed(0.0, 0.1, 0.95) == (1, 1)
    # z² = 3.8415 at 95%: 2 draws per unit of (d/ε)² / 2, and 1/δ = 20 by Chebyshev
    assert needed(1.0, 0.1, 0.95) == (385, 2000)
    assert needed(math.nan, 0.1, 0.95) is None
    # For one parameter of a Gaussian d² = V/I² = 2.
    model = nn.Linear(1, 1, bias=False).double()
    found = plan(model, torch.ones(1, 1, dtype=torch.float64), "gaussian", relative_error=0.1)
    (group,) = found.groups
    option = group.options["score_squared"]
    assert option.deviation == pytest.approx(2**0.5)
    assert (option.labels, option.labels_chebyshev, option.labels_median) == (769, 4000, 769)
    assert option.predicted_error == pytest.approx((2 / 769) ** 0.5)


def test_passes_are_counted():
    """What a plan says an estimate takes is what it takes."""
    model, data = build(lambda: mlp(4, 6, 8, activation=nn.Tanh)), inputs(2000, 4)
    found = plan(model, data, relative_error=0.02)
    for estimator in DRAWN:
        labels, passes = (getattr(found.options[estimator], x) for x in ("labels", "passes"))
        got = fimsym.estimate(model, data, "categorical", estimator, labels, progress=False)
        assert got.passes == pytest.approx(passes, rel=1e-9), estimator
    assert found.options["score_squared_cv"].passes == pytest.approx(
        found.options["score_squared_cv"].labels + 8 * 256 / 2000
    )
    for estimator in ("negative_hessian", "mixed"):
        assert found.options[estimator].passes > found.options["exact"].passes


@pytest.mark.parametrize(
    ("sizes", "low", "high"), [((20, 30, 30, 10), 5, 12), ((30, 40, 300), 1, 20)], ids=str
)
def test_the_exact_diagonal_takes_a_pass_for_every_output_or_less_next_to_the_output(
    sizes, low, high
):
    found = plan(build(lambda: mlp(*sizes)), inputs(50, sizes[0]))
    assert low < found.options["exact"].passes < high


INSIGHTS = {
    "last layer": (lambda: mlp(4, 5, 3), "2: last layer: Î₂ is exact"),
    "ReLU": (lambda: mlp(4, 5, 3, activation=nn.ReLU), "0: ReLU: Î₂ is exact almost everywhere"),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3)),
               "0: Î₂ is exact, as the output is linear in each"),
}  # fmt: skip


@pytest.mark.parametrize("case", INSIGHTS)
def test_what_is_exact_is_said_and_exact(case):
    factory, words = INSIGHTS[case]
    model, data = build(factory), inputs(30, 4)
    found = plan(model, data)
    assert any(words in insight for insight in found.insights), found.insights
    exact = fimsym.analyze(model, data, "categorical", progress=False)
    got = fimsym.estimate(model, data, "categorical", "negative_hessian", progress=False)
    (name,) = (group.name for group in found.groups if group.name == words[0])
    for parameter in (f"{name}.weight", f"{name}.bias"):
        torch.testing.assert_close(
            got.fisher[parameter], exact.fisher[parameter], rtol=1e-9, atol=1e-15
        )


@pytest.mark.parametrize(
    ("spread", "words"), [(0.05, "κ₄ < 0: labels beat"), (9.0, "κ₄ > 0: probe")]
)
def test_the_sign_of_the_fourth_cumulant_decides_between_labels_and_noise(spread, words):
    """Undecided classes have negative excess kurtosis, confident ones positive."""
    model = build(lambda: nn.Sequential(nn.Linear(4, 3)))
    with torch.no_grad():
        model[0].weight.mul_(spread)
    found = plan(model, inputs(50, 4))
    assert any(words in insight for insight in found.insights), found.insights
    labels, noise = (found.options[n].deviation for n in ("score_squared", "gaussian_probe"))
    assert (labels < noise) == ("<" in words)


def test_two_valued_labels_lose_all_error_to_the_control_variate():
    model, data = build(lambda: mlp(4, 3)), inputs(30, 4)
    found = plan(model, data)
    assert any("control variate takes all error away" in i for i in found.insights)
    got = fimsym.estimate(model, data, "categorical", "score_squared_cv", progress=False)
    exact = fimsym.analyze(model, data, "categorical", progress=False)
    torch.testing.assert_close(flat(got.fisher), flat(exact.fisher), rtol=1e-10, atol=1e-15)


def test_exact_is_recommended_where_it_is_cheapest():
    few = plan(build(lambda: mlp(4, 5, 3)), inputs(30, 4), relative_error=0.05)
    assert (few.recommended, few.labels_per_input) == ("exact", 0)
    assert few.passes < min(few.options[estimator].passes for estimator in DRAWN)
    assert any("exact diagonal takes" in insight for insight in few.insights)
    many = plan(build(lambda: mlp(4, 5, 3)), inputs(3000, 4), relative_error=0.2)
    assert (many.recommended, many.labels_per_input) != ("exact", 0)
    assert many.passes <= 2
    assert "one draw per input is more than enough: fewer inputs would do" in many.insights


def test_a_layer_without_information_is_said_to_have_none_and_the_rest_is_planned():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 8), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    found = plan(build(Idle), inputs(30, 4))
    used, idle = found.groups
    assert idle.options["score_squared"].labels is None
    assert math.isnan(found.predicted_error["idle"])
    assert any("idle: the Fisher information is zero" in insight for insight in found.insights)
    assert used.options["score_squared"].labels > 0
    assert "–" in repr(found)


@pytest.mark.parametrize("data", ["tensor", "pair", "array", "batches", "loader", "stream"])
def test_any_data(data):
    x = inputs(50, 4)
    y = torch.zeros(50, dtype=torch.long)
    given = {
        "tensor": x,
        "pair": (x, y),
        "array": x.numpy(),
        "batches": list(x.split(7)),
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8),
        "stream": iter(x.split(7)),
    }[data]
    found = plan(build(lambda: mlp(4, 5, 3)), given, pilot=20)
    assert (found.inputs, found.pilot) == (50, 20)


def test_a_plan_is_a_table_a_frame_and_json():
    found = plan(network("poisson"), tokens(40), "poisson", link="log_rate", groups="parameter")
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["recommended"] == found.recommended
    assert [g["name"] for g in record["groups"]] == [g.name for g in found.groups]
    frame = found.to_frame()
    assert frame.loc[("leave.bias", "exact"), "passes"] == found.options["exact"].passes
    assert found.sentence in repr(found)
    assert all(name in repr(found) for name in found.options)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"relative_error": 0}, fimsym.SpecError, "positive number"),
        ({"relative_error": -1}, fimsym.SpecError, "positive number"),
        ({"confidence": 1}, fimsym.SpecError, "less than 1"),
        ({"pilot": 0}, fimsym.SpecError, "at least 1"),
        ({"pilots": 3}, fimsym.SpecError, "Did you mean 'pilot'"),
        ({"family": None}, fimsym.SpecError, "no family given"),
        ({"data": inputs(0, 4)}, fimsym.ShapeError, "data is empty"),
        ({"data": []}, fimsym.ShapeError, "data is empty"),
    ],
)
def test_mistakes_are_named(options, error, says):
    given = {"data": inputs(5, 4), "family": "categorical", "progress": False, **options}
    with pytest.raises(error, match=says):
        fimsym.plan(build(lambda: mlp(4, 3, 3)), **given)
