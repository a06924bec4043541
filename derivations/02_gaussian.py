# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The Gaussian: the same relative error everywhere
#
# Regression with squared error is maximum likelihood under a Gaussian with known standard
# deviation. Its log-partition is a parabola, and that one fact settles everything: the
# squared score has a relative standard deviation of $\sqrt 2$ for every parameter of
# every network, at every input, and the bounds of the paper are equalities.

# %%
import dataclasses
import inspect

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

# %%
import fimsym
from fimsym.derivation.cumulants import cumulant, directional
from fimsym.derivation.moments import central_moment_of_one
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import constants, index, labels, total, u, v
from fimsym.laws import Law
from fimsym.report import plots
from fimsym.validation.montecarlo import Derivatives, estimators

# %% [markdown]
# ## The law
#
# Targets $y_1, \dots, y_m$ are independent, $y_i \sim N(\mu_i, \sigma^2)$ with $\sigma$
# known. Written as an exponential family, $t(y) = y$, the natural parameter is
# $h = \mu/\sigma^2$, and
#
# $$F(h) = \frac{\sigma^2}{2} \lVert h \rVert^2, \qquad
# \pi(y) = \frac{e^{-y^2/2\sigma^2}}{\sqrt{2\pi\sigma^2}} .$$
#
# That is what the specification holds, as text:

# %%
spec = fimsym.family("gaussian")
spec.log_partition, spec.density.base_measure

# %% [markdown]
# **Theorem.** For every number of outputs $m$, with $u = \partial h/\partial\theta$ and
# $v = \partial^2 h/\partial\theta^2$, one label gives
#
# $$
# \begin{aligned}
# \mathcal I &= \sigma^2 \lVert u\rVert^2, & V_1 &= 2\,\mathcal I^2, \\
# V_2 &= \sigma^2 \lVert v\rVert^2, &
# \operatorname{Cov}(\hat{\mathcal I}_1, \hat{\mathcal I}_2) &= 0 .
# \end{aligned}
# $$
#
# The sums run over a symbol's number of outputs, here and in everything below.

# %%
sigma = constants(spec)["sigma"]
fisher = sigma**2 * total(spec, u[index] ** 2)
theorem = {
    "fisher": fisher,
    "variance_score_squared": 2 * fisher**2,
    "variance_negative_hessian": sigma**2 * total(spec, v[index] ** 2),
    "covariance": sp.Integer(0),
}
theorem["variance_score_squared"]

# %% [markdown]
# ## From the log-partition
#
# Along two directions the log-partition stays a polynomial of degree two:

# %%
directional(spec)

# %% [markdown]
# So its second derivatives are constants, and every cumulant beyond the second vanishes.
# With $V_1 = \kappa_{40} + 2\kappa_{20}^2$ and $\operatorname{Cov} = -\kappa_{21}$
# nothing is left but $2\kappa_{20}^2$ and zero.

# %%
assert [cumulant(spec, a, b) for a, b in ((3, 0), (4, 0), (2, 1))] == [0, 0, 0]
cumulant(spec, 2, 0)

# %%
derivation = fimsym.derive(spec)
derivation

# %%
for name, formula in theorem.items():
    derivation.prove(getattr(derivation, name), formula, name)

# %% [markdown]
# Change a line of the theorem and the verdict changes. A relative variance of 3, say:

# %%
try:
    derivation.prove(
        derivation.variance_score_squared, 3 * derivation.fisher**2, "V₁ = 3 I²"
    )
except fimsym.DerivationError as refusal:
    print(str(refusal).replace(": ", ":\n").replace(". ", ".\n"))

# %% [markdown]
# ## From the density
#
# The second route never looks at $F$. SymPy integrates $(y-\eta)^k$ against the density
# of one target, which gives the moments $\sigma^2, 0, 3\sigma^4$ for $k = 2, 3, 4$:

# %%
[central_moment_of_one(spec, (0,) * k) for k in (2, 3, 4)]

# %% [markdown]
# For several targets, independence combines them (Isserlis' rule: the tensor $K_{abcd}$
# is $\sigma^4$ for each of the three ways to pair equal indices), and
# $\mathbb{E}\,s^4 = 3\,\mathcal I^2$ whatever the direction $u$.

# %%
tensors = derivation.tensors(2)
assert tensors.fourth[0, 0, 0, 0] == 3 * sigma**4
assert tensors.fourth[0, 0, 1, 1] == sigma**4
assert tensors.fourth[0, 0, 0, 1] == 0
derivation.prove(derivation.central_moments[4, 0], 3 * fisher**2, "E s⁴ = 3 I²").residual

# %% [markdown]
# A wrong factor in the log-partition is seen where the routes meet:

# %%
wrong = dataclasses.replace(spec, log_partition="sigma**2 * h**2")
try:
    fimsym.derive(wrong)
except fimsym.FimsymError as refusal:
    print(str(refusal).replace(": ", ":\n").replace(". ", ".\n"))

# %% [markdown]
# ## What it means for an estimate
#
# A mean of $N$ labels has variance $V_1/N$. Relative to $\mathcal I^2$ neither the
# network nor the input is left:

# %%
relative = sp.simplify(
    derivation.of_mean("variance_score_squared") / derivation.fisher**2
)
assert relative == 2 / labels
relative

