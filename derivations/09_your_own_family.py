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
# # A family of your own: from a log-partition to validated code
#
# Suppose the targets are speeds: of molecules, or lengths of errors in three dimensions.
# Their law is Maxwell's, and it is not built in. This chapter writes down its
# log-partition, and gets the rest: proven formulas, a torch module, a Monte Carlo
# verdict, and a network's Fisher diagonal. Then it makes mistakes on purpose.

# %%
import dataclasses
import inspect
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import sympy as sp
import torch

# %%
import fimsym
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import h, index, total, u
from fimsym.families import Theorem
from fimsym.laws import Law
from fimsym.report import plots
from fimsym.validation.montecarlo import Derivatives, estimators
from fimsym.validation.output import random_points

# %% [markdown]
# ## On paper
#
# Three independent velocities $\sim N(0, a^2)$ have the speed
# $y = \sqrt{x_1^2 + x_2^2 + x_3^2}$, with density proportional to $y^2 e^{-y^2/2a^2}$. As
# an exponential family: $\pi(y) = y^2$, $t(y) = y^2$, $h = -1/2a^2 < 0$, and
#
# $$
# F(h) = \log \int_0^\infty y^2 e^{h y^2}\, dy
# = -\tfrac32 \log(-h) + \tfrac12 \log \pi - \log 4 .
# $$

# %%
y, minus_h = sp.symbols("y k", positive=True)
partition = sp.integrate(y**2 * sp.exp(-minus_h * y**2), (y, 0, sp.oo))
by_hand = -sp.Rational(3, 2) * sp.log(minus_h) + sp.log(sp.pi) / 2 - sp.log(4)
assert sp.simplify(sp.expand_log(sp.log(partition) - by_hand)) == 0
partition

# %% [markdown]
# ## In a file
#
# That is all there is to write. The last lines say what a network will put out: the
# logarithm of the scale $a$. Formulas are read by a parser of their own; nothing in the
# file is executed.

# %%
text = """
name = "maxwell"
title = "Maxwell speeds"
natural = ["h"]
log_partition = "-3 / 2 * log(-h) + log(pi) / 2 - log(4)"
domain = "h < 0"
sufficient_statistics = "y**2"
[density]
base_measure = "y**2"
support = "positive"
[links.log_scale]
outputs = ["log_scale"]
natural = ["-exp(-2 * log_scale) / 2"]
"""

# %%
path = Path(tempfile.mkdtemp()) / "maxwell.toml"
path.write_text(text)
spec = fimsym.load_family(path)
spec.title, spec.log_partition

# %% [markdown]
# On the command line the same file goes to `fimsym derive maxwell.toml`, `generate`,
# `validate` and `analyze`.

# %% [markdown]
# ## Derived and proven
#
# Before anything is derived, $F$ is checked at points of the domain: finite, convex, the
# cumulants those of some law, and equal to the logarithm of the density's integral to 15
# digits.

# %%
derivation = fimsym.derive(spec)
derivation

# %%
methods = [proof.method for proof in derivation.proofs]
{method: methods.count(method) for method in dict.fromkeys(methods)}

# %% [markdown]
# **Theorem.** For one speed $V_1 = 6\,\mathcal I^2$, whatever the network; for $m$
# independent ones, with $\mathcal I_i = \tfrac32 u_i^2/h_i^2$,
#
# $$
# V_1 = 2\,\mathcal I^2 + 4 \sum_i \mathcal I_i^2 .
# $$
#
# So 10% take 600 labels, three times as many as a Gaussian's.

# %%
part = sp.Rational(3, 2) * u[index] ** 2 / h[index] ** 2
fisher = total(spec, part)
theorem = 2 * fisher**2 + 4 * total(spec, part**2)
derivation.prove(derivation.fisher, fisher, "I")
derivation.prove(derivation.variance_score_squared, theorem, "V₁ = 2I² + 4 Σ I_i²")
assert sp.simplify(derivation.explicit(theorem - 6 * fisher**2, 1)) == 0
theorem

# %% [markdown]
# A theorem can be part of the specification; it is then proven with every derivation, and
# code is not generated if it is wrong:

# %%
stated = Theorem("variance_score_squared", "27 / 2 * u1**4 / h1**4", outputs=1)
named = fimsym.derive(dataclasses.replace(spec, theorems=(stated,)))
[proof.statement for proof in named.proofs if proof.name.startswith("theorem:")]

# %% [markdown]
# ## Generated
#
# The module is generated once, kept in a folder of yours, and imported from there.

# %%
module = fimsym.evaluator(spec)
print(inspect.getdoc(module.variance_score_squared))

# %% [markdown]
# ## In numbers
#
# Two speeds, two parameters. Labels on a fine grid, weighted by the density of the
# specification, and $\hat{\mathcal I}_1$, $\hat{\mathcal I}_2$ of each by automatic
# differentiation: $F$ does not enter.

