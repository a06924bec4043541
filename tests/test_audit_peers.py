"""`audit` of what other packages compute. Collected only where these are installed."""

import copy
import itertools

import pytest
import torch

import fimsym
from benchmarks.audit import diagonals, networks

EXPECTED = {
    "BackPACK DiagGGNExact": ("fisher", "fisher"),
    "NNGeometry PMatDiag": ("fisher", "fisher"),
    "Laplace diag": ("fisher", "fisher"),
    "curvlinops GGN, column by column": ("fisher", "fisher"),
    "curvlinops FisherMC, 1 label": ("estimate", "score_squared"),
    "curvlinops FisherMC, 10 labels": ("estimate", "score_squared"),
    "curvlinops Hutchinson, 20": ("estimate", "parameter_probes"),
    "curvlinops Hutchinson, 100": ("estimate", "parameter_probes"),
    "BackPACK DiagGGNMC, 3 samples": ("estimate", "score_squared"),
    "Laplace H, as it comes": ("not_fisher", "sum_for_mean"),
    "Laplace posterior_precision, as it comes": ("not_fisher", "damping"),
    "Laplace posterior_variance, as it comes": ("not_fisher", "reciprocal"),
}
NETWORKS = {name: rest for name, *rest in networks()}


@pytest.mark.filterwarnings("ignore")  # of the packages
@pytest.mark.parametrize(("network", "words"), [*itertools.product(NETWORKS, EXPECTED)])
def test_a_peer_is_taken_for_what_it_is(network, words):
    model, x, family, link = copy.deepcopy(NETWORKS[network])
    batches = list(x.split(32))
    torch.manual_seed(0)
    (compute,) = (run for name, run in diagonals(model, batches, family) if name == words)
    diagonal = compute()
    found = fimsym.audit(diagonal, model, batches, family, link, progress=False)
    verdict, likely = EXPECTED[words]
    assert found.verdict == verdict
    assert found.likely in (likely, {"score_squared": "gaussian_probe"}.get(likely))
