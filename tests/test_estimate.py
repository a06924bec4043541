"""`estimate`: what it returns, what it repeats, what it says, and how much it holds."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import fimsym
from fimsym.engine import backward as engine_backward
from fimsym.engine.expansion import Expansion
from fimsym.engine.recording import NoTape
from fimsym.estimation import curved
from fimsym.estimation.estimators import ESTIMATORS
from tests.estimation import LAWS, network, tokens
from tests.networks import Attention, Recurrent, build, convolution, flat, inputs, mlp

ROOT = Path(__file__).parent.parent
DRAWN = ("score_squared", "score_squared_cv", "gaussian_probe", "rademacher_probe")
RANDOM = (*DRAWN, "negative_hessian", "mixed")


def estimate(model, data, family="categorical", *rest, **options):
    return fimsym.estimate(model, data, family, *rest, progress=False, **options)


def close(one, other, rtol=1e-10):
    size = flat(other).nan_to_num().abs().max()
    torch.testing.assert_close(flat(one), flat(other), rtol=rtol, atol=1e-12 * size, equal_nan=True)


def near(got, exact, sigmas=6.0):
    """Compare an estimate with the truth in its own standard errors."""
    apart = (flat(got.fisher) - flat(exact.fisher)).abs()
    assert (apart <= sigmas * flat(got.standard_error) + 1e-9 * flat(exact.fisher).max()).all()


@pytest.mark.parametrize("estimator", RANDOM)
@pytest.mark.parametrize(
    ("factory", "data"),
    [(lambda: network("categorical"), tokens(70)), (convolution, inputs(70, 2, 6, 6)),
     (lambda: mlp(4, 5, 3, activation=nn.ReLU), inputs(70, 4))],
    ids=["kinds", "convolution", "relu"],
)  # fmt: skip
def test_estimates_lie_about_the_exact_diagonal(factory, data, estimator):
    model = build(factory)
    exact = fimsym.analyze(model, data, "categorical", progress=False)
    got = estimate(model, data, estimator=estimator, labels_per_input=30)
    near(got, exact)
    assert {name: x.shape for name, x in got.fisher.items()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert all(
        x.dtype == torch.float64 for x in (*got.fisher.values(), *got.standard_error.values())
    )
    assert got.roads.keys() == exact.roads.keys()


@pytest.mark.parametrize(("factory", "data"), [
    (Recurrent, inputs(12, 4, 2)),
    (Attention, torch.randint(0, 7, (12, 5), generator=torch.Generator().manual_seed(2))),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_any_module(factory, data):
    model = build(factory)
    near(estimate(model, data, labels_per_input=40), fimsym.analyze(model, data, "categorical"))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("estimator", RANDOM)
def test_families_and_links(law, estimator):
    family, link, _, constants = LAWS[law]
    given = {"link": link, "progress": False, **constants}
    exact = fimsym.analyze(network(law), tokens(60), family, quantities="fisher", **given)
    got = fimsym.estimate(network(law), tokens(60), family, estimator, 40, **given)
    near(got, exact, 8.0)
    assert got.link == (link or "natural")


@pytest.mark.parametrize("estimator", RANDOM)
def test_draws_depend_on_the_seed_and_the_row_alone(estimator):
    model, data = network("categorical"), tokens(75)
    given = {"estimator": estimator, "labels_per_input": 10}
    one = estimate(model, data, seed=1, **given)
    assert (flat(one.fisher) != flat(estimate(model, data, seed=2, **given).fisher)).any()
    pair = (data, torch.zeros(75, dtype=torch.long))
    loader = DataLoader(TensorDataset(*pair), batch_size=9)
    others = [
        estimate(model, other, seed=1, **given, **options)
        for other, options in (
            (data, {}), (data.numpy(), {}), (pair, {}), (loader, {}), (list(data.split(11)), {}),
            (iter(data.split(40)), {}),
        )
    ]  # fmt: skip
    if estimator != "score_squared_cv":  # which learns from as many inputs as fit
        others.append(estimate(model, data, seed=1, max_memory=60_000, **given))
    for other in others:
        close(other.fisher, one.fisher)
        close(other.standard_error, one.standard_error, 1e-6)
    assert torch.equal(flat(others[0].fisher), flat(one.fisher))


@pytest.mark.parametrize("law", ["categorical", "poisson"])
def test_the_random_state_of_torch_is_left_alone(law):
    model = network(law)
    torch.manual_seed(5)
    fimsym.estimate(model, tokens(20), law, labels_per_input=2, progress=False)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("law", ["poisson", "gaussian_mean_variance"])
def test_draws_of_laws_without_an_inverse_do_not_depend_on_batches_either(law):
    family, link, _, constants = LAWS[law]
    given = {"link": link, "progress": False, **constants}
    one, other = (
        fimsym.estimate(network(law), data, family, "score_squared", 3, **given)
        for data in (tokens(75), list(tokens(75).split(7)))
    )
    close(other.fisher, one.fisher)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_precision_of_the_network_changes_little(dtype):
    model = build(lambda: mlp(4, 6, 3)).to(dtype)
    data = inputs(40, 4).to(dtype)
    for estimator in RANDOM:
        got = estimate(model, data, estimator=estimator, labels_per_input=4)
        truth = estimate(model.double(), data.double(), estimator=estimator, labels_per_input=4)
        model.to(dtype)
        size = flat(truth.fisher).max()
        assert (flat(got.fisher) - flat(truth.fisher)).abs().max() < 1e-3 * size
        assert (flat(got.standard_error) - flat(truth.standard_error)).abs().max() < 1e-3 * size


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_small_and_large_gradients_do_not_vanish_in_float32(scale):
    """Fourth powers of 1e-12 and 1e12 are none of float32's numbers."""
    plain = build(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))).float()
    scaled = build(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))).float()
    with torch.no_grad():  # h stays, derivatives by the first layer's weights are scaled
        scaled[0].weight.div_(scale)
        scaled[0].bias.mul_(0)
        plain[0].bias.mul_(0)
    data = inputs(40, 4).float()
    one = estimate(plain, data, labels_per_input=4)
    other = estimate(scaled, data * scale, labels_per_input=4)
    for name in ("fisher", "standard_error"):
        a, b = getattr(one, name)["0.weight"], getattr(other, name)["0.weight"]
        torch.testing.assert_close(b / scale**2, a, rtol=1e-4, atol=0)


