"""`audit`: right diagonals pass, and every planted mistake is named."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

import fimsym
from fimsym.auditing import information, match
from fimsym.auditing.factors import Sizes, explained
from fimsym.auditing.parts import Parts
from fimsym.auditing.passes import Passes
from fimsym.cli import main
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from tests.networks import Attention, Language, Tied, build, convolution, flat, inputs, mlp
from tests.planted import KINDS, RIGHT, WRONG, planted, setting
from tests.reference.diagonals import Bench, by_position, roots
from tests.test_links import CASES, CONSTANTS, network

SEED = 3


def audited(s, diagonal, labelled=True, **options):
    bench = s.bench
    data = (bench.inputs, bench.labels) if labelled else bench.inputs
    options = {"progress": False, **options, **bench.constants}
    return fimsym.audit(diagonal, bench.model, data, bench.family, bench.law.link, **options)


def cases(recipes, offsets):
    """Return every recipe on some kinds of networks, each kind about as often."""
    found = []
    for number, (name, recipe) in enumerate(recipes.items()):
        fitting = [kind for kind in KINDS if recipe.applies(setting(kind, SEED))]
        found += [(name, fitting[(number + k) % len(fitting)]) for k in offsets]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("name", "kind"), cases(RIGHT, (0, 3)))
def test_a_right_diagonal_passes(name, kind):
    s = setting(kind, SEED)
    found = audited(s, planted(s, RIGHT[name], SEED), **RIGHT[name].known(s))
    assert found.is_fisher
    assert found.likely in RIGHT[name].expected
    assert found.verdict == ("fisher" if RIGHT[name].expected == ("fisher",) else "estimate")


@pytest.mark.parametrize(("name", "kind"), cases(WRONG, (0,)))
def test_a_mistake_is_named(name, kind):
    s = setting(kind, SEED)
    found = audited(s, planted(s, WRONG[name], SEED), **WRONG[name].known(s))
    assert not found
    assert found.likely in WRONG[name].expected
    assert found.summary.startswith("this is ")
    assert found.evidence


def test_the_number_of_labels_is_read_off_the_noise():
    s = setting("mlp categorical", SEED)
    for labels in (1, 20, 400):
        torch.manual_seed(labels)
        found = audited(s, s.bench.squares_of_labels(labels))
        assert found.likely in ("score_squared", "gaussian_probe")
        assert 0.4 * labels < found.labels_per_input < 2.5 * labels
        for estimator in ("score_squared", "gaussian_probe"):
            deviations = [group.deviations[estimator] for group in found.groups]
            assert all(0.3 < deviation < 3 for deviation in deviations)


def test_negative_hessians_with_sampled_labels_are_an_estimate():
    """Î₂ of log p(y|o) by double backward, from one label for each input."""
    torch.manual_seed(1)
    model = mlp(4, 5, 3, activation=nn.Tanh).double()
    bench = Bench(model, inputs(60, 4), torch.zeros(60), "categorical")
    y = bench.sampled()
    loss = nn.functional.cross_entropy(model(bench.inputs), y)
    found = []
    gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        for number, entry in enumerate(gradient.flatten()):
            (row,) = torch.autograd.grad(entry, parameter, retain_graph=True)
            found.append(row.flatten()[number])
    diagonal = torch.stack(found)
    assert (diagonal < 0).any()  # which is what makes an audit take second derivatives
    got = fimsym.audit(diagonal, model, bench.inputs, "categorical", progress=False)
    assert got.verdict == "estimate"
    assert "negative_hessian" in got.groups[0].deviations
    assert got.groups[-1].residual < 1e-12  # the last layer has no second derivatives


def confident(count, steps=300):
    """Return a classifier of digits that is nearly sure of its labels, and its data."""
    digits = load_digits()
    x = torch.tensor(digits.data[:count] / 16)
    y = torch.tensor(digits.target[:count])
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return Bench(model, x, y, "categorical")


@pytest.mark.parametrize("labels", [1, 30])
def test_estimates_that_rest_on_labels_too_rare_to_be_drawn_pass(labels):
    bench = confident(400)
    torch.manual_seed(0)
    diagonal = bench.squares_of_labels(labels)
    data = (bench.inputs, bench.labels)
    found = fimsym.audit(diagonal, bench.model, data, "categorical", progress=False)
    assert found.verdict == "estimate"
    summed = fimsym.audit(400 * diagonal, bench.model, data, "categorical", progress=False)
    assert summed.verdict == "not_fisher"


def test_labels_that_cannot_but_be_drawn_are_an_estimate():
    """Of a model that is sure of its labels the empirical Fisher is that of its own."""
    bench = confident(60)
    law = torch.distributions.Categorical(logits=bench.o)
    assert law.log_prob(bench.labels).sum().exp() > 0.2
    diagonal = bench.score_rows(bench.labels).square().mean(0)
    data = (bench.inputs, bench.labels)
    found = fimsym.audit(diagonal, bench.model, data, "categorical", progress=False)
    assert found.verdict == "estimate"
    assert found.runner_up == "empirical_labels"
    assert any("draw more labels" in sentence for sentence in found.evidence)


def test_more_random_batches_than_can_be_drawn_are_said_not_to_be_looked_at():
    s = setting("mlp categorical", SEED)
    bench, model = s.bench, s.bench.model
    x = inputs(900, *bench.inputs.shape[1:])
    y = torch.arange(900) % bench.outputs
    torch.manual_seed(0)
    diagonal = torch.rand_like(bench.fisher())
    found = fimsym.audit(diagonal, model, (x, y), "categorical", batch_size=2, progress=False)
    assert found.likely == "unknown"
    assert any("audit fewer inputs" in sentence for sentence in found.evidence)


def test_without_labels_the_empirical_fisher_cannot_be_named():
    s = setting("mlp gaussian", SEED)
    diagonal = planted(s, WRONG["empirical"], SEED)
    assert audited(s, diagonal).likely == "empirical_labels"
    assert audited(s, diagonal, labelled=False).likely != "empirical_labels"


def test_two_causes_of_one_factor_are_both_reported():
    s = setting("mlp categorical", SEED)
    m = s.bench.outputs
    found = audited(s, s.bench.fisher() * m, labels_per_input=m)
    assert found.likely == "label_count_factor"
    assert found.runner_up in ("averaged_over_classes", "loss_factor")
    assert any("multiplied by" in sentence for sentence in found.evidence)


def test_any_factor_of_a_gaussian_is_a_scale_of_its_likelihood():
    s = setting("mlp gaussian", SEED)
    sigma = s.bench.constants["sigma"]
    found = audited(s, s.bench.fisher() * 1.2345)
    assert found.likely == "unexplained_factor"
    assert f"as if σ were {sigma / math.sqrt(1.2345):.4g}" in found.summary


LAYOUTS = {
    "dict of arrays": lambda named: {k: v.numpy() for k, v in named.items()},
    "list": lambda named: list(named.values()),
    "vector": lambda named: torch.cat([v.flatten() for v in named.values()]),
    "vector by name": lambda named: {
        "fisher": torch.cat([v.flatten() for v in named.values()]).numpy()
    },
    "distributed": lambda named: {f"module.{k}": v for k, v in named.items()},
    "compiled": lambda named: {f"_orig_mod.{k}": v for k, v in named.items()},
    "biases as columns": lambda named: {
        k: v[:, None] if v.ndim == 1 else v for k, v in named.items()
    },
    "object": lambda named: type("Result", (), {"fisher": named}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_diagonals_come_in_many_layouts(layout):
    s = setting("cnn categorical", SEED)
    given = LAYOUTS[layout](s.bench.named(s.bench.fisher()))
    assert audited(s, given).verdict == "fisher"


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "npz", "npy"])
def test_diagonals_come_in_files(suffix, tmp_path):
    s, path = setting("mlp categorical", SEED), tmp_path / f"diagonal.{suffix}"
    write(path, s.bench.named(s.bench.fisher()))
    assert audited(s, path).verdict == "fisher"
    saved = tmp_path / "analysis.safetensors"
    fimsym.analyze(s.bench.model, s.bench.inputs, "categorical").save(saved)
    assert audited(s, saved).verdict == "fisher"


def write(path, named):
    if path.suffix == ".safetensors":
        save_file(named, path)
    elif path.suffix == ".pt":
        torch.save(named, path)
    elif path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in named.items()})
    else:
        np.save(path, torch.cat([v.flatten() for v in named.values()]).numpy())


def test_gaps_are_listed():
    s = setting("mlp categorical", SEED)
    named = s.bench.named(s.bench.fisher())
    del named["0.weight"]
    named["2.bias"] = torch.ones(2, 2)
    named["nonsense"] = torch.ones(3)
    found = audited(s, named)
    assert found.verdict == "incomplete"
    assert found.likely == "missing_parameters"
    assert found.missing == ("0.weight",)
    assert found.misshapen == {"2.bias": (2, 2)}
    assert found.unexpected == ("nonsense",)
    assert "2.bias has shape [2, 2]" in repr(found)


def test_frozen_parameters_and_tied_names_are_no_surprise():
    model = build(Tied)
    model.second.bias.requires_grad_(False)
    x = inputs(40, 4)
    named = dict(fimsym.analyze(model, x, "categorical").fisher)
    named["second.weight"] = named["first.weight"]
    named["second.bias"] = torch.zeros(4)
    found = fimsym.audit(named, model, x, "categorical", progress=False)
    assert found.verdict == "fisher"
    assert found.unexpected == ()


@pytest.mark.parametrize(
    ("diagonal", "options", "error", "words"),
    [
        (torch.ones(3), {}, fimsym.ShapeError, "3 entries and the model"),
        ({"a": torch.ones(3)}, {}, fimsym.DomainError, "such as 0.weight"),
        ({}, {}, fimsym.DomainError, "holds nothing"),
        ({"0.weight": torch.tensor([math.nan])}, {}, fimsym.DomainError, "not finite"),
        ({"0.weight": "a"}, {}, fimsym.DomainError, "numbers"),
        ({"0.weight": torch.ones(2, dtype=torch.complex64)}, {}, fimsym.DomainError, "real"),
        ({"0.weight": torch.ones(2, 2, 2)}, {}, fimsym.ShapeError, "no parameter has the shape"),
        ("nowhere.pt", {}, fimsym.DomainError, "cannot read"),
        ("nowhere.npz", {}, fimsym.DomainError, "cannot read"),
        (None, {"labels_per_input": 0}, fimsym.SpecError, "labels_per_input must be"),
        (None, {"batch_size": 2.5}, fimsym.SpecError, "batch_size must be"),
        (None, {"draws": 3}, fimsym.SpecError, "draws must be at least 10"),
        (None, {"groups": "layers"}, fimsym.SpecError, "unknown grouping"),
    ],
)
def test_bad_input_is_explained(diagonal, options, error, words):
    s = setting("mlp categorical", SEED)
    diagonal = s.bench.fisher() if diagonal is None else diagonal
    with pytest.raises(error, match=words):
        audited(s, diagonal, **options)


def test_nothing_and_noise_are_no_fisher():
    s = setting("mlp categorical", SEED)
    zero = audited(s, torch.zeros_like(s.bench.fisher()))
    assert zero.verdict == "not_fisher"
    torch.manual_seed(0)
    assert not audited(s, torch.rand_like(s.bench.fisher()))
    assert audited(s, -s.bench.fisher()).verdict == "not_fisher"


def test_a_family_without_a_sampler_is_compared_up_to_rounding():
    weibull = fimsym.Family(
        name="plain", natural=("h",), log_partition="-log(-h)", domain=("h < 0",),
        links=(fimsym.Link("log", ("o",), ("-exp(o)",)),),
    )  # fmt: skip
    model, x = build(lambda: mlp(4, 5, 2)), inputs(30, 4)
    fisher = flat(fimsym.analyze(model, x, weibull, "log").fisher)
    assert fimsym.audit(fisher, model, x, weibull, "log", progress=False).verdict == "fisher"
    torch.manual_seed(0)
    noisy = fisher * torch.rand_like(fisher)
    found = fimsym.audit(noisy, model, x, weibull, "log", progress=False)
    assert found.likely == "unknown"
    assert any("estimates were not looked at" in sentence for sentence in found.evidence)


def test_the_batch_size_of_a_loader_is_used():
    s = setting("mlp categorical", SEED)
    data = torch.utils.data.TensorDataset(s.bench.inputs, s.bench.labels)
    loader = torch.utils.data.DataLoader(data, batch_size=s.batch)
    diagonal = s.bench.batch_squares(s.bench.labels, s.batch)
    found = fimsym.audit(diagonal, s.bench.model, loader, "categorical", progress=False)
    assert f"batches of {s.batch} inputs" in found.summary


def test_it_reads_as_english_and_as_json():
    s = setting("mlp categorical", SEED)
    found = audited(s, s.bench.count * s.bench.fisher())
    lines = repr(found).splitlines()
    assert lines[0] == (
        f"Audit: this is not the Fisher diagonal: summed over the {s.bench.count} inputs, where "
        "a mean is due."
    )
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["likely"] == "sum_for_mean"
    assert record["is_fisher"] is False
    assert record["groups"][0]["scale"] == pytest.approx(s.bench.count)
    assert record["matches"][0]["fits"]


# The parts it is made of.


@pytest.mark.parametrize(("family", "link"), CASES, ids=str)
def test_roots_of_the_information_at_the_output_give_the_fisher(family, link):
    constants, model, x = CONSTANTS.get(family, {}), network(family, link), inputs(4, 2)
    head = Head(family, link, constants)
    passes = Passes(Network(model), head, [(x, None)], 10**8)
    found = passes.totals(lambda at: information.root(head, at.outputs)) / len(x)
    truth = flat(fimsym.analyze(model, x, family, link, quantities="fisher", **constants).fisher)
    assert (found - truth).abs().max() <= 1e-12 * truth.max()
    outputs = model(x).detach()
    z = inputs(*outputs.shape)
    matrix = sum(r[:, :, None] * r[:, None, :] for r in information.root(head, outputs))
    product = (matrix @ z[:, :, None])[..., 0]
    error = (information.times(head, outputs, z) - product).abs()
    assert error.max() <= 1e-12 * matrix.abs().max()


@pytest.mark.parametrize("kind", ["cnn categorical", "sequence gaussian", "attention categorical"])
def test_positions_apart_are_what_hooks_find(kind):
    bench = setting(kind, SEED).bench
    head = Head(bench.family, bench.law.link, bench.constants)
    passes = Passes(Network(bench.model), head, [(bench.inputs, None)], 10**8)
    found, positions = passes.totals_by_position(lambda at: information.root(head, at.outputs))
    truth = flat(by_position(bench, roots(bench)))
    assert (found / bench.count - truth).abs().max() <= 1e-12 * truth.max()
    assert passes.shares()
    assert positions.max() == {"cnn categorical": 64}.get(kind, bench.inputs.shape[1])


@pytest.mark.parametrize(
    ("factory", "data", "most"),
    [
        (convolution, inputs(6, 2, 6, 6), 9),
        (Attention, torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(2)), 5),
        (Language, torch.randint(0, 5, (6, 3), generator=torch.Generator().manual_seed(2)), 1),
        (Tied, inputs(6, 4), 2),
        (lambda: mlp(4, 5, 3), inputs(6, 4), 1),
    ],
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_positions_are_counted(factory, data, most):
    passes = Passes(Network(build(factory)), Head("categorical", None, {}), [(data, None)], 10**8)
    _, positions = passes.totals_by_position(lambda at: [torch.ones_like(at.outputs)])
    assert positions.max() == most


def test_judging_draws():
    """Means of normal draws pass for any N, and not once they are scaled, or too noisy."""
    torch.manual_seed(0)
    fisher = {"a": torch.rand(40, dtype=torch.float64) + 0.5}
    parts, mean = Parts.of(fisher), fisher["a"]

    def drawn(count):
        noise = torch.randn(count, 40, dtype=torch.float64).mean(0)
        return mean * (1 + 0.3 * noise)

    draws = match.Draws.of(parts, (drawn(1) for _ in range(40)), mean)
    verdicts = [match.judged(parts, drawn(n), mean, draws, 1e-6, 1.0) for n in (1, 9, 100, 10**4)]
    for count, verdict in zip((1, 9, 100, 10**4), verdicts, strict=True):
        assert verdict.fits
        assert 0.4 * count < verdict.draws < 2.5 * count
    assert not match.judged(parts, 1.5 * drawn(9), mean, draws, 1e-6, 1.0).fits
    free = match.judged(parts, 1.5 * drawn(9), mean, draws, 1e-6)
    assert free.fits
    assert abs(free.scale - 1.5) < 5 * free.scale_error < 0.5
    loud = mean + 5 * (drawn(1) - mean)
    assert not match.judged(parts, loud, mean, draws, 1e-6, 1.0).fits
    part = torch.where(mean > mean.median(), 5.0, 1.0) * drawn(100)
    assert not match.judged(parts, part, mean, draws, 1e-6).fits


def test_draws_that_miss_a_rare_label_refuse_nothing():
    """A part of which every entry hangs on one label of probability 1e-4."""
    torch.manual_seed(0)
    common, rare, p = torch.rand(40, dtype=torch.float64) + 0.5, torch.ones(8).double(), 1e-4
    mean = torch.cat([common, rare])
    parts = Parts.of({"common": common, "rare": rare})

    def drawn(share=p):
        noise = 1 + 0.3 * torch.randn(40, dtype=torch.float64)
        return torch.cat([common * noise, rare * share / p])

    variance = torch.cat([(0.3 * common) ** 2, rare * (1 - p) / p])
    never = (drawn(1e-9) for _ in range(40))
    draws = match.Draws.of(parts, never, mean, variance)
    for share in (1e-9, 1e-7, p, 1 / 400):  # of 400 labels at most one is the rare one
        assert match.judged(parts, drawn(share), mean, draws, 1e-6, 1.0).fits
    assert not match.judged(parts, 400 * drawn(), mean, draws, 1e-6, 1.0).fits


def test_factors_are_explained_by_the_fewest_causes():
    sizes = Sizes(inputs=60, outputs=3, batch=8, batches=8, constants={"sigma": 0.5})

    def names(scale, error=1e-9, **options):
        found = explained(scale, error, sizes, **options)
        return [tuple(cause.name for cause in causes) for causes in found]

    assert names(1.0)[0] == ()
    assert names(60.0)[0] == ("sum_for_mean",)
    assert names(120.0)[0] == ("sum_for_mean", "loss_factor")
    assert names(2 / 3)[0] == ("loss_factor", "averaged_over_classes")
    assert names(0.25)[0] == ("likelihood_scale",)
    assert ("loss_factor",) in names(0.25)
    assert names(17.3) == []
    assert names(55.0, 5.0, most=1)[0] == ("sum_for_mean",)
    assert names(-1.0) == []


SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "audited_nets.py").write_text(SOURCE)
    scope = {}
    exec(SOURCE, scope)
    x = inputs(50, 4).float()
    np.savez(tmp_path / "data.npz", inputs=x.numpy(), labels=np.arange(50) % 3)
    found = fimsym.analyze(scope["make"](), x, "categorical")
    named = {name: value.float() for name, value in found.fisher.items()}
    save_file(named, tmp_path / "right.safetensors")
    save_file({n: 50 * v for n, v in named.items()}, tmp_path / "summed.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments):
    given = ("--model", "audited_nets:make", "--data", "data.npz", "--family", "categorical")
    return CliRunner().invoke(main, ["audit", *arguments, *given])


def test_the_command_exits_with_the_verdict(folder):
    right = run("right.safetensors")
    assert right.exit_code == 0, right.output
    assert right.output.startswith("This is the Fisher diagonal.")
    assert "score_squared" in right.output
    wrong = run("summed.safetensors", "--json")
    assert wrong.exit_code == 1
    assert json.loads(wrong.output)["likely"] == "sum_for_mean"
    missing = run("nowhere.safetensors")
    assert missing.exit_code == 2
    assert missing.output.startswith("Error: cannot read")
    assert "Traceback" not in missing.output
