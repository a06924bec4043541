"""Dirichlet over probability vectors of K entries; h are the concentrations."""

from fimsym.families.spec import Density, Family, Link, Sampler

dirichlet = Family(
    name="dirichlet",
    title="Dirichlet over K proportions",
    log_partition="sum(lgamma(h)) - lgamma(sum(h))",
    structure="joint",
    sufficient_statistics=("log(y)",),
    axis="K",
    minimum_outputs=2,
    domain=("h > 0",),
    density=Density(base_measure="1 / y", support="simplex"),
    sampler=Sampler("Dirichlet", {"concentration": "h"}),
    links=(Link("log_concentration", ("log_concentration",), ("exp(log_concentration)",)),),
)
