"""Generated code: fresh, reproducible, and every printing rule executed."""

import ast
import dataclasses
import hashlib
import math
import os
import re
import subprocess
import sys

import pytest
import sympy as sp
import torch

import fimsym
from fimsym import codegen, runtime, special
from fimsym.codegen import module, passes
from fimsym.codegen.atoms import Log1mExp, LogSumExp, Softmax, stabilise
from fimsym.codegen.printer import FUNCTIONS, NODES, TorchPrinter
from fimsym.derivation import accurate, stable
from fimsym.derivation.accurate import Lead, LogProbability, Rest, Weights
from fimsym.derivation.functions import (
    Expm1,
    Log1p,
    LogBessel,
    Logistic,
    PolygammaDifference,
    PolygammaRemainder,
    RootLogistic,
    Softplus,
    SumOfProducts,
    TanhHalf,
)
from fimsym.derivation.symbols import (
    AxisMax,
    AxisMin,
    Cosine,
    LargestPair,
    Norm,
    Others,
    Pairs,
    RoundedUp,
    SmallestPair,
    h,
    index,
    second,
    top,
    total,
    u,
)
from fimsym.errors import DerivationError
from fimsym.families import families, family

H = torch.tensor([0.3, -1.2, 2.0, 0.9], dtype=torch.float64).unsqueeze(-1)
P = torch.softmax(H, dim=-2)
U = torch.tensor([[1.0, 2.0], [0.5, -1.0], [0.0, 3.0], [-2.0, 0.1]], dtype=torch.float64)
X = h[index]
R = sp.Symbol("row")
A = sp.Symbol("a", positive=True)
SPEC = family("categorical")

ROWS = {
    "Symbol": (A, torch.tensor(1.5)),
    "Indexed": (X, H),
    "Integer": (sp.Integer(3) * X, 3 * H),
    "Rational": (sp.Rational(2, 3) * X, 2 / 3 * H),
    "Half": (X / 2, H / 2),
    "One": (X + 1, H + 1),
    "Zero": (sp.Integer(0) + sp.Mul(0, X, evaluate=False), 0 * H),
    "NegativeOne": (-X, -H),
    "Float": (sp.Float(0.25) * X, 0.25 * H),
    "Pi": (sp.pi * X, math.pi * H),
    "Exp1": (sp.E * X, math.e * H),
    "Add": (X - A, H - 1.5),
    "Mul": (A * X * X, 1.5 * H * H),
    "Pow": (A ** sp.Rational(1, 2) * (X + 3) ** -1 + X**3, 1.5**0.5 / (H + 3) + H**3),
    "Sum": (total(SPEC, X**2 + A), (H**2 + 1.5).sum(-2, keepdim=True)),
    "Max": (sp.Max(0, X), H.clamp(min=0)),
    "Min": (sp.Min(A, X, 2 * X, 1), torch.minimum(torch.minimum(H, 2 * H), torch.tensor(1.0))),
    "exp": (sp.exp(X), H.exp()),
    "log": (sp.log(X + 3), (H + 3).log()),
    "LogSumExp": (LogSumExp(X), H.logsumexp(-2, keepdim=True)),
    "Softmax": (Softmax(X), P),
    "AxisMax": (AxisMax(X), H.amax(-2, keepdim=True)),
    "AxisMin": (AxisMin(X), H.amin(-2, keepdim=True)),
    "Others": (Others(sp.exp(X)), H.exp().sum(-2, keepdim=True) - H.exp()),
    "RoundedUp": (RoundedUp(X, X**2), H),
    "sin": (sp.sin(X), H.sin()),
    "cos": (sp.cos(X), H.cos()),
    "Logistic": (Logistic(X), H.sigmoid()),
    "RootLogistic": (RootLogistic(X), H.sigmoid().sqrt()),
    "Expm1": (Expm1(X), H.expm1()),
    "Log1p": (Log1p(X + 3), (H + 3).log1p()),
    "Softplus": (Softplus(X), (1 + H.exp()).log()),
    "TanhHalf": (TanhHalf(X), (H / 2).tanh()),
    "loggamma": (sp.loggamma(X + 3), (H + 3).lgamma()),
    "polygamma": (sp.polygamma(2, X + 3), torch.polygamma(2, H + 3)),
    "PolygammaRemainder": (
        PolygammaRemainder(2, X + 3),
        torch.polygamma(2, H + 3) + (H + 3) ** -2,
    ),
    "LogBessel": (
        LogBessel(0, 1, X + 3),
        torch.special.i1e(H + 3) / torch.special.i0e(H + 3),
    ),
    "Norm": (Norm(X, A), (H**2 + 1.5**2).sqrt()),
    "Log1mExp": (Log1mExp(-sp.exp(X)), (1 - (-H.exp()).exp()).log()),
    "PolygammaDifference": (
        PolygammaDifference(0, X + 3, A),
        (H + 3).digamma() - (H + 4.5).digamma(),
    ),
    "Cosine": (Cosine(X, X + 1.2, 1), torch.where(H == -1.2, 1.0, H / (H + 1.2))),
    "SumOfProducts": (SumOfProducts(X, A, X, X), 1.5 * H + H**2),
    "LargestPair": (LargestPair(X), torch.tensor([[1.8]], dtype=H.dtype)),
    "SmallestPair": (SmallestPair(X), torch.tensor([[-0.36]], dtype=H.dtype)),
    "Infinity": (sp.oo + sp.Integer(0), torch.tensor(math.inf)),
    "Rest": (Rest(X), torch.tensor([0.3, -1.2, 0.0, 0.0], dtype=H.dtype).unsqueeze(-1)),
    "Weights": (Weights(X, sp.exp(X), 2), 2 * H.exp()),
    "LogProbability": (LogProbability(X), P.log()),
    "Lead": (Lead(h[top], h[second], A), torch.tensor([[1.5 * (1 - math.exp(-1.1))]])),
    "Pairs": (Pairs(sp.exp(X)), (H.exp().sum().square() - H.exp().square().sum()).view(1, 1) / 2),
}


