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
# # Counts: Bernoulli, binomial, multinomial, Poisson, geometric, negative binomial
#
# Chapters 2 and 3 gave the Gaussian and the categorical room. The other families follow
# the same path; each gets a section here and in the next chapters: its law, its closed
# form, proven for any number of targets, and what the closed form says about estimates.

# %%
import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import constants, h, index, probability, total, u, v
from fimsym.laws import Law
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import Derivatives, estimators
from fimsym.validation.output import random_points

# %% [markdown]
# ## Independent targets, once and for all
#
# A network with $m$ outputs predicts $m$ independent targets, each with cumulants
# $\kappa_2, \kappa_3, \kappa_4$ of its $t$. Scores add up, and so do cumulants.
#
# **Theorem.** With $\mathcal I = \sum_i \kappa_{2,i}\, u_i^2$,
#
# $$
# V_1 = 2\,\mathcal I^2 + \sum_i \kappa_{4,i}\, u_i^4, \quad
# V_2 = \sum_i \kappa_{2,i}\, v_i^2, \quad
# \operatorname{Cov} = -\sum_i \kappa_{3,i}\, u_i^2 v_i .
# $$
#
# For a single target $V_1/\mathcal I^2 = 2 + \kappa_4/\kappa_2^2$: two, plus the excess
# kurtosis of the label.


# %%
def statement(spec, second, third, fourth):
    """Return the theorem for the cumulants of the i-th target."""
    fisher = total(spec, second * u[index] ** 2)
    return {
        "fisher": fisher,
        "third": total(spec, third * u[index] ** 3),
        "variance_score_squared": 2 * fisher**2 + total(spec, fourth * u[index] ** 4),
        "variance_negative_hessian": total(spec, second * v[index] ** 2),
        "covariance": -total(spec, third * u[index] ** 2 * v[index]),
    }


# %% [markdown]
# `theorem_of` proves it for a family: against the lines that code is generated from, put
# together. A wrong cumulant in any section below ends in an error that shows the
# difference.


# %%
def theorem_of(name, second, third, fourth):
    """Prove the theorem with a family's cumulants; return its derivation."""
    derivation = fimsym.derive(name)
    claims[name] = statement(derivation.family, second, third, fourth)
    prove(derivation, claims[name])
    return derivation


def prove(derivation, claim):
    """Prove every formula of a claim against the lines that code is generated from."""
    for quantity, formula in claim.items():
        program = inlined(derivation.program, quantity)
        derivation.prove(program, formula, f"{quantity} of {derivation.family.name}")


# %%
x = h[index]
claims = {}  # what was proven, by name
relative = {}  # V₁/I² of a single target, by name

# %% [markdown]
# ## Bernoulli
#
# Yes-or-no targets, one logit each: $F = \log(1 + e^h)$, $p = \sigma(h)$, $q = 1 - p$.
# The cumulants are $pq$, $pq(q-p)$ and $pq(1-6pq)$, so that one target has
# $V_1 = pq(p-q)^2u^4$, zero at one half.

# %%
p, q = 1 / (1 + sp.exp(-x)), 1 / (1 + sp.exp(x))
bernoulli = theorem_of("bernoulli", p * q, p * q * (q - p), p * q * (1 - 6 * p * q))
of_one = total(bernoulli.family, p * q * (p - q) ** 2 * u[index] ** 4)
difference = bernoulli.variance_score_squared - of_one
assert sp.simplify(bernoulli.explicit(difference, 1)) == 0
bernoulli

# %% [markdown]
# ## Binomial
#
# $n$ answers at the same logit: every cumulant is $n$ times a Bernoulli's. The squared
# score of a sum is not the sum of squared scores:
# $V_1/\mathcal I^2 = 2 + (1 - 6pq)/(n\,pq)$, which tends to the Gaussian's 2 as $n$
# grows, from above or from below.

# %%
n = constants(fimsym.family("binomial"))["n"]
binomial = theorem_of(
    "binomial", n * p * q, n * p * q * (q - p), n * p * q * (1 - 6 * p * q)
)
chance = sp.Symbol("p", positive=True)
spread = chance * (1 - chance)
relative["Bernoulli"] = (chance, 2 + (1 - 6 * spread) / spread)
relative["binomial, n = 20"] = (20 * chance, 2 + (1 - 6 * spread) / (20 * spread))
assert sp.limit(2 + (1 - 6 * spread) / (n * spread), n, sp.oo) == 2

# %% [markdown]
# ## Multinomial
#
# $n$ draws over $C$ classes, $F = n \log \sum_i e^{h_i}$. The score is a sum of $n$
# scores of a categorical with $\mathcal I_1$ and $V_1$ of chapter 3; its fourth cumulant
# is $n$ times theirs, which gives
#
# $$
# \mathcal I = n\,\mathcal I_1, \qquad V = n V_1 + 2n(n-1)\,\mathcal I_1^2 .
# $$

# %%
multinomial = fimsym.derive("multinomial")
spec = multinomial.family
weight = probability[index]
score = u[index] - total(spec, weight * u[index])
one_draw = total(spec, weight * score**2)
of_draw = total(spec, weight * (score**2 - one_draw) ** 2)
draws = constants(spec)["n"]
claims["multinomial"] = {
    "fisher": draws * one_draw,
    "variance_score_squared": draws * of_draw + 2 * draws * (draws - 1) * one_draw**2,
}
prove(multinomial, claims["multinomial"])

# %% [markdown]
# ## Poisson
#
# $F = e^h$ is its own derivative: all cumulants are the rate $\lambda = e^h$, and
# $V_1/\mathcal I^2 = 2 + 1/\lambda$. Rare events are expensive, frequent ones Gaussian.

