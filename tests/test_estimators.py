"""Every estimator's mean and variance, exactly: run on every label, or on every sign of a probe."""

import itertools

import numpy as np
import pytest
import torch

import fimsym
from fimsym.engine.variance import best_mixture
from fimsym.estimation.closed_forms import QUANTITIES, FromDerivatives, variances
from fimsym.estimation.control import Coefficients
from fimsym.estimation.curved import Curved
from fimsym.estimation.hessians import ESTIMATES, VARIANCES
from fimsym.estimation.seeds import Labels, Probes
from tests.estimation import LAWS, Bench, Given, all_signs, every_label, network, tokens
from tests.reference import enumeration
from tests.tolerances import ENUMERATION

DATA = tokens(4)


@pytest.fixture(scope="module", params=LAWS)
def bench(request):
    family, link, _, constants = LAWS[request.param]
    model = network(request.param)
    made = Bench(model, DATA, family, link, constants)
    made.name = request.param
    made.truth = enumeration.moments(
        family, model, DATA, link, **fimsym.family(family).bind(constants)
    )
    return made


def close(value, truth, scale=None):
    size = truth.abs().max() if scale is None else scale
    assert (value - truth).abs().max() <= ENUMERATION * size


def over_labels(bench, values):
    """Return the mean and the covariances over labels of quantities, mean over the inputs.

    From (piece, labels) of one input `values` makes tensors [label, param].
    """
    means, products = 0.0, 0.0
    for row in range(len(DATA)):
        piece = bench.of(DATA[row : row + 1], row)
        labels, weight = every_label(bench.name, piece.outputs[0])
        found = torch.stack(values(piece, labels))  # quantity, label, param
        mean = torch.einsum("l,qlp->qp", weight, found)
        about = found - mean.unsqueeze(1)
        means = means + mean / len(DATA)
        products = products + torch.einsum("l,qlp,rlp->qrp", weight, about, about) / len(DATA)
    return means, products


def test_the_squared_score_of_every_label_has_the_mean_and_variance_of_enumeration(bench):
    source = Labels(bench.head, 0)

    def values(piece, labels):
        seeds = source.of(piece.outputs, labels).squeeze(1)
        return [bench.squares(seeds, piece)]

    (mean,), ((variance,),) = over_labels(bench, values)
    close(mean, bench.truth["fisher"])
    close(variance, bench.truth["variance_score_squared"])


def test_both_estimators_of_every_label_have_the_moments_of_enumeration(bench):
    given = Given(bench.head)
    method = bench.curved(given)

    def values(piece, labels):
        found = []
        for given.label in labels.unsqueeze(1):
            found.append(bench.add(method, 1, piece=bench.of(piece.inputs, piece.first)))
        closed = torch.stack([found[0][name] for name in VARIANCES])
        assert all(torch.equal(torch.stack([s[n] for n in VARIANCES]), closed) for s in found)
        return [torch.stack([sums[name] for sums in found]) for name in ESTIMATES]

    means, covariances = over_labels(bench, values)
    truth = [bench.truth[name] for name in VARIANCES]
    scale = max(float(one.abs().max()) for one in truth)
    for mean in means:
        close(mean, bench.truth["fisher"], bench.truth["fisher"].max() + scale**0.5)
    close(covariances[0, 0], truth[0])
    close(covariances[1, 1], truth[1], scale)
    close(covariances[0, 1], truth[2], scale)
    sums = bench.add(bench.curved(Labels(bench.head, 0)), 3, piece=bench.of(DATA))
    for name, one in zip(VARIANCES, truth, strict=True):
        close(sums[name] / (3 * len(DATA)), one, scale)


def test_the_mixture_has_the_least_variance(bench):
    one, two, both = (bench.truth[name] for name in VARIANCES)
    weight, variance = best_mixture(one, two, both)
    grid = torch.linspace(-2, 3, 501, dtype=torch.float64).unsqueeze(1)
    others = grid**2 * one + (1 - grid) ** 2 * two + 2 * grid * (1 - grid) * both
    direct = weight**2 * one + (1 - weight) ** 2 * two + 2 * weight * (1 - weight) * both
    size = one.max() + two.max()
    close(variance, direct, size)
    assert (variance <= others.min(0).values + 1e-12 * size).all()


