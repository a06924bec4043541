"""m independent yes-or-no outputs (multi-label classification); h is the log-odds."""

from fimsym.families.spec import Density, Family, Link, Sampler, Theorem

bernoulli = Family(
    name="bernoulli",
    title="Bernoulli, one per label",
    log_partition="log(1 + exp(h))",
    density=Density(base_measure="1", support="counts", largest="1"),
    sampler=Sampler("Bernoulli", {"logits": "h"}),
    theorems=(
        Theorem(
            "variance_score_squared",
            "exp(h1) * (1 - exp(h1))**2 * u1**4 / (1 + exp(h1))**4",
            outputs=1,
        ),
    ),
    links=(
        Link("log_odds", ("log_odds",), ("log_odds",)),
        Link("logits", ("log_odds",), ("log_odds",)),
        Link("mean", ("mean",), ("log(mean) - log(1 - mean)",), ("0 < mean < 1",)),
    ),
)