# %% [markdown]
# For a relative standard error of 10% that takes $N = 2/0.1^2 = 200$ labels for every
# input; of 1%, 20,000. The negative Hessian is exact where $v = 0$: in every layer that
# is followed by nothing nonlinear, and in every layer of a ReLU network.

# %%
error = sp.Symbol("epsilon", positive=True)
(needed,) = sp.solve(sp.Eq(relative, error**2), labels)
assert [needed.subs(error, 1 / sp.Integer(n)) for n in (10, 100)] == [200, 20_000]
needed

# %% [markdown]
# ## Theorem 4.1 with equality
#
# The core Fisher information is $\sigma^2$ times the identity. So the quadratic form
# takes the same value on all unit vectors, and so does the quartic form
# $M = K - \mathcal I\otimes\mathcal I$: lower and upper bounds coincide with the values.

# %%
norm = total(spec, u[index] ** 2)
for side in ("min", "max"):
    derivation.prove(derivation.fisher, derivation.bounds[f"fisher_{side}"] * norm)
    quartic = derivation.bounds[f"quartic_{side}"]
    derivation.prove(derivation.variance_score_squared, quartic * norm**2)
derivation.bounds

# %% [markdown]
# ## In numbers
#
# $\hat{\mathcal I}_1^2$ is a polynomial of degree four in $y$, so a Gauss–Hermite rule of
# five nodes per target integrates it exactly. Derivatives of $\log p$ come from torch,
# labels are the nodes.

# %%
torch.manual_seed(0)
h, scale = torch.randn(2, dtype=torch.float64), 0.7
at = Derivatives(
    h, *torch.randn(2, 2, 3, dtype=torch.float64)
)  # u and v of three parameters
model = Law(spec, {"sigma": scale})
nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(5))
labels_at = scale**2 * h + scale * torch.cartesian_prod(nodes, nodes)
weight = torch.cartesian_prod(weights, weights).prod(-1) / (2 * np.pi)
first, second = estimators(model, at, labels_at.unsqueeze(1))  # [label, param]

# %%
moments = fimsym.evaluator(spec).moments(h, at.u, at.v, sigma=scale)
about = [values - moments.fisher for values in (first, second)]
torch.testing.assert_close(weight @ about[0], torch.zeros(3, dtype=torch.float64))
torch.testing.assert_close(weight @ about[0] ** 2, moments.variance_score_squared)
torch.testing.assert_close(weight @ about[1] ** 2, moments.variance_negative_hessian)
torch.testing.assert_close(weight @ (about[0] * about[1]), moments.covariance)
torch.testing.assert_close(
    moments.variance_score_squared / moments.fisher**2, 2 + 0 * about[0][0]
)

# %% [markdown]
# ## The picture
#
# Forty parameters with directions $u$ of every size, in a regression with three outputs.
# Each line is a running mean of $\hat{\mathcal I}_1$ divided by the parameter's own
# $\mathcal I$; the band is $1 \pm 2\sqrt{2/N}$. One band fits all, and it is wide.

# %%
torch.manual_seed(1)
h, size = (
    torch.randn(3, dtype=torch.float64),
    torch.logspace(-3, 3, 40, dtype=torch.float64),
)
many = Derivatives(h, torch.randn(3, 40, dtype=torch.float64) * size, torch.zeros(3, 40))
drawn = Law(spec, {}).given(h).sample((2000, 40))
squared, _ = estimators(Law(spec, {}), many, drawn)
count = torch.arange(1, 2001, dtype=torch.float64)
running = squared.cumsum(0) / count[:, None] / fimsym.evaluator(spec).fisher(h, many.u)

# %%
plt.style.use(plots.STYLE)
figure, axes = plt.subplots(layout="constrained")
axes.plot(count, running, color=plots.COLORS[5], linewidth=0.6, alpha=0.7)
axes.plot(
    [], [], color=plots.COLORS[5], label=r"mean of $\hat I_1$ over $I$, 40 parameters"
)
band = 2 * torch.sqrt(2 / count)
axes.plot(count, 1 + band, color=plots.COLORS[1], label=r"$1 \pm 2\sqrt{2/N}$")
axes.plot(count, 1 - band, color=plots.COLORS[1])
axes.axvline(200, ymax=0.7, color="black", linewidth=0.8, linestyle=":")
axes.text(220, 0.2, "10% standard error")
axes.set(
    xscale="log", ylim=(0, 3), xlabel="labels N", ylabel="estimate / Fisher information"
)
_ = axes.legend(loc="upper right")

# %%
inside = ((running - 1).abs() <= band[:, None])[99:].double().mean()
assert 0.9 < inside < 0.99  # two standard errors hold 95% of a normal law
float(inside)

# %% [markdown]
# ## The code that is generated
#
# The theorem is the expression behind the torch module, for every quantity.

# %%
print(inspect.getsource(fimsym.evaluator(spec).variance_score_squared))

# %%
for name, formula in theorem.items():
    derivation.prove(inlined(derivation.program, name), formula, name)
source = fimsym.generate(spec)
assert source == inspect.getsource(fimsym.evaluator(spec))
assert "variance_score_squared = 2 * fisher.square()" in source
assert all(proof.residual == 0 for proof in derivation.proofs)
