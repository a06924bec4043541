"""Gamma with shape α and rate β, both unknown; h = (α − 1, −β) for each target."""

from fimsym.families.spec import Density, Family, Link, Sampler

gamma = Family(
    name="gamma",
    title="gamma with unknown shape and rate",
    log_partition="lgamma(h1 + 1) - (h1 + 1) * log(-h2)",
    natural=("h1", "h2"),
    sufficient_statistics=("log(y)", "y"),
    domain=("h1 > -1", "h2 < 0"),
    density=Density(base_measure="1", support="positive"),
    sampler=Sampler("Gamma", {"concentration": "h1 + 1", "rate": "-h2"}),
    links=(
        Link(
            "log_shape_log_rate",
            ("log_shape", "log_rate"),
            ("expm1(log_shape)", "-exp(log_rate)"),
        ),
        Link(
            "log_shape_log_mean",
            ("log_shape", "log_mean"),
            ("expm1(log_shape)", "-exp(log_shape - log_mean)"),
        ),
    ),
)
