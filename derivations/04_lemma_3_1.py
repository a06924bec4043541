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
# # Lemma 3.1 from scratch: the tensors behind both variances
#
# The paper states the two variances as contractions of tensors: second and fourth central
# moments of the sufficient statistic, with the derivatives of the network. Here the
# tensors are built entry by entry, from the density and from the log-partition, and
# contracted; out come the directional formulas of chapter 1. Then we see why nobody
# should ever build them.

# %%
import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation.proofs import reduce_probabilities
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import index, probability, total, u
from fimsym.derivation.tensors import contract, cumulant_tensor
from fimsym.report.plots import STYLE

# %% [markdown]
# ## The lemma
#
# Write $\mathcal I_{ab}$ and $K_{abcd}$ for the central moments of $t$,
#
# $$
# \begin{aligned}
# \mathcal I_{ab} &= \mathbb{E}\bigl[(t_a-\eta_a)(t_b-\eta_b)\bigr], \\
# K_{abcd} &= \mathbb{E}\bigl[(t_a-\eta_a)(t_b-\eta_b)(t_c-\eta_c)(t_d-\eta_d)\bigr].
# \end{aligned}
# $$

# %% [markdown]
# **Lemma 3.1.** For the means of $N$ labels, summed over repeated indices,
#
# $$
# V_1 = \tfrac1N\, u_a u_b u_c u_d\,
# \bigl(K_{abcd} - \mathcal I_{ab}\,\mathcal I_{cd}\bigr), \quad
# V_2 = \tfrac1N\, v_a v_b\, \mathcal I_{ab} .
# $$
#
# *Proof.* $s = u_a (t_a - \eta_a)$, so $\mathbb E s^2 = u_a u_b \mathcal I_{ab}$ and
# $\mathbb E s^4 = u_a u_b u_c u_d K_{abcd}$; $V_1 = \mathbb E s^4 - (\mathbb E s^2)^2$
# for one label. The random part of $\hat{\mathcal I}_2$ is $-v_a (t_a - \eta_a)$.
# Independent labels divide both by $N$. $\square$

# %% [markdown]
# ## From the density
#
# Take a classifier with three classes; put any family here, such as `"gaussian"` or
# `"gamma"`. `tensors` sums $(t-\eta)\otimes(t-\eta)\otimes\cdots$ against the density, in
# symbols.

# %%
spec, size = fimsym.family("categorical"), 3
derivation = fimsym.derive(spec)
tensors = derivation.tensors(size)
sp.Matrix(tensors.fisher).applyfunc(reduce_probabilities)

# %% [markdown]
# $K$ has $3^4 = 81$ entries and is symmetric under all 24 permutations of its indices, so
# at most 15 differ. Three of them:

# %%
for positions in itertools.product(range(size), repeat=4):
    assert tensors.fourth[positions] == tensors.fourth[tuple(sorted(positions))]
[
    reduce_probabilities(tensors.fourth[p]).factor()
    for p in ((0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1))
]

# %% [markdown]
# ## From the log-partition
#
# The fourth derivative of $F$ is the fourth *cumulant* of $t$, which lacks the three ways
# of pairing four indices:
#
# $$
# K_{abcd} = \frac{\partial^4 F}{\partial h_a \partial h_b \partial h_c \partial h_d} +
# \mathcal I_{ab}\mathcal I_{cd} + \mathcal I_{ac}\mathcal I_{bd} +
# \mathcal I_{ad}\mathcal I_{bc} .
# $$
#
# Both sides were had independently, and agree entry by entry:

# %%
cumulants = cumulant_tensor(spec, size)
core = tensors.fisher
for a, b, c, d in itertools.product(range(size), repeat=4):
    pairs = core[a, b] * core[c, d] + core[a, c] * core[b, d] + core[a, d] * core[b, c]
    rest = tensors.fourth[a, b, c, d] - cumulants[a, b, c, d] - pairs
    assert reduce_probabilities(rest) == 0
reduce_probabilities(cumulants[0, 0, 1, 1]).factor()

# %% [markdown]
# ## The contraction
#
# $M = K - \mathcal I \otimes \mathcal I$ is the covariance of the matrix
# $(t-\eta)(t-\eta)^\top$. Contracted with four copies of $u$ it gives $V_1$; the
# directional form, $\sum_i p_i (\tilde u_i^2 - \mathcal I)^2$, says the same in a line.

# %%
p = probability[index]
centred = u[index] - total(spec, p * u[index])
directional = total(spec, p * (centred**2 - total(spec, p * centred**2)) ** 2)
contracted = contract(tensors.quartic, u, u, u, u)
assert reduce_probabilities(contracted - derivation.explicit(directional, size)) == 0
directional

# %% [markdown]
# For the Gaussian the same contraction collapses to $2\sigma^4\lVert u\rVert^4$:

# %%
gaussian = fimsym.derive("gaussian")
in_two = contract(gaussian.tensors(2).quartic, u, u, u, u)
assert sp.expand(in_two - gaussian.explicit("variance_score_squared", 2)) == 0
sp.factor(in_two)

# %% [markdown]
# ## Why nobody should build them
#
# $M$ has $C^4$ entries; the directional form needs $C$ operations for each parameter.

