"""Gaussian with known standard deviation σ; m independent outputs, h = μ/σ²."""

from fimsym.families.spec import Constant, Density, Family, Link, Sampler, Theorem

gaussian = Family(
    name="gaussian",
    title="Gaussian with known variance",
    log_partition="sigma**2 * h**2 / 2",
    constants=(Constant("sigma", "standard deviation of every output, in units of y"),),
    density=Density(
        base_measure="exp(-y**2 / (2 * sigma**2)) / sqrt(2 * pi * sigma**2)",
        support="real",
    ),
    sampler=Sampler("Normal", {"loc": "sigma**2 * h", "scale": "sigma"}),
    theorems=(Theorem("variance_score_squared", "2 * fisher**2"),),
    links=(Link("mean", ("mean",), ("mean / sigma**2",)),),
)
