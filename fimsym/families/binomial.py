"""Binomial counts of n trials; m independent outputs, h is the log-odds."""

from fimsym.families.spec import Constant, Density, Family, Link, Sampler

binomial = Family(
    name="binomial",
    title="binomial counts of n trials",
    log_partition="n * log(1 + exp(h))",
    constants=(Constant("n", "number of trials", integer=True),),
    density=Density(
        base_measure="gamma(n + 1) / (gamma(y + 1) * gamma(n - y + 1))",
        support="counts",
        largest="n",
    ),
    sampler=Sampler("Binomial", {"total_count": "n", "logits": "h"}),
    links=(
        Link("log_odds", ("log_odds",), ("log_odds",)),
        Link("logits", ("log_odds",), ("log_odds",)),
        Link("mean", ("mean",), ("log(mean) - log(n - mean)",), ("mean > 0",)),
    ),
)
