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
# # Exponential families: one function prices both estimators
#
# The Fisher information of a network's parameter is the variance of its score. It is
# estimated from labels that are drawn from the network's own law, either by squaring the
# score or by taking the negative second derivative. Both are right on average; what
# differs is how far a single draw strays. This chapter shows that the mean, both
# variances and the covariance are derivatives of *one* scalar function: the
# log-partition, walked along two directions.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation import symbols
from fimsym.derivation.cumulants import cumulant, directional
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import delta, epsilon
from fimsym.laws.law import Law
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import Derivatives, estimators

# %% [markdown]
# ## The setting
#
# An output law with natural parameter $h$, sufficient statistic $t$ and log-partition $F$
# is
#
# $$
# p(y \mid x) = \pi(y)\,\exp\bigl(\langle t(y), h\rangle - F(h)\bigr),
# $$
#
# with mean $\eta = \nabla F(h) = \mathbb{E}[t]$ and core Fisher information
# $\mathcal{I}(h) = \nabla^2 F(h) = \operatorname{Cov}(t)$.

# %% [markdown]
# The network supplies $h = h_\theta(x)$. A single parameter $\theta$ enters only through
# $u = \partial h/\partial\theta$ and $v = \partial^2 h/\partial\theta^2$. Let the
# parameter move by $\varepsilon$, so that $h$ moves by
# $\varepsilon u + \varepsilon^2 v / 2$; to second order the log-likelihood follows from
# $\eta$ and $\mathcal{I}$ alone. (One output, to save indices.)

# %%
t, u, v, eta, core = sp.symbols("t u v eta I", real=True)
move = epsilon * u + epsilon**2 * v / 2
log_likelihood = t * move - (eta * move + core * move**2 / 2)
score = sp.diff(log_likelihood, epsilon).subs(epsilon, 0)
sp.factor(score)

# %%
curvature = sp.diff(log_likelihood, epsilon, 2).subs(epsilon, 0)
sp.collect(sp.expand(curvature), v)

# %% [markdown]
# With $s = \langle u, t - \eta\rangle$ and $w = \langle v, t - \eta\rangle$ this reads
# $\partial_\theta \ell = s$ and $\partial^2_\theta \ell = w - \operatorname{Var}(s)$. So
# the two estimators from one label are
#
# $$\hat{\mathcal I}_1 = s^2, \qquad \hat{\mathcal I}_2 = \operatorname{Var}(s) - w,$$
#
# and since $\mathbb{E}[t] = \eta$ both have the mean
# $\mathcal{I} = \operatorname{Var}(s)$.

# %% [markdown]
# ## The directional cumulant function
#
# **Theorem.** Let $K(\varepsilon, \delta) = F(h + \varepsilon u + \delta v)$. Its
# derivatives at zero, $\kappa_{ab} = \partial_\varepsilon^a \partial_\delta^b K(0,0)$,
# are the joint cumulants of $\langle t,u\rangle$ and $\langle t,v\rangle$, and for one
# label
#
# $$
# \begin{aligned}
# \mathcal I &= \kappa_{20}, &
# V_1 = \operatorname{Var}\hat{\mathcal I}_1 &= \kappa_{40} + 2\kappa_{20}^2, \\
# V_2 = \operatorname{Var}\hat{\mathcal I}_2 &= \kappa_{02}, &
# \operatorname{Cov}(\hat{\mathcal I}_1, \hat{\mathcal I}_2) &= -\kappa_{21}.
# \end{aligned}
# $$

# %% [markdown]
# *Why cumulants.* The normaliser at $h' = h + \varepsilon u + \delta v$ is
# $\int \pi\, e^{\langle t, h'\rangle} = e^{F(h')}$, and so
#
# $$
# \mathbb{E}\,e^{\varepsilon\langle t, u\rangle + \delta\langle t, v\rangle}
# = e^{K(\varepsilon,\delta) - K(0,0)} :
# $$
#
# the logarithm of a moment-generating function, which is what generates cumulants.

# %% [markdown]
# *Why these combinations.* Leave out the linear terms of $K$ and $t$ is centred: what
# remains generates the moments of $s$ and $w$. Differentiate its exponential.

# %%
orders = [(a, b) for a in range(5) for b in range(5) if 2 <= a + b <= 4]
kappa = {(a, b): sp.Symbol(f"kappa_{a}{b}", real=True) for a, b in orders}
centred = sum(
    value * epsilon**a * delta**b / (sp.factorial(a) * sp.factorial(b))
    for (a, b), value in kappa.items()
)


def moment(a, b):
    """Return E[s^a w^b] in cumulants."""
    generating = sp.diff(sp.exp(centred), epsilon, a, delta, b)
    return sp.expand(generating.subs({epsilon: 0, delta: 0}))


moment(4, 0)

# %% [markdown]
# The variances of $\hat{\mathcal I}_1 = s^2$ and $\hat{\mathcal I}_2 = \mathcal{I} - w$,
# and their covariance, are combinations of these moments:

# %%
theorem = {
    "fisher": moment(2, 0),
    "third": moment(3, 0),
    "variance_score_squared": moment(4, 0) - moment(2, 0) ** 2,
    "variance_negative_hessian": moment(0, 2),
    "covariance": -moment(2, 1),
}
assert theorem["variance_score_squared"] == kappa[4, 0] + 2 * kappa[2, 0] ** 2
theorem