def test_one_label_covers_the_inputs_too_and_says_so():
    model, data = build(lambda: mlp(4, 5, 3)), inputs(300, 4)
    one = estimate(model, data)
    assert (one.covers, one.labels_per_input) == ("labels and inputs", 1)
    s = flat(one.standard_error)
    both = estimate(model, data, labels_per_input=8, random_inputs=True)
    labels = estimate(model, data, labels_per_input=8)
    assert (both.covers, labels.covers) == ("labels and inputs", "labels")
    close(both.fisher, labels.fisher)
    assert (flat(both.standard_error) >= flat(labels.standard_error)).all()
    truth = fimsym.analyze(model, data, "categorical", progress=False)
    for got, predicted in (
        (s, truth.variance("score_squared", 300, 1)),
        (flat(both.standard_error), truth.variance("score_squared", 300, 8)),
        (flat(labels.standard_error), truth.variance("score_squared", 300, 8, finite=True)),
    ):
        assert 0.9 < (got**2 / flat(predicted)).mean() < 1.1
    for estimator in ("negative_hessian", "mixed"):
        got = estimate(model, data, estimator=estimator, random_inputs=True)
        close(
            {"": flat(got.standard_error)},
            {"": flat(truth_of(model, data, estimator)).sqrt()},
            1e-6,
        )


def truth_of(model, data, estimator):
    whole = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    return whole.variance(estimator, len(data), 1)


def test_exact_is_the_analysis_with_an_error_from_its_inputs_alone():
    model, data = build(lambda: mlp(4, 5, 3)), inputs(30, 4)
    truth = fimsym.analyze(model, data, "categorical", progress=False)
    got = estimate(model, data, estimator="exact")
    assert torch.equal(flat(got.fisher), flat(truth.fisher))
    assert not flat(got.standard_error).any()
    assert (got.covers, got.passes, got.labels_per_input) == ("nothing", 3, 0)
    sampled = estimate(model, data, estimator="exact", random_inputs=True)
    close(sampled.standard_error, {"": (flat(truth.input_variance) / 30).sqrt()})
    assert sampled.covers == "inputs"