def run(code):
    first, second_largest = runtime.two_largest(H)
    names = {
        "torch": torch, "runtime": runtime, "special": special, "h": H,
        "a": torch.tensor(1.5, dtype=H.dtype), "top": first, "second": second_largest,
        "dtype": H.dtype, "u": U, "row": U[:1],
    }  # fmt: skip
    value = eval(code, names)
    return value.near.mT if isinstance(value, runtime.Weights) else value


def test_every_row_of_the_printer_has_an_executed_example():
    assert set(ROWS) == NODES | set(FUNCTIONS)


@pytest.mark.parametrize("row", ROWS)
def test_printed_code_computes_the_expression(row):
    expression, expected = ROWS[row]
    code = TorchPrinter({h: "h"}).code(expression)
    torch.testing.assert_close(
        torch.as_tensor(run(code), dtype=H.dtype).expand(expected.shape), expected.to(H.dtype)
    )


def test_indexing_at_a_position():
    printer = TorchPrinter({h: "h"})
    assert float(run(printer.code(h[top]))) == 2.0
    assert float(run(printer.code(h[second]))) == 0.9


@pytest.mark.parametrize(
    ("expression", "code"),
    {
        X - u[index] ** 2: "torch.addcmul(h, u, u, value=-1)",
        X * u[index] + 2 * X * u[index] ** 2: "torch.addcmul(2*h * u.square(), h, u)",
        sp.exp(u[index]) + 3 * u[index]: "torch.add(torch.exp(u), u, alpha=3)",
        u[index] / X - X: "u / h - h",
        3 * X * u[index] * sp.exp(u[index]) / A: "3*h * (u * torch.exp(u)) / a",
        u[index] ** 4: "u.square().square()",
        total(SPEC, X * u[index] ** 2): "runtime.weighted_sum(h, u.square())",
        total(SPEC, u[index]): "runtime.total(u)",
        1 + X * u[index]: "h * u + 1",
        R - X * u[index]: "torch.addcmul(row, h, u, value=-1)",
        -R * u[index] / 2: "-0.5 * (row * u)",
    }.items(),
    ids=str,
)
def test_sums_and_products_with_u_take_few_passes(expression, code):
    names = {h: "h", u: "u", R: "row"}
    printed = TorchPrinter(names, {u, R}).code(expression)
    assert printed == code
    plain = TorchPrinter(names).code(expression)
    torch.testing.assert_close(run(printed), run(plain))


