"""Categorical over C classes; h are over-complete logits (h + c·1 is the same law)."""

from fimsym.families.spec import Density, Family, Link, Sampler, Theorem

categorical = Family(
    name="categorical",
    title="categorical over C classes",
    log_partition="log(sum(exp(h)))",
    structure="joint",
    sufficient_statistics=("one-hot of y",),
    axis="C",
    minimum_outputs=2,
    density=Density(base_measure="1", support="one_hot"),
    sampler=Sampler("Categorical", {"logits": "h"}),
    theorems=(
        Theorem(
            "variance_score_squared",
            "exp(h1) * exp(h2) * (exp(h1) - exp(h2))**2 * (u1 - u2)**4 / (exp(h1) + exp(h2))**4",
            outputs=2,
        ),
        Theorem(
            "fisher",
            "exp(h1) * exp(h2) * (u1 - u2)**2 / (exp(h1) + exp(h2))**2",
            outputs=2,
        ),
    ),
    links=(Link("logits", ("logit",), ("logit",)),),
)