@pytest.mark.parametrize("law", LAWS)
def test_empirical_squares_the_scores_of_the_data(law):
    family, link, _, constants = LAWS[law]
    model, data = network(law), tokens(9)
    generator = torch.Generator().manual_seed(0)
    if family == "categorical":
        labels = torch.randint(3, (9,), generator=generator)
    elif family in ("bernoulli", "binomial", "poisson"):
        labels = torch.randint(2, (9, 1), generator=generator)
    else:
        labels = torch.randn(9, 1, generator=generator, dtype=torch.float64)
    got = fimsym.estimate(
        model, (data, labels), family, "empirical", link=link, progress=False, **constants
    )
    from fimsym.laws import Law

    law = Law(fimsym.family(family), constants, link)
    squares = []
    for x, y in zip(data, labels, strict=True):
        log_p = law.log_prob(model(x[None])[0], y if family == "categorical" else y.double())
        gradients = torch.autograd.grad(log_p, list(model.parameters()))
        squares.append(torch.cat([g.flatten() for g in gradients]).square())
    squares = torch.stack(squares)
    close(got.fisher, {"": squares.mean(0)})
    close(got.standard_error, {"": squares.std(0) / 3}, 1e-6)
    assert got.covers == "inputs"


class Rough(nn.Module):
    """Distances of order three, which torch differentiates once only."""

    def __init__(self):
        super().__init__()
        self.low, self.centres = nn.Linear(4, 3), nn.Parameter(torch.randn(3, 3))
        self.high = nn.Linear(3, 3)

    def forward(self, x):
        return self.high(torch.cdist(self.low(x), self.centres, p=3.0))


def test_parameters_without_second_derivatives_are_named_and_the_rest_delivered():
    model, data = build(Rough), inputs(30, 4)
    exact = fimsym.analyze(model, data, "categorical", progress=False)
    got = estimate(model, data, estimator="negative_hessian")
    assert all(got.fisher[n].isnan().all() for n in ("centres", "low.weight", "low.bias"))
    close({n: got.fisher[n] for n in ("high.weight", "high.bias")},
          {n: exact.fisher[n] for n in ("high.weight", "high.bias")})  # fmt: skip
    (note,) = (note for note in got.notes if "second derivative" in note)
    assert "centres, low.weight, low.bias" in note
    assert "NaN" in note
    assert "nan" not in repr(got)
    both = estimate(model, data, estimator="mixed", labels_per_input=20)
    near(both, exact)
    assert any("Î₁ alone is taken there" in note for note in both.notes)
    found = fimsym.plan(model, data, "categorical", progress=False)
    assert found.groups[1].options["mixed"].labels is None
    assert any("no second derivatives" in insight for insight in found.groups[1].insights)


