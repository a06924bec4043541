"""Every tolerance of the tests, with its reason."""

EVALUATOR = {
    # 32 to 45 eps of float64 at |h| ≤ 700 from rounding h − max h before exp.
    "float64": 1e-12,
    # The same rounding in float32: |h| ≤ 87 before p underflows, times 2^-24, twice.
    "float32": 1e-5,
}
"""Relative error of an evaluator against 50-digit derivatives of F."""

ENUMERATION = 1e-9
"""Relative error of `analyze` against enumeration by autograd, float64: double backward
through a few layers loses up to six digits of sixteen; this leaves one to spare."""

POWER = 0.02
"""Relative error planted in an evaluator that validation must catch."""