@pytest.mark.parametrize("kind", ["zero", "random", "exact at the output"])
def test_a_control_variate_changes_the_variance_alone(bench, kind):
    source = Labels(bench.head, 0)
    generator = torch.Generator().manual_seed(0)
    neurons = {
        name: torch.randn(size, generator=generator, dtype=torch.float64)
        for name, size in (("inner.weight", 3), ("leave.weight", LAWS[bench.name][2]))
    }
    kept = torch.randn(bench.network.size, generator=generator, dtype=torch.float64)
    given = Coefficients({}, None) if kind == "zero" else Coefficients(neurons, kept)

    def values(piece, labels):
        seeds = source.of(piece.outputs, labels).squeeze(1)
        return [bench.squares(seeds, piece, given, exact=kind == "exact at the output")]

    (mean,), ((variance,),) = over_labels(bench, values)
    close(mean, bench.truth["fisher"])
    last = slice(bench.network.size - neurons["leave.weight"].numel() * 4, None)
    if kind == "zero":
        close(variance, bench.truth["variance_score_squared"])
    elif kind == "random":
        assert (variance / bench.truth["variance_score_squared"] > 1.01).any()
    elif bench.name in ("categorical", "bernoulli"):  # one class against the others: two points
        assert variance[last].max() < 1e-20 * bench.truth["variance_score_squared"].max()


def probes(bench, g, weight, signs):
    """Return the mean and variance of the squares over probes g [draw, output]."""
    source = Probes(bench.head, 0, signs)
    means, spreads = 0.0, 0.0
    for row in range(len(DATA)):
        piece = bench.of(DATA[row : row + 1], row)
        x = bench.squares(source.of(piece.outputs.double(), g.unsqueeze(1)).squeeze(1), piece)
        mean = weight @ x
        means = means + mean / len(DATA)
        spreads = spreads + weight @ (x - mean).square() / len(DATA)
    return means, spreads


def closed_forms(bench):
    method = Curved(
        bench.network, bench.head, bench.alignment, QUANTITIES,
        lambda piece, *_: FromDerivatives(bench.head, piece),
    )  # fmt: skip
    sums = bench.add(method, 1, piece=bench.of(DATA))
    return variances({name: total / len(DATA) for name, total in sums.items()})


def test_signs_of_every_kind_have_the_mean_and_variance_of_their_closed_form(bench):
    g = all_signs(LAWS[bench.name][2])
    weight = torch.full((len(g),), 1 / len(g), dtype=torch.float64)
    mean, variance = probes(bench, g, weight, True)
    close(mean, bench.truth["fisher"])
    close(variance, closed_forms(bench)["rademacher_probe"], bench.truth["fisher"].max() ** 2)


def test_normal_probes_have_the_mean_and_variance_of_their_closed_form(bench):
    """Three Gauss–Hermite nodes are exact to the fifth degree; the variance is of degree four."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    outputs = LAWS[bench.name][2]
    g = torch.tensor(list(itertools.product(nodes, repeat=outputs)))
    weight = torch.tensor(list(itertools.product(weights, repeat=outputs))).prod(1)
    mean, variance = probes(bench, g, weight / weight.sum(), False)
    close(mean, bench.truth["fisher"])
    close(variance, closed_forms(bench)["gaussian_probe"])


def test_closed_forms_of_a_plan_equal_enumeration(bench):
    found = closed_forms(bench)
    scale = bench.truth["variance_score_squared"].max()
    close(found["score_squared"], bench.truth["variance_score_squared"])
    close(found["negative_hessian"], bench.truth["variance_negative_hessian"], scale)
    assert (found["mixed"] <= found["score_squared"] + 1e-12 * scale).all()
    assert (found["score_squared_cv"] <= found["score_squared"] + 1e-12 * scale).all()
    assert (found["rademacher_probe"] <= found["gaussian_probe"] + 1e-12 * scale).all()
