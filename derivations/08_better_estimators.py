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
# # Beyond the two estimators: mixing, correcting and probing
#
# The paper compares $\hat{\mathcal I}_1$ with $\hat{\mathcal I}_2$. Once the cumulants
# are there, more can be had from them: the covariance of the two, the best mix, a
# correction of the squared score that costs nothing, and estimators that draw noise in
# place of labels. All are unbiased, and all are priced by what `derive` returns already.

# %%
import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import sympy as sp
import torch

import fimsym
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import h, index, probability, total, u, v
from fimsym.laws.law import Law
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import Derivatives, estimators

# %% [markdown]
# ## What is known
#
# For one parameter and one label: $\mathcal I = \kappa_{20}$, the third cumulant
# $\kappa_{30}$ of the score, $V_1$, $V_2$, and the covariance. It is
#
# $$
# C = \operatorname{Cov}(\hat{\mathcal I}_1, \hat{\mathcal I}_2)
# = -\kappa_{21} = -\mathbb E\,[s^2 w],
# $$
#
# a third cumulant, of either sign: zero for symmetric laws, for the Gaussian always.

# %%
derivation = fimsym.derive("categorical")
spec = derivation.family
derivation.prove(derivation.covariance, -derivation.cumulants[2, 1], "Cov = −κ₂₁")
derivation.prove(
    derivation.covariance, -derivation.central_moments[2, 1], "Cov = −E[s² w]"
)
assert fimsym.derive("gaussian").covariance == 0

# %%
fisher, third, first, second, covariance = sp.symbols("I kappa_30 V_1 V_2 C", real=True)
alpha, c = sp.symbols("alpha c", real=True)
known = {
    fisher: derivation.fisher,
    third: derivation.third,
    first: derivation.variance_score_squared,
    second: derivation.variance_negative_hessian,
    covariance: derivation.covariance,
}

# %% [markdown]
# ## The best mix
#
# **Theorem (mix).** Among the unbiased
# $\alpha\hat{\mathcal I}_1 + (1-\alpha)\hat{\mathcal I}_2$ from the same label the least
# variance is
#
# $$
# \frac{V_1 V_2 - C^2}{V_1 + V_2 - 2C} \qquad\text{at}\qquad
# \alpha^* = \frac{V_2 - C}{V_1 + V_2 - 2C},
# $$
#
# never more than the smaller of $V_1$ and $V_2$, and zero where the two are perfectly
# correlated and differ.

# %%
mixture = (
    alpha**2 * first + (1 - alpha) ** 2 * second + 2 * alpha * (1 - alpha) * covariance
)
(best,) = sp.solve(sp.diff(mixture, alpha), alpha)
mixed = sp.factor(mixture.subs(alpha, best))
assert sp.simplify(best - (second - covariance) / (first + second - 2 * covariance)) == 0
assert (
    sp.simplify(
        first - mixed - (first - covariance) ** 2 / (first + second - 2 * covariance)
    )
    == 0
)
mixed

# %% [markdown]
# ## A correction that costs nothing
#
# The score itself has mean zero, so $s^2 + c\,s$ is unbiased for every $c$.
#
# **Theorem (control variate).** The best coefficient is $c^* = -\kappa_{30}/\kappa_{20}$,
# and leaves the variance
#
# $$
# V_1 - \frac{\kappa_{30}^2}{\kappa_{20}} .
# $$
#
# It is zero for every law of two values.

# %%
corrected = first + 2 * c * third + c**2 * fisher  # Var s² + 2c Cov(s², s) + c² Var s
(coefficient,) = sp.solve(sp.diff(corrected, c), c)
score_squared_cv = sp.expand(corrected.subs(c, coefficient))
assert sp.simplify(coefficient + third / fisher) == 0
assert sp.simplify(score_squared_cv - (first - third**2 / fisher)) == 0
score_squared_cv

