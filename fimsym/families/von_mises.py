"""Von Mises directions; h = κ(cos φ, sin φ) for each target."""

from fimsym.families.spec import Density, Family, Link, Sampler

von_mises = Family(
    name="von_mises",
    title="von Mises directions",
    log_partition="log_bessel_i0(sqrt(h1**2 + h2**2))",
    natural=("h1", "h2"),
    sufficient_statistics=("cos(y)", "sin(y)"),
    density=Density(base_measure="1 / (2 * pi)", support="angle"),
    sampler=Sampler("VonMises", {"loc": "atan2(h2, h1)", "concentration": "sqrt(h1**2 + h2**2)"}),
    links=(
        Link(
            "mean_direction_concentration",
            ("mean_direction", "concentration"),
            (
                "concentration * cos(mean_direction)",
                "concentration * sin(mean_direction)",
            ),
            ("concentration > 0",),
        ),
        Link(
            "mean_direction_log_concentration",
            ("mean_direction", "log_concentration"),
            (
                "exp(log_concentration) * cos(mean_direction)",
                "exp(log_concentration) * sin(mean_direction)",
            ),
        ),
    ),
)
