"""Derivations: what they say, and that no proof accepts a wrong formula."""

import dataclasses
import itertools

import mpmath as mp
import pytest
import sympy as sp

import fimsym
from fimsym.derivation import bounds, certificates, moments, prove, stable
from fimsym.derivation.extremes import Larger, SearchBase, Smaller
from fimsym.derivation.normal import inline, normal, unroll
from fimsym.derivation.proofs import identities
from fimsym.derivation.symbols import (
    Lowered,
    Raised,
    RoundedUp,
    axis,
    h,
    index,
    log_partition,
    probability,
    total,
    u,
    v,
)
from fimsym.errors import DerivationError, ShapeError, SpecError, UnsupportedError
from fimsym.families import Density, Theorem, family
from tests.cases import CASES, points
from tests.reference import highprecision

NAMES = sorted(set(CASES) - {"multivariate_gaussian"})
"""Families in indexed outputs; tests/test_matrix_family.py has the one in matrices."""
REDUCTIONS = ("gaussian", "categorical", "bernoulli", "negative_binomial", "gamma", "dirichlet")
"""Families whose claims are proven by every kind of reduction there is."""


def claims(name):
    return (*identities(family(name)), *certificates.certificates(family(name)))


def test_every_identity_is_proven(case):
    derivation = fimsym.derive(case.family)
    assert all(proof.residual == 0 for proof in derivation.proofs)
    names = [proof.name for proof in derivation.proofs]
    assert len(names) == len(set(names))
    routes = {proof.name.split(":")[0]: proof.method for proof in derivation.proofs}
    closed = "two routes" in routes
    assert closed or routes["quadrature"] == "quadrature"
    assert closed or case.family in ("beta", "dirichlet", "von_mises")


@pytest.mark.parametrize("name", REDUCTIONS)
def test_no_proof_accepts_a_wrong_formula(name):
    """Plant a wrong coefficient, a wrong sign and a stray term on one side of each claim."""
    for place, claim in enumerate(claims(name)):
        side = ("left", "right")[place % 2]
        value = getattr(claim, side)
        planted = [value + 1]
        if value not in (0, sp.oo) and claim.reduce(value) != 0:
            planted += [sp.Rational(51, 50) * value, -value]
        for plant in planted:
            with pytest.raises(DerivationError, match="not proven"):
                prove(dataclasses.replace(claim, **{side: plant}))


WRONG_SPECS = {
    "log-partition scaled": ("categorical", {"log_partition": "2 * log(sum(exp(h)))"}),
    "log-partition of another law": ("categorical", {"log_partition": "sum(exp(h))"}),
    "variance for deviation": ("gaussian", {"log_partition": "sigma * h**2 / 2"}),
    "half forgotten": ("gaussian", {"log_partition": "sigma**2 * h**2"}),
    "not normalised": (
        "gaussian",
        {"density": Density("exp(-y**2 / (2 * sigma**2))", "real")},
    ),
    "density of another scale": (
        "gaussian",
        {"density": Density("exp(-y**2 / sigma**2) / sqrt(pi * sigma**2)", "real")},
    ),
    "wrong theorem": (
        "gaussian",
        {"theorems": (Theorem("variance_score_squared", "3 * fisher**2"),)},
    ),
    "wrong theorem for two classes": (
        "categorical",
        {"theorems": (Theorem("fisher", "exp(h1) * exp(h2) * (u1 - u2)**2", 2),)},
    ),
}


@pytest.mark.parametrize(("name", "change"), WRONG_SPECS.values(), ids=WRONG_SPECS)
def test_a_wrong_specification_is_refused(name, change):
    wrong = dataclasses.replace(fimsym.family(name), **change)
    with pytest.raises((DerivationError, SpecError)):
        fimsym.derive(wrong)


def test_a_wrong_rewriting_is_refused():
    raw = stable.in_cumulants(family("categorical"))
    program = stable.definitions(family("categorical"))
    for place, line in enumerate(program):
        if line.name == "probability":
            continue
        wrong = dataclasses.replace(line, expression=2 * line.expression)
        planted = (*program[:place], wrong, *program[place + 1 :])
        with pytest.raises(DerivationError, match="stable form"):
            stable.check_program(planted, raw)


