"""Square roots of I: L Lᵀ is the Hessian of F, to fifty digits and in every region."""

import itertools

import mpmath as mp
import pytest
import torch
from torch.func import vmap

import fimsym
from fimsym.errors import DomainError, ShapeError
from tests.cases import CASES, points
from tests.reference import highprecision
from tests.tolerances import EVALUATOR


def hessian(case, h, constants):
    """Return ∂²F/∂h∂h by power series along sums and differences of two scaled unit vectors."""
    outputs, zero = len(h), [0.0] * len(h)
    bound = fimsym.family(case.family).bind(constants)

    def information(entries):
        direction = list(zero)
        for place, value in entries:
            direction[place] += value
        return highprecision.moments(case.family, h, direction, zero, **bound)["fisher"]

    def curvature(place):
        return information([(place, 1.0)])

    # Powers of two, so that sums of directions are exact.
    diagonal = [curvature(n) for n in range(outputs)]
    exponents = [mp.floor(mp.log(x, 2) / 2) if x else mp.mpf(0) for x in diagonal]
    scale = [2.0 ** -int(min(max(x, -400), 400)) for x in exponents]
    matrix = mp.matrix(outputs, outputs)
    for i, j in itertools.product(range(outputs), repeat=2):
        if i == j:
            matrix[i, i] = diagonal[i] * mp.mpf(scale[i]) ** 2
        elif i < j:
            above = information([(i, scale[i]), (j, scale[j])])
            below = information([(i, scale[i]), (j, -scale[j])])
            matrix[i, j] = matrix[j, i] = (above - below) / 4
    return matrix, scale


@pytest.mark.parametrize("name", CASES)
def test_is_a_root_of_the_hessian_to_fifty_digits(name):
    case = CASES[name]
    module = fimsym.evaluator(name)
    for outputs, region in itertools.product(case.outputs[:2], case.scales):
        if outputs > 6:
            continue
        h = points(case, outputs, region, seed=13, batch=3)[0]
        for constants in case.constants[:2]:
            root = module.root(h, torch.eye(outputs).double().expand(3, -1, -1), **constants)
            for b in range(len(h)):
                with mp.workdps(50):
                    expected, scale = hessian(case, h[b].tolist(), constants)
                    found = root[b] * torch.tensor(scale, dtype=torch.float64).unsqueeze(-1)
                    found = mp.matrix(found.tolist())
                    gap = found * found.T - expected
                worst = max(abs(gap[i, j]) for i, j in itertools.product(range(outputs), repeat=2))
                assert worst <= 10 * EVALUATOR["float64"], (region, constants)


def test_a_wrong_root_is_seen(monkeypatch):
    """What sums without one entry are for: a difference leaves nothing of small probabilities."""
    module = fimsym.evaluator("categorical")
    h, probes = torch.tensor([50.0, 0.0]).double(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()

    def gap():
        one = module.root(h, probes).sum(-1, keepdim=True)
        return float((module.root(h, probes.sum(-1, keepdim=True)) / one - 1).abs().max())

    assert gap() <= 1e-15
    monkeypatch.setattr(module.runtime, "others", lambda x: x.sum(-2, keepdim=True) - x)
    assert gap() > 1e-6


def test_is_linear_and_has_the_norm_of_the_score(case):
    """⟨u, L g⟩ over an orthonormal basis of probes has the squared norm I."""
    for outputs, region in itertools.product(case.outputs, case.scales):
        h, u, _ = points(case, outputs, region, seed=4, batch=50)
        module = fimsym.evaluator(case.family)
        root = module.root(h, torch.eye(outputs).double().expand(50, -1, -1))
        squared = (root.mT @ u).square().sum(-2)
        size = (root.abs().mT @ u.abs()).square().sum(-2)
        assert ((squared - module.fisher(h, u)).abs() <= 1e-11 * size).all(), region
        probes = torch.randn(50, outputs, 7, dtype=torch.float64)
        product = module.root(h, probes)
        assert product.shape == (50, outputs, 7)
        limit = 1e-12 * root.norm(dim=-1, keepdim=True) * probes.norm(dim=-2, keepdim=True)
        assert ((product - root @ probes).abs() <= limit).all(), region


def test_as_torch_citizens(case):
    h = points(case, case.outputs[-1], 1.0)[0]
    module = fimsym.evaluator(case.family)
    probes = torch.randn(20, h.shape[-1], 4, dtype=torch.float64)
    flat = module.root(h, probes)
    torch.testing.assert_close(vmap(module.root)(h, probes), flat)
    deep = module.root(h.unflatten(0, (4, 5)), probes.unflatten(0, (4, 5)))
    torch.testing.assert_close(deep.flatten(0, 1), flat)
    torch.testing.assert_close(module.root(h[0], probes[0]), flat[0])
    assert module.root(h.float(), probes.float()).dtype == torch.float32
    assert module.root(h.to("meta"), probes.to("meta")).shape == flat.shape
    compiled = torch.compile(module.root, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(h, probes), flat)
    with pytest.raises(ShapeError, match=r"probe must be \[\*batch, output, probe\]"):
        module.root(h, probes[..., 0])
    with pytest.raises(DomainError, match="h must be finite"):
        module.root(h * torch.nan, probes)


def test_a_vocabulary_of_fifty_thousand_classes():
    """No m×m object: the root of 50,000 classes is of the size of its argument."""
    h = 3 * torch.randn(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probe = torch.randn(50_000, 2, dtype=torch.float64)
    found = fimsym.evaluator("categorical").root(h, probe)
    p = h.softmax(-1).unsqueeze(-1)
    expected = p.sqrt() * probe - p * (p.sqrt() * probe).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
