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
# # Network structure: last layers, ReLUs and the rank-one rule
#
# Everything about the law is now in closed form, given $u$ and $v$. A network has
# millions of those, but they are far from arbitrary. In this chapter the structure of a
# layer turns sums over weights into one matrix product, makes $\hat{\mathcal I}_2$ exact
# in whole layers, and splits the paper's bounds by layer.

# %%
import inspect

import matplotlib.pyplot as plt
import sympy as sp
import torch

import fimsym
from fimsym.derivation.stable import inlined
from fimsym.derivation.symbols import directions, index, probability, total, u, v
from fimsym.report.plots import COLORS, STYLE
from fimsym.validation.montecarlo import derivatives

# %% [markdown]
# ## The rank-one rule
#
# A linear layer computes $z = W a + b$ from its input $a$. The weight $W_{ij}$ enters the
# rest of the network only through $z_i$, as $W_{ij} a_j$.
#
# **Theorem (rank one).**
#
# $$
# u(W_{ij}) = \frac{\partial h}{\partial z_i}\, a_j, \qquad
# v(W_{ij}) = \frac{\partial^2 h}{\partial z_i^2}\, a_j^2 .
# $$

# %%
weight, bias, activity = sp.symbols("W b a", real=True)
rest = sp.Function("h")  # all that comes after the neuron
z = sp.Symbol("z", real=True)
output = rest(weight * activity + bias)
first = sp.diff(output, weight).doit()
second = sp.diff(output, weight, 2).doit()
neuron = {weight * activity + bias: z}
assert first.subs(neuron).doit() == activity * sp.diff(rest(z), z)
assert sp.simplify(second.subs(neuron).doit() - activity**2 * sp.diff(rest(z), z, 2)) == 0

# %% [markdown]
# Every quantity is a polynomial in $u$ and $v$. Count $v$ twice; then $\mathcal I$ has
# degree 2, $\kappa_{30}$ degree 3 and the other three degree 4. So at a weight each is a
# power of $a_j$ times its value at the neuron. The proof is one substitution, $u \to a u$
# and $v \to a^2 v$, for any law:

# %%
degrees = {
    "fisher": 2,
    "third": 3,
    "variance_score_squared": 4,
    "variance_negative_hessian": 4,
    "covariance": 4,
}


# %%
def scaled(expression, spec):
    """Return an expression with u → a u and v → a² v."""
    bases = dict.fromkeys(directions(spec, u), activity)
    bases |= dict.fromkeys(directions(spec, v), activity**2)
    return expression.replace(
        lambda node: isinstance(node, sp.Indexed) and node.base in bases,
        lambda node: bases[node.base] * node,
    )


# %%
for name in ("categorical", "gaussian", "poisson", "gaussian_mean_variance"):
    law = fimsym.derive(name)
    for quantity, degree in degrees.items():
        value = getattr(law, quantity)
        law.prove(
            scaled(value, law.family), activity**degree * value, f"{quantity} of {name}"
        )

# %% [markdown]
# Over a batch with activities $A$ [input, $j$] and neuron values $G$ [input, $i$], the
# whole layer is one matrix product each:
#
# $$
# \mathcal I = G_2^\top A^{\circ 2}, \quad V_1 = G_4^\top A^{\circ 4}, \quad
# V_2 = G_{02}^\top A^{\circ 4}, \quad \operatorname{Cov} = G_{21}^\top A^{\circ 4} .
# $$
#
# No weight's Jacobian is ever formed. Here it is on a network, run layer by layer
# to get $a$ and $z$.

# %%
torch.manual_seed(0)
double = {"dtype": torch.float64}
inputs = torch.randn(12, 5, **double)


def network(activation):
    """Return a classifier with two hidden layers."""
    torch.manual_seed(1)
    widths = ((5, 7), (7, 6), (6, 4))
    layers = [torch.nn.Linear(*width, **double) for width in widths]
    return torch.nn.Sequential(
        layers[0], activation(), layers[1], activation(), layers[2]
    )


# %%
model, module = network(torch.nn.Tanh), fimsym.evaluator("categorical")
activities = model[1](model[0](inputs))  # a, the input of the second layer
neurons = model[2](activities)  # z


def head(z):
    """Return h as a function of the second layer's z, for one input."""
    return model[4](model[3](z))


at_neuron = torch.func.vmap(torch.func.jacrev(head))(neurons)
curved = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(head)))(neurons)
moments = module.moments(model(inputs), at_neuron, curved.diagonal(dim1=-2, dim2=-1))

