"""Gaussian with unknown mean and variance (heteroscedastic regression); two per target."""

from fimsym.families.spec import Density, Family, Link, Sampler

gaussian_mean_variance = Family(
    name="gaussian_mean_variance",
    title="Gaussian with unknown mean and variance",
    log_partition="-h1**2 / (4 * h2) - log(-2 * h2) / 2",
    natural=("h1", "h2"),
    sufficient_statistics=("y", "y**2"),
    domain=("h2 < 0",),
    density=Density(base_measure="1 / sqrt(2 * pi)", support="real"),
    sampler=Sampler("Normal", {"loc": "-h1 / (2 * h2)", "scale": "sqrt(-1 / (2 * h2))"}),
    links=(
        Link(
            "mean_log_variance",
            ("mean", "log_variance"),
            ("mean * exp(-log_variance)", "-exp(-log_variance) / 2"),
        ),
        Link(
            "mean_log_scale",
            ("mean", "log_scale"),
            ("mean * exp(-2 * log_scale)", "-exp(-2 * log_scale) / 2"),
        ),
        Link(
            "mean_variance",
            ("mean", "variance"),
            ("mean / variance", "-1 / (2 * variance)"),
            ("variance > 0",),
        ),
    ),
)
