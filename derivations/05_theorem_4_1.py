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
# # Theorem 4.1: bounds by two forms on the sphere
#
# The variances depend on a parameter only through its directions $u$ and $v$. Split a
# direction into length and unit vector, and what is left of the law is the range of two
# forms on the unit sphere: a quadratic one and a quartic one. This chapter draws both,
# proves the bounds that code is generated for, and measures how tight they are.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation.record import equation
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import h, index, probability, total, u
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.output import random_points

# %% [markdown]
# ## The theorem
#
# **Theorem 4.1.** Over unit vectors $e$, let $\lambda(\mathcal I)$ be the extreme values
# of the quadratic form $\mathcal I(h)$, and $\lambda(M)$ those of the quartic form
# $M(e) = M_{abcd}\,e_a e_b e_c e_d$. For one label,
#
# $$
# \begin{aligned}
# \lambda_{\min}(\mathcal I)\,\lVert u\rVert^2
# &\le \mathcal I_\theta \le \lambda_{\max}(\mathcal I)\,\lVert u\rVert^2, \\
# \lambda_{\min}(M)\,\lVert u\rVert^4 &\le V_1 \le \lambda_{\max}(M)\,\lVert u\rVert^4, \\
# \lambda_{\min}(\mathcal I)\,\lVert v\rVert^2
# &\le V_2 \le \lambda_{\max}(\mathcal I)\,\lVert v\rVert^2 .
# \end{aligned}
# $$

# %% [markdown]
# The constants depend on $h$ alone, so that one evaluation serves every parameter of a
# network.
#
# *Proof.* $V_1$ is homogeneous of degree four in $u$, so
# $V_1 = \lVert u \rVert^4 M(u/\lVert u\rVert)$; the others are of degree two. $\square$

# %%
derivation = fimsym.derive("categorical")
spec, length = derivation.family, sp.Symbol("c", real=True)
for name, degree in (("fisher", 2), ("third", 3), ("variance_score_squared", 4)):
    value = getattr(derivation, name)
    scaled = value.xreplace(
        {u[i]: length * u[i] for i in sp.symbols("i j k l", integer=True, positive=True)}
    )
    derivation.prove(scaled, length**degree * value, f"{name} has degree {degree}")

# %% [markdown]
# ## The quartic form on the circle
#
# With two natural parameters the unit vectors are $e = (\cos\varphi, \sin\varphi)$. For
# two classes $M$ is a single term, which vanishes along $(1, 1)$ (adding a constant to
# all logits changes nothing) and at $p = \frac12$ everywhere:

# %%
angle, p1 = sp.symbols("varphi p", positive=True)
circle = {u[1]: sp.cos(angle), u[2]: sp.sin(angle)}
two = derivation.explicit("variance_score_squared", 2).subs(circle)
two = sp.factor(sp.simplify(two.subs({h[1]: sp.log(p1), h[2]: sp.log(1 - p1)})))
expected = p1 * (1 - p1) * (1 - 2 * p1) ** 2 * (sp.cos(angle) - sp.sin(angle)) ** 4
assert sp.simplify(two - expected) == 0
two

# %% [markdown]
# Four laws. The curve is $M(e)$ in the direction $e$, the circles are the constants that
# the package bounds it by: `quartic_min` inside, `quartic_max` outside. The Gaussian's
# curve is a circle itself.

# %%
turns = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
around = torch.stack([turns.cos(), turns.sin()])  # one parameter for each direction
laws = {
    "gaussian": ("Gaussian", [0.3, -0.8]),
    "categorical": ("categorical, p = 0.8, 0.2", [1.3863, 0.0]),
    "bernoulli": ("two labels, p = 0.95, 0.8", [2.944, 1.3863]),
    "von_mises": ("von Mises, κ = 2", [2.0, 0.0]),
}

