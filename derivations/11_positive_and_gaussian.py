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
# # Durations and variances: exponential, gamma, inverse Gaussian, unknown variance
#
# Laws on the line with a scale of their own. Most have two natural parameters, and a
# network seldom puts those out: it puts out a log-mean, a log-scale, a log-variance. This
# chapter proves the closed forms and then reads them in the outputs that networks have,
# through the links.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

# %%
import fimsym
from fimsym.derivation.functions import exact
from fimsym.derivation.letters import Form, Trace
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import directions, index, naturals, read, total, u
from fimsym.laws import Law
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import Derivatives, estimators
from fimsym.validation.output import random_points

# %% [markdown]
# ## Exponential
#
# Waiting times with rate $-h$: $F = -\log(-h)$, so that $\kappa_n = (n-1)!/(-h)^n$.
#
# **Theorem.** $\mathcal I = \sum_i u_i^2/h_i^2$ and
# $V_1 = 2\,\mathcal I^2 + 6 \sum_i u_i^4/h_i^4$. For one target $V_1 = 8\,\mathcal I^2$:
# four times a Gaussian's, for every rate.


# %%
def prove(derivation, claim):
    """Prove every formula of a claim against the lines that code is generated from."""
    for quantity, formula in claim.items():
        program = inlined(derivation.program, quantity)
        derivation.prove(program, formula, f"{quantity} of {derivation.family.name}")


# %%
exponential = fimsym.derive("exponential")
spec = exponential.family
ratio = u[index] / naturals(spec)[0][index]
fisher = total(spec, ratio**2)
variance = 2 * fisher**2 + 6 * total(spec, ratio**4)
claims = {"exponential": {"fisher": fisher, "variance_score_squared": variance}}
prove(exponential, claims["exponential"])
assert sp.simplify(exponential.explicit(variance - 8 * fisher**2, 1)) == 0
exponential

# %% [markdown]
# ## Two natural parameters
#
# Now $u$ has two parts at every target, $u_1 = \partial h_1/\partial\theta$ and
# $u_2 = \partial h_2/\partial\theta$. For independent targets, as for one parameter,
# $V_1 = 2\,\mathcal I^2 + \sum_i \kappa_{40,i}$. `claim` proves that form for given
# $\mathcal I_i$ and $\kappa_{40,i}$, against the lines that code is generated from.


# %%
def claim(name, information, fourth):
    """Prove I = Σ I_i and V₁ = 2 I² + Σ κ₄₀_i for a family; return its derivation."""
    derivation = fimsym.derive(name)
    fisher = total(derivation.family, information)
    variance = 2 * fisher**2 + total(derivation.family, fourth)
    claims[name] = {"fisher": fisher, "variance_score_squared": variance}
    prove(derivation, claims[name])
    return derivation


# %%
def parts(name):
    """Return h₁, h₂, u₁ and u₂ of the i-th target."""
    spec = fimsym.family(name)
    return [base[index] for base in (*naturals(spec), *directions(spec, u))]


# %% [markdown]
# And what a network sees: with a link $h = g(o)$, an output that moves alone has
# $u = \partial g/\partial o$.


# %%
def along(derivation, link, name):
    """Return I and V₁/I² of one target for one output of a link, in the outputs."""
    spec = derivation.family
    outputs = {o: sp.Symbol(o, real=True) for o in spec.link(link).outputs}
    path = [read(spec, formula, outputs) for formula in spec.link(link).natural]
    slopes = [sp.diff(exact(value), outputs[name]) for value in path]
    symbols = [base[1] for base in (*naturals(spec), *directions(spec, u))]
    point = dict(zip(symbols, (*path, *slopes), strict=True))
    found = [derivation.fisher, derivation.variance_score_squared]
    found = [exact(derivation.explicit(value, len(path))) for value in found]
    information, variance = (exact(value.xreplace(point)) for value in found)
    return sp.simplify(information), sp.simplify(variance / information**2)


# %% [markdown]
# ## Gaussian, mean and variance
#
# Heteroscedastic regression. With $c = u_1 + 2\mu u_2$ the score is a linear plus a
# quadratic form of a standard normal,
# $s = c\,(y-\mu) + u_2 \bigl((y-\mu)^2 - \sigma^2\bigr)$.
#
# **Theorem.** $\mathcal I = \sum_i \bigl( c^2\sigma^2 + 2 u_2^2\sigma^4 \bigr)_i$ and
# $\kappa_{40} = \sum_i \bigl( 48\, c^2 u_2^2 \sigma^6 + 48\, u_2^4 \sigma^8 \bigr)_i$.

# %%
h1, h2, u1, u2 = parts("gaussian_mean_variance")
mean, square = -h1 / (2 * h2), -1 / (2 * h2)  # μ and σ²
slope = u1 + 2 * mean * u2
gaussian = claim(
    "gaussian_mean_variance",
    slope**2 * square + 2 * u2**2 * square**2,
    48 * slope**2 * u2**2 * square**3 + 48 * u2**4 * square**4,
)

