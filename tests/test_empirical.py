"""The empirical Fisher, and backward passes seeded for a whole batch, against autograd."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import fimsym
from fimsym.engine import graph as graphs
from fimsym.engine import labels, seeded
from fimsym.engine.alignment import Alignment
from fimsym.engine.empirical import SHIFT
from fimsym.engine.head import Head
from fimsym.engine.kernels import exact_kernels
from fimsym.engine.network import Network
from tests.networks import (
    Attention,
    Heads,
    Language,
    Memory,
    Recurrent,
    Residual,
    Tied,
    build,
    convolution,
    flat,
    inputs,
    mlp,
    pooled,
    volume,
)
from tests.reference import enumeration
from tests.reference.enumeration import LAWS
from tests.test_links import CASES, CONSTANTS, network

ROOT = Path(__file__).parent.parent
RELATIVE = 1e-11
"""Of the largest entry: both sides are float64 sums over a handful of examples."""
TOKENS = torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(2))
NETWORKS = {
    "mlp": (lambda: mlp(4, 6, 5, 3), inputs(6, 4)),
    "layer norm": (Residual, inputs(6, 4)),
    "convolution": (convolution, inputs(6, 2, 6, 6)),
    "pooled": (pooled, inputs(6, 1, 6, 6)),
    "volume": (volume, inputs(6, 1, 4, 4, 4)),
    "attention": (Attention, TOKENS),
    "heads": (Heads, inputs(6, 4, 4)),
    "tied": (Tied, inputs(6, 4)),
    "lstm": (Memory, inputs(6, 3, 2)),
    "gru": (Recurrent, inputs(6, 4, 2)),
    "language": (Language, TOKENS[:, :3] % 5),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(15, 2)),
        TOKENS,
    ),
    "one input": (lambda: mlp(4, 6, 3), inputs(1, 4)),
}
QUANTITIES = ("fisher", "variance_score_squared", "empirical")


def rows_by_autograd(model, data, seed):
    """Return ∂⟨w_b, o_b⟩/∂θ, one plain backward pass for each example."""
    rows = []
    for example, w in zip(data, seed, strict=True):
        given = {"allow_unused": True, "materialize_grads": True}
        value = model(example[None])[0] @ w
        gradients = torch.autograd.grad(value, list(model.parameters()), **given)
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("known", [True, False], ids=["rules", "torch.func"])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_power_sums_equal_gradients_of_single_examples(name, known):
    factory, data = NETWORKS[name]
    with exact_kernels(), torch.enable_grad():
        model = build(factory)
        net = Network(model)
        graph = graphs.read(*net.traced(data))
        uses = Alignment(net).uses(graph, data) if known else {}
        assert (known and uses) or not known
        seed = inputs(*graph.h.shape)
        found = seeded.power_sums(net, graph, uses, data, seed, (1, 2, 3, 4))
        rows = rows_by_autograd(model, data, seed)
    for k, total in found.items():
        truth = rows.pow(k).sum(0)
        assert (total - truth).abs().max() <= RELATIVE * rows.pow(k).abs().sum(0).max()


def test_parts_of_a_parameter_add_up(monkeypatch):
    """Small parts of rows, as large layers need."""
    monkeypatch.setattr(seeded, "_ENTRIES", 8)
    test_power_sums_equal_gradients_of_single_examples("pooled", True)
    test_power_sums_equal_gradients_of_single_examples("volume", False)


def test_powers_of_small_gradients_do_not_underflow():
    model, data = build(lambda: mlp(4, 6, 3)), inputs(6, 4)
    net = Network(model.float())
    graph = graphs.read(*net.traced(data.float()))
    uses = Alignment(net).uses(graph, data.float())
    seed = 1e-25 * inputs(6, 3)
    found = seeded.power_sums(net, graph, uses, data.float(), seed.float())[2]
    truth = rows_by_autograd(model.double(), data, seed).square().sum(0)
    assert (found - truth).abs().max() <= 1e-5 * truth.max()


def drawn(family, link, model, data, constants, label):
    """Return one label of each input's law as the oracle takes it, at a quantile of its list."""
    law = LAWS[family]
    found = []
    for o in model(data).detach():
        outputs = law.outputs or len(o)
        targets = torch.arange(len(o)).reshape(outputs, -1).unbind(-1)
        each = []
        for number, target in enumerate(targets):
            values, weight = enumeration.likelihood(law, link, o[target], constants)
            quantile = torch.tensor([0.15 + 0.2 * (label + number)], dtype=weight.dtype)
            each.append(values[torch.searchsorted(weight.cumsum(0), quantile)[0]])
        found.append(torch.stack(each) if law.outputs else each[0])
    return torch.stack(found)


