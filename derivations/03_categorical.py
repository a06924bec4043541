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
# # The categorical: where the squared score is exact, and where it is hopeless
#
# A classifier with $C$ classes puts out logits. Here the squared score can be exact from
# a single label, or need a million; which of the two depends on the probabilities alone.
# All of this chapter holds with $C$ a symbol.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation.cumulants import cumulant, directional
from fimsym.derivation.normal import normal
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import h, index, probability, total, u, v
from fimsym.laws.law import Law
from fimsym.report.plots import STYLE
from fimsym.validation.montecarlo import Derivatives, estimators

# %% [markdown]
# ## The law
#
# The sufficient statistic is the one-hot vector of the label, the natural parameter the
# vector of logits, and
#
# $$
# F(h) = \log \sum_{i=1}^{C} e^{h_i}, \qquad
# p_i = \frac{\partial F}{\partial h_i} = \frac{e^{h_i}}{\sum_j e^{h_j}}, \qquad
# \mathcal I(h) = \operatorname{diag}(p) - p\,p^\top .
# $$

# %%
spec = fimsym.family("categorical")
directional(spec)

# %% [markdown]
# Its derivatives at zero are polynomials in raw moments $\sum_i p_i u_i^a v_i^b$. The
# fourth cumulant has five terms; the third, which is shorter:

# %%
assert len(cumulant(spec, 4, 0).args) == 5
cumulant(spec, 3, 0)

# %% [markdown]
# As it stands this is useless in floating point: for $u = 10^4 + \text{small}$ its terms
# of size $10^{16}$ cancel to something small. But logits are over-complete, $h$ and
# $h + c\mathbf{1}$ are the same law, so no cumulant beyond the first changes when a
# constant is added to $u$:

# %%
shift = sp.Symbol("c", real=True)
for order in (2, 3, 4):
    moved = cumulant(spec, order, 0).xreplace({u[index]: u[index] + shift})
    assert normal(moved - cumulant(spec, order, 0)) == 0

# %% [markdown]
# That allows to subtract the mean, and $V_1$ becomes a sum of squares: it cannot come out
# negative, and it is zero exactly where it should be.

# %% [markdown]
# **Theorem.** With $\bar u = \sum_i p_i u_i$, $\tilde u_i = u_i - \bar u$ and likewise
# $\tilde v$, for every number of classes $C$,
#
# $$
# \begin{aligned}
# \mathcal I &= \textstyle\sum_i p_i \tilde u_i^2, &
# V_1 &= \textstyle\sum_i p_i\,(\tilde u_i^2 - \mathcal I)^2, \\
# V_2 &= \textstyle\sum_i p_i \tilde v_i^2, &
# \operatorname{Cov}(\hat{\mathcal I}_1, \hat{\mathcal I}_2)
# &= -\textstyle\sum_i p_i \tilde u_i^2 \tilde v_i .
# \end{aligned}
# $$


# %%
def centred(base):
    """Return the entry of u or v minus its mean under p."""
    return base[index] - total(spec, probability[index] * base[index])


p = probability[index]
fisher = total(spec, p * centred(u) ** 2)
theorem = {
    "fisher": fisher,
    "variance_score_squared": total(spec, p * (centred(u) ** 2 - fisher) ** 2),
    "variance_negative_hessian": total(spec, p * centred(v) ** 2),
    "covariance": -total(spec, p * centred(u) ** 2 * centred(v)),
}

# %% [markdown]
# The left-hand sides are cumulants of $F$; all that the proof uses is $\sum_i p_i = 1$.
# Change a square above to a cube, or a sign, and the next cell refuses.

# %%
derivation = fimsym.derive(spec)
kappa = derivation.cumulants
cumulants = {
    "fisher": kappa[2, 0],
    "variance_score_squared": kappa[4, 0] + 2 * kappa[2, 0] ** 2,
    "variance_negative_hessian": kappa[0, 2],
    "covariance": -kappa[2, 1],
}
proofs = [derivation.prove(cumulants[name], theorem[name], name) for name in theorem]
proofs

# %% [markdown]
# The density is $p_y$ itself, so the second route is one line:
# $\mathbb{E}[s^a w^b] = \sum_y p_y s_y^a w_y^b$. There $V_1$ is the variance of $s^2$ by
# definition, and the two meet:

# %%
moments = derivation.central_moments
variance = moments[4, 0] - moments[2, 0] ** 2
derivation.prove(variance, theorem["variance_score_squared"], "Var(s²) = V₁")

# %%
derivation

# %% [markdown]
# ## Where the squared score is exact
#
# **Theorem.** $V_1 = 0$ if and only if the score takes the values $\pm\sqrt{\mathcal I}$
# only. Since its mean is zero, the parameter then moves a set of classes of probability
# *exactly one half* against the rest (or does nothing at all).
#
# One direction is the sum of squares above. The other: let $u$ be $+1$ on a set of
# classes with total probability one half and $-1$ on the rest. Four classes, with the
# probabilities left free up to that:

# %%
a, b = sp.symbols("a b", positive=True)  # one half is a : 1 - a, the other b : 1 - b
logits = [sp.log(weight) for weight in (a, 1 - a, b, 1 - b)]
halves = {h[n + 1]: value for n, value in enumerate(logits)}
signs = {u[1]: 1, u[2]: 1, u[3]: -1, u[4]: -1}
exact = derivation.explicit("variance_score_squared", 4).subs(signs).subs(halves)
assert sp.simplify(exact) == 0

# %% [markdown]
# With two classes that leaves one point.
#
# **Theorem (binary).** For $C = 2$ and $q = 1 - p$,
#
# $$\mathcal I = p\,q\,(u_1 - u_2)^2, \qquad V_1 = p\,q\,(p - q)^2 (u_1 - u_2)^4,$$
#
# which is zero at $p = \tfrac12$ and largest, for a given $u$, at $p q = \tfrac18$.