# %% [markdown]
# In a network that puts out $\mu$ and $\log\sigma^2$: the mean has $V_1 = 2\mathcal I^2$
# as ever, but about the log-variance, where $\mathcal I = \frac12$ for every input, the
# squared score has a relative variance of *fourteen*. A 10% standard error takes 1,400
# labels.

# %%
seen = {
    name: along(gaussian, "mean_log_variance", name) for name in ("mean", "log_variance")
}
assert seen["mean"][1] == 2
assert seen["log_variance"] == (sp.Rational(1, 2), 14)
seen

# %% [markdown]
# ## A Gaussian vector
#
# The same in $D$ dimensions, $D$ a symbol. The direction is a vector $a$ and a symmetric
# matrix $B$; traces of words in $B$ and $\Lambda^{-1}$ take the place of powers.

# %%
vector = fimsym.derive("multivariate_gaussian")
vector.fisher

# %% [markdown]
# **Theorem.** Where only the mean moves ($B = 0$), $V_1 = 2\,\mathcal I^2$. Where only
# the covariance moves, with $X = \Lambda^{-1/2} B \Lambda^{-1/2}$,
#
# $$
# \mathcal I = 2 \operatorname{tr} X^2, \qquad
# V_1 = 2\,\mathcal I^2 + 48 \operatorname{tr} X^4 \;\le\; 14\,\mathcal I^2,
# $$
#
# with equality for a matrix $B$ of rank one: a single variance is the worst case.


# %%
def without(expression, *letters):
    """Return an expression with all forms and traces of these letters at zero."""
    return expression.replace(
        lambda node: (
            isinstance(node, Form | Trace) and bool(set(letters) & set(names(node)))
        ),
        lambda node: sp.Integer(0),
    )


def names(node):
    """Return the names of the letters of a form or trace."""
    return [letter.name for letter in node.args]


# %%
information, variance = vector.fisher, vector.variance_score_squared
mean_only = without(information, "B_u")
vector.prove(without(variance, "B_u"), 2 * mean_only**2, "V₁ = 2 I² of the mean")
spread_only = without(information, "a_u", "h")
(square_trace,) = spread_only.atoms(Trace)
fourth_trace = Trace(*square_trace.args * 2)
theorem = 2 * spread_only**2 + 48 * fourth_trace
vector.prove(without(variance, "a_u", "h"), theorem, "V₁ of the covariance")
vector.prove(spread_only, 2 * square_trace, "I of the covariance")
theorem

# %% [markdown]
# ## Gamma
#
# Shape $\alpha = h_1 + 1$ and rate $\beta = -h_2$, $t = (\log y, y)$,
# $F = \ln\Gamma(\alpha) - \alpha \ln \beta$. Polygammas enter with the shape only:
#
# $$
# \begin{aligned}
# \mathcal I_i &= \psi_1 u_1^2 + \frac{2 u_1 u_2}{\beta} +
# \frac{\alpha u_2^2}{\beta^2}, \\
# \kappa_{40,i} &= \psi_3 u_1^4 + \frac{8 u_1 u_2^3}{\beta^3} +
# \frac{6\alpha u_2^4}{\beta^4} .
# \end{aligned}
# $$

# %%
h1, h2, u1, u2 = parts("gamma")
shape, rate = h1 + 1, -h2
gamma = claim(
    "gamma",
    sp.polygamma(1, shape) * u1**2 + 2 * u1 * u2 / rate + shape * u2**2 / rate**2,
    sp.polygamma(3, shape) * u1**4
    + 8 * u1 * u2**3 / rate**3
    + 6 * shape * u2**4 / rate**4,
)

# %%
log_shape = sp.Symbol("log_shape", real=True)
by_rate = along(gamma, "log_shape_log_rate", "log_rate")
by_shape = along(gamma, "log_shape_log_rate", "log_shape")
assert sp.simplify(by_rate[1] - (2 + 6 * sp.exp(-log_shape))) == 0
of_shape = by_shape[1].subs(log_shape, -12), by_shape[1].subs(log_shape, 12)
assert abs(sp.N(of_shape[0]) - 8) < 1e-3  # log y of a small shape is exponential
assert abs(sp.N(of_shape[1]) - 2) < 1e-3  # of a large one, Gaussian
by_rate, by_shape

# %% [markdown]
# ## Inverse Gaussian
#
# First-passage times with mean $\mu$ and shape $\lambda$: $t = (y, 1/y)$,
# $F = -2\sqrt{h_1 h_2} - \frac12\ln(-2h_2)$. The fourth cumulant is a long expression in
# $\sqrt{h_1 h_2}$; in the outputs it is short.
#
# **Theorem.** About $\log\mu$, $V_1/\mathcal I^2 = 2 + 15\mu/\lambda$; about
# $\log\lambda$, $\mathcal I = \tfrac12$ and $V_1 = 14\,\mathcal I^2$.
#
# About $\log\mu$ the score is linear in
# $y$, whose excess kurtosis is $15\mu/\lambda$; about $\log\lambda$ it is that of a
# $\chi^2$ variable with one degree of freedom, and the 14 is back.