class Idle(nn.Module):
    """One layer that does nothing, and one input that is always 0."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x * torch.tensor([0.0, 1, 1, 1], dtype=x.dtype))


@pytest.mark.parametrize("estimator", RANDOM)
def test_entries_that_are_exactly_zero_have_no_relative_error_and_the_rest_does(estimator):
    model, data = build(Idle), inputs(30, 4)
    got = estimate(model, data, estimator=estimator, target_relative_error=0.5)
    used, idle = got.groups
    assert math.isnan(idle.relative_error)
    assert used.relative_error <= 0.5
    assert got.reached == {"used": True, "idle": False}
    assert "3 of 15 in used, 6 of 6 in idle" in got.notes[-1]
    assert not got.fisher["idle.weight"].any()
    assert not got.standard_error["used.weight"][:, 0].any()


def test_predictable_labels_are_not_taken_for_certain():
    """With p = 1 − 3e-5 no label of 1,000 says anything, and a scatter of 0 means nothing."""
    model = build(lambda: mlp(4, 3, activation=nn.Tanh))
    with torch.no_grad():
        model[0].bias += torch.tensor([12.0, 0, 0])
        model[0].weight *= 0.1
    data = inputs(100, 4)
    got = estimate(model, data, labels_per_input=10)
    (note,) = (note for note in got.notes if "predictable" in note)
    assert "gaussian_probe or exact" in note
    aimed = estimate(model, data, target_relative_error=0.2, max_labels=64)
    assert not any(aimed.reached.values())
    exact = fimsym.analyze(model, data, "categorical", progress=False)
    near(estimate(model, data, estimator="gaussian_probe", labels_per_input=20), exact)
    assert not any("predictable" in n for n in estimate(build(lambda: mlp(4, 3)), data).notes)


def test_a_target_is_aimed_at_with_what_closed_forms_say():
    model, data = build(lambda: mlp(4, 5, 3)), inputs(50, 4)
    got = estimate(model, data, estimator="negative_hessian", target_relative_error=0.2)
    exact = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    size, variance = exact.fisher, exact.variance("negative_hessian", 50, 1, finite=True)
    ratio = (  # z² Σ V/(n ‖I‖² ε²) of the layer in front; the other has no error
        1.959964**2
        * sum(variance[n].sum() for n in ("0.weight", "0.bias"))
        / sum(size[n].square().sum() for n in ("0.weight", "0.bias"))
        / 0.2**2
    )
    assert got.labels_per_input == math.ceil(ratio)
    assert got.reached == {"0": True, "2": True}
    short = estimate(
        model, data, estimator="negative_hessian", target_relative_error=0.2, max_labels=5
    )
    assert short.labels_per_input == 5
    assert short.reached == {"0": False, "2": True}
    assert any("was not reached with 5 draws per input: 0 (" in note for note in short.notes)
    # Rounds add up to what one round gives: the draws differ, the errors do not.
    close(got.standard_error, estimate(
        model, data, estimator="negative_hessian", labels_per_input=got.labels_per_input
    ).standard_error)  # fmt: skip


def test_rounds_are_independent_and_weighted_by_their_draws():
    model, data = build(lambda: mlp(4, 5, 3)), inputs(50, 4)
    given = {"target_relative_error": 1e-6, "seed": 4}
    two, four = (estimate(model, iter(data.split(9)), max_labels=n, **given) for n in (2, 4))
    alone = estimate(model, data, labels_per_input=2, seed=4)
    close(two.fisher, alone.fisher)
    second = {"": 2 * flat(four.fisher) - flat(two.fisher)}
    assert (flat(second) - flat(two.fisher)).abs().max() > 0
    near(four, fimsym.analyze(model, data, "categorical", progress=False))
    assert four.labels_per_input == 4
    assert (flat(second) >= 0).all(), "a mean of squares"


def test_backward_passes_do_not_depend_on_the_number_of_inputs(monkeypatch):
    backward = engine_backward.vjp
    counts = []

    def counted(*given, **options):
        counts[-1] += 1
        return backward(*given, **options)

    monkeypatch.setattr(engine_backward, "vjp", counted)
    for rows, draws in ((32, 4), (320, 4), (320, 12)):
        model = build(lambda: mlp(4, 5, 3))  # nothing is known of it
        counts.append(0)
        got = estimate(model, inputs(rows, 4), labels_per_input=draws)
        assert got.passes == draws
    assert counts[0] == counts[1]
    assert counts[2] - counts[1] == 8


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, torch.Tensor):
                stored = one.untyped_storage().nbytes() // one.element_size()
                self.entries = max(self.entries, stored)
        return found


@pytest.mark.parametrize("estimator", DRAWN)
def test_fifty_thousand_classes_without_a_square_of_them(estimator):
    classes = 50_000
    model = build(lambda: mlp(6, 8, classes)).float()
    with Largest() as largest:
        got = estimate(model, inputs(20, 6).float(), estimator=estimator, labels_per_input=2)
    assert flat(got.fisher).isfinite().all()
    assert largest.entries < 30 * 16 * classes < classes**2 / 50


BIG = """
import resource, torch, fimsym
from torch import nn
torch.set_num_threads(1)
width = 2200
model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(),
                      nn.Linear(width, 10))
