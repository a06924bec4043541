"""Defects of the generated evaluators and of what they are made of."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.defects import Defect, Edit, one


def _evaluator(family: str, title: str, *changes: tuple[str, str]) -> Defect:
    edits = tuple(Edit(f"generated.{family}", old, new) for old, new in changes)
    return Defect(title, family, edits)


def _wrapped(family: str, title: str, change: str) -> Defect:
    """Change what the evaluator's `moments` returns: m is that, h, u and v are its arguments.

    Without v there is nothing to change in V₂ and the covariance.
    """
    second = change.startswith(("covariance", "variance_negative_hessian"))
    code = f"""

_right_moments = moments


def moments(h, u, v=None, **constants):
    import dataclasses

    m = _right_moments(h, u, v, **constants)
    return m if v is None and {second} else dataclasses.replace(m, {change})
"""
    return Defect(title, family, (Edit(f"generated.{family}", "", code),))


def evaluators() -> Iterator[Defect]:
    """Yield defects of the generated code."""
    yield _evaluator("gaussian", "σ² for σ", ("sigma**2", "sigma"))
    yield _wrapped("gaussian", "κ₄ + κ₂² for κ₄ + 2κ₂²", "variance_score_squared=m.fisher**2")
    yield _wrapped("gaussian", "K for M: E s⁴ for Var s²", "variance_score_squared=3 * m.fisher**2")
    yield _evaluator(
        "poisson",
        "a cumulant's coefficient off by one",
        ("(2 * torch.exp(h) + 1)", "(3 * torch.exp(h) + 1)"),
    )
    yield _evaluator(
        "poisson", "targets are not coupled", ("4 * runtime.pairs(", "0 * runtime.pairs(")
    )
    yield _wrapped("poisson", "sign of Cov", "covariance=-m.covariance")
    yield _wrapped("poisson", "u and v swapped", "covariance=_right_moments(h, v, u).covariance")
    yield _wrapped("exponential", "V₂ of u instead of v", "variance_negative_hessian=m.fisher")
    yield _evaluator("binomial", "n forgotten in V₁", ("2 * (n - 1) *", "2 *"))
    yield _evaluator("binomial", "n forgotten", ("n**0.5\n", "1.0\n"))
    yield _wrapped(
        "multinomial", "N forgotten: I of one of n trials", "fisher=m.fisher / constants['n']"
    )
    yield _evaluator(
        "bernoulli",
        "(p − q)² missing in V₁",
        (
            "spread = runtime.narrow(runtime.tanh_half(h), dtype)",
            "spread = runtime.narrow(torch.ones_like(h), dtype)",
        ),
    )
    yield _evaluator(
        "geometric", "p for 1 − p", ("torch.exp(0.5 * h)", "torch.sqrt(-torch.expm1(h))")
    )
    yield _evaluator("negative_binomial", "r² for r", ("r**0.5", "r"))
    yield _wrapped(
        "categorical",
        "missing centring: Σ p u² for Var u",
        "fisher=(torch.softmax(h, -1).unsqueeze(-1) * u**2).sum(-2)",
    )
    yield _wrapped(
        "categorical",
        "wrong class axis: probabilities in reversed order",
        "**vars(_right_moments(h.flip(-1), u, v))",
    )
    yield _wrapped(
        "categorical",
        "float32 accumulation",
        "**{k: x.double() for k, x in vars(_right_moments(h, u.float(), v.float())).items()}",
    )
    yield _evaluator(
        "gamma",
        "ψ₂ for ψ₁",
        (
            "second_cumulant_02 = special.polygamma_remainder(1, h1 + 1)",
            "second_cumulant_02 = -special.polygamma_remainder(2, h1 + 1)",
        ),
    )
    yield _evaluator(
        "beta",
        "ψ₁(α) for ψ₁(β)",
        (
            "polygamma_remainder_1_h2 = special.polygamma_remainder(1, h2)",
            "polygamma_remainder_1_h2 = special.polygamma_remainder(1, h1)",
        ),
    )
    yield _evaluator(
        "dirichlet", "ψ₁ of the sum missing", ("- polygamma_remainder_1_total * sum_u.square()", "")
    )
    yield _evaluator(
        "gaussian_mean_variance",
        "6 → 5 in a binomial expansion",
        ("6 * quartic_22", "5 * quartic_22"),
    )
    yield _evaluator(
        "multivariate_gaussian",
        "a trace's factor 2 missing",
        (
            "+ 2 * runtime.inner(curvature_u, curvature_u)",
            "+ runtime.inner(curvature_u, curvature_u)",
        ),
    )
    yield _evaluator(
        "inverse_gaussian",
        "power −3/2 for −5/2",
        ("0.75 * ((-h2) ** 0.5 / (-h1) ** 2.5)", "0.75 * ((-h2) ** 0.5 / (-h1) ** 1.5)"),
    )
    yield _evaluator(
        "von_mises",
        "cosine and sine swapped",
        ("cosine * u1, sine, u2)", "sine * u1, cosine, u2)"),
    )
    yield _evaluator(
        "poisson",
        "one function of several is wrong",
        (
            "torch.square(tail_u, out=reuse(tail_u))\n        )\n        return",
            "1.01 * torch.square(tail_u, out=reuse(tail_u))\n        )\n        return",
        ),
    )
    yield _wrapped("gaussian", "NaN", "fisher=m.fisher * float('nan')")
    yield one(
        "a bound of Theorem 4.1 too small",
        "poisson",
        "generated.poisson",
        "largest = deviation**2",
        "largest = 0.9 * deviation**2",
    )
    yield one(
        "a polygamma's factorial off by one",
        "gamma",
        "special.gamma",
        "math.factorial(n - 1) * (a * b * total)",
        "math.factorial(n) * (a * b * total)",
    )
    yield one(
        "coupling of targets counted twice",
        "gamma",
        "runtime.arithmetic",
        "return total(before * values[..., 1:, :])",
        "return 2 * total(before * values[..., 1:, :])",
    )


def files() -> Iterator[Defect]:
    """Yield generated files that are not what they should be."""
    yield Defect(
        "stale generated file: h is now half the log-rate",
        "poisson",
        (
            Edit(
                "families.poisson",
                'log_partition="exp(h)",',
                'log_partition="exp(2 * h)", sufficient_statistics=("2 * y",),',
            ),
            Edit("families.poisson", '{"rate": "exp(h)"}', '{"rate": "exp(2 * h)"}'),
        ),
    )
    yield one(
        "stale generated link: log μ became log μ²",
        "exponential",
        "families.exponential",
        '"-exp(-log_mean)"',
        '"-exp(-log_mean / 2)"',
    )
    yield Defect(
        "a generated file edited by hand, to the same effect",
        "poisson",
        (Edit("generated.poisson", "2 * torch.exp(h) + 1", "1 + 2 * torch.exp(h)"),),
        by_hand=True,
    )
