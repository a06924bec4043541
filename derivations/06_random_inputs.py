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
# # Random inputs: where more labels stop helping, and what data labels measure
#
# So far the input was fixed. In use, the Fisher information is a mean over inputs, these
# are a sample too, and often the labels are not drawn from the model but are those that
# came with the data. Two short theorems say what each of these does. The first tells how
# to split a budget between inputs and labels, the second is why the *empirical Fisher* is
# another quantity.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation.normal import normal
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import index, probability, total, u
from fimsym.laws.law import Law
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import derivatives, estimators

# %% [markdown]
# ## Two sources of chance
#
# Draw $N_x$ inputs $x$, and for each $N_y$ labels from the model. Let $\mathcal I(x)$ be
# the Fisher information at $x$ and $V(x)$ the variance of the estimator there from one
# label ($V_1$ or $V_2$ alike).
#
# **Theorem 4.7.** The mean of all estimates has the variance
#
# $$
# \operatorname{Var} = \frac{1}{N_x}
# \Bigl( \operatorname{Var}_x \mathcal I(x) + \frac{1}{N_y}\, \mathbb E_x V(x) \Bigr).
# $$
#
# On a fixed data set, where every input is used, the first term is absent.

# %% [markdown]
# *Derivation.* Let inputs $i$ have probabilities $p_i$, any number of them. Given the
# input, a mean of $N_y$ labels has the second moment $V_i/N_y + \mathcal I_i^2$, where
# the $V/N$ is what `of_mean` returns and proves from independent labels:

# %%
derivation = fimsym.derive("categorical")
spec, labels = derivation.family, sp.Symbol("N_y", positive=True)
assert derivation.of_mean("variance_score_squared", labels).has(1 / labels)
[proof.statement for proof in derivation.proofs if proof.name == "labels"]

# %%
information, variance = (
    sp.IndexedBase("I", real=True)[index],
    sp.IndexedBase("V", real=True)[index],
)
p = probability[index]
mean = total(spec, p * information)
of_one_input = total(spec, p * (variance / labels + information**2)) - mean**2
theorem = total(spec, p * (information - mean) ** 2) + total(spec, p * variance) / labels
assert normal(of_one_input - theorem) == 0
theorem

# %% [markdown]
# ## How to spend a budget
#
# If an input costs $a$ and a label $b$, what $N_y$ is best? The cost of one input is
# $a + b N_y$ and a budget $B$ buys $N_x = B / (a + b N_y)$ of them, so the product of
# cost and variance is to be minimised:

# %%
a, b, between, within = sp.symbols("a b A B", positive=True)  # A = Var_x I, B = E_x V
price = (a + b * labels) * (between + within / labels)
(best,) = sp.solve(sp.diff(price, labels), labels)
assert sp.simplify(best - sp.sqrt(a * within / (b * between))) == 0
best

# %% [markdown]
# Where inputs cost nothing the best is one label each, whatever the variances. More
# labels per input pay only when $a\,\mathbb E_x V > b\operatorname{Var}_x\mathcal I$:
# dear inputs, noisy labels, or enough of one to make up for the other.

# %% [markdown]
# ## A network
#
# A small classifier and a population of 200 inputs. `analyze` returns all that the
# theorem needs: `fisher`, the variances, and `input_variance`.

# %%
torch.manual_seed(0)
double = {"dtype": torch.float64}
model = torch.nn.Sequential(
    torch.nn.Linear(4, 8, **double), torch.nn.Tanh(), torch.nn.Linear(8, 3, **double)
)
with torch.no_grad():
    model[2].weight.mul_(4)  # a classifier that has learnt something is confident
population = torch.randn(200, 4, **double)
analysis = fimsym.analyze(
    model, population, family=spec, quantities="all", progress=False
)
analysis.to_frame()

# %%
flat = {
    name: torch.cat([values[key].flatten() for key in analysis.fisher])
    for name, values in (
        ("fisher", analysis.fisher),
        ("within", analysis.variance_score_squared),
        ("between", analysis.input_variance),  # a sample variance, over n − 1
    )
}
flat["between"] = flat["between"] * (len(population) - 1) / len(population)

# %% [markdown]
# The other side shares nothing with it: the estimate $\hat{\mathcal I}_1$ of every label
# at every input, by automatic differentiation.

# %%
law = Law(spec, {})
points = [derivatives(model, example) for example in population]
squared, chance = [], []
for at in points:
    support = law.support(at.h).labels
    squared.append(estimators(law, at, support.unsqueeze(1))[0])  # [label, param]
    chance.append(law.log_prob(at.h, support).exp())
squared, chance = (
    torch.stack(squared),
    torch.stack(chance),
)  # [input, label, param], [input, label]
expected = torch.einsum("xy,xyp->xp", chance, squared)
torch.testing.assert_close(expected.mean(0), flat["fisher"])
torch.testing.assert_close(expected.var(0, correction=0), flat["between"])

# %% [markdown]
# Now the experiment itself: draw 16 inputs and $N_y$ labels for each, average, repeat
# 60,000 times, and take the variance of the results. Two weights, one from each layer.

# %%
rng = np.random.default_rng(0)
chosen, inputs, repetitions = [5, 45], 16, 60_000
table, chances = squared[:, :, chosen].numpy(), chance.numpy()


def experiment(labels_each):
    """Return the variance of the mean over random inputs and labels."""
    drawn = rng.integers(len(population), size=(repetitions, inputs))
    counts = rng.multinomial(labels_each, chances[drawn])
    estimates = np.einsum("rxy,rxyp->rp", counts, table[drawn]) / (inputs * labels_each)
    return estimates.var(0)


