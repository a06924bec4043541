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
# # Proportions: beta and Dirichlet
#
# Targets that are shares of a whole. The log-partition is made of log-gammas, its
# derivatives of polygammas, and one term ties all parts together. There is no closed form
# for the density's moments that SymPy would find, so the second route is an integral to
# twelve digits: the record says so, and calls it a comparison, not a proof.

# %%
import inspect

import matplotlib.pyplot as plt
import sympy as sp
import torch

import fimsym
from fimsym.derivation.record import equation
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import directions, h, index, naturals, total, u, v
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.output import random_points

# %% [markdown]
# ## Dirichlet
#
# A vector of $K$ shares with concentrations $h_k > 0$, $t = \log y$, and with
# $h_+ = \sum_k h_k$
#
# $$
# F(h) = \sum_k \ln\Gamma(h_k) - \ln\Gamma(h_+) .
# $$
#
# **Theorem.** For every number of shares $K$, with $u_+ = \sum_k u_k$,
#
# $$
# \kappa_n = \sum_k \psi_{n-1}(h_k)\, u_k^n - \psi_{n-1}(h_+)\, u_+^n, \qquad
# V_1 = \kappa_4 + 2\kappa_2^2 .
# $$

# %%
dirichlet = fimsym.derive("dirichlet")
spec = dirichlet.family
whole = total(spec, h[index])


def cumulant(a, b):
    """Return κ_ab of the Dirichlet."""
    order = a + b - 1
    each = sp.polygamma(order, h[index]) * u[index] ** a * v[index] ** b
    moved = total(spec, u[index]) ** a * total(spec, v[index]) ** b
    return total(spec, each) - sp.polygamma(order, whole) * moved


dirichlet.prove(dirichlet.cumulants[4, 0], cumulant(4, 0), "κ₄ of F")
dirichlet.cumulants[2, 0]

# %% [markdown]
# That form is right, but not what code should be: for large concentrations
# $\psi_1(h) \approx 1/h$, and the sum cancels against its last term. Code is generated
# from another, in which every polygamma has lost its leading term and the leading terms
# have become a sum of squares. The two are equal, which is what counts here:

# %%
theorem = {
    "fisher": cumulant(2, 0),
    "third": cumulant(3, 0),
    "variance_score_squared": cumulant(4, 0) + 2 * cumulant(2, 0) ** 2,
    "variance_negative_hessian": cumulant(0, 2),
    "covariance": -cumulant(2, 1),
}
for name, formula in theorem.items():
    dirichlet.prove(inlined(dirichlet.program, name), formula, name)
shown = ("total", "sum_u", "mean_u", "deviation_u", "fisher")
for line in dirichlet.definitions:
    if line.name in shown:
        print(equation(line))

# %% [markdown]
# What it saves: large concentrations, in a direction that keeps the proportions, in
# float64 against 50 digits.

# %%
point = torch.tensor([2e6 + 0.1, 3e6 + 0.2, 5e6 + 0.3], dtype=torch.float64)
same_shares = point / point.sum()
stable = fimsym.evaluator(spec).fisher(point, same_shares[:, None])
trigamma, of_sum = torch.polygamma(1, point), torch.polygamma(1, point.sum())
plain = (trigamma * same_shares**2).sum() - of_sum
truth = float(dirichlet.evaluate("fisher", point.tolist(), same_shares.tolist()))
print(f"relative error: evaluator {abs(stable.item() / truth - 1):.0e}, ", end="")
print(f"as written {abs(plain.item() / truth - 1):.0e}")
assert abs(stable.item() / truth - 1) < 1e-11

# %% [markdown]
# ## Beta
#
# Two shares are one number, $y$ and $1 - y$. As a family of independent targets it has
# natural parameters $(\alpha, \beta)$ and $t = (\log y, \log(1-y))$ for each.
#
# **Theorem.** One beta target is a Dirichlet with two shares; for $m$ targets
# $\mathcal I = \sum_i \kappa_{2,i}$ and $V_1 = 2\mathcal I^2 + \sum_i \kappa_{4,i}$.

# %%
beta = fimsym.derive("beta")
bases = (*naturals(beta.family), *directions(beta.family, u))
alpha, omega, u1, u2 = (base[index] for base in bases)