# %%
analysis = fimsym.analyze(
    model, inputs, family="categorical", quantities="all", progress=False
)
for quantity, degree in degrees.items():
    if quantity != "third":
        product = getattr(moments, quantity).T @ activities**degree / len(inputs)
        torch.testing.assert_close(product, getattr(analysis, quantity)["2.weight"])
analysis.to_frame()

# %% [markdown]
# Brute force agrees: double backward for each of the 118 parameters at every input, no
# structure used.

# %%
points = [derivatives(model, example) for example in inputs]
brute = [module.moments(at.h, at.u, at.v) for at in points]
for quantity in degrees:
    if quantity != "third":
        whole = torch.stack([getattr(of_one, quantity) for of_one in brute]).mean(0)
        fast = torch.cat(
            [value.flatten() for value in getattr(analysis, quantity).values()]
        )
        torch.testing.assert_close(fast, whole)

# %% [markdown]
# ## The last layer
#
# **Remark 4.4.** Where $h$ is affine in a parameter, $v = 0$: $V_2 = 0$ and
# $\hat{\mathcal I}_2$ is exact, from any label.
#
# In the last layer $\partial h/\partial z$ is the identity, so $u$ is a unit vector at
# the neuron of class $k$, and $\mathcal I = p_k(1-p_k)$, $V_1 = p_k(1-p_k)(1-2p_k)^2$. No
# work in $C^2$ is left.

# %%
derivation = fimsym.derive("categorical")
spec, one = derivation.family, sp.Symbol("c", integer=True, positive=True)
flat = {v[name]: 0 for name in sp.symbols("i j k l", integer=True, positive=True)}
assert derivation.variance_negative_hessian.xreplace(flat).doit() == 0
assert derivation.covariance.xreplace(flat).doit() == 0
chances = model(inputs).softmax(-1)
product = (chances * (1 - chances)).T @ model[3](neurons) ** 2 / len(inputs)
torch.testing.assert_close(product, analysis.fisher["4.weight"])
product = (chances * (1 - chances) * (1 - 2 * chances) ** 2).T @ model[3](neurons) ** 4
torch.testing.assert_close(
    product / len(inputs), analysis.variance_score_squared["4.weight"]
)
assert not analysis.variance_negative_hessian["4.weight"].any()

# %% [markdown]
# ## ReLU networks
#
# A network of linear layers and ReLUs that uses no weight at two depths is affine in
# every single parameter, piece by piece. So $v = 0$ almost everywhere, in all layers, and
# one negative Hessian gives the Fisher information without an error. (Over *one*
# parameter: in several at once it is a polynomial, but the diagonal does not see that.) A
# smooth activation gives this up:

# %%
activations = {"ReLU": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}
table = {}
for name, kind in activations.items():
    result = fimsym.analyze(
        network(kind), inputs, family="categorical", quantities="all", progress=False
    )
    table[name] = {group.name: group.sums for group in result.groups}
assert all(layer["variance_negative_hessian"] == 0 for layer in table["ReLU"].values())
assert all(
    table[name]["0"]["variance_negative_hessian"] > 0 for name in ("tanh", "sigmoid")
)

# %% [markdown]
# ## Layer by layer
#
# Sum Theorem 4.1 over a layer's weights and the rank-one rule separates what comes from
# below from what comes from above.
#
# **Theorem (layer-wise bounds, after the paper's Proposition 5.1).** At one input,
#
# $$
# \lambda_{\min}(\mathcal I)\,\lVert \partial h/\partial z\rVert_F^2\, \lVert a\rVert^2
# \;\le\; \sum_{ij} \mathcal I(W_{ij}) \;\le\;
# \lambda_{\max}(\mathcal I)\,\lVert \partial h/\partial z\rVert_F^2\, \lVert a\rVert^2 ,
# $$
#
# because $\lVert u(W_{ij})\rVert^2 = \lVert \partial h/\partial z_i\rVert^2\, a_j^2$.

# %% [markdown]
# The variances follow with fourth powers of the activities:
#
# $$
# \begin{aligned}
# \textstyle\sum_{ij} V_1(W_{ij}) &\le \lambda_{\max}(M)
# \textstyle\sum_i \lVert \partial h/\partial z_i \rVert^4 \sum_j a_j^4, \\
# \textstyle\sum_{ij} V_2(W_{ij}) &\le \lambda_{\max}(\mathcal I)
# \textstyle\sum_i \lVert \partial^2 h/\partial z_i^2 \rVert^2 \sum_j a_j^4 .
# \end{aligned}
# $$

