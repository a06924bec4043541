"""Beta with both shapes unknown; h = (α, β) for each target, as a Dirichlet of two."""

from fimsym.families.spec import Density, Family, Link, Sampler

beta = Family(
    name="beta",
    title="beta with both shapes unknown",
    log_partition="lgamma(h1) + lgamma(h2) - lgamma(h1 + h2)",
    natural=("h1", "h2"),
    sufficient_statistics=("log(y)", "log(1 - y)"),
    domain=("h1 > 0", "h2 > 0"),
    density=Density(base_measure="1 / (y * (1 - y))", support="unit"),
    sampler=Sampler("Beta", {"concentration1": "h1", "concentration0": "h2"}),
    links=(
        Link(
            "log_concentration",
            ("log_alpha", "log_beta"),
            ("exp(log_alpha)", "exp(log_beta)"),
        ),
        Link(
            "mean_log_odds_log_precision",
            ("mean_log_odds", "log_precision"),
            (
                "exp(log_precision - softplus(-mean_log_odds))",
                "exp(log_precision - softplus(mean_log_odds))",
            ),
        ),
    ),
)