# %%
inverse = fimsym.derive("inverse_gaussian")
fisher, fourth = inverse.cumulants[2, 0], inverse.cumulants[4, 0]
claims["inverse_gaussian"] = {"variance_score_squared": 2 * fisher**2 + fourth}
prove(inverse, claims["inverse_gaussian"])
log_mean, log_shape = sp.symbols("log_mean log_shape", real=True)
by_mean = along(inverse, "log_mean_log_shape", "log_mean")
by_lambda = along(inverse, "log_mean_log_shape", "log_shape")
assert sp.simplify(by_mean[1] - (2 + 15 * sp.exp(log_mean - log_shape))) == 0
assert by_lambda == (sp.Rational(1, 2), 14)
by_mean, by_lambda

# %% [markdown]
# ## In numbers
#
# A Gaussian's score is a polynomial of degree two in $y$, so $s^4$ is integrated exactly
# by five Gauss–Hermite nodes; an exponential's by five of Gauss–Laguerre.


# %%
def integrated(name, natural, nodes, weights):
    """Compare the evaluator with a quadrature over the labels of one target."""
    at = Derivatives(natural, *torch.randn(2, len(natural), 3).double())
    found = fimsym.evaluator(name).moments(natural, at.u, at.v)
    both = estimators(Law(fimsym.family(name), {}), at, nodes[:, None, None])
    one, two = (values - found.fisher for values in both)
    torch.testing.assert_close(weights @ one**2, found.variance_score_squared)
    torch.testing.assert_close(weights @ two**2, found.variance_negative_hessian)
    torch.testing.assert_close(weights @ (one * two), found.covariance)


# %%
torch.manual_seed(0)
nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(5))
at = torch.tensor([0.6, -0.8], dtype=torch.float64)
middle, deviation = -at[0] / (2 * at[1]), (-1 / (2 * at[1])).sqrt()
integrated(
    "gaussian_mean_variance", at, middle + deviation * nodes, weights / weights.sum()
)
nodes, weights = map(torch.from_numpy, np.polynomial.laguerre.laggauss(5))
integrated("exponential", torch.tensor([-0.7]).double(), nodes / 0.7, weights)

# %%
laws = (exponential, gaussian, vector, gamma, inverse)
for derivation in laws:
    name, points = derivation.family.name, random_points(derivation.family, seed=0)
    found = fimsym.validate(name, output_samples=20_000, points=points, progress=False)
    assert found.agrees
    worst = max(row.largest_z for row in found.models[0].comparisons)
    print(f"{name:24} agrees, largest |z| {worst:.1f}")

# %% [markdown]
# ## The picture
#
# $V_1/\mathcal I^2$ for each output of a network. Left of the plot lie laws close to zero
# with long tails, right of it laws close to a Gaussian. Means and rates come down to 2;
# scales and variances of a Gaussian stay at 14.

# %%
ratio_of = {
    r"gamma, $\log\beta$": sp.lambdify(sp.Symbol("log_shape", real=True), by_rate[1]),
    r"gamma, $\log\alpha$": lambda x: [
        float(by_shape[1].subs(log_shape, value)) for value in x
    ],
    r"inverse Gaussian, $\log\mu$": lambda x: 2 + 15 * np.exp(-x),
}
grid = np.linspace(np.log(0.03), np.log(100), 40)

# %%
plt.style.use(STYLE)
figure, axes = plt.subplots(figsize=(6.8, 3.5), layout="constrained")
for (name, curve), color, style in zip(
    ratio_of.items(), COLORS, ("-", "--", "-."), strict=False
):
    axes.plot(np.exp(grid), curve(grid), style, color=color, label=name)
levels = {"Gaussian, mean": 2, "exponential, rate": 8, r"Gaussian, $\log\sigma^2$": 14}
for (name, level), style in zip(levels.items(), (":", "--", "-"), strict=True):
    axes.axhline(level, color="black", linestyle=style, linewidth=0.8, label=name)
axes.set(xscale="log", yscale="log", ylabel="$V_1/I^2$", ylim=(1.5, 300))
axes.set_xlabel(r"shape: $\alpha$, or $\lambda/\mu$")
_ = figure.legend(loc="outside right upper")

# %% [markdown]
# ## The code that is generated
#
# Every claim, once more, against the programs of the modules; for the Gaussian vector,
# the program's own identities. What is imported is what the derivations print.

# %%
for derivation in laws:
    name = derivation.family.name
    prove(derivation, claims.get(name, {}))
    assert all(proof.residual == 0 for proof in derivation.proofs)
    assert fimsym.generate(name) == inspect.getsource(fimsym.evaluator(name))
assert set(claims) == {derivation.family.name for derivation in laws} - {
    "multivariate_gaussian"
}