# %%
natural = torch.tensor([-0.5, -0.2], dtype=torch.float64)
torch.manual_seed(0)
at = Derivatives(natural, *torch.randn(2, 2, 2, dtype=torch.float64))
speeds = torch.linspace(1e-9, 14, 401, dtype=torch.float64)
pairs = torch.cartesian_prod(speeds, speeds)
maxwell = Law(spec, {})
weight = maxwell.log_prob(natural, pairs).exp() * (speeds[1] - speeds[0]) ** 2
torch.testing.assert_close(weight.sum(), torch.tensor(1.0).double())
first, second = estimators(maxwell, at, pairs.unsqueeze(1))  # [label, param]

# %%
moments = module.moments(natural, at.u, at.v)
about = [values - moments.fisher for values in (first, second)]
torch.testing.assert_close(weight @ first, moments.fisher)
torch.testing.assert_close(weight @ about[0] ** 2, moments.variance_score_squared)
torch.testing.assert_close(weight @ about[1] ** 2, moments.variance_negative_hessian)
torch.testing.assert_close(weight @ (about[0] * about[1]), moments.covariance)

# %% [markdown]
# And Monte Carlo, with labels drawn from the density: `validate` compares every closed
# form at random points and gives a verdict that a right formula fails once in a million
# runs.

# %%
verdict = fimsym.validate(spec, output_samples=40_000, progress=False)
assert verdict.agrees
verdict

# %% [markdown]
# ## A network
#
# The network puts out $\log a$; the link turns it into $h$. One label holds the
# information 6 about $\log a$, whatever $a$ is: the bias of the last layer says so for
# every input, and $V_1 = 6 \cdot 36 = 216$.

# %%
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
)
data = torch.randn(64, 4)
analysis = fimsym.analyze(network, data, family=spec, link="log_scale", progress=False)
torch.testing.assert_close(analysis.fisher["2.bias"], torch.tensor([6.0]).double())
torch.testing.assert_close(
    analysis.variance_score_squared["2.bias"], torch.tensor([216.0]).double()
)
analysis

# %% [markdown]
# ## Mistakes
#
# A factor forgotten, a sign, another law's density: each is refused, with the reason.

# %%
mistakes = {
    "3/2 forgotten": {"log_partition": "-log(-h) + log(pi) / 2 - log(4)"},
    "constant forgotten": {"log_partition": "-3 / 2 * log(-h)"},
    "sign": {"log_partition": "3 / 2 * log(-h)"},
    "no domain": {"domain": ()},
    "wrong density": {"density": fimsym.Density(base_measure="y", support="positive")},
    "wrong theorem": {
        "theorems": (dataclasses.replace(stated, formula="13 * u1**4 / h1**4"),)
    },
}


# %%
for mistake, change in mistakes.items():
    try:
        fimsym.derive(dataclasses.replace(spec, **change))
    except fimsym.FimsymError as refusal:
        shown = str(refusal).replace(": ", ":\n    ").replace(". ", ".\n    ")
        print(f"{mistake}:\n    {shown}")
    else:
        raise AssertionError(f"not refused: {mistake}")

# %% [markdown]
# ## The picture
#
# Left: labels drawn from the specification at $a = 1$, against Maxwell's density. Right:
# closed forms against Monte Carlo at random points, bars two standard errors, the line
# equality.

# %%
torch.manual_seed(0)
drawn = maxwell.given(torch.tensor([-0.5], dtype=torch.float64)).sample((20_000,))
density = (2 / torch.pi) ** 0.5 * speeds**2 * torch.exp(-(speeds**2) / 2)
validation = fimsym.validate(
    spec, output_samples=20_000, points=random_points(spec, seed=0), progress=False
)
assert validation.agrees
scores = validation.models[0].scores
both_sides = {
    "I": scores["fisher_score_squared"],
    "V₁": scores["variance_score_squared"],
    "V₂": scores["variance_negative_hessian"],
}

# %%
plt.style.use(plots.STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.3), layout="constrained")
left.hist(drawn.flatten(), bins=25, density=True, color=plots.COLORS[5], label="drawn")
left.plot(speeds[:150], density[:150], color=plots.COLORS[1], label="Maxwell's density")
left.set(xlabel="speed y", ylabel="density", xlim=(0, 5))
for (name, one), marker in zip(both_sides.items(), "os^", strict=True):
    error = 2 * one.standard_error
    right.errorbar(
        one.closed_form, one.monte_carlo, error, fmt=marker, markersize=3, label=name
    )
right.axline((1, 1), slope=1, color="black", linewidth=0.8)
right.set(xscale="log", yscale="log", xlabel="closed form", ylabel="Monte Carlo")
for axes in (left, right):
    axes.legend()

# %% [markdown]
# ## The code that is generated
#
# The theorem is the expression behind your module, and the module is what this derivation
# prints.

# %%
derivation.prove(inlined(derivation.program, "fisher"), fisher, "I")
derivation.prove(inlined(derivation.program, "variance_score_squared"), theorem, "V₁")
assert fimsym.generate(spec) == Path(module.__file__).read_text(encoding="utf-8")
