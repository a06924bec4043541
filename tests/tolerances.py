"""Every tolerance of the tests, with its reason."""

EVALUATOR = {
    # Rounding h ≈ 700 before exp costs 700 eps = 2e-13; special functions of parameters from
    # 1e-3 to 1e6, and sums of their differences, may take fifty times that.
    "float64": 1e-11,
    # h ≈ 87 before p underflows costs 87 eps = 1e-5, and V₁ squares it.
    "float32": 2e-5,
}
"""Relative error of an evaluator against forty-digit derivatives of F."""

ENUMERATION = 1e-9
"""Relative error of `analyze` against enumeration by autograd, float64: double backward
through a few layers loses up to six digits of sixteen; this leaves one to spare."""

POWER = 0.02
"""Relative error planted in an evaluator that validation must catch."""
