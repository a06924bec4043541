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
# # Directions: von Mises
#
# Angles, wind directions, phases: a law on the circle. Its log-partition depends on the
# length of $h$ alone, so that every quantity splits into a part along $h$ and a part
# across it. It is the last family, and the one where the two ends of the range look least
# alike: an angle about which nothing is known, and one that is known almost exactly.

# %%
import inspect

import matplotlib.pyplot as plt
import sympy as sp
import torch

import fimsym
from fimsym.derivation.functions import LogBessel
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import directions, index, naturals, total, u, v
from fimsym.laws import Law
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import Derivatives, estimators
from fimsym.validation.output import random_points

# %% [markdown]
# ## The law
#
# $p(y) \propto e^{\kappa \cos(y - \varphi)}$ on $(-\pi, \pi]$. With
# $t = (\cos y, \sin y)$ and $h = \kappa(\cos\varphi, \sin\varphi)$,
#
# $$
# F(h) = \ln I_0(r), \qquad r = \lVert h \rVert = \kappa .
# $$
#
# Write $g_0 = \ln I_0$, $g_{j+1}(r) = g_j'(r)/r$, and split $u$ at every target into a
# part $a$ along $h$ and a part $b$ across it.
#
# **Theorem.** $\mathcal I = \sum_i \bigl( g_0''(r)\, a^2 + g_1(r)\, b^2 \bigr)_i$, and
# $V_2$ is the same with $v$.

# %%
derivation = fimsym.derive("von_mises")
spec = derivation.family
h1, h2 = (base[index] for base in naturals(spec))
r = sp.sqrt(h1**2 + h2**2)


def split(base):
    """Return the parts of a direction along h and across it."""
    first, second = (part[index] for part in directions(spec, base))
    return (h1 * first + h2 * second) / r, (h1 * second - h2 * first) / r


derivation

# %%
(a, b), (c, d) = split(u), split(v)
along, across = LogBessel(0, 2, r), LogBessel(1, 0, r)  # g₀″ and g₁
information = total(spec, along * a**2 + across * b**2)
derivation.prove(inlined(derivation.program, "fisher"), information, "I")
hessian = total(spec, along * c**2 + across * d**2)
derivation.prove(inlined(derivation.program, "variance_negative_hessian"), hessian, "V₂")

# %% [markdown]
# The fourth derivative of a radial function, in the same two parts: a derivative across
# $h$ turns $g_j$ into $g_{j+1}$.
#
# **Theorem.** $V_1 = 2\,\mathcal I^2 + \sum_i \kappa_{40,i}$ with
#
# $$
# \kappa_{40} = g_0''''\, a^4 + 6\, g_1''\, a^2 b^2 + 3\, g_2\, b^4 .
# $$

# %%
fourth = (
    LogBessel(0, 4, r) * a**4
    + 6 * LogBessel(1, 2, r) * a**2 * b**2
    + 3 * LogBessel(2, 0, r) * b**4
)
variance = 2 * information**2 + total(spec, fourth)
derivation.prove(inlined(derivation.program, "variance_score_squared"), variance, "V₁")
derivation.prove(derivation.cumulants[4, 0], total(spec, fourth), "κ₄₀").residual

# %% [markdown]
# ## The two ends
#
# With no concentration the angle is uniform, $s$ is a cosine, and
# $V_1/\mathcal I^2 = \frac12$: a bounded score with two favourite values is the best that
# one label can do here. With much concentration the part across $h$ is Gaussian (ratio
# 2), and the part along it, $\cos(y-\varphi) - 1$, is minus a $\chi^2$ variable (ratio
# 14, as for a variance).

# %%
angle = sp.Symbol("y", real=True)
uniform = lambda f: sp.integrate(f, (angle, -sp.pi, sp.pi)) / (2 * sp.pi)  # noqa: E731
second, fourth_moment = uniform(sp.cos(angle) ** 2), uniform(sp.cos(angle) ** 4)
assert fourth_moment / second**2 - 1 == sp.Rational(1, 2)


def ratio(concentration, way):
    """Return V₁/I² at h = (κ, 0), along h for (1, 0) and across it for (0, 1)."""
    natural = torch.stack([concentration, torch.zeros_like(concentration)], dim=-1)
    direction = torch.tensor(way).double()[:, None].expand(*natural.shape, 1)
    found = fimsym.evaluator(spec).moments(natural, direction)
    return (found.variance_score_squared / found.fisher**2)[:, 0]