data = torch.randn(48, width)
fimsym.estimate(nn.Linear(3, 2), torch.randn(4, 3), "categorical", progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fimsym.estimate(model, data, "categorical", {estimator!r}, 4, progress=False)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(p.numel() for p in model.parameters())
print((after - before) * 1024 / (8 * size))
"""


@pytest.mark.parametrize("estimator", ["score_squared", "score_squared_cv"])
def test_a_handful_of_parameter_sized_buffers(estimator):
    """Peak memory beyond the model, in float64 vectors over its ten million parameters."""
    shown = subprocess.run(
        [sys.executable, "-c", BIG.format(estimator=estimator)], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    assert float(shown.stdout) < 8


class Signalling(nn.Module):
    """Sends itself SIGINT in a forward pass on a number of the data, the time it is told to."""

    def __init__(self, at, time):
        super().__init__()
        self.layers, self.at, self.time = mlp(4, 5, 3), at, time

    def forward(self, x):
        if len(x) > 20 and bool((x[:, 0] == self.at).any()):
            self.time -= 1
            if self.time == 0:
                os.kill(os.getpid(), signal.SIGINT)
        return self.layers(x)


def test_ctrl_c_in_the_first_round_returns_the_inputs_that_are_covered():
    data = inputs(400, 4)
    model = build(lambda: Signalling(data[150, 0], 1))
    got = estimate(model, data, labels_per_input=3, max_memory=200_000)
    assert got.interrupted
    assert 150 < got.inputs < 400
    assert got.notes[0].startswith(f"interrupted; this covers {got.inputs} of 400 inputs")
    same = estimate(model, data[: got.inputs], labels_per_input=3)
    close(got.fisher, same.fisher)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_later_round_returns_the_rounds_before():
    data = inputs(400, 4)
    rounds = {}
    for time in range(1, 30):
        model = build(lambda time=time: Signalling(data[150, 0], time))
        got = estimate(model, data, target_relative_error=1e-3, max_labels=8, max_memory=200_000)
        if not got.interrupted:
            break
        rounds[got.labels_per_input] = got
    assert {2, 4} <= rounds.keys()
    late = rounds[4]
    assert late.inputs == 400
    quiet = build(lambda: Signalling(data[150, 0], 0))
    close(late.fisher, estimate(quiet, data, target_relative_error=1e-3, max_labels=4).fisher)


def test_results_are_shown_saved_framed_and_drawn(tmp_path):
    model, data = build(lambda: mlp(4, 5, 3)), inputs(40, 4)
    got = estimate(model, data, estimator="mixed", target_relative_error=0.1, seed=7)
    got.save(tmp_path / "got.safetensors")
    again = fimsym.Estimate.load(tmp_path / "got.safetensors")
    for field in ("fisher", "standard_error"):
        for name, value in getattr(got, field).items():
            assert torch.equal(value, getattr(again, field)[name])
    assert list(again.fisher) == list(got.fisher)
    assert repr(again) == repr(got)
    assert (again.seed, again.reached, again.roads) == (7, got.reached, got.roads)
    frame = got.to_frame()
    assert list(frame.index) == ["0", "2"]
    assert frame.loc["0", "fisher"] == pytest.approx(
        float(flat({n: got.fisher[n] for n in ("0.weight", "0.bias")}).sum())
    )
    assert got.plot().get_axes()
    low, high = got.interval(0.9)["0.weight"]
    torch.testing.assert_close(
        high - got.fisher["0.weight"], 1.644854 * got.standard_error["0.weight"], rtol=1e-5, atol=0
    )
    assert (low >= 0).all()
    with pytest.raises(fimsym.DomainError, match="it holds an Estimate"):
        fimsym.Analysis.load(tmp_path / "got.safetensors")
    fimsym.analyze(model, data, "categorical", progress=False).save(tmp_path / "other.safetensors")
    with pytest.raises(fimsym.DomainError, match=r"Estimate\.save"):
        fimsym.Estimate.load(tmp_path / "other.safetensors")
    model[0].requires_grad_(False)
    left = estimate(model, data, groups="parameter")
    assert [group.name for group in left.groups] == ["2.weight", "2.bias"]
    assert "left out, not requiring grad: 0.weight, 0.bias" in repr(left)


DATA = inputs(5, 4)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"estimator": "score_square"}, fimsym.SpecError, "Did you mean 'score_squared'"),
        ({"labels_per_input": 0}, fimsym.SpecError, "at least 1; got 0"),
        ({"labels_per_input": 2.5}, fimsym.SpecError, "whole number"),
        ({"labels_per_input": True}, fimsym.SpecError, "whole number"),
        ({"target_relative_error": 0.0}, fimsym.SpecError, "positive number, such as 0.05"),
        ({"target_relative_error": -0.1}, fimsym.SpecError, "'exact'"),
        ({"target_relative_error": math.nan}, fimsym.SpecError, "positive number"),
        ({"target_relative_error": math.inf}, fimsym.SpecError, "positive number"),
        ({"confidence": 1.0}, fimsym.SpecError, "less than 1"),
        ({"confidence": 0.5}, fimsym.SpecError, "at least 0.8"),
        ({"max_labels": 1}, fimsym.SpecError, "at least 2"),
        ({"estimator": "empirical"}, fimsym.SpecError, r"expected \(inputs, labels\)"),
        ({"estimator": "empirical", "labels_per_input": 2}, fimsym.SpecError, "one label per"),
        ({"estimator": "empirical", "target_relative_error": 0.1}, fimsym.SpecError, "draws not"),
        ({"groups": "layers"}, fimsym.SpecError, "unknown grouping"),
        ({"estimater": "mixed"}, fimsym.SpecError, "Did you mean 'estimator'"),
        ({"family": None}, fimsym.SpecError, "no family given"),
        ({"family": "poisson", "link": "logits"}, fimsym.SpecError, "is not a link of poisson"),
        ({"family": "gaussian", "sigma": -1.0}, fimsym.DomainError, "sigma must be a positive"),
        ({"family": "exponential"}, fimsym.DomainError, "outside the domain"),
        ({"data": DATA[:0]}, fimsym.ShapeError, "data is empty"),
        ({"data": DATA / 0}, fimsym.DomainError, "holds a NaN or an infinity"),
    ],
)  # fmt: skip
def test_mistakes_are_named(options, error, says):
    given = {"data": DATA, "family": "categorical", "progress": False, **options}
    with pytest.raises(error, match=says):
        fimsym.estimate(build(lambda: mlp(4, 3, 3)), **given)


def test_one_input_with_one_label_has_no_standard_error():
    got = estimate(build(lambda: mlp(4, 3, 3)), DATA[:1])
    assert flat(got.standard_error).isnan().all()
    assert flat(got.fisher).isfinite().all()
    assert (
        flat(estimate(build(lambda: mlp(4, 3, 3)), DATA[:1], labels_per_input=2).standard_error)
        .isfinite()
        .all()
    )


def test_every_estimator_is_documented():
    text = fimsym.estimate.__doc__ or ""
    assert all(f"``{name}``" in text for name in ESTIMATORS)
    page = (ROOT / "docs/estimating.md").read_text()
    assert all(f"`{name}`" in page for name in ESTIMATORS)


@pytest.mark.parametrize("ends", [None, 0, 1])
def test_second_derivatives_of_shared_weights_go_along_a_tape(ends, monkeypatch):
    """As those of the functional road do; where the tape ends amid a weight, that takes over."""
    model, data = build(convolution), inputs(7, 2, 6, 6)
    given = {"estimator": "negative_hessian", "labels_per_input": 3}
    blocks, true = [], Expansion.block
    monkeypatch.setattr(curved, "_HELD", 1)  # as many blocks as can be

    def block(self, place):
        blocks.append(place)
        if ends is not None and len(blocks) > ends:
            raise NoTape("an operation mixes examples")
        return true(self, place)

    monkeypatch.setattr(Expansion, "block", block)
    found = estimate(model, data, **given)
    assert len(blocks) > 2
    monkeypatch.setattr(curved.Curved, "_add_taped", lambda *given: False)
    close(found.fisher, estimate(model, data, **given).fisher)