# %%
plt.style.use(STYLE)
polar = {"subplot_kw": {"projection": "polar"}, "layout": "constrained"}
figure, panels = plt.subplots(1, 4, figsize=(9.2, 3.0), **polar)
for axes, (name, (title, at)) in zip(panels, laws.items(), strict=True):
    module, point = fimsym.evaluator(name), torch.tensor(at, dtype=torch.float64)
    curve, bounds = module.variance_score_squared(point, around), module.bounds(point)
    assert bounds.quartic_min <= curve.min() + 1e-12
    assert curve.max() <= bounds.quartic_max * (1 + 1e-12)
    axes.plot(turns, curve, label="$M(e)$")
    for value, style in ((bounds.quartic_max, "--"), (bounds.quartic_min, ":")):
        axes.plot(turns, value.expand(721), style, color=COLORS[1])
    axes.set(title=title, yticklabels=[], xticklabels=[])
    axes.grid(linewidth=0.3)

# %% [markdown]
# ## The bounds, proven
#
# A form's maximum over a sphere has no closed form in general. So the package takes the
# least of several *candidates*, each with a certificate: an identity whose right-hand
# side cannot be negative. These are the constants as they stand, for every number of
# classes:

# %%
for line in derivation.bound_definitions:
    print(equation(line))

# %% [markdown]
# One certificate written out. Let $d = \max_y \lVert e_y - p\rVert^2$, so that
# $s_y^2 \le d\,\lVert u\rVert^2$ for every label. Then
#
# $$
# d\,\lVert u\rVert^2\,\mathcal I - V_1
# = \sum_y p_y s_y^2 \bigl(d\,\lVert u\rVert^2 - s_y^2\bigr) + \mathcal I^2 \;\ge\; 0,
# $$
#
# and with $\mathcal I \le \lambda_{\max}(\mathcal I)\lVert u\rVert^2$ the quartic form is
# at most $\lambda_{\max}(\mathcal I)\, d$.

# %%
p, distance = probability[index], sp.Symbol("d", positive=True)
score = u[index] - total(spec, p * u[index])
norm, fisher = total(spec, u[index] ** 2), total(spec, p * score**2)
left = distance * norm * fisher - derivation.variance_score_squared
right = total(spec, p * score**2 * (distance * norm - score**2)) + fisher**2
derivation.prove(
    left, right, "d ‖u‖² I − V₁ is a sum of terms that are not negative"
).residual

# %% [markdown]
# Every bound that is stated has such a proof; a bound without one does not leave the
# derivation. Those of the categorical:

# %%
for proof in derivation.proofs:
    if proof.name.startswith("theorem 4.1"):
        print(f"{proof.name.removeprefix('theorem 4.1: ')}\n    {proof.statement}")

# %% [markdown]
# ## How tight, over the simplex
#
# For three classes the truth can be had by brute force: $\lambda_{\max}(\mathcal I)$ as
# an eigenvalue, and $\lambda_{\max}(M)$ by trying 360 directions in the plane orthogonal
# to $(1,1,1)$, where the maximum must lie: a component along $(1,1,1)$ uses up length and
# adds nothing.

# %%
grid = np.linspace(0.004, 0.992, 90)
first, third = np.meshgrid(grid, grid)
middle = 1 - first - third
points = torch.tensor(np.stack([first, middle, third], -1)[middle > 0.003])
logits = points.log()
turn = torch.linspace(0, torch.pi, 360, dtype=torch.float64)
plane = (
    torch.tensor([[1, 1], [-1, 1], [0, -2]], dtype=torch.float64)
    / torch.tensor([2.0, 6.0]).sqrt()
)
directions = plane @ torch.stack([turn.cos(), turn.sin()])
module = fimsym.evaluator("categorical")
values = module.variance_score_squared(logits, directions.expand(len(points), 3, 360))
core = torch.diag_embed(points) - points[:, :, None] * points[:, None, :]
truth = {"fisher_max": torch.linalg.eigvalsh(core)[:, -1], "quartic_max": values.amax(-1)}