# %%
for classes in (10, 1000, 50_000):
    print(
        f"C = {classes:6,}: M {8 * classes**4:8.1e} bytes, one u {8 * classes:7,} bytes"
    )

# %% [markdown]
# Size is not the worst of it. $\mathcal I \otimes \mathcal I$ and $K$ are subtracted
# after everything has been summed, so that a small $V_1$ is the difference of two numbers
# that agree in their leading digits. Where $V_1 = 0$ in truth, two classes with one half
# each, what is left is rounding; the sum of squares gives zero.

# %%
shifted = torch.tensor([[1e4 + 1], [1e4 - 1]])
even = fimsym.evaluator(spec).variance_score_squared(torch.zeros(2), shifted)
half = torch.full((2,), 0.5)
raw = [float((half * shifted[:, 0] ** k).sum()) for k in (1, 2, 3, 4)]
fourth = raw[3] - 4 * raw[0] * raw[2] + 6 * raw[0] ** 2 * raw[1] - 3 * raw[0] ** 4
print(f"V₁: {even.item()}; E s⁴ from raw moments in float32: {fourth:.3g}, in truth 1")

# %% [markdown]
# ## In numbers
#
# Torch knows nothing of these formulas, but can differentiate log-sum-exp four times. The
# result, paired up and contracted, is what the evaluator says; so is the fourth moment of
# the listed labels.

# %%
torch.manual_seed(0)
logits = torch.randn(size, dtype=torch.float64)
partition, jacobian = (lambda x: torch.logsumexp(x, 0)), torch.func.jacrev
second = jacobian(jacobian(partition))
fisher, fourth = second(logits), jacobian(jacobian(second))(logits)
quartic = fourth + torch.einsum("ac,bd->abcd", fisher, fisher)
quartic = quartic + torch.einsum("ad,bc->abcd", fisher, fisher)

# %%
deviation = torch.eye(size, dtype=torch.float64) - logits.softmax(
    0
)  # t − η, one row per label
weight = logits.softmax(0)
listed = torch.einsum("y,ya,yb,yc,yd->abcd", weight, *[deviation] * 4)
listed = listed - torch.einsum("ab,cd->abcd", fisher, fisher)
torch.testing.assert_close(quartic, listed)
direction = torch.randn(size, 6, dtype=torch.float64)  # of six parameters
contracted_there = torch.einsum("abcd,ai,bi,ci,di->i", quartic, *[direction] * 4)
value = fimsym.evaluator(spec).variance_score_squared(logits, direction)
torch.testing.assert_close(contracted_there, value)

# %% [markdown]
# ## The picture
#
# $M$ unfolded to a $9 \times 9$ matrix, rows $(a, b)$ and columns $(c, d)$: for three
# Gaussian outputs (left) and for three classes with probabilities 0.6, 0.3, 0.1 (right).
# The Gaussian's is sparse and has no preferred direction; the categorical's is full, with
# rows that add up to zero in $a$ and in $b$.

# %%
probabilities = dict(
    zip((probability[n] for n in (1, 2, 3)), (0.6, 0.3, 0.1), strict=True)
)
sigma = sp.Symbol("sigma", positive=True)
unfolded = {
    "Gaussian": gaussian.tensors(3).quartic.subs(sigma, 1),
    "categorical": tensors.quartic.subs(probabilities),
}
unfolded = {
    name: np.array(m.tolist(), float).reshape(9, 9) for name, m in unfolded.items()
}
assert np.allclose(unfolded["categorical"].reshape(3, 3, 3, 3).sum(0), 0)
assert all(
    np.linalg.eigvalsh(m).min() > -1e-12 for m in unfolded.values()
)  # a covariance

# %%
plt.style.use(STYLE)
figure, panels = plt.subplots(1, 2, figsize=(8.2, 3.6), layout="constrained")
names = [f"{a}{b}" for a in (1, 2, 3) for b in (1, 2, 3)]
for axes, (name, matrix) in zip(panels, unfolded.items(), strict=True):
    reach = abs(matrix).max()
    shade = axes.imshow(matrix, cmap="PuOr", vmin=-reach, vmax=reach)
    axes.set(xticks=range(9), yticks=range(9), title=name, xlabel="$cd$", ylabel="$ab$")
    axes.set_xticklabels(names)
    axes.set_yticklabels(names)
    axes.spines[:].set_visible(False)
    figure.colorbar(shade, ax=axes, shrink=0.8, label="$M_{abcd}$")

# %% [markdown]
# ## The code that is generated
#
# The contraction of the tensor with $u$ equals the directional form, which is the
# expression behind the torch module, for every number of classes.

# %%
assert reduce_probabilities(contracted - derivation.explicit(directional, size)) == 0
derivation.prove(
    inlined(derivation.program, "variance_score_squared"), directional, "V₁ = M(u)"
)

# %%
information = total(spec, p * centred**2)
in_tensor = contract(tensors.fisher, u, u)
assert reduce_probabilities(in_tensor - derivation.explicit(information, size)) == 0
derivation.prove(inlined(derivation.program, "fisher"), information, "I = I_ab u_a u_b")
assert fimsym.generate(spec) == inspect.getsource(fimsym.evaluator(spec))