def prove_bounds(spec):
    for claim in certificates.certificates(spec):
        prove(claim)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_bound_is_refused(name, monkeypatch):
    """Each line of the program that bounds are generated from, mutated in turn."""
    program = bounds.definitions(family(name))
    for place, line in enumerate(program):
        if line.name == "probability":
            continue
        value = line.expression
        changes = [value / 2] if value not in (0, sp.oo) else [value + sp.Rational(1, 10)]
        if isinstance(value, sp.Min):
            changes += [sp.Max(*value.args), sp.Min(*value.args, -value.args[0]), value.args[0]]
        if isinstance(value, Larger | Smaller):
            swapped = Smaller if isinstance(value, Larger) else Larger
            changes += [swapped(*value.args), value.func(*value.args[1:]), value.args[0]]
        changes += [
            value.xreplace({node: RoundedUp(node.args[0], 0 * node.args[1])})
            for node in value.atoms(RoundedUp)
        ]
        changes += [value.xreplace({node: node.args[0]}) for node in value.atoms(Raised, Lowered)]
        changes += [
            value.xreplace({node: node.func(*node.args[:-1], 2 * node.args[-1] + 1)})
            for node in value.atoms(SearchBase)
        ]
        for change in changes:
            if change == value:
                continue
            wrong = dataclasses.replace(line, expression=change)
            planted = (*program[:place], wrong, *program[place + 1 :])
            monkeypatch.setattr(bounds, "definitions", lambda _, planted=planted: planted)
            with pytest.raises(DerivationError):
                prove_bounds(family(name))


@pytest.mark.parametrize("name", NAMES)
def test_number_of_outputs_stays_symbolic(name):
    derivation = fimsym.derive(name)
    size = axis(family(name))
    for quantity in ("fisher", "variance_score_squared", "variance_negative_hessian"):
        assert size in getattr(derivation, quantity).free_symbols
    assert derivation.variance_score_squared.count_ops() < 700
    assert derivation.outputs == size


@pytest.mark.parametrize("name", NAMES)
def test_formulas_equal_fifty_digit_derivatives(name):
    case, derivation = CASES[name], fimsym.derive(name)
    for outputs, constants in itertools.product(case.outputs[:2], case.constants[:2]):
        given = {**family(case.family).bind(constants)}
        point = [x[0] if x.ndim == 2 else x[0, :, 0] for x in points(case, outputs, 1.0)]
        point = [x.tolist() for x in point]
        truth = highprecision.moments(case.family, *point, **given)
        for quantity in stable.QUANTITIES:
            value = derivation.evaluate(quantity, *point, digits=40, **constants)
            expected = sp.Float(mp.nstr(truth[quantity], 45), 45)
            assert float(abs(value - expected)) <= 1e-30 * max(1.0, float(abs(expected)))


def test_symbolic_value_equals_the_density_summed_by_hand():
    """Three classes with explicit symbols, expanded from E(s² − I)² without the package."""
    p = sp.symbols("p1:4", positive=True)
    w = sp.symbols("u1:4", real=True)
    mean = sum(a * b for a, b in zip(p, w, strict=True))
    information = sum(a * (b - mean) ** 2 for a, b in zip(p, w, strict=True))
    variance = sum(a * ((b - mean) ** 2 - information) ** 2 for a, b in zip(p, w, strict=True))
    derived = fimsym.derive("categorical").explicit("variance_score_squared", 3)
    numbers = {h[1]: sp.log(2), h[2]: sp.log(3), h[3]: sp.log(5)}
    derived = derived.subs(numbers).subs({u[n]: w[n - 1] for n in (1, 2, 3)})
    by_hand = variance.subs(dict(zip(p, [sp.Rational(n, 10) for n in (2, 3, 5)], strict=True)))
    assert sp.expand(derived - by_hand) == 0


