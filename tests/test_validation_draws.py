"""Labels: from which law, and from which random numbers."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions

import fimsym
from fimsym.laws import Law
from fimsym.laws import distributions as own
from fimsym.laws.statistics import statistics
from fimsym.validation import draws, output
from fimsym.validation.streams import BLOCK, Stream, blocks

FAMILIES = fimsym.families()
COUNT = 20_000


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


LAWS = {
    "normal": distributions.Normal(tensor(0.3, -2.0), tensor(1.0, 0.2)),
    "exponential": distributions.Exponential(tensor(0.5, 3.0)),
    "gamma": distributions.Gamma(tensor(0.7, 4.0), tensor(2.0, 0.3)),
    "beta": distributions.Beta(tensor(0.7, 4.0), tensor(2.0, 1.3)),
    "bernoulli": distributions.Bernoulli(logits=tensor(0.7, -2.0)),
    "binomial": distributions.Binomial(tensor(3.0, 7.0), logits=tensor(0.7, -1.0)),
    "poisson": distributions.Poisson(tensor(0.7, 40.0)),
    "geometric": distributions.Geometric(tensor(0.7, 0.1)),
    "negative binomial": distributions.NegativeBinomial(tensor(2.5, 1.0), logits=tensor(0.3, -1.0)),
    "categorical": distributions.Categorical(logits=tensor(0.3, -1.0, 2.0)),
    "multinomial": distributions.Multinomial(9, logits=tensor(0.3, -1.0, 2.0)),
    "dirichlet": distributions.Dirichlet(tensor(0.7, 2.0, 5.0)),
    "vector": distributions.MultivariateNormal(
        tensor(1.0, -1.0), precision_matrix=tensor([2.0, 0.5], [0.5, 1.0])
    ),
    "von Mises": own.VonMises(tensor(0.5, -1.0), tensor(0.3, 5.0)),
    "inverse Gaussian": own.InverseGaussian(tensor(0.5, 2.0), tensor(0.3, 5.0)),
}


def drawn(law, seed=0):
    return draws.draw(law, Stream(seed, "test").generator(), COUNT)


@pytest.mark.parametrize("name", LAWS)
def test_labels_are_those_that_torch_draws(name):
    """Two samples, each target apart: Kolmogorov and Smirnov's test, or that of the counts."""
    law = LAWS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = law.sample((COUNT,)).double().reshape(COUNT, -1)
    labels = drawn(law)
    assert labels.shape == (COUNT, *law.batch_shape, *law.event_shape)
    for mine, theirs in zip(labels.reshape(COUNT, -1).T, other.T, strict=True):
        if len(mine.unique()) < 100:
            values = torch.cat([mine, theirs]).unique()
            table = np.array([[float((x == v).sum()) for v in values] for x in (mine, theirs)])
            assert stats.chi2_contingency(table[:, table.sum(0) > 20]).pvalue > 1e-6
        else:
            assert stats.ks_2samp(mine.numpy(), theirs.numpy()).pvalue > 1e-6


def test_every_rule_is_looked_at():
    rules = set(draws._RULES) - {own.Tabulated}
    assert rules == {type(law) for law in LAWS.values()}


def test_a_law_without_a_rule_is_drawn_by_torch_from_the_same_stream():
    law = distributions.Weibull(tensor(2.0), tensor(1.5))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = drawn(law), drawn(law), drawn(law, 1)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(state, torch.get_rng_state())
    assert float(one.mean()) == pytest.approx(float(law.mean), rel=0.05)


def points(name):
    family = fimsym.family(name)
    return [(Law(family, point.constants), point.at) for point in output.random_points(family, 1)]


@pytest.mark.parametrize("name", FAMILIES)
def test_labels_and_statistics_have_the_moments_of_the_evaluator(name):
    """E t = ∇F and Var t = ∇²F, as mean and diagonal of the covariance."""
    module = fimsym.evaluator(name)
    for law, at in points(name):
        labels = draws.draw(law.given(at.h), Stream(2, "test").generator(), COUNT)
        t = statistics(law.family, law.constants, labels, len(at.h))
        eye = torch.eye(len(at.h), dtype=torch.float64)
        moments = module.moments(at.h, eye, **law.constants)
        error = (moments.fisher / COUNT).sqrt()
        z = (t.mean(0) - module.mean(at.h, **law.constants)) / error
        assert z.abs().max() < 6
        spread = t.var(0) - moments.fisher
        assert (spread / (moments.variance_score_squared / COUNT).sqrt()).abs().max() < 8


def test_statistics_in_words_are_not_evaluated():
    family = dataclasses.replace(fimsym.family("categorical"), density=None)
    assert statistics(family, {}, tensor(1.0), 3) is None


def test_a_stream_is_named_by_all_of_its_purpose():
    purposes = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1), (0, "a", 1, 0), (0, "a1")]
    generators = [Stream(*purpose).generator(0) for purpose in purposes]
    generators += [Stream(0, "a", 1).generator(block) for block in (1, 2)]
    first = [tuple(rng.random(4)) for rng in generators]
    assert len(set(first)) == len(first)
    assert tuple(Stream(0, "a", 1).generator(2).random(4)) == first[-1]


def test_blocks_do_not_share_numbers_however_long_they_are():
    stream = Stream(0, "a")
    numbers = [set(stream.generator(block).random(BLOCK).tolist()) for block in range(3)]
    assert not numbers[0] & numbers[1] | numbers[1] & numbers[2]


@pytest.mark.parametrize("name", ["normal", "gamma", "von Mises", "vector"])
def test_labels_do_not_depend_on_how_many_are_asked_for_at_once(name):
    law = LAWS[name]
    rng = Stream(0, "a").generator()
    pieces = [draws.draw(law, rng, count) for count in (1, 2, 300, 97)]
    whole = draws.draw(law, Stream(0, "a").generator(), 400)
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize("samples", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7])
def test_blocks_hold_every_label_once(samples):
    found = list(blocks(samples))
    assert [number for number, _ in found] == list(range(math.ceil(samples / BLOCK)))
    assert sum(count for _, count in found) == samples
