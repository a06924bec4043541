# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # The categorical: C classes, C a symbol
#
# The log-partition of C logits is $F(h) = \log \sum_i e^{h_i}$. Its cumulants along u and v
# are polynomials in the raw moments $\sum_i p_i u_i^a v_i^b$.

# %%
import sympy as sp

import fimsym
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.normal import normal
from fimsym.derivation.symbols import h, u

spec = fimsym.family("categorical")
cumulant(spec, 4, 0)

# %% [markdown]
# They do not change when a constant is added to u. Centred, $V_1$ is a sum of squares.

# %%
derivation = fimsym.derive("categorical")
derivation

# %%
p, i = sp.IndexedBase("p", real=True), sp.Symbol("i", integer=True, positive=True)
ones = cumulant(spec, 4, 0).xreplace({u[i]: 1})
assert normal(ones) == 0

# %% [markdown]
# **Two classes.** $V_1 = p q (p-q)^2 (u_1-u_2)^4$: zero where the classes are equally likely,
# since then both labels give the same squared score.

# %%
two = derivation.explicit("variance_score_squared", 2)
assert two.subs({h[1]: 0, h[2]: 0}).simplify() == 0
at = {h[1]: sp.log(3), h[2]: 0, u[1]: 1, u[2]: 0}
assert two.subs(at) == sp.Rational(3, 4) * sp.Rational(1, 4) * sp.Rational(1, 2) ** 2

# %% [markdown]
# **The last layer.** For a logit's own bias u is a unit vector, and $V_1 = p(1-p)(1-2p)^2$.

# %%
quarter = {h[1]: 0, h[2]: sp.log(3) - sp.log(2), h[3]: sp.log(3) - sp.log(2)}
bias = derivation.explicit("variance_score_squared", 3).subs({u[1]: 1, u[2]: 0, u[3]: 0})
x = sp.Rational(1, 4)
assert sp.simplify(bias.subs(quarter)) == x * (1 - x) * (1 - 2 * x) ** 2

# %% [markdown]
# Every step above is one of the proofs that `derive` runs before it returns.

# %%
assert all(proof.residual == 0 for proof in derivation.proofs)