# %%
bounds = module.bounds(logits)
ratios = {name: getattr(bounds, name) / value for name, value in truth.items()}
for name, ratio in ratios.items():
    assert ratio.min() > 1 - 1e-4  # 360 directions miss the maximum by less than that
    quantiles = ratio.quantile(torch.tensor([0.5, 0.99], dtype=torch.float64)).tolist()
    print(
        f"{name}: bound/truth {quantiles[0]:.2f} in the median, {quantiles[1]:.2f} at 99%"
    )


# %%
def simplex(axes, ratio, title):
    """Draw bound over truth on the simplex."""
    x, y = points[:, 2] + points[:, 1] / 2, points[:, 1] * np.sqrt(3) / 2
    levels = [1, 1.05, 1.1, 1.2, 1.4, 1.7, 2, 2.5]
    shade = axes.tricontourf(x, y, ratio.clamp(1), levels, cmap="cividis", extend="max")
    axes.set(aspect="equal")
    axes.set_axis_off()
    axes.text(0.02, 0.8, title, fontsize=11)
    for place, height, name in (
        (0, -0.08, "class 1"),
        (1, -0.08, "3"),
        (0.5, 0.89, "class 2"),
    ):
        axes.text(place, height, name, ha="center")
    return shade


# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
simplex(left, ratios["fisher_max"], r"$\lambda_{\max}(I)$")
shade = simplex(right, ratios["quartic_max"], r"$\lambda_{\max}(M)$")
_ = figure.colorbar(
    shade, ax=[left, right], shrink=0.8, format="%g", label="bound / truth"
)

# %% [markdown]
# ## How tight, for every law
#
# For each family, at random points of its domain: the largest and smallest values found
# among 20,000 unit vectors, next to the constants. *upper* is bound over value found,
# *lower* value over bound; 1.00 is tight, and a lower bound of zero shows as a dash. What
# is found is inside the true range, so that the ratios are, if anything, too large.


# %%
def tightness(name, quantity, form):
    """Return the worst bound/found of the maximum, found/bound of the minimum."""
    high, low = [], []
    for point in random_points(fimsym.family(name), seed=1):
        unit = torch.randn(len(point.at.h), 20_000, dtype=torch.float64)
        unit = torch.nn.functional.normalize(unit, dim=0)
        module = fimsym.evaluator(name)
        found = getattr(module, quantity)(point.at.h, unit, **point.constants)
        limits = module.bounds(point.at.h, **point.constants)
        smallest, largest = getattr(limits, f"{form}_min"), getattr(limits, f"{form}_max")
        assert smallest <= found.min() * (1 + 1e-12)
        assert found.max() <= largest * (1 + 1e-12)
        high.append(float(largest / found.max()))
        low.append(float(found.min() / smallest) if smallest > 0 else np.inf)
    return max(high), max(low)


# %%
torch.manual_seed(0)
print(f"{'':24}{'I: upper':>9}{'lower':>9}{'M: upper':>9}{'lower':>9}")
for name in fimsym.families():
    row = [
        *tightness(name, "fisher", "fisher"),
        *tightness(name, "variance_score_squared", "quartic"),
    ]
    print(
        f"{name:24}"
        + "".join(f"{r:9.2f}" if np.isfinite(r) else f"{'–':>9}" for r in row)
    )

# %% [markdown]
# ## The code that is generated
#
# $M(e)$ in the pictures is the expression behind `variance_score_squared`; the constants
# are the lines printed above, which `bounds` evaluates from $h$ alone.

# %%
directional = total(spec, p * (score**2 - fisher) ** 2)
derivation.prove(
    inlined(derivation.program, "variance_score_squared"), directional, "V₁ = M(u)"
)
documented = inspect.getdoc(module.bounds).split()
for line in derivation.bound_definitions:
    assert equation(line) in " ".join(documented)
assert fimsym.generate(spec) == inspect.getsource(module)