# %% [markdown]
# ## A law to try it on
#
# The Poisson law has $F(h) = e^h$ for each target. Put another name in the next cell,
# such as `"bernoulli"` or `"exponential"`, and all that is symbolic below follows it.

# %%
spec = fimsym.family("poisson")
directional(spec)

# %% [markdown]
# Every derivative of an exponential is that exponential, so the cumulants are all alike:

# %%
{f"kappa_{a}{b}": cumulant(spec, a, b) for a, b in [(2, 0), (4, 0), (0, 2), (2, 1)]}

# %% [markdown]
# `derive` differentiates $K$, and proves every line it states:

# %%
derivation = fimsym.derive(spec)
derivation

# %% [markdown]
# Put this law's cumulants into the theorem, and compare with what `derive` returned. The
# number of targets $m$ is a symbol: the claims hold for every $m$.

# %%
found = {symbol: cumulant(spec, a, b) for (a, b), symbol in kappa.items()}
mine = {name: formula.xreplace(found) for name, formula in theorem.items()}
for name, formula in mine.items():
    assert derivation.prove(getattr(derivation, name), formula, name).residual == 0
mine["variance_score_squared"]

# %% [markdown]
# ## The other route
#
# $F$ could be wrong. The moments can be had without it, by summing $t$ against the
# density $e^{hy}/y!$. Where the two routes meet, $F$ and the density are those of one
# law.

# %%
for (a, b), from_density in derivation.central_moments.items():
    if (a, b) in kappa:
        derivation.prove(from_density, moment(a, b).xreplace(found), f"E[s^{a} w^{b}]")
[proof.statement for proof in derivation.proofs if proof.name.startswith("two routes")]

# %% [markdown]
# ## In numbers
#
# Now without any formula: list the labels, take $\hat{\mathcal I}_1$ and
# $\hat{\mathcal I}_2$ of each by automatic differentiation of $\log p$, and sum over
# their probabilities.

# %%
h = torch.log(torch.tensor([4.0], dtype=torch.float64))
at = Derivatives(h, torch.full_like(h, 0.5)[:, None], torch.full_like(h, 0.8)[:, None])
law = Law(spec, {})
labels = law.support(h).labels
probability = law.log_prob(h, labels).exp()
first, second = (x.squeeze(-1) for x in estimators(law, at, labels.unsqueeze(1)))
mean = probability @ torch.stack([first, second], dim=-1)
deviation = torch.stack([first, second]) - mean[:, None]
(deviation * probability) @ deviation.T  # variances and covariance

# %%
moments = fimsym.evaluator(spec).moments(h, at.u, at.v)
listed = (deviation * probability) @ deviation.T
torch.testing.assert_close(mean, moments.fisher.expand(2))
torch.testing.assert_close(listed[0, 0], moments.variance_score_squared[0])
torch.testing.assert_close(listed[1, 1], moments.variance_negative_hessian[0])
torch.testing.assert_close(listed[0, 1], moments.covariance[0])

# %% [markdown]
# ## The picture
#
# Left: $K(\varepsilon, 0)$ without its linear part. Its curvature at zero is
# $\mathcal I$; what a parabola misses is what $\kappa_{30}$ and $\kappa_{40}$ add. Right:
# both estimators as functions of the same label, each dot as large as the label is
# likely. One is a parabola in $y$ and the other a line; both scatter about the same mean.

# %%
point = {delta: 0, symbols.h[1]: sp.log(4), symbols.u[1]: sp.Rational(1, 2)}
along = derivation.explicit(directional(spec), 1).subs(point)
slope = float(sp.diff(along, epsilon).subs(epsilon, 0))
path = sp.lambdify(epsilon, along)
along

# %%
plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2), layout="constrained")
steps = np.linspace(-3, 3, 200)
rest = path(steps) - path(0) - slope * steps
left.plot(steps, rest, label=r"$K(\varepsilon, 0)$, centred")
left.plot(steps, steps**2 / 2, "--", label=r"$\kappa_{20}\varepsilon^2/2$")
left.set(xlabel=r"$\varepsilon$", ylabel=r"$K$ without its linear part")
for values, color, name in zip((first, second), COLORS, "12", strict=False):
    count, value, size = labels[:13, 0], values[:13], 600 * probability[:13]
    right.plot(count, value, color=color, linewidth=1)
    right.scatter(count, value, size, color, label=rf"$\hat I_{name}$")
right.axhline(float(mean[0]), color="black", linewidth=0.8, linestyle=":", label="$I$")
right.set(xlabel="label y", ylabel="estimate from that label")
for axes in (left, right):
    axes.legend(loc="upper center")

# %% [markdown]
# ## The code that is generated
#
# The theorem, with the cumulants of the law put in, is the expression behind the torch
# module that `fimsym.evaluator` imports: the lines of its program, put together, equal
# it; and the module is, character for character, what this derivation prints.

# %%
print(inspect.getsource(fimsym.evaluator(spec).variance_score_squared))

# %%
for name, formula in mine.items():
    derivation.prove(inlined(derivation.program, name), formula, name)
for other in (fimsym.derive("gaussian"), fimsym.derive("exponential")):
    cumulants = {symbol: cumulant(other.family, a, b) for (a, b), symbol in kappa.items()}
    for name, formula in theorem.items():
        other.prove(inlined(other.program, name), formula.xreplace(cumulants), name)
assert fimsym.generate(spec) == inspect.getsource(fimsym.evaluator(spec))
