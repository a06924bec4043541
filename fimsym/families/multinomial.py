"""Multinomial counts of n draws over C classes; h are over-complete logits."""

from fimsym.families.spec import Constant, Density, Family, Link, Sampler

multinomial = Family(
    name="multinomial",
    title="multinomial counts of n draws over C classes",
    log_partition="n * log(sum(exp(h)))",
    structure="joint",
    sufficient_statistics=("counts",),
    axis="C",
    minimum_outputs=2,
    constants=(Constant("n", "number of draws", integer=True),),
    density=Density(
        base_measure="exp(lgamma(n + 1) - sum(lgamma(y + 1)))", support="count_vectors", largest="n"
    ),
    sampler=Sampler("Multinomial", {"total_count": "n", "logits": "h"}),
    links=(Link("logits", ("logit",), ("logit",)),),
)