def test_independent_moments_equal_brute_expansion():
    """The block lemma for independent outputs, against expanding the product for m = 4."""
    spec = family("gaussian")
    x = sp.symbols("x1:5")
    s = sum(u[n] * x[n - 1] for n in range(1, 5))
    w = sum(v[n] * x[n - 1] for n in range(1, 5))
    for a, b in ((2, 0), (3, 0), (4, 0), (2, 1), (0, 2), (1, 1)):
        expanded = sp.Poly(sp.expand(s**a * w**b), *x)
        by_hand = sum(
            coefficient
            * sp.Mul(
                *(moments.central_moment_of_one(spec, (0,) * power) for power in powers if power)
            )
            for powers, coefficient in expanded.terms()
        )
        derived = unroll(moments.score_moment(spec, a, b), axis(spec), 4)
        assert sp.expand(derived - by_hand) == 0


def test_tensors_are_symmetric_and_small():
    given = fimsym.derive("categorical").tensors(3)
    assert given.fisher.shape == (3, 3)
    assert given.quartic.shape == (3, 3, 3, 3)
    assert given.quartic[0, 1, 2, 0] == given.quartic[2, 0, 0, 1]
    gaussian = fimsym.derive("gaussian").tensors(2)
    sigma = sp.Symbol("sigma", positive=True)
    assert gaussian.fourth[0, 0, 0, 0] == 3 * sigma**4
    assert gaussian.fourth[0, 0, 1, 1] == sigma**4
    assert gaussian.quartic[0, 0, 0, 0] == 2 * sigma**4
    with pytest.raises(ShapeError, match="at least 2"):
        fimsym.derive("categorical").tensors(1)


def test_central_moments_of_the_statistic():
    sigma, m = sp.Symbol("sigma", positive=True), sp.Symbol("m", integer=True, positive=True)
    found = fimsym.derive("gaussian").central_moments
    squares = sp.Sum(u[index] ** 2, (index, 1, m))
    assert normal(found[2, 0] - sigma**2 * squares) == 0
    assert found[3, 0] == found[1, 0] == 0
    assert normal(found[4, 0] - 3 * sigma**4 * squares**2) == 0
    cumulants = fimsym.derive("gaussian").cumulants
    assert normal(cumulants[4, 0] - found[4, 0] + 3 * found[2, 0] ** 2) == 0


def test_means_of_several_labels():
    derivation = fimsym.derive("categorical")
    count = sp.Symbol("N", integer=True, positive=True)
    variance = derivation.variance_score_squared
    assert derivation.of_mean("variance_score_squared") == variance / count
    assert derivation.of_mean("variance_score_squared", 4) == variance / 4
    with pytest.raises(SpecError, match="does not shrink"):
        derivation.of_mean("fisher")


def test_normal_form_decides_identities():
    spec = family("categorical")
    p = probability[index]
    mean = total(spec, p * u[index])
    centred = u[index] - mean
    assert normal(total(spec, p * centred)) == 0
    assert normal(total(spec, p * centred**2) - total(spec, p * u[index] ** 2) + mean**2) == 0
    assert normal(total(spec, p * centred**2) - total(spec, p * u[index] ** 2)) != 0
    assert normal(total(spec, sp.Integer(3))) == 3 * axis(spec)
    delta = sp.KroneckerDelta(index, 2)
    assert normal(total(spec, delta * u[index] * p)) == u[2] * probability[2]


def test_normal_form_refuses_false_identities():
    """Nested sums, captured indices and coupled summands must not compare equal."""
    i, j = sp.symbols("i j", integer=True, positive=True)
    spec = family("categorical")
    size = axis(spec)
    nested = sp.Sum(sp.Sum(u[j], (j, 1, size)), (i, 1, size))
    assert normal(nested - total(spec, u[index])) != 0
    assert normal(nested - size * total(spec, u[index])) == 0
    assert unroll(nested, size, 2) == 2 * u[1] + 2 * u[2]
    coupled = sp.Sum(probability[i] * sp.Sum(sp.exp(u[i] * v[j]), (j, 1, size)), (i, 1, size))
    assert normal(coupled - total(spec, sp.exp(u[index] * v[index]))) != 0
    assert normal(coupled - coupled) == 0
    separable = sp.Sum(sp.Sum(u[i] * v[j], (j, 1, size)), (i, 1, size))
    assert normal(separable - total(spec, u[index]) * total(spec, v[index])) == 0


