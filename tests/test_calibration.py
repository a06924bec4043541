"""95% intervals cover the truth 95% of the time: 400 seeds, every estimator, law and layer.

Seeds are run eight at a time as draws of one batch, on what estimates are made of; that these
are the numbers of `estimate` is tested, too.
"""

import pytest
import torch

import fimsym
from fimsym.engine.accumulate import Accumulator
from fimsym.estimation.curved import Curved
from fimsym.estimation.hessians import ESTIMATES, VARIANCES, FromLabels
from fimsym.estimation.moments import Covered, of_closed_forms, of_draws
from fimsym.estimation.places import Places
from fimsym.estimation.seeds import Labels, Probes
from fimsym.estimation.squares import Squares
from tests.estimation import LAWS, Bench, flat, network, tokens
from tests.networks import build, inputs, mlp

SEEDS, TOGETHER = 400, 8
INPUTS, DRAWS = 400, 8
Z = 1.959964
LOW, HIGH = 0.92, 0.98
EXACT = 1e-9
"""Relative size below which a standard error is rounding, and the estimate is exact."""

CALIBRATED = ("categorical", "poisson", "gaussian_mean_variance")
DRAWN = ("score_squared", "score_squared_cv", "gaussian_probe", "rademacher_probe")


class Each:
    """The reduction of `Squares` for every seed by itself, of draws one seed after the other."""

    def __init__(self, squares, seeds):
        self.squares, self.seeds = squares, seeds
        self.degrees = {
            (seed, name): degree for seed in seeds for name, degree in Squares.degrees.items()
        }

    def __call__(self, u, at):
        parts = zip(self.seeds, u.split(DRAWS, dim=1), strict=True)
        return {
            (seed, name): value
            for seed, part in parts
            for name, value in self.squares(part, at).items()
        }


def bench_of(law):
    family, link, _, constants = LAWS[law]
    return Bench(network(law), tokens(INPUTS), family, link, constants)


@pytest.fixture(scope="module")
def benches():
    return {law: bench_of(law) for law in CALIBRATED}


@pytest.fixture(scope="module")
def truths():
    found = {}
    for law in CALIBRATED:
        family, link, _, constants = LAWS[law]
        exact = fimsym.analyze(
            network(law), tokens(INPUTS), family, link, "fisher", progress=False, **constants
        )
        found[law] = flat(exact.fisher)
    return found


def source(bench, estimator, seed):
    if estimator.endswith("probe"):
        return Probes(bench.head, seed, estimator == "rademacher_probe")
    return Labels(bench.head, seed)


def estimates(bench, estimator, seeds=range(SEEDS)):
    """Return the estimate and the standard error of every seed, [seed, param]."""
    means, errors = [], []
    for some in torch.tensor(list(seeds)).split(TOGETHER):
        some = some.tolist()
        sources = [source(bench, estimator, seed) for seed in some]
        reduce = Squares(False)
        method = bench.drawn(sources[0], controlled=estimator.endswith("cv"))
        if estimator.endswith("cv"):
            method.start(bench.of(bench.data[: method.shown]))
            reduce = Squares(False, method._with_exact(bench.piece))
        each = Each(reduce, some)
        sums = Accumulator(tuple(each.degrees), bench.network.size, torch.device("cpu"), False)
        places = Places(dict(bench.network.parameters()), INPUTS, sums)
        drawn = [s(bench.piece.outputs, bench.piece.rows, DRAWS, (0, 0)) for s in sources]
        method._add_seeds(bench.piece, torch.cat(drawn), each, places)
        for seed in some:
            own = {name: sums.sums[seed, name] for name in method.quantities}
            mean, variance = of_draws(own, Covered(INPUTS, [DRAWS], False))
            means.append(mean)
            errors.append(variance.sqrt())
    return torch.stack(means), torch.stack(errors)


def assert_covers(bench, truth, means, errors, low=LOW, high=HIGH):
    """Compare coverage, averaged over the parameters of each layer kind, with 95%."""
    size = truth.abs().max()
    random = errors.max(0).values > EXACT * size
    torch.testing.assert_close(
        means[:, ~random], truth[~random].expand(len(means), -1), rtol=EXACT, atol=EXACT * size
    )
    inside = ((means - truth).abs() <= Z * errors).double().mean(0)
    found = {}
    for name, block in bench.network.parameters():
        kept = random[block.start : block.stop]
        if kept.any():
            found[name] = float(inside[block.start : block.stop][kept].mean())
    assert all(low <= coverage <= high for coverage in found.values()), found
    if not random.any():
        return found
    bias = (means.mean(0) - truth)[random] / (errors[:, random].mean(0) / len(means) ** 0.5)
    assert bias.abs().max() < 4.5, bias
    return found


@pytest.mark.parametrize("estimator", DRAWN)
@pytest.mark.parametrize("law", CALIBRATED)
def test_intervals_of_estimators_that_draw_cover(law, estimator, benches, truths):
    bench = benches[law]
    means, errors = estimates(bench, estimator)
    assert_covers(bench, truths[law], means, errors)


