"""The Gaussian vector: proofs with D symbolic, evaluator, bounds and link."""

import dataclasses
import itertools
import re

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.func import vmap

import fimsym
from fimsym.derivation import matrix_program, matrix_proofs, prove, stable
from fimsym.derivation.letters import Form, Letter, LogDeterminant, Trace
from fimsym.derivation.matrices import derivative, words
from fimsym.derivation.matrix_bounds import BOUNDS
from fimsym.derivation.matrix_program import PROGRAM, Line
from fimsym.derivation.record import as_dict, pretty
from fimsym.errors import DerivationError, DomainError, FimsymError, ShapeError, UnsupportedError
from fimsym.families import Density, Theorem
from tests.cases import CASES, points
from tests.reference import highprecision
from tests.tolerances import EVALUATOR

NAME = "multivariate_gaussian"
SPEC = fimsym.family(NAME)
CASE = CASES[NAME]
MODULE = fimsym.evaluator(NAME)
QUANTITIES = (
    "fisher",
    "variance_score_squared",
    "third",
    "variance_negative_hessian",
    "covariance",
)
REGIONS = [*CASE.regions, *(f"{region}, along h" for region in CASE.regions)]
SIZES = {2: 5, 3: 9, 4: 14}


def truth(h, u, v):
    return highprecision.moments(NAME, h.tolist(), u.tolist(), v.tolist())


def parts(entries):
    """Return the vector and the symmetric matrix of packed entries, as arrays."""
    size = (int(np.sqrt(9 + 8 * len(entries))) - 3) // 2
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size)] = entries[size:]
    return np.array(entries[:size]), matrix + np.tril(matrix, -1).T


# --- proofs -------------------------------------------------------------------------------


def test_every_identity_is_proven():
    proofs = fimsym.derive(NAME).proofs
    assert [proof.name for proof in proofs] == [i.name for i in matrix_proofs.identities(SPEC)]
    assert all(proof.residual == 0 for proof in proofs)
    names = {proof.name for proof in proofs}
    assert names >= {f"stable form: {quantity}" for quantity in stable.QUANTITIES}
    assert names >= {f"two routes: {quantity} (D = 2)" for quantity in stable.QUANTITIES}
    assert names >= {"normaliser", "normaliser (D = 2)", "mean", "link mean_cholesky: mean"}


def mutants(line: Line):
    """Change one number, one sign, or the whole by a factor."""
    yield f"51 * ({line.formula}) / 50"
    for number in re.finditer(r"\b\d+\b", line.formula):
        changed = str(int(number.group()) + 1)
        yield line.formula[: number.start()] + changed + line.formula[number.end() :]
    for sign in re.finditer(r" ([+-]) ", line.formula):
        changed = "-" if sign.group(1) == "+" else "+"
        yield line.formula[: sign.start(1)] + changed + line.formula[sign.end(1) :]


def refused(program=PROGRAM, bounds=BOUNDS):
    try:
        for identity in matrix_proofs.identities(SPEC, program, bounds):
            prove(identity)
    except DerivationError as error:
        return "not proven" in str(error)
    return False


PROVEN_BOUNDS = ("matrix_w", "vector_w", "quartic_min", "quartic_max")
"""The other bounds are eigenvalues and rounding: compared with fifty digits below."""


@pytest.mark.parametrize("line", PROGRAM, ids=lambda line: line.name)
def test_a_wrong_line_is_refused(line):
    assert not refused()
    for formula in mutants(line):
        wrong = dataclasses.replace(line, formula=formula)
        assert refused(tuple(wrong if one == line else one for one in PROGRAM)), formula


@pytest.mark.parametrize("name", PROVEN_BOUNDS)
def test_a_wrong_bound_is_refused(name):
    (line,) = (line for line in BOUNDS if line.name == name)
    for formula in mutants(line):
        wrong = dataclasses.replace(line, formula=formula)
        assert refused(bounds=tuple(wrong if one == line else one for one in BOUNDS)), formula


def _with_link(*natural):
    (link,) = SPEC.links
    return {"links": (dataclasses.replace(link, natural=natural),)}