@pytest.mark.parametrize("name", sorted(set(families()) - {"multivariate_gaussian"}))
def test_arranged_lines_compute_the_same(name):
    spec = family(name)
    program = passes.arranged(spec, accurate.program(spec))
    raw, reduction = stable.in_cumulants(spec), stable.reduction(spec)
    stable.check_program(program, raw, reduction)
    place = max(n for n, line in enumerate(program) if line.expression.has(sp.Sum))
    wrong = dataclasses.replace(program[place], expression=2 * program[place].expression)
    with pytest.raises(DerivationError, match="stable form"):
        stable.check_program((*program[:place], wrong, *program[place + 1 :]), raw, reduction)


@pytest.mark.parametrize(
    "expression",
    [sp.tan(X), sp.gamma(X), sp.Piecewise((X, X > 0), (0, True)), sp.I * X, sp.zeta(X)],
    ids=str,
)
def test_unknown_nodes_are_refused_by_name(expression):
    with pytest.raises(DerivationError, match=r"cannot print .* in "):
        TorchPrinter({h: "h"}).code(expression)


def test_stable_atoms_are_recognised():
    partition = total(SPEC, sp.exp(X))
    assert stabilise(sp.log(partition)) == LogSumExp(X)
    assert stabilise(3 * sp.exp(X) / partition) == 3 * Softmax(X)
    assert stabilise(sp.exp(X) / total(SPEC, sp.exp(2 * X))).has(Softmax) is False


@pytest.mark.parametrize("name", families())
def test_checked_in_code_is_fresh(name):
    present = (module.GENERATED / f"{name}.py").read_text()
    assert present == fimsym.generate(name), "stale; run: make generate"


def test_staleness_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "families", lambda: ("categorical", "gaussian"))
    for name in module.families():
        source = (module.GENERATED / f"{name}.py").read_text()
        (tmp_path / f"{name}.py").write_text(source.replace("2 *", "3 *"))
    (tmp_path / "abandoned.py").write_text("x = 1\n")
    monkeypatch.setattr(module, "GENERATED", tmp_path)
    assert [name for name, _, _ in codegen.stale()] == [
        "abandoned.py", "categorical.py", "gaussian.py",
    ]  # fmt: skip
    assert codegen.regenerate() == ["abandoned.py", "categorical.py", "gaussian.py"]
    assert codegen.stale() == []
    assert not (tmp_path / "abandoned.py").exists()


@pytest.mark.parametrize("name", families())
def test_header_hashes(name):
    lines = (module.GENERATED / f"{name}.py").read_text().splitlines(keepends=True)
    head, body = "".join(lines[:5]), "".join(lines[5:])
    assert "Do not edit" in head
    assert f"fimsym generate {name}" in head
    assert sp.__version__ in head
    assert hashlib.sha256(body.encode()).hexdigest() in head
    assert not re.search(r"/(home|root|work|tmp)/|20\d\d-\d\d", head + body)


def test_generation_does_not_depend_on_the_hash_seed():
    code = "import fimsym, hashlib;" + ";".join(
        f"print(hashlib.sha256(fimsym.generate({name!r}).encode()).hexdigest())"
        for name in ("categorical", "gamma")
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "77")
    }  # fmt: skip
    assert len(outputs) == 1


def test_generated_names_are_meaningful():
    for name in families():
        tree = ast.parse((module.GENERATED / f"{name}.py").read_text())
        assigned = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        assert not [n for n in assigned if re.fullmatch(r"_?(tmp|x|t)\d+", n)]


def test_a_change_of_the_log_partition_changes_the_code():
    """Nothing is typed by hand: σ² → 4σ² in F, density and sampler reaches every function."""
    from fimsym.families import Density

    spec = dataclasses.replace(
        family("gaussian"),
        log_partition="4 * sigma**2 * h**2 / 2",
        density=Density("exp(-y**2 / (8 * sigma**2)) / sqrt(8 * pi * sigma**2)", "real"),
    )
    source = fimsym.generate(spec)
    assert "fisher = 4 * sigma**2 * runtime.total(u.square())" in source
    names: dict = {}
    exec(compile(source, "scaled", "exec"), names)
    column = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    got = names["moments"](torch.zeros(2, dtype=torch.float64), column, sigma=0.5)
    assert float(got.fisher) == 5.0
    assert float(got.variance_score_squared) == 50.0


def test_u_is_taken_as_an_indexed_base():
    assert TorchPrinter({h: "h", u: "u"}).code(u[index] ** 2) == "u**2"