# %% [markdown]
# Two classes are two values: $V_1 \mathcal I = \kappa_{30}^2$, and one label gives the
# Fisher information exactly.

# %%
odds, gap = sp.symbols("p g", positive=True)
binary = {h[1]: sp.log(odds), h[2]: sp.log(1 - odds), u[1]: gap, u[2]: 0}
numerator = (first * fisher - third**2).subs(known)
assert sp.simplify(derivation.explicit(numerator, 2).subs(binary)) == 0

# %% [markdown]
# For a single Poisson count the correction removes the whole excess:
# $V_1 = \lambda u^4 + 2\mathcal I^2$ becomes the Gaussian's $2\mathcal I^2$.

# %%
poisson = fimsym.derive("poisson")
one_count = (poisson.variance_score_squared, poisson.third, poisson.fisher)
v1, k3, i1 = (poisson.explicit(value, 1) for value in one_count)
assert sp.simplify(v1 - k3**2 / i1 - 2 * i1**2) == 0
sp.factor(v1), sp.simplify(v1 - k3**2 / i1)

# %% [markdown]
# ## Noise in place of labels
#
# Factor the core Fisher information, $\mathcal I(h) = L L^\top$, and let $a = L^\top u$,
# so that $\mathcal I = \lVert a\rVert^2$. Draw a vector $g$ with uncorrelated entries of
# mean zero and variance one, and take $\langle a, g\rangle^2$. No label is drawn; it is
# one backward pass all the same.
#
# **Theorem (probes).** Both are unbiased, with variances
#
# $$
# \text{Gaussian } g:\; 2\,\mathcal I^2, \qquad
# \text{signs } g:\; 2\,\Bigl(\mathcal I^2 - \sum_i a_i^4\Bigr).
# $$

# %% [markdown]
# Nothing new has to be derived. $\langle a, g\rangle$ is the score of a law that is built
# in already: a Gaussian with $\sigma = 1$ and direction $a$; and a sign is $2y - 1$ with
# $y$ a Bernoulli label at $h = 0$, so that the direction is $2a$.

# %%
a = sp.IndexedBase("a", real=True)
gaussian, bernoulli = fimsym.derive("gaussian"), fimsym.derive("bernoulli")
noise = gaussian.explicit("variance_score_squared", 3).subs(
    sp.Symbol("sigma", positive=True), 1
)
noise = noise.subs({u[n]: a[n] for n in (1, 2, 3)})
signs = bernoulli.explicit("variance_score_squared", 3)
signs = signs.subs({h[n]: 0 for n in (1, 2, 3)}).subs({u[n]: 2 * a[n] for n in (1, 2, 3)})
squares = sum(a[n] ** 2 for n in (1, 2, 3))
assert sp.expand(noise - 2 * squares**2) == 0
fourth_powers = sum(a[n] ** 4 for n in (1, 2, 3))
assert sp.simplify(signs - 2 * (squares**2 - fourth_powers)) == 0
sp.factor(sp.simplify(signs))

# %% [markdown]
# For a classifier $L = \operatorname{diag}(\sqrt p) - p\sqrt p^\top$ needs no
# decomposition: $a_i = \sqrt{p_i}\,\tilde u_i$, and $L r$ costs as many operations as
# there are classes.

# %%
p = sp.Matrix(sp.symbols("p1:3", positive=True))
p = p.col_join(sp.Matrix([1 - sum(p)]))
root = p.applyfunc(sp.sqrt)
factor = sp.diag(*root) - p * root.T
assert (factor * factor.T - (sp.diag(*p) - p * p.T)).applyfunc(sp.simplify).is_zero_matrix
score = u[index] - total(spec, probability[index] * u[index])
excess = total(spec, probability[index] ** 2 * score**4)  # Σ a⁴
rademacher_probe = 2 * (fisher**2 - sp.Symbol("A_4", real=True))
known[sp.Symbol("A_4", real=True)] = excess