WRONG = {
    "quarter for half": {"log_partition": "-dot(h1, solve(H2, h1)) / 2 - logdet(-2 * H2) / 2"},
    "determinant forgotten": {"log_partition": "-dot(h1, solve(H2, h1)) / 4"},
    "determinant of another": {"log_partition": "-dot(h1, solve(H2, h1)) / 4 - logdet(-H2) / 2"},
    "sign": {"log_partition": "dot(h1, solve(H2, h1)) / 4 - logdet(-2 * H2) / 2"},
    "improper": {"log_partition": "-dot(h1, solve(H2, h1)) / 4 - logdet(2 * H2) / 2"},
    "not normalised": {"density": Density("1", "vector")},
    "normalised at D = 1 only": {"density": Density("(2 * pi)**(-1 / 2)", "vector")},
    "link of a precision": _with_link(
        "cholesky * transpose(cholesky) * mean", "cholesky * transpose(cholesky) / -2"
    ),
    "link transposed": _with_link(
        "solve(transpose(cholesky) * cholesky, mean)",
        "inverse(transpose(cholesky) * cholesky) / -2",
    ),
    "link without its half": _with_link(
        "solve(cholesky * transpose(cholesky), mean)",
        "-inverse(cholesky * transpose(cholesky))",
    ),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_a_wrong_specification_is_refused(change):
    with pytest.raises(DerivationError):
        fimsym.derive(dataclasses.replace(SPEC, **change))


def test_theorems_are_not_dropped_silently():
    theorem = Theorem("variance_score_squared", "2 * fisher**2")
    with pytest.raises(UnsupportedError, match="theorems"):
        fimsym.derive(dataclasses.replace(SPEC, theorems=(theorem,)))


def numbers(expression, h, u, v):
    """Evaluate scalars of words at arrays, D = 3."""
    vector, matrix = parts(h)
    values = {"h": vector, "Λ": -2 * matrix, "L": np.linalg.cholesky(-2 * matrix), "D": 3}
    for name, direction in (("u", u), ("v", v)):
        values[f"a_{name}"], values[f"B_{name}"] = parts(direction)

    def letter(node):
        array = values[node.name].reshape(3, -1)
        transposed, inverted = node.flags
        array = np.linalg.inv(array) if inverted else array
        return array.T if transposed else array

    def scalar(node):
        product = np.linalg.multi_dot([np.eye(letter(node.args[0]).shape[0]),
                                       *map(letter, node.args)])  # fmt: skip
        if isinstance(node, LogDeterminant):
            return np.linalg.slogdet(product)[1]
        return np.trace(product) if isinstance(node, Trace) else product.item()

    atoms = expression.atoms(Form, Trace, LogDeterminant)
    return float(expression.subs({atom: scalar(atom) for atom in atoms}))


def test_the_symbolic_quantities_at_numbers():
    """The algebra of words against power series of F that know no matrices."""
    derivation = fimsym.derive(NAME)
    h, u, v = (x.double() for x in points(CASE, 9, "normal", seed=4, batch=1))
    point = h[0].tolist(), u[0, :, 0].tolist(), v[0, :, 0].tolist()
    expected = highprecision.moments(NAME, *point)
    for name in ("log_partition", *stable.QUANTITIES):
        found = numbers(getattr(derivation, name), *point)
        assert found == pytest.approx(float(expected[name]), rel=1e-9), name


def test_words():
    x, matrix = words(Letter("x", vector=1)), words(Letter("X"))
    root, precision = words(matrix_program.FACTOR), words(matrix_program.PRECISION)
    assert root * root.transposed == precision
    assert root.inverse * precision == root.transposed
    assert (matrix * x).transposed == x.transposed * matrix.transposed
    assert (x * x.transposed) * x == (x.transposed * x) * x
    change = words(Letter("dX"))
    along = {Letter("X"): change}
    assert derivative(matrix.inverse, along) == -(matrix.inverse * change * matrix.inverse)
    with pytest.raises(DerivationError, match="not known"):
        derivative(root, along)
    with pytest.raises(DerivationError, match="shapes"):
        x * matrix
    with pytest.raises(DerivationError, match="invert"):
        (matrix + precision).inverse  # noqa: B018


def test_the_record_is_readable_and_numbers_are_refused():
    derivation = fimsym.derive(NAME)
    shown = pretty(derivation)
    assert "A_u = L⁻¹ B_u L⁻ᵀ" in shown
    assert "F(h) = (hᵀ Λ⁻¹ h)/2 - log det(Λ)/2" in shown
    assert as_dict(derivation)["proofs"][0]["residual"] == "0"
    assert r"\log\det \Lambda" in derivation.latex()
    for call in (
        lambda: derivation.evaluate("fisher", [0.0] * 5),
        lambda: derivation.explicit("fisher", 5),
        lambda: derivation.tensors(5),
    ):
        with pytest.raises(UnsupportedError, match="D of multivariate_gaussian is a symbol"):
            call()


# --- evaluator ----------------------------------------------------------------------------


def worst_errors(got, h, u, v):
    worst = dict.fromkeys(QUANTITIES, 0.0)
    for b, k in itertools.product(range(len(h)), range(u.shape[-1])):
        expected = truth(h[b], u[b, :, k], v[b, :, k])
        sizes = {name: abs(expected[name]) for name in QUANTITIES}
        first, second, last = (expected[QUANTITIES[n]] for n in (0, 1, 3))
        sizes["third"] = max(sizes["third"], mp.sqrt(first * second))
        sizes["covariance"] = max(sizes["covariance"], mp.sqrt(second * last))
        for name in QUANTITIES:
            error = abs(float(getattr(got, name)[b, k]) - expected[name]) / sizes[name]
            worst[name] = max(worst[name], float(error))
    return worst


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("outputs", SIZES.values())
def test_agrees_with_fifty_digits(outputs, region):
    h, u, v = points(CASE, outputs, region, seed=outputs, batch=8)
    worst = worst_errors(MODULE.moments(h, u, v), h, u, v)
    assert max(worst.values()) <= EVALUATOR["float64"], worst


def test_one_factorisation_alone_is_not_accurate_enough(monkeypatch):
    """What the second factorisation is for: without it the limit above is exceeded."""
    whole = MODULE.runtime.whitening

    def rounded(matrix):
        found = whole(matrix)
        return found._replace(correction=torch.eye(matrix.shape[-1]).to(matrix) + 0 * found.factor)

    h, u, v = points(CASE, 14, "condition 1e8", seed=14, batch=8)
    monkeypatch.setattr(MODULE.runtime, "whitening", rounded)
    worst = worst_errors(MODULE.moments(h, u, v), h, u, v)
    assert max(worst.values()) > EVALUATOR["float64"]


def test_a_diagonal_precision_is_independent_targets():
    scalar = CASES["gaussian_mean_variance"]
    for size in (2, 3, 5):
        h, u, v = points(scalar, 2 * size, "normal", seed=size, batch=6)
        on = [a * (a + 3) // 2 for a in range(size)]

        def packed(x, on=on, size=size):
            lower = x.new_zeros(x.shape[0], size * (size + 1) // 2, *x.shape[2:])
            lower[:, on] = x[:, size:]
            return torch.cat([x[:, :size], lower], 1)

        one = fimsym.evaluator("gaussian_mean_variance").moments(h, u, v)
        many = MODULE.moments(packed(h), packed(u), packed(v))
        for name in QUANTITIES:
            torch.testing.assert_close(
                getattr(many, name), getattr(one, name), rtol=1e-12, atol=1e-12
            )


def test_a_rotation_of_the_label_changes_nothing():
    h, u, v = points(CASE, 9, "normal", seed=8, batch=4)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[
        0
    ]

    def turned(x):
        vector, matrix = MODULE.runtime.vector_and_matrix(x)
        columns = (turn @ vector, turn @ matrix @ turn.T)
        return MODULE.runtime.joined(
            MODULE.runtime.vector_column(columns[0]), MODULE.runtime.matrix_column(columns[1])
        )

    one = MODULE.moments(h, u, v)
    other = MODULE.moments(turned(h.unsqueeze(-1)).squeeze(-1), turned(u), turned(v))
    for name in QUANTITIES:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("region", CASE.regions)
def test_bounds_are_the_eigenvalues_to_fifty_digits(region):
    """Certified from outside, and close enough to be of use, whatever the condition."""
    h, *_ = points(CASE, 5, region, seed=6, batch=3)
    found = MODULE.bounds(h)
    unit = np.eye(5)
    for b, row in enumerate(h):

        def information(direction, row=row):
            zero = [0.0] * 5
            return highprecision.moments(NAME, row.tolist(), direction.tolist(), zero)["fisher"]

        with mp.workdps(50):
            matrix = mp.matrix(5, 5)
            for i, j in itertools.product(range(5), range(5)):
                pair = information(unit[i] + unit[j]) - information(unit[i] - unit[j])
                matrix[i, j] = pair / 4
            eigenvalues, vectors = mp.eigsy(matrix)
        at_largest = max(
            highprecision.moments(NAME, row.tolist(), list(vectors[:, n]), [0.0] * 5)[
                "variance_score_squared"
            ]
            for n in range(5)
        )
        low, high = min(eigenvalues), max(eigenvalues)
        assert 0.999 * low <= float(found.fisher_min[b]) <= low
        assert high <= float(found.fisher_max[b]) <= 1.001 * high
        assert float(found.quartic_min[b]) <= 2 * low**2
        assert at_largest * (1 - 1e-9) <= float(found.quartic_max[b]) <= 14.02 * high**2


def test_the_quartic_bounds_can_be_reached():
    """κ₄ is 12 I² for a rank-one A alone, and zero for c alone."""
    h = torch.tensor([0.0, 0.0, -0.5, 0.0, -0.5], dtype=torch.float64)
    u = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).double()
    got = MODULE.moments(h, u)
    ratio = got.variance_score_squared / got.fisher**2
    torch.testing.assert_close(ratio, torch.tensor([14.0, 2.0], dtype=torch.float64))


# --- what is refused ----------------------------------------------------------------------


def test_a_point_outside_the_domain_is_named():
    h, u, _ = points(CASE, 5, "normal", batch=6)
    h = h.reshape(2, 3, 5).clone()
    h[1, 2, 2:] = torch.tensor([-1.0, 2.0, -1.0])
    with pytest.raises(DomainError, match=r"smallest eigenvalue -1 at index \[1, 2\]"):
        MODULE.moments(h, u.reshape(2, 3, 5, 3))
    with pytest.raises(DomainError, match="mean_cholesky"):
        MODULE.mean(-h[0, 0])
    assert bool(vmap(vmap(MODULE.log_partition))(h)[1, 2].isnan())
    assert bool(vmap(vmap(MODULE.log_partition))(h)[0].isfinite().all())


@pytest.mark.parametrize("outputs", [6, 7, 8, 10])
def test_a_width_between_two_sizes_is_refused(outputs):
    with pytest.raises(ShapeError, match=rf"D\(D\+1\)/2 .* got {outputs}"):
        MODULE.mean(torch.zeros(outputs))
    with pytest.raises(ShapeError, match=f"got {outputs}"):
        MODULE.from_mean_cholesky(torch.zeros(outputs))


def test_too_few_outputs_are_refused():
    with pytest.raises(FimsymError, match="at least 2"):
        MODULE.mean(torch.zeros(1))


# --- link ---------------------------------------------------------------------------------


def natural(o):
    """Return h of outputs [output], by inverting the covariance."""
    size = (int(np.sqrt(9 + 8 * o.shape[-1])) - 3) // 2
    row, column = torch.tril_indices(size, size)
    entries = torch.where(row == column, o[size:].exp(), o[size:])
    place = torch.zeros(size, size, dtype=torch.long)
    place[row, column] = torch.arange(len(row))
    factor = entries[place].tril()
    precision = torch.linalg.inv(factor @ factor.T)
    return torch.cat([precision @ o[:size], -precision[row, column] / 2])


def outputs_and_derivatives(outputs, batch=4, params=3):
    generator = torch.Generator().manual_seed(outputs)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((batch, outputs), (batch, outputs, params), (batch, outputs, params))
    )


@pytest.mark.parametrize("outputs", SIZES.values())
def test_the_link_and_its_derivatives(outputs):
    o, first, second = outputs_and_derivatives(outputs)
    h, u, v = MODULE.from_mean_cholesky(o, first, second)
    step = 1e-3
    for b, k in itertools.product(range(len(o)), range(first.shape[-1])):

        def path(t, b=b, k=k):
            return natural(o[b] + t * first[b, :, k] + t**2 / 2 * second[b, :, k])

        zero = torch.zeros((), dtype=torch.float64)
        slope = torch.func.jacrev(path)
        size = {"rtol": 1e-9, "atol": 1e-9 * float(v[b, :, k].abs().max())}
        torch.testing.assert_close(h[b], path(zero), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(u[b, :, k], slope(zero), **size)
        torch.testing.assert_close(v[b, :, k], torch.func.jacrev(slope)(zero), **size)
        difference = (path(step) - path(-step)) / (2 * step)
        assert (difference - u[b, :, k]).abs().max() <= 1e-3 * u[b, :, k].abs().max() + 1e-3


def test_the_link_alone_and_in_half():
    o, first, second = outputs_and_derivatives(9)
    assert torch.equal(MODULE.from_mean_cholesky(o)[0], MODULE.from_mean_cholesky(o, first)[0])
    both = MODULE.from_mean_cholesky(o, first, second)
    assert torch.equal(MODULE.from_mean_cholesky(o, first)[1], both[1])
    assert MODULE.LINKS["mean_cholesky"] is MODULE.from_mean_cholesky
    with pytest.raises(ShapeError, match="first derivatives"):
        MODULE.from_mean_cholesky(o, None, second)


# --- torch --------------------------------------------------------------------------------


def test_link_and_bounds_under_transforms():
    o, first, second = outputs_and_derivatives(9)
    plain = MODULE.from_mean_cholesky(o, first, second)
    mapped = vmap(MODULE.from_mean_cholesky)(o, first, second)
    compiled = torch.compile(MODULE.from_mean_cholesky, backend="aot_eager", fullgraph=True)
    for one, two, three in zip(plain, mapped, compiled(o, first, second), strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)
    bounds = torch.compile(MODULE.bounds, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(bounds(plain[0]).fisher_max, MODULE.bounds(plain[0]).fisher_max)
    meta = MODULE.from_mean_cholesky(*(x.to("meta") for x in (o, first, second)))
    assert [x.shape for x in meta] == [x.shape for x in plain]
    assert MODULE.bounds(meta[0]).quartic_max.shape == (4,)


def test_link_under_autograd():
    o, first, second = (x.requires_grad_() for x in outputs_and_derivatives(5, 2, 2))
    assert torch.autograd.gradcheck(MODULE.from_mean_cholesky, (o, first, second))


def test_any_batch_shape_and_dtype():
    h, u, v = points(CASE, 9, "normal", batch=12)
    flat = MODULE.moments(h, u, v)
    deep = MODULE.moments(*(x.reshape(3, 4, *x.shape[1:]) for x in (h, u, v)))
    torch.testing.assert_close(deep.covariance.reshape(12, 3), flat.covariance)
    single = MODULE.moments(h.float(), u.float(), v.float())
    assert single.fisher.dtype == torch.float32
    assert MODULE.mean(h.float()).dtype == torch.float32
    assert MODULE.moments(h[0], u[0]).covariance is None
    assert MODULE.moments(h[:0], u[:0], v[:0]).fisher.shape == (0, 3)


def test_every_function_equals_moments():
    h, u, v = points(CASE, 9, "normal", seed=9)
    got = MODULE.moments(h, u, v)
    for name, arguments in {
        "fisher": (h, u),
        "variance_score_squared": (h, u),
        "variance_negative_hessian": (h, v),
        "covariance": (h, u, v),
    }.items():
        assert torch.equal(getattr(MODULE, name)(*arguments), getattr(got, name)), name