def test_inlining_does_not_capture_indices():
    program = stable.definitions(family("categorical"))
    expression = inline(stable.symbol_of(program, "variance_score_squared"), program)
    rolled = unroll(expression, axis(family("categorical")), 2)
    values = {h[1]: 0, h[2]: 0, u[1]: 3, u[2]: 3}
    assert rolled.subs(values) == 0
    assert rolled.subs({**values, h[1]: sp.log(3), u[1]: 5}) == sp.Rational(3, 16) / 4 * 16


def test_latex_and_mistakes():
    derivation = fimsym.derive("categorical")
    assert r"\sum_{i=1}^{C}" in derivation.latex()
    assert repr(derivation).startswith("Derivation(categorical: ")
    assert derivation._repr_latex_().startswith("$$")
    with pytest.raises(SpecError, match="Did you mean 'fisher'"):
        derivation.evaluate("fishr", [0.0, 1.0], [1.0, 2.0])
    with pytest.raises(ShapeError, match=r"u\[1\]"):
        derivation.evaluate("fisher", [0.0, 1.0])
    assert log_partition(family("categorical")).has(sp.log)


@pytest.mark.parametrize("name", [*REDUCTIONS, "multivariate_gaussian"])
def test_a_reader_can_prove_a_claim_and_not_a_wrong_one(name):
    derivation = fimsym.derive(name)
    by_cumulants = derivation.cumulants[4, 0] + 2 * derivation.cumulants[2, 0] ** 2
    proof = derivation.prove(derivation.variance_score_squared, by_cumulants, "V₁ = κ₄₀ + 2κ₂₀²")
    assert (proof.residual, proof.statement) == (0, "V₁ = κ₄₀ + 2κ₂₀²")
    wrong = sp.Rational(51, 50) * by_cumulants
    with pytest.raises(DerivationError, match=r"not proven: your claim \(V₁ = 1\.02 κ"):
        derivation.prove(derivation.variance_score_squared, wrong, "V₁ = 1.02 κ₄₀ + 2.04 κ₂₀²")


def test_a_claim_may_be_in_probabilities():
    derivation, spec = fimsym.derive("categorical"), family("categorical")
    mean = total(spec, probability[index] * u[index])
    second = total(spec, probability[index] * u[index] ** 2)
    derivation.prove(derivation.fisher, second - mean**2)
    with pytest.raises(DerivationError, match="not proven"):
        derivation.prove(derivation.fisher, second + mean**2)


@pytest.mark.parametrize("letter", ["i", "j", "k", "c"])
def test_a_claim_may_be_about_one_class(letter):
    """V₁ of the bias of a class, whatever its index is called."""
    derivation, spec = fimsym.derive("categorical"), family("categorical")
    k = sp.Symbol(letter, integer=True, positive=True)
    running = sp.Symbol("n", integer=True, positive=True)
    p, at = probability[running], probability[k]
    score = sp.KroneckerDelta(running, k) - at
    fisher = total(spec, p * score**2, over=running)
    variance = total(spec, p * (score**2 - at * (1 - at)) ** 2, over=running)
    derivation.prove(fisher, at * (1 - at))
    derivation.prove(variance, at * (1 - at) * (1 - 2 * at) ** 2)
    with pytest.raises(DerivationError, match="not proven"):
        derivation.prove(variance, at * (1 - at) * (1 - 2 * at) ** 4)


def test_no_claim_is_proven_from_too_few_targets():
    """6 e₃ = p₁³ − 3p₁p₂ + 2p₃ of power sums vanishes for one and two targets, not for three."""
    derivation, spec = fimsym.derive("poisson"), family("poisson")
    first, second, third = (total(spec, u[index] ** n) for n in (1, 2, 3))
    with pytest.raises(DerivationError, match="got 6"):
        derivation.prove(first**3 - 3 * first * second + 2 * third, 0)
    with pytest.raises(UnsupportedError, match="Multiply by its denominator"):
        derivation.prove(second / first, first)
    with pytest.raises(UnsupportedError, match="polynomial in sums"):
        derivation.prove(sp.exp(first), 1)