# %% [markdown]
# ## The sign of $\kappa_{40}$
#
# $V_1 = \kappa_{40} + 2\mathcal I^2$, and a Gaussian probe has $2\mathcal I^2$. So
# *labels beat noise exactly where the score's excess kurtosis is negative*: where the
# model is undecided. For a yes-or-no label that is a window around one half:

# %%
yes = {h[1]: sp.log(odds / (1 - odds)), u[1]: 1}
kurtosis = sp.factor(
    sp.simplify(bernoulli.explicit(bernoulli.cumulants[4, 0], 1).subs(yes))
)
edges = [x for x in sp.solve(kurtosis, odds) if x not in (0, 1)]
assert {sp.simplify(x * (1 - x)) for x in edges} == {sp.Rational(1, 6)}
kurtosis, [sp.N(x, 4) for x in edges]

# %% [markdown]
# A confident classifier is far outside: at $p = 0.999$ the squared score has 500 times
# the variance of a probe.

# %%
sure = {odds: sp.Rational(999, 1000)}
both = bernoulli.explicit("variance_score_squared", 1), bernoulli.explicit("fisher", 1)
squared_score, information = (value.subs(yes).subs(sure) for value in both)
sp.N(squared_score / (2 * information**2), 4)

# %% [markdown]
# ## All of them
#
# One table, in the symbols that `derive` gives a value to. `exact` sums over all labels,
# or takes one backward pass for each output.

# %%
variances = {
    "score_squared": first,
    "score_squared_cv": score_squared_cv,
    "negative_hessian": second,
    "mixed": mixed,
    "gaussian_probe": 2 * fisher**2,
    "rademacher_probe": rademacher_probe,
    "exact": sp.Integer(0),
}
variances

# %% [markdown]
# ## In numbers
#
# Five classes. Labels are listed, signs are listed, and the Gaussian probe's mean is
# taken by a Gauss–Hermite rule that is exact for a polynomial of degree four. What is
# drawn is then known with its probability.

# %%
torch.manual_seed(0)
logits = 1.5 * torch.randn(5, dtype=torch.float64)
at = Derivatives(logits, *torch.randn(2, 5, 1, dtype=torch.float64))
law, chance = Law(spec, {}), logits.softmax(-1)
one, two = (
    x.squeeze(-1) for x in estimators(law, at, law.support(logits).labels.unsqueeze(1))
)
slope = at.u[:, 0] - chance @ at.u[:, 0]  # the score of each label
amplitude = chance.sqrt() * slope  # a = Lᵀu
all_signs = torch.tensor(
    list(itertools.product((-1.0, 1.0), repeat=5)), dtype=torch.float64
)
nodes, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(3))
grid = torch.cartesian_prod(*[nodes] * 5)
weight = torch.cartesian_prod(*[weights] * 5).prod(-1) / (2 * np.pi) ** 2.5

# %%
moments = fimsym.evaluator(spec).moments(logits, at.u, at.v)
numbers = {
    fisher: moments.fisher,
    third: moments.third,
    first: moments.variance_score_squared,
    second: moments.variance_negative_hessian,
    covariance: moments.covariance,
    sp.Symbol("A_4", real=True): (amplitude**4).sum(),
}
numbers = {symbol: sp.Float(float(value)) for symbol, value in numbers.items()}
share, tilt = float(best.subs(numbers)), float(coefficient.subs(numbers))

# %%
draws = {
    "score_squared": (one, chance),
    "score_squared_cv": (one + tilt * slope, chance),
    "negative_hessian": (two, chance),
    "mixed": (share * one + (1 - share) * two, chance),
    "gaussian_probe": ((grid @ amplitude) ** 2, weight),
    "rademacher_probe": (
        (all_signs @ amplitude) ** 2,
        torch.full((32,), 1 / 32).double(),
    ),
}