# %%
limits = module.bounds(model(inputs))
columns = at_neuron.norm(dim=1)  # ‖∂h/∂z_i‖, [input, i]
bent = curved.diagonal(dim1=-2, dim2=-1).norm(dim=1)
fourth = (activities**4).sum(-1)
upper = {
    "fisher": limits.fisher_max * (columns**2).sum(-1) * (activities**2).sum(-1),
    "variance_score_squared": limits.quartic_max * (columns**4).sum(-1) * fourth,
    "variance_negative_hessian": limits.fisher_max * (bent**2).sum(-1) * fourth,
}
for quantity, bound in upper.items():
    value = getattr(analysis, quantity)["2.weight"].sum()
    print(f"{quantity:27} bound/value = {bound.mean() / value:.2f}")
    assert value <= bound.mean()

# %% [markdown]
# ## Which estimator where
#
# So $\hat{\mathcal I}_2$ is exact in every last layer and all over a ReLU network. Where
# activations bend, the two scale differently: $\sqrt{V_1}$ falls with $\lVert u\rVert^2$,
# as $\mathcal I$ does, but $\sqrt{V_2}$ with $\lVert v\rVert$ only. Where $u$ is small,
# as in early layers of a network just initialised, the squared score has the smaller
# relative error; in a network that has grown confident the negative Hessian has. Multiply
# all weights of a softplus network by a factor and watch them cross:

# %%
factors = [0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6]
crossing = []
for factor in factors:
    model = network(torch.nn.Softplus)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    result = fimsym.analyze(
        model, inputs, "categorical", quantities="all", progress=False
    )
    crossing.append(result.groups[0].sums)

# %% [markdown]
# ## The picture
#
# Summed variances of both estimators from one label per input, relative to the summed
# information: $\sqrt{\sum V}/\sum\mathcal I$ over the parameters of each layer, not the
# deviation of the trace, since weights share their labels; 0 marks what is exact. Right:
# the first layer of the softplus network.

# %%
estimators = {
    "variance_score_squared": r"$\hat I_1$",
    "variance_negative_hessian": r"$\hat I_2$",
}


# %%
def relative(sums, quantity):
    """Return √ΣV / ΣI of a layer."""
    return sums[quantity] ** 0.5 / sums["fisher"]


def bars(axes, layers, quantity, color, side):
    """Draw a bar for each layer, a 0 where the estimator is exact."""
    spread = [relative(sums, quantity) for sums in layers.values()]
    places = [k + side for k in range(len(spread))]
    axes.bar(places, spread, 0.4, color=color, label=estimators[quantity])
    for place in (
        place for place, height in zip(places, spread, strict=True) if not height
    ):
        axes.text(place, 0.06, "0", ha="center", va="bottom", color=color)


# %%
plt.style.use(STYLE)
figure, panels = plt.subplots(1, 3, figsize=(8.4, 3.0), sharey=True, layout="constrained")
for color, side, quantity in zip(COLORS, (-0.2, 0.2), estimators, strict=False):
    for axes, name in zip(panels[:2], ("ReLU", "tanh"), strict=True):
        bars(axes, table[name], quantity, color, side)
        axes.set(title=name, xticks=range(3), xlabel="layer")
    curve = [relative(sums, quantity) for sums in crossing]
    panels[2].plot(factors, curve, color=color, label=estimators[quantity])
panels[2].set(title="softplus, first layer", xlabel="factor of all weights")
panels[0].set(yscale="log", ylim=(0.05, 50), ylabel=r"$\sqrt{\sum V}/\sum I$")
_ = panels[0].legend()

# %% [markdown]
# ## The code that is generated
#
# Homogeneity, the last layer's closed form and $V_2 = 0$ hold for the very expressions
# that code is generated from.

# %%
p = probability[index]
score = u[index] - total(spec, p * u[index])
fisher = total(spec, p * score**2)
squares = total(spec, p * (score**2 - fisher) ** 2)
program = {name: inlined(derivation.program, name) for name in degrees}
for name in degrees:
    derivation.prove(program[name], getattr(derivation, name), name)
derivation.prove(program["variance_score_squared"], squares, "V₁")
unit = {u[index]: sp.KroneckerDelta(index, one)}  # the bias of class c
pc = probability[one]
derivation.prove(
    squares.xreplace(unit), pc * (1 - pc) * (1 - 2 * pc) ** 2, "V₁ of the last layer"
)
assert fimsym.generate(spec) == inspect.getsource(module)