def as_given(family, found):
    """Return labels of the oracle as `analyze` takes them."""
    if family == "categorical":
        return found.argmax(-1)
    if family == "dirichlet":
        return found.exp()
    return found[..., 0].exp() if family == "beta" else found


@pytest.mark.parametrize(("family", "link"), CASES, ids=str)
def test_empirical_equals_autograd_of_log_densities(family, link):
    constants, model, data = CONSTANTS.get(family, {}), network(family, link), inputs(4, 2)
    known = fimsym.family(family).bind(constants)
    draws = [drawn(family, link, model, data, known, label) for label in range(3)]
    rows = torch.stack([
        enumeration.score_rows(family, model, data, y, link, **constants) for y in draws
    ])  # fmt: skip
    given = [as_given(family, y) for y in draws]

    def analysed(ys):
        pair = (data, ys)
        return fimsym.analyze(model, pair, family, link, quantities=QUANTITIES, **constants)

    one, truth = analysed(given[0]), rows[0].square().mean(0)
    assert (flat(one.empirical) - truth).abs().max() <= RELATIVE * truth.max()
    assert one.empirical_shift is one.empirical
    assert not flat(one.empirical_spread).any()
    assert torch.equal(flat(one.empirical_bias), flat(one.empirical) - flat(one.fisher))

    columns = [y.reshape(len(data), -1) for y in given]
    many, truth = analysed(torch.stack(columns, dim=1)), rows.square().mean((0, 1))
    shift = rows.mean(0).square().mean(0)
    assert (flat(many.empirical) - truth).abs().max() <= RELATIVE * truth.max()
    assert (flat(many.empirical_shift) - shift).abs().max() <= RELATIVE * truth.max()
    spread = rows.var(0, correction=0).mean(0)
    assert (flat(many.empirical_spread) - spread).abs().max() <= RELATIVE * truth.max()


def test_every_label_as_often_as_the_model_says_gives_the_fisher():
    model, data = build(lambda: mlp(4, 5, 2)), inputs(1, 4)
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(
            torch.tensor([0.0, 3.0], dtype=torch.float64).log1p()
        )  # probabilities 1/5 and 4/5
    y = torch.tensor([[[0], [1], [1], [1], [1]]])
    found = fimsym.analyze(model, (data, y), "categorical", quantities=QUANTITIES)
    assert torch.allclose(flat(found.empirical), flat(found.fisher), rtol=1e-12)
    assert flat(found.empirical_shift).max() <= 1e-28
    assert not found.warnings