# %%
rate = sp.exp(x)
poisson = theorem_of("poisson", rate, rate, rate)
mean = sp.Symbol("mu", positive=True)
relative["Poisson"] = (mean, 2 + 1 / mean)
poisson

# %% [markdown]
# ## Geometric and negative binomial
#
# Failures before the $r$-th success, $q = e^h$ the probability of a failure:
# $F = -r \log(1 - q)$, and
#
# $$
# \kappa_2 = \frac{r q}{(1-q)^2}, \quad \kappa_3 = \frac{r q (1 + q)}{(1-q)^3}, \quad
# \kappa_4 = \frac{r q (1 + 4q + q^2)}{(1-q)^4} .
# $$
#
# The geometric law has $r = 1$.

# %%
fail, r = sp.exp(x), constants(fimsym.family("negative_binomial"))["r"]
cumulants = [
    r * fail / (1 - fail) ** 2,
    r * fail * (1 + fail) / (1 - fail) ** 3,
    r * fail * (1 + 4 * fail + fail**2) / (1 - fail) ** 4,
]
negative_binomial = theorem_of("negative_binomial", *cumulants)
geometric = theorem_of("geometric", *(value.subs(r, 1) for value in cumulants))
geometric

# %% [markdown]
# In the mean $\mu = rq/(1-q)$ the ratio is $2 + 6/r + 1/(\mu(1 + \mu/r))$:
# over-dispersion adds $6/r$ that no size of the mean takes away, and for large $r$ the
# law is a Poisson law.

# %%
lost = mean / (mean + r)  # q in terms of the mean
second, fourth = (value.subs(fail, lost) for value in (cumulants[0], cumulants[2]))
ratio = sp.simplify(2 + fourth / second**2)
assert sp.simplify(ratio - (2 + 6 / r + 1 / (mean * (1 + mean / r)))) == 0
assert sp.simplify(sp.limit(ratio, r, sp.oo) - (2 + 1 / mean)) == 0
relative["geometric"] = (mean, ratio.subs(r, 1))
relative["negative binomial, r = 5"] = (mean, ratio.subs(r, 5))

# %% [markdown]
# ## In numbers
#
# All six laws have countably many labels. List them, differentiate $\log p$ of each by
# torch, and sum; the tails left out are below $10^{-17}$.

# %%
points = {
    "bernoulli": ([0.4, -2.0], {}),
    "binomial": ([0.4, -2.0], {"n": 4}),
    "multinomial": ([0.4, -2.0, 1.0], {"n": 4}),
    "poisson": ([0.4, -2.0], {}),
    "geometric": ([-0.4, -1.5], {}),
    "negative_binomial": ([-0.7, -1.5], {"r": 3}),
}


# %%
def listed(name, natural, fixed):
    """Compare the evaluator with sums over the listed labels."""
    at = Derivatives(natural, *torch.randn(2, len(natural), 3).double())
    model = Law(fimsym.family(name), fixed)
    labels = model.support(natural).labels
    weight = model.log_prob(natural, labels).exp()
    found = fimsym.evaluator(name).moments(natural, at.u, at.v, **fixed)
    one, two = (z - found.fisher for z in estimators(model, at, labels.unsqueeze(1)))
    torch.testing.assert_close(weight @ one, torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(weight @ one**2, found.variance_score_squared)
    torch.testing.assert_close(weight @ two**2, found.variance_negative_hessian)
    torch.testing.assert_close(weight @ (one * two), found.covariance)


# %%
torch.manual_seed(0)
for name, (natural, fixed) in points.items():
    listed(name, torch.tensor(natural, dtype=torch.float64), fixed)

# %% [markdown]
# And by Monte Carlo at random points, 20,000 labels each, with the tests that
# `fimsym validate` uses:

# %%
for name in points:
    at = random_points(fimsym.family(name), seed=0)
    found = fimsym.validate(name, output_samples=20_000, points=at, progress=False)
    assert found.agrees
    worst = max(row.largest_z for row in found.models[0].comparisons)
    print(f"{name:18} agrees, largest |z| {worst:.1f}")

# %% [markdown]
# ## The picture
#
# $V_1/\mathcal I^2$ of a single target, which is the number of labels for a relative
# error of 100%, against its mean. All laws of counts are expensive where events are rare,
# like $1/\mu$; a binomial's is so at both ends. Where counts are large they differ: the
# over-dispersed never come down to the Gaussian's 2.

# %%
plt.style.use(STYLE)
figure, axes = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
looks = itertools.cycle(zip(COLORS, ("-", "--", "-.", (0, (5, 1)), ":"), strict=False))
for (name, formulas), (color, style) in zip(relative.items(), looks, strict=False):
    (symbol,) = formulas[1].free_symbols
    grid = np.linspace(0.005, 0.995, 400) if symbol == chance else np.logspace(-2, 2, 300)
    average, value = sp.lambdify(symbol, formulas)(grid)
    axes.plot(average, value, linestyle=style, color=color, label=name)
axes.axhline(2, color="black", linewidth=0.8, label="Gaussian")
axes.set(
    xscale="log", yscale="log", xlabel="mean of y", ylabel="$V_1/I^2$", ylim=(0.1, 200)
)
_ = figure.legend(loc="outside right upper")

# %% [markdown]
# ## The code that is generated
#
# Every claim of this chapter, once more, against the programs of the modules; and what is
# imported is what the derivations print.

# %%
for name, claim in claims.items():
    derivation = fimsym.derive(name)
    prove(derivation, claim)
    assert all(proof.residual == 0 for proof in derivation.proofs)
    assert fimsym.generate(name) == inspect.getsource(fimsym.evaluator(name))
assert set(claims) == set(points)
