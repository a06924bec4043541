"""Exponential waiting times; m independent outputs, h is minus the rate."""

from fimsym.families.spec import Density, Family, Link, Sampler, Theorem

exponential = Family(
    name="exponential",
    title="exponential waiting times",
    log_partition="-log(-h)",
    domain=("h < 0",),
    density=Density(base_measure="1", support="positive"),
    sampler=Sampler("Exponential", {"rate": "-h"}),
    theorems=(Theorem("variance_score_squared", "8 * u1**4 / h1**4", outputs=1),),
    links=(
        Link("log_rate", ("log_rate",), ("-exp(log_rate)",)),
        Link("log_mean", ("log_mean",), ("-exp(-log_mean)",)),
        Link("rate", ("rate",), ("-rate",), ("rate > 0",)),
        Link("mean", ("mean",), ("-1 / mean",), ("mean > 0",)),
    ),
)
