"""Inverse Gaussian with mean μ and shape λ; h = (−λ/2μ², −λ/2) for each target."""

from fimsym.families.spec import Density, Family, Link, Sampler

inverse_gaussian = Family(
    name="inverse_gaussian",
    title="inverse Gaussian",
    log_partition="-2 * sqrt(h1 * h2) - log(-2 * h2) / 2",
    natural=("h1", "h2"),
    sufficient_statistics=("y", "1 / y"),
    domain=("h1 < 0", "h2 < 0"),
    density=Density(base_measure="1 / sqrt(2 * pi * y**3)", support="positive"),
    sampler=Sampler("InverseGaussian", {"mean": "sqrt(h2 / h1)", "shape": "-2 * h2"}),
    links=(
        Link(
            "log_mean_log_shape",
            ("log_mean", "log_shape"),
            ("-exp(log_shape - 2 * log_mean) / 2", "-exp(log_shape) / 2"),
        ),
    ),
)