# %%
each = [1, 2, 4, 8, 16, 32, 64]
simulated = np.stack([experiment(n) for n in each])
between_, within_ = (flat[name][chosen].numpy() for name in ("between", "within"))
predicted = np.stack([(between_ + within_ / n) / inputs for n in each])
np.testing.assert_allclose(simulated, predicted, rtol=0.03)
(simulated / predicted).round(3)

# %% [markdown]
# ## The empirical Fisher
#
# Let labels come from another law, with mean $\eta_q$ and covariance
# $\operatorname{Cov}_q$ of $t$: a data set's. Squaring the score then measures something
# else.
#
# **Theorem.** With $\mathcal I = u^\top \operatorname{Cov}_p(t)\, u$ of the model,
#
# $$
# \mathbb E_q\, s^2
# = u^\top \bigl( \operatorname{Cov}_q(t) +
# (\eta_q - \eta)(\eta_q - \eta)^\top \bigr)\, u .
# $$

# %% [markdown]
# So the bias has a closed form, and vanishes when $q = p$. For three classes, with
# $q_3 = 1 - q_1 - q_2$:

# %%
q = sp.symbols("q1:3", positive=True)
q = (*q, 1 - sum(q))
mean_p = sum(probability[n] * u[n] for n in (1, 2, 3))
mean_q = sum(q[n - 1] * u[n] for n in (1, 2, 3))
squared_score = sum(q[n - 1] * (u[n] - mean_p) ** 2 for n in (1, 2, 3))
covariance = sum(q[n - 1] * (u[n] - mean_q) ** 2 for n in (1, 2, 3))
assert sp.expand(squared_score - covariance - (mean_q - mean_p) ** 2) == 0
same = dict(zip(q[:2], (probability[1], probability[2]), strict=False))
fisher = sum(probability[n] * (u[n] - mean_p) ** 2 for n in (1, 2, 3))
last = {probability[3]: 1 - probability[1] - probability[2]}
assert sp.expand((squared_score.subs(same) - fisher).subs(last)) == 0

# %% [markdown]
# For a single count whose data have the model's mean and $\varphi$ times its variance,
# the ratio is $\varphi$ for *every* parameter: the empirical Fisher of over-dispersed
# counts is too large by exactly the dispersion. For a classifier the ratio differs from
# parameter to parameter. Let the data's law be the model's with its logits divided by a
# temperature $T$: at $T > 1$ the model is over-confident.

# %%
logits = torch.stack([at.h for at in points])


def empirical(temperature):
    """Return E_q s², mean over inputs and sum over each layer."""
    given = (logits / temperature).softmax(-1)
    value = torch.einsum("xy,xyp->p", given, squared) / len(population)
    return torch.stack([value[:40].sum(), value[40:].sum()])


# %%
model_fisher = torch.stack([flat["fisher"][:40].sum(), flat["fisher"][40:].sum()])
torch.testing.assert_close(empirical(1.0), model_fisher)
temperatures = torch.logspace(-1, 1, 41)
ratio = torch.stack([empirical(float(t)) / model_fisher for t in temperatures])
likeliest = (empirical(0.01) / model_fisher).tolist()
print(
    f"labels of the likeliest class: {likeliest[0]:.2f}, {likeliest[1]:.2f} of the Fisher"
)

# %% [markdown]
# ## The picture
#
# Left: the variance of the mean over 16 random inputs against labels per input, predicted
# (lines) and simulated (dots); the floor is $\operatorname{Var}_x \mathcal I / N_x$,
# which no number of labels lowers. Right: the empirical Fisher over the Fisher; right of
# 1 the model is over-confident on the data.

# %%
plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
for k, (marker, name) in enumerate(zip("os", ("first", "last"), strict=True)):
    scale, color = predicted[0, k], COLORS[k]
    left.plot(each, predicted[:, k] / scale, color=color, label=f"weight, {name} layer")
    left.plot(each, simulated[:, k] / scale, marker, color=color, markersize=4)
    left.axhline(between_[k] / inputs / scale, color=color, linestyle=":", linewidth=0.9)
    right.plot(temperatures, ratio[:, k], color=color, label=f"{name} layer")
left.set(xscale="log", ylim=(0, 1.1), xlabel="labels per input $N_y$")
left.set_ylabel("variance, relative to $N_y = 1$")
right.axhline(1, color="black", linestyle=":", linewidth=0.8)
right.set(xscale="log", xlabel="temperature T", ylabel="empirical Fisher / Fisher")
left.legend(loc="lower left")
_ = right.legend()

# %% [markdown]
# ## The code that is generated
#
# $\mathcal I(x)$ and $V(x)$ of the theorem are the expressions behind the torch module;
# `analyze` averages what it returns.

# %%
score = u[index] - total(spec, p * u[index])
fisher = total(spec, p * score**2)
squares = total(spec, p * (score**2 - fisher) ** 2)
derivation.prove(inlined(derivation.program, "fisher"), fisher, "I(x)")
derivation.prove(inlined(derivation.program, "variance_score_squared"), squares, "V₁(x)")
module = fimsym.evaluator(spec)
of_inputs = module.variance_score_squared(logits, torch.stack([at.u for at in points]))
torch.testing.assert_close(of_inputs.mean(0), flat["within"])
assert fimsym.generate(spec) == inspect.getsource(module)
