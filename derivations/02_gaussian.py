# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # The Gaussian: one label tells nothing about itself
#
# For outputs with known standard deviation σ the log-partition is quadratic,
# $F(h) = \sigma^2 \lVert h \rVert^2 / 2$. Differentiating it along $h + \varepsilon u + \delta v$
# gives every quantity there is: all cumulants beyond the second vanish.

# %%
import sympy as sp

import fimsym
from fimsym.derivation.cumulants import cumulant, directional
from fimsym.derivation.normal import normal

spec = fimsym.family("gaussian")
directional(spec)

# %%
derivation = fimsym.derive("gaussian")
derivation

# %% [markdown]
# The third and fourth cumulants are zero, and so is the covariance of the two estimators.

# %%
assert cumulant(spec, 3, 0) == 0
assert cumulant(spec, 4, 0) == 0
assert derivation.covariance == 0

# %% [markdown]
# **Theorem.** $V_1 = 2 \mathcal{I}^2$: the squared score of a Gaussian output has a relative
# standard deviation of $\sqrt 2$ for every parameter of every network.

# %%
assert normal(derivation.variance_score_squared - 2 * derivation.fisher**2) == 0

# %% [markdown]
# The second route starts from the density instead of F: $E[(y-\eta)^k]$ by integration.

# %%
sigma = sp.Symbol("sigma", positive=True)
given = derivation.tensors(2)
assert given.fourth[0, 0, 0, 0] == 3 * sigma**4
assert given.fourth[0, 0, 1, 1] == sigma**4

# %% [markdown]
# This is the expression that code is generated from.

# %%
source = fimsym.generate("gaussian")
assert "variance_score_squared = 2 * fisher**2" in source
assert all(proof.residual == 0 for proof in derivation.proofs)