# %%
ends = torch.tensor([1e-4, 1e6], dtype=torch.float64)
limits = torch.stack([ratio(ends, (1.0, 0.0)), ratio(ends, (0.0, 1.0))])
expected = torch.tensor([[0.5, 14.0], [0.5, 2.0]]).double()
torch.testing.assert_close(limits, expected, rtol=1e-4, atol=0)
limits

# %% [markdown]
# ## In numbers
#
# On a circle the trapezoidal rule converges faster than any power: 64 equally spaced
# labels integrate to the last digit. Derivatives of $\log p$ come from torch.

# %%
torch.manual_seed(0)
natural = torch.tensor([1.2, -0.7], dtype=torch.float64)
at = Derivatives(natural, *torch.randn(2, 2, 3, dtype=torch.float64))
model = Law(spec, {})
angles = torch.linspace(-torch.pi, torch.pi, 65, dtype=torch.float64)[1:, None]
weight = model.log_prob(natural, angles).exp() * 2 * torch.pi / 64
one, two = estimators(model, at, angles.unsqueeze(1))
found = fimsym.evaluator(spec).moments(natural, at.u, at.v)
one, two = one - found.fisher, two - found.fisher
torch.testing.assert_close(weight @ one, torch.zeros(3, dtype=torch.float64))
torch.testing.assert_close(weight @ one**2, found.variance_score_squared)
torch.testing.assert_close(weight @ two**2, found.variance_negative_hessian)
torch.testing.assert_close(weight @ (one * two), found.covariance)

# %%
points = random_points(spec, seed=0)
found = fimsym.validate(spec, output_samples=20_000, points=points, progress=False)
assert found.agrees
for row in found.models[0].comparisons:
    sampled = f"{row.monte_carlo:9.4f} ± {row.standard_error:.4f}"
    print(f"{row.quantity:27} {row.closed_form:9.4f} {sampled}")

# %% [markdown]
# ## The picture
#
# Left: three laws on the circle. Right: $V_1/\mathcal I^2$ along and across $h$ against
# the concentration, from one half to 14 and to 2.


# %%
def densities(axes):
    """Draw the density at three concentrations."""
    turn = torch.linspace(-torch.pi, torch.pi, 241, dtype=torch.float64)
    for concentration, color, style in zip(
        (0.1, 1, 5), COLORS, ("-", "--", "-."), strict=False
    ):
        at_zero = torch.tensor([concentration, 0.0], dtype=torch.float64)
        density = model.log_prob(at_zero, turn[:, None]).exp()
        axes.plot(turn, density, style, color=color, label=rf"$\kappa = {concentration}$")
    axes.set(yticklabels=[])
    axes.grid(linewidth=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(0.95, 1))


# %%
plt.style.use(STYLE)
figure = plt.figure(figsize=(8.2, 3.3), layout="constrained")
densities(figure.add_subplot(121, projection="polar"))
axes = figure.add_subplot(122)
strengths = torch.logspace(-2, 3, 160, dtype=torch.float64)
for name, way, color in (
    ("along", (1.0, 0.0), COLORS[3]),
    ("across", (0.0, 1.0), COLORS[5]),
):
    axes.plot(strengths, ratio(strengths, way), color=color, label=f"{name} $h$")
axes.set(xscale="log", yscale="log", xlabel=r"concentration $\kappa$", ylabel="$V_1/I^2$")
axes.set_yticks([0.5, 2, 14], ["0.5", "2", "14"])
axes.minorticks_off()
_ = axes.legend()

# %% [markdown]
# ## The code that is generated
#
# The theorems were proven against the program of the module.

# %%
print(inspect.getdoc(fimsym.evaluator(spec).variance_score_squared).split("Args")[0])

# %%
derivation.prove(inlined(derivation.program, "fisher"), information, "I")
derivation.prove(inlined(derivation.program, "variance_score_squared"), variance, "V₁")
derivation.prove(inlined(derivation.program, "variance_negative_hessian"), hessian, "V₂")
assert all(proof.residual == 0 for proof in derivation.proofs)
assert fimsym.generate(spec) == inspect.getsource(fimsym.evaluator(spec))
