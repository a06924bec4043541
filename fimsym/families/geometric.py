"""Failures before the first success, of probability 1 − e^h; m independent outputs."""

from fimsym.families.spec import Density, Family, Link, Sampler

geometric = Family(
    name="geometric",
    title="geometric counts of failures",
    log_partition="-log(1 - exp(h))",
    domain=("h < 0",),
    density=Density(base_measure="1", support="counts"),
    sampler=Sampler("Geometric", {"probs": "-expm1(h)"}),
    links=(
        Link("log_mean", ("log_mean",), ("-softplus(-log_mean)",)),
        Link("log_odds", ("log_odds",), ("-softplus(log_odds)",)),
        Link("mean", ("mean",), ("-log1p(1 / mean)",), ("mean > 0",)),
    ),
)