def of_target(order):
    """Return κ_n of the i-th target."""
    parts = (
        sp.polygamma(order - 1, alpha) * u1**order
        + sp.polygamma(order - 1, omega) * u2**order
    )
    return parts - sp.polygamma(order - 1, alpha + omega) * (u1 + u2) ** order


# %%
fisher = total(beta.family, of_target(2))
variance = 2 * fisher**2 + total(beta.family, of_target(4))
beta.prove(inlined(beta.program, "fisher"), fisher, "I")
beta.prove(inlined(beta.program, "variance_score_squared"), variance, "V₁")

# %%
both = dict(zip((base[1] for base in bases), (h[1], h[2], u[1], u[2]), strict=True))
one = beta.explicit(variance, 2).xreplace(both)
two = dirichlet.explicit(theorem["variance_score_squared"], 2)
assert sp.expand(one - two) == 0

# %% [markdown]
# ## What quadrature compared
#
# Every quantity of both laws, against the density's own moments:

# %%
for derivation in (beta, dirichlet):
    for proof in derivation.proofs:
        if proof.method == "quadrature":
            print(f"{derivation.family.name:10} {proof.statement}")

# %% [markdown]
# ## In numbers
#
# Labels from the sampler of torch, which knows nothing of $F$, and automatic
# differentiation of its $\log p$:

# %%
for derivation in (beta, dirichlet):
    name, points = derivation.family.name, random_points(derivation.family, seed=0)
    found = fimsym.validate(name, output_samples=20_000, points=points, progress=False)
    assert found.agrees
    for row in found.models[0].comparisons:
        text = (
            f"{row.closed_form:10.4f} {row.monte_carlo:10.4f} ± {row.standard_error:.4f}"
        )
        print(f"{name:10} {row.quantity:27} {text}")

# %% [markdown]
# ## The picture
#
# $V_1/\mathcal I^2$ of a beta target, about the logarithms of its two concentrations.
# Where they are large, moving them apart moves the mean, and comes down to the Gaussian's
# 2; moving both alike changes the precision, whose ratio is a variance's 14. Where they
# are small a share is nearly all or nothing, and $\log y$ an exponential variable that is
# there or not: 8 when it always is.

# %%
module = fimsym.evaluator("beta")
concentration = torch.logspace(-2, 3, 160, dtype=torch.float64)
ways = {
    r"$\log\alpha$ alone": (1.0, 0.0),
    r"both alike": (1.0, 1.0),
    "apart": (1.0, -1.0),
}


def curve(balance, way):
    """Return V₁/I² at (c, balance·c) for log-concentrations moving along `way`."""
    natural = torch.stack([concentration, balance * concentration], dim=-1)
    direction = (natural * torch.tensor(way).double()).unsqueeze(-1)  # ∂h/∂log h = h
    found = module.moments(natural, direction)
    return (found.variance_score_squared / found.fisher**2)[:, 0]


# %%
plt.style.use(STYLE)
figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.3), sharey=True, layout="constrained")
for axes, balance in zip(panels, (1.0, 10.0), strict=True):
    for (name, way), color, style in zip(
        ways.items(), COLORS, ("-", "--", "-."), strict=False
    ):
        axes.plot(concentration, curve(balance, way), style, color=color, label=name)
    axes.axhline(2, color="black", linestyle=":", linewidth=0.8, label="Gaussian")
    title = r"$\beta = \alpha$" if balance == 1 else rf"$\beta = {balance:g}\,\alpha$"
    axes.set(xscale="log", ylim=(0, 16), xlabel=r"$\alpha$", title=title)
panels[0].set_ylabel("$V_1/I^2$")
_ = panels[1].legend(loc="center right")

# %% [markdown]
# ## The code that is generated
#
# The theorems were proven against the programs of the modules, in which $R_n$ stands for
# a polygamma without its leading term.

# %%
print(inspect.getdoc(fimsym.evaluator("dirichlet").fisher).split("Args")[0])

# %%
for name, formula in theorem.items():
    dirichlet.prove(inlined(dirichlet.program, name), formula, name)
beta.prove(inlined(beta.program, "fisher"), fisher, "I")
beta.prove(inlined(beta.program, "variance_score_squared"), variance, "V₁")
for derivation in (beta, dirichlet):
    name = derivation.family.name
    assert all(proof.residual == 0 for proof in derivation.proofs)
    assert fimsym.generate(name) == inspect.getsource(fimsym.evaluator(name))