# %%
odds, gap = sp.symbols("p g", positive=True)
binary = {h[1]: sp.log(odds), h[2]: sp.log(1 - odds), u[1]: gap, u[2]: 0}
two = sp.factor(derivation.explicit("variance_score_squared", 2).subs(binary))
assert sp.simplify(two - odds * (1 - odds) * (2 * odds - 1) ** 2 * gap**4) == 0
two

# %%
peaks = sp.solve(sp.diff(two / gap**4, odds), odds)
assert sp.Rational(1, 2) in peaks  # the minimum, V₁ = 0
{peak: sp.simplify(peak * (1 - peak)) for peak in peaks}

# %% [markdown]
# ## Where it is hopeless
#
# For the bias of a class in the last layer, $u$ is a unit vector, and the same law of two
# values applies with $p$ the probability of that class against all others:
# $V_1 = p(1-p)(1-2p)^2$ whatever the number of classes. Relative to $\mathcal I^2$ that
# is $(1-2p)^2 / p(1-p) \to 1/p$: a class with probability $10^{-6}$ needs $10^6$ labels
# for a relative error of 100%.

# %%
unit = {u[1]: 1, u[2]: 0, u[3]: 0}
share = sp.Symbol(
    "r", positive=True
)  # how the rest is shared between the other two classes
three = [odds, (1 - odds) * share, (1 - odds) * (1 - share)]
rare = {h[n + 1]: sp.log(value) for n, value in enumerate(three)}
bias = sp.simplify(derivation.explicit("variance_score_squared", 3).subs(unit).subs(rare))
assert sp.simplify(bias - odds * (1 - odds) * (1 - 2 * odds) ** 2) == 0
sp.factor(bias)

# %%
relative = sp.simplify(bias / (odds * (1 - odds)) ** 2)
assert sp.limit(relative * odds, odds, 0) == 1
relative

# %% [markdown]
# ## In numbers
#
# Five classes and three parameters. List the five labels, let torch differentiate
# $\log p$, and sum.

# %%
torch.manual_seed(0)
logits = torch.randn(5, dtype=torch.float64)
at = Derivatives(logits, *torch.randn(2, 5, 3, dtype=torch.float64))
law = Law(spec, {})
support = law.support(logits).labels
weight = law.log_prob(logits, support).exp()
one, two = estimators(law, at, support.unsqueeze(1))  # [label, param]
values = fimsym.evaluator(spec).moments(logits, at.u, at.v)
one, two = one - values.fisher, two - values.fisher
torch.testing.assert_close(weight @ one, torch.zeros(3, dtype=torch.float64))
torch.testing.assert_close(weight @ one**2, values.variance_score_squared)
torch.testing.assert_close(weight @ two**2, values.variance_negative_hessian)
torch.testing.assert_close(weight @ (one * two), values.covariance)

# %% [markdown]
# ## The picture
#
# Left: labels needed for a relative standard error of 10%, against the probability of the
# class whose logit the parameter moves. Right: $V_1/\mathcal I^2$ over the simplex of
# three classes, for a parameter that raises class 1 and lowers class 3. It vanishes in
# the middle of the edge between them and grows without bound towards class 2, where the
# score is rarely anything but zero.

# %%
grid = np.linspace(0.01, 0.98, 160)
first, third = np.meshgrid(grid, grid)
middle = 1 - first - third
inside = middle > 0.005
simplex = np.stack([first[inside], middle[inside], third[inside]], axis=-1)
points, raise_1 = torch.from_numpy(np.log(simplex)), torch.tensor([[1.0], [0.0], [-1.0]])
both = fimsym.evaluator(spec).moments(points, raise_1.expand(len(points), 3, 1))
ratio = (both.variance_score_squared / both.fisher**2)[:, 0]
x, y = simplex[:, 2] + simplex[:, 1] / 2, simplex[:, 1] * np.sqrt(3) / 2


# %%
def simplex_picture(figure, axes):
    """Draw V₁/I² over the simplex, with its corners named."""
    levels = [0.03, 0.1, 0.3, 1, 3, 10, 30]
    within = ratio.clamp(levels[0], levels[-1])
    shade = axes.tricontourf(x, y, within, levels, cmap="cividis", norm="log")
    figure.colorbar(shade, ax=axes, shrink=0.8, format="%g", label="$V_1/I^2$")
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    for place, height, name in (
        (0, -0.08, "class 1"),
        (1, -0.08, "class 3"),
        (0.5, 0.89, "class 2"),
    ):
        axes.text(place, height, name, ha="center")


# %%
plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
classes = np.logspace(-6, np.log10(0.9), 200)
left.plot(classes, 100 * sp.lambdify(odds, relative)(classes), label="categorical")
left.axhline(
    200, color="black", linestyle=":", linewidth=0.8, label="Gaussian, $2/0.1^2$"
)
left.set(xscale="log", yscale="log", ylim=(1, None), xlabel="probability of the class")
left.set_ylabel("labels for 10% error")
left.legend(loc="upper right")
_ = simplex_picture(figure, right)

# %% [markdown]
# ## The code that is generated
#
# Code is generated from lines that keep the last digits, which pair the likeliest two
# classes; put together they equal the theorem, for every $C$.

# %%
print(inspect.getdoc(fimsym.evaluator(spec).variance_score_squared))

# %%
for name, formula in theorem.items():
    derivation.prove(inlined(derivation.program, name), formula, name)
    derivation.prove(getattr(derivation, name), formula, name)
source = fimsym.generate(spec)
assert source == inspect.getsource(fimsym.evaluator(spec))
assert "V₁ = Σ_i(d_i² p_i)" in source