@pytest.mark.parametrize("family", ["categorical", "multinomial", "bernoulli", "binomial"])
def test_scores_of_almost_certain_labels_keep_their_digits(family):
    """Where 1 − p would be rounded to zero or to a few digits."""
    h = torch.tensor([[25.0, -25.0]], dtype=torch.float64)
    model = nn.Linear(1, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(h.T)
    label = {"categorical": torch.tensor([0])}.get(family, torch.tensor([[1.0, 0.0]]))
    pair = (torch.ones(1, 1, dtype=torch.float64), label)
    found = fimsym.analyze(model, pair, family, quantities=("empirical",))
    odds = -50.0 if fimsym.family(family).vector else -25.0
    rest = torch.sigmoid(torch.tensor(odds, dtype=torch.float64))
    truth = rest.square().expand(2, 1)
    assert torch.allclose(found.empirical["weight"], truth, rtol=1e-12, atol=0)


def test_batches_and_processes_of_any_size_agree():
    model, data = build(convolution), inputs(7, 2, 6, 6)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    whole = fimsym.analyze(model, (data, y), "categorical", quantities="empirical")
    pairs = [(data[:3], y[:3]), (data[3:4], y[3:4]), (data[4:], y[4:])]
    cut = fimsym.analyze(model, pairs, "categorical", quantities="empirical", max_memory=10**5)
    assert torch.allclose(flat(whole.empirical), flat(cut.empirical), rtol=1e-12)
    assert whole.roads == cut.roads


def test_it_is_saved_and_shown(tmp_path):
    model, data = build(lambda: mlp(4, 5, 3)), inputs(40, 4)
    y = torch.zeros(40, 3, 1, dtype=torch.long)
    found = fimsym.analyze(model, (data, y), "categorical", quantities=QUANTITIES)
    found.save(tmp_path / "a.safetensors")
    read = fimsym.Analysis.load(tmp_path / "a.safetensors")
    assert torch.equal(flat(read.empirical), flat(found.empirical))
    assert torch.equal(flat(read.values[SHIFT]), flat(found.values[SHIFT]))
    assert read.warnings == found.warnings
    assert "empirical" in found.to_frame().columns
    assert repr(found).splitlines()[-1] == "warning: " + found.warnings[0]


def test_a_warning_says_how_far_and_whether_sampling_explains_it():
    model, data = build(lambda: mlp(4, 5, 3)), inputs(60, 4)
    (far,) = analysed_with(model, data, torch.zeros(60, dtype=torch.long)).warnings
    assert "of I in 0 (labels of the model's own law: at most" in far
    assert far.endswith("it does not estimate the Fisher information of this model.")
    few, own = data[:4], functional.softmax(model(data[:4]).detach(), -1).multinomial(1)[:, 0]
    (close,) = analysed_with(model, few, own).warnings
    assert close.endswith("whether the data's labels follow the model's law.")
    without = fimsym.analyze(model, (few, own), "categorical", quantities=("fisher", "empirical"))
    assert "at most" not in without.warnings[0]
    assert "ask for variance_score_squared, too" in without.warnings[0]


def analysed_with(model, data, classes):
    return fimsym.analyze(model, (data, classes), "categorical", quantities=QUANTITIES)


@pytest.mark.parametrize(
    ("family", "wrong", "error", "words"),
    [
        ("categorical", None, fimsym.SpecError, "needs labels"),
        ("categorical", torch.zeros(4, 2), fimsym.ShapeError, r"labels must be classes"),
        ("categorical", torch.zeros(4, 2, 2), fimsym.ShapeError, r"\[batch, label, 1\]"),
        ("categorical", torch.zeros(4, 0, 1), fimsym.ShapeError, r"\[batch, label, 1\]"),
        ("categorical", torch.full((4, 2, 1), 5), fimsym.ShapeError, "from 0 to 1"),
        (
            "bernoulli",
            torch.full((4, 2), 0.5),
            fimsym.DomainError,
            "whole numbers from 0, at most 1",
        ),
        ("poisson", -torch.ones(4, 2), fimsym.DomainError, "label of input 0"),
        ("gaussian", torch.full((4, 2), torch.inf), fimsym.DomainError, "finite numbers"),
        ("multinomial", torch.ones(4, 2), fimsym.DomainError, "of sum 1"),
    ],
)
def test_labels_that_do_not_fit_are_named(family, wrong, error, words):
    model, data = build(lambda: mlp(4, 5, 2)), inputs(4, 4)
    given = data if wrong is None else (data, wrong)
    with pytest.raises(error, match=words):
        fimsym.analyze(model, given, family, quantities=("fisher", "empirical"))


def test_a_family_without_a_formula_of_t_is_refused():
    family = dataclasses.replace(
        fimsym.family("dirichlet"),
        name="odd",
        sufficient_statistics=("what",),
        density=None,
        sampler=None,
    )
    with pytest.raises(fimsym.UnsupportedError, match="odd does not say what"):
        labels.statistics(Head(family, None, {}), torch.full((4, 2), 0.5), 2)


def test_a_family_of_ones_own():
    rayleigh = fimsym.load_family(ROOT / "docs/families/rayleigh.toml")
    model, data = build(lambda: mlp(4, 5, 2)), inputs(4, 4)
    y = 0.5 + inputs(4, 2).abs()
    pair = (data, y)
    found = fimsym.analyze(model, pair, rayleigh, "log_scale", quantities="empirical")
    scale = math.sqrt(2) * model(data).exp()
    two = torch.tensor(2.0, dtype=torch.float64)
    log_p = torch.distributions.Weibull(scale, two).log_prob(y).sum(1)
    rows = [torch.autograd.grad(one, model.parameters(), retain_graph=True) for one in log_p]
    truth = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).square().mean(0)
    assert (flat(found.empirical) - truth).abs().max() <= RELATIVE * truth.max()


def test_it_was_not_asked_for():
    found = fimsym.analyze(build(lambda: mlp(4, 3)), inputs(4, 4), "categorical")
    with pytest.raises(fimsym.UnsupportedError, match="empirical was not computed"):
        _ = found.empirical_bias
    assert found.warnings == ()
