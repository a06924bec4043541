"""Failures before the r-th success, of probability 1 − e^h; m independent outputs."""

from fimsym.families.spec import Constant, Density, Family, Link, Sampler

negative_binomial = Family(
    name="negative_binomial",
    title="negative binomial counts",
    log_partition="-r * log(1 - exp(h))",
    domain=("h < 0",),
    constants=(Constant("r", "number of successes to wait for, the inverse dispersion"),),
    density=Density(base_measure="gamma(y + r) / (gamma(r) * gamma(y + 1))", support="counts"),
    sampler=Sampler("NegativeBinomial", {"total_count": "r", "logits": "h - log(-expm1(h))"}),
    links=(
        Link("log_mean", ("log_mean",), ("-softplus(log(r) - log_mean)",)),
        Link("log_odds", ("log_odds",), ("-softplus(log_odds)",)),
        Link("mean", ("mean",), ("-log1p(r / mean)",), ("mean > 0",)),
    ),
)
