# %% [markdown]
# # A diagonal Laplace approximation
#
# Around trained weights θ* the posterior is about normal, with precision n I_i + δ for weight i:
# I is the Fisher diagonal, n the number of training rows, and δ the precision of the prior. The
# variance of a prediction then follows from J, the derivative of the network's output by its
# weights: Var f(x) = Σ_i J_i(x)² / (n I_i + δ). It grows away from the data, where a point
# estimate is blindly sure of itself.

# %%
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.func import functional_call, jacrev, vmap

import fimsym

torch.manual_seed(0)
table = load_diabetes(scaled=False)
x = torch.tensor((table.data - table.data.mean(0)) / table.data.std(0))
y = torch.tensor((table.target - table.target.mean()) / table.target.std())[:, None]
train, test = torch.arange(len(x)) % 4 != 0, torch.arange(len(x)) % 4 == 0
model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 1)).double()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.01)
for _ in range(300):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x[train]), y[train]).backward()
    optimizer.step()
sigma = float((model(x[train]) - y[train]).detach().square().mean().sqrt())
given = {"family": "gaussian", "link": "mean", "sigma": sigma, "quantities": "fisher"}
result = fimsym.analyze(model, x[train], progress=False, **given)


# %%
def variance(rows, prior):
    """Return Var f(x) of every row."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def output(parameters, row):
        return functional_call(model, parameters, (row[None],))[0, 0]

    jacobian = vmap(jacrev(output), in_dims=(None, 0))(parameters, rows)
    return sum(
        (j.square() / (result.inputs * result.fisher[name] + prior)).flatten(1).sum(1)
        for name, j in jacobian.items()
    )


def score(rows, targets, of_weights):
    """Return the mean log-likelihood of held-out targets, with σ² + Var f(x) as variance."""
    spread = (sigma**2 + of_weights)[:, None].sqrt()
    law = torch.distributions.Normal(model(rows).detach(), spread)
    return float(law.log_prob(targets).mean())


# %% Held-out rows as they are, and the same rows moved away from the data
print(
    f"σ = {sigma:.2f}; {'rows':<20} {'√Var f':>7} {'log-likelihood':>15} {'with Var f = 0':>15}"
)
deviations, gains = [], []
for words, factor in (
    ("held out", 1),
    ("twice as far out", 2),
    ("four times as far", 4),
):
    rows = factor * x[test]
    of_weights = variance(rows, prior=1.0).detach()
    deviations.append(float(of_weights.mean().sqrt()))
    with_laplace, without = (
        score(rows, y[test], of_weights),
        score(rows, y[test], 0 * of_weights),
    )
    gains.append(with_laplace - without)
    print(
        f"{'':10}{words:<20} {deviations[-1]:7.2f} {with_laplace:15.3f} {without:15.3f}"
    )

# %% It is less sure away from the data, and better for it
print(
    f"√Var f grows from {deviations[0]:.2f} to {deviations[-1]:.2f}, and raises the log-likelihood "
    f"of held-out rows by {gains[0]:.2f}, of those far out by {gains[-1]:.2f}."
)
assert deviations[-1] > 1.5 * deviations[0]
assert min(gains) > 0
