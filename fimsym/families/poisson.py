"""Poisson counts; m independent outputs, h is the log of the rate."""

from fimsym.families.spec import Density, Family, Link, Sampler

poisson = Family(
    name="poisson",
    title="Poisson counts",
    log_partition="exp(h)",
    density=Density(base_measure="1 / gamma(y + 1)", support="counts"),
    sampler=Sampler("Poisson", {"rate": "exp(h)"}),
    links=(
        Link("log_rate", ("log_rate",), ("log_rate",)),
        Link("log_mean", ("log_rate",), ("log_rate",)),
        Link("mean", ("mean",), ("log(mean)",), ("mean > 0",)),
    ),
)