class EachLabel:
    """The reduction of `FromLabels` for every seed by itself."""

    def __init__(self, bench, piece, wanted, seeds):
        self.each = {
            seed: FromLabels(bench.head, Labels(bench.head, seed), wanted, piece, DRAWS, 0)
            for seed in seeds
        }
        self.degrees = {
            (seed, name): degree for seed in seeds for name, degree in FromLabels.degrees.items()
        }

    def __call__(self, u, at):
        return {
            (seed, name): value
            for seed, reduce in self.each.items()
            for name, value in reduce(u, at).items()
        }


@pytest.mark.parametrize("estimator", ["negative_hessian", "mixed"])
@pytest.mark.parametrize("law", CALIBRATED)
def test_intervals_of_estimators_with_second_derivatives_cover(law, estimator, benches, truths):
    bench, inputs = benches[law], 100
    wanted = (
        ESTIMATES[1:] + VARIANCES[1:2] if estimator == "negative_hessian" else ESTIMATES + VARIANCES
    )
    names = tuple((seed, name) for seed in range(SEEDS) for name in wanted)
    method = Curved(
        bench.network, bench.head, bench.alignment, names,
        lambda piece, *_: EachLabel(bench, piece, wanted, range(SEEDS)),
    )  # fmt: skip
    family, link, _, constants = LAWS[law]
    some = tokens(INPUTS)[:inputs]
    exact = fimsym.analyze(network(law), some, family, link, "fisher", progress=False, **constants)
    sums = bench.add(method, 1, piece=bench.of(some))
    covered = Covered(inputs, [DRAWS], False)
    nothing = torch.zeros(bench.network.size, dtype=torch.bool)
    found = [
        of_closed_forms({name: sums[seed, name] for name in wanted}, covered, nothing)
        for seed in range(SEEDS)
    ]
    means, variances = (torch.stack(parts) for parts in zip(*found, strict=True))
    assert_covers(bench, flat(exact.fisher), means, variances.sqrt())


@pytest.mark.parametrize("estimator", DRAWN)
def test_what_is_calibrated_is_what_estimate_returns(estimator, benches):
    means, errors = estimates(benches["categorical"], estimator, range(TOGETHER))
    # Eight seeds together share the coefficients of the first.
    for seed in (0,) if estimator.endswith("cv") else (0, 5):
        got = fimsym.estimate(
            network("categorical"), tokens(INPUTS), "categorical", estimator, DRAWS, seed=seed,
            progress=False,
        )  # fmt: skip
        torch.testing.assert_close(flat(got.fisher), means[seed], rtol=1e-9, atol=1e-14)
        torch.testing.assert_close(flat(got.standard_error), errors[seed], rtol=1e-7, atol=1e-14)
        assert (got.covers, got.labels_per_input, got.inputs) == ("labels", DRAWS, INPUTS)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("estimator", ["score_squared", "gaussian_probe"])
def test_intervals_for_random_inputs_cover_the_mean_over_their_law(estimator, draws):
    """Samples of 1,000 inputs of a pool, with one draw each and with three."""
    model, count = build(lambda: mlp(4, 4, 3)), 1000
    pool = inputs(4000, 4)
    truth = fimsym.analyze(model, pool, "categorical", progress=False)
    bench = Bench(model, pool[:count], "categorical")
    means, errors = [], []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        chosen = pool[torch.randint(len(pool), (count,), generator=generator)]
        method = bench.drawn(source(bench, estimator, seed), second=True)
        sums = bench.add(method, draws, piece=bench.of(chosen))
        mean, variance = of_draws(sums, Covered(count, [draws], True))
        means.append(mean)
        errors.append(variance.sqrt())
    means, errors = torch.stack(means), torch.stack(errors)
    assert_covers(bench, flat(truth.fisher), means, errors)
    predicted = flat(truth.variance(estimator, count, draws))
    ratio = means.var(0) / predicted
    assert 0.9 < ratio.mean() < 1.1
    assert ratio.min() > 0.7
    assert ratio.max() < 1.4
    if draws == 3:  # the first term is what makes the difference
        labels_alone = flat(truth.variance(estimator, count, draws, finite=True))
        assert (means.var(0) / labels_alone).mean() > 1.2


def test_a_target_error_is_kept_in_as_many_runs_as_promised():
    model, data = build(lambda: mlp(4, 4, 3)), inputs(60, 4)
    exact = fimsym.analyze(model, data, "categorical", quantities="fisher", progress=False)
    runs = 60
    for estimator in ("score_squared", "rademacher_probe"):
        missed, labels = 0, []
        for seed in range(runs):
            got = fimsym.estimate(
                model, data, "categorical", estimator, target_relative_error=0.1, seed=seed,
                progress=False,
            )  # fmt: skip
            assert all(got.reached.values())
            labels.append(got.labels_per_input)
            for group in got.groups:
                apart = sum(
                    (got.fisher[n] - exact.fisher[n]).square().sum() for n in group.parameters
                )
                norm = sum(exact.fisher[n].square().sum() for n in group.parameters)
                missed += bool((apart / norm).sqrt() > 0.1)
        # P(more than 12 of 120 missed) < 1e-3 if each is with probability 0.05
        assert missed <= 12, (estimator, missed)
        assert {count & (count - 1) for count in labels} == {0}, "looks double the draws"
        assert len(set(labels)) <= 4
