"""Gaussian vector with unknown mean and full covariance.

h holds Λμ, then −Λ/2 packed by rows of its lower triangle, where Λ is the precision
matrix. An entry beside the diagonal stands for both of its places, so that its
sufficient statistic is 2 y_a y_b.
"""

from fimsym.families.spec import Density, Family, Link, Sampler

multivariate_gaussian = Family(
    name="multivariate_gaussian",
    title="Gaussian vector with unknown mean and covariance",
    log_partition="-dot(h1, solve(H2, h1)) / 4 - logdet(-2 * H2) / 2",
    structure="matrix",
    natural=("h1", "H2"),
    sufficient_statistics=("y", "y y^T"),
    axis="D",
    minimum_outputs=1,
    domain=("-H2 positive definite",),
    density=Density(base_measure="(2 * pi)**(-D / 2)", support="vector"),
    sampler=Sampler(
        "MultivariateNormal",
        {"loc": "-solve(H2, h1) / 2", "precision_matrix": "-2 * H2"},
    ),
    links=(
        Link(
            "mean_cholesky",
            ("mean", "cholesky"),
            (
                "solve(cholesky * transpose(cholesky), mean)",
                "inverse(cholesky * transpose(cholesky)) / -2",
            ),
        ),
    ),
)