# %%
for name, (values, odds_of_draw) in draws.items():
    mean = odds_of_draw @ values
    variance = float(odds_of_draw @ (values - mean) ** 2)
    np.testing.assert_allclose(float(mean), float(numbers[fisher]), rtol=1e-12)
    np.testing.assert_allclose(variance, float(variances[name].subs(numbers)), rtol=1e-10)
    print(f"{name:18} variance / I² = {variance / float(numbers[fisher]) ** 2:8.4f}")

# %% [markdown]
# The coefficients $\alpha^*$ and $c^*$ come from the closed form, or from a pilot; never
# from the very draws that they correct, which would bias the result. A run with fixed
# seed, 20,000 labels:

# %%
rng = np.random.default_rng(0)
drawn = rng.choice(5, size=20_000, p=chance.numpy())
for name in ("score_squared", "score_squared_cv", "negative_hessian", "mixed"):
    values = draws[name][0].numpy()[drawn]
    error = (values.mean() - float(numbers[fisher])) / (values.std() / len(drawn) ** 0.5)
    assert abs(error) < 4
    print(f"{name:18} {values.mean():.4f} ± {values.std() / len(drawn) ** 0.5:.4f}")

# %% [markdown]
# ## The picture
#
# Ten classes, fixed directions $u$ and $v$, and a model that grows more confident to the
# right. Probes do not care; estimates from labels become hopeless, as the information
# hides in rare classes. Where the model is undecided a label is worth more than noise,
# and the mix is below both of its parts everywhere.

# %%
torch.manual_seed(5)
confidence = torch.linspace(0.1, 0.995, 120, dtype=torch.float64)
heads = torch.cat(
    [confidence[:, None], ((1 - confidence) / 9)[:, None].expand(-1, 9)], -1
)
way, bend = torch.randn(10, 1).double(), 0.7 * torch.randn(10, 1).double()
expanded = [x.expand(120, 10, 1) for x in (way, bend)]
found = fimsym.evaluator(spec).moments(heads.log(), *expanded)
deviation = way[:, 0] - heads @ way
columns = [found.fisher, found.third, found.variance_score_squared]
columns += [found.variance_negative_hessian, found.covariance]
columns = [x[:, 0].numpy() for x in columns] + [(heads**2 * deviation**4).sum(-1).numpy()]

# %%
curves = {
    name: sp.lambdify(list(known), formula / fisher**2)(*columns)
    for name, formula in variances.items()
    if name != "exact"
}

# %%
plt.style.use(STYLE)
figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
styles = ("-", "--", "-", "--", "-.", ":")
for (name, curve), color, style in zip(curves.items(), COLORS, styles, strict=True):
    curve = np.broadcast_to(curve, confidence.shape)
    axes.plot(confidence, curve, style, color=color, label=name.replace("_", " "))
axes.set(
    yscale="log", xlabel="probability of the likeliest class", ylabel="variance / $I^2$"
)
_ = figure.legend(loc="outside right center")

# %%
assert (
    curves["mixed"] <= np.minimum(curves["score_squared"], curves["negative_hessian"])
).all()
assert (curves["score_squared_cv"] <= curves["score_squared"]).all()
assert (curves["rademacher_probe"] <= curves["gaussian_probe"]).all()

# %% [markdown]
# ## The code that is generated
#
# Every variance above is a combination of five expressions and of $\sum a^4$. The five
# are those behind the torch module.

# %%
of_module = {
    "fisher": fisher,
    "third": third,
    "variance_score_squared": first,
    "variance_negative_hessian": second,
    "covariance": covariance,
}
for name, symbol in of_module.items():
    derivation.prove(inlined(derivation.program, name), known[symbol], name)
bend = v[index] - total(spec, probability[index] * v[index])
product = -total(spec, probability[index] * score**2 * bend)
derivation.prove(inlined(derivation.program, "covariance"), product, "Cov = −Σ p ũ² ṽ")
assert fimsym.generate(spec) == inspect.getsource(fimsym.evaluator(spec))
