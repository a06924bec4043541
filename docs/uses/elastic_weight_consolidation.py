# %% [markdown]
# # Elastic weight consolidation, with error bars
#
# A network learns to tell the digits 0 to 4 apart, then 5 to 9 with the same outputs. Trained on
# the second task alone it forgets the first. EWC adds a penalty ½ λ Σ I_i (θ_i − θ*_i)², where I
# is the Fisher diagonal after the first task. Most code estimates I from one sampled label per
# image; `analyze` gives I exactly, and the standard error √(V₁/n) that such an estimate would
# have.

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn

import fimsym

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
held_out = torch.arange(len(labels)) % 4 == 0


def task(first):
    """Images and labels 0 to 4 of five digits: for training, then held out."""
    own = (labels >= first) & (labels < first + 5)
    return [
        (images[own & part], labels[own & part] - first)
        for part in (~held_out, held_out)
    ]


def train(model, data, penalty=lambda model: 0.0, steps=400):
    """Minimise the cross-entropy and a penalty."""
    x, y = data
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    for _ in range(steps):
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x), y) + penalty(model)).backward()
        optimizer.step()
    return model


def accuracy(model, data):
    x, y = data
    return float((model(x).argmax(1) == y).float().mean())


# %% The first task, and which weights matter for it
first, first_test = task(0)
second, second_test = task(5)
model = train(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)), first)
learnt = {name: p.detach().clone() for name, p in model.named_parameters()}
result = fimsym.analyze(model, first[0], family="categorical", progress=False)
print(result)
for group in result.groups:
    names, n = group.parameters, result.inputs
    variance = sum(
        float((result.variance_score_squared[name] / n).sum()) for name in names
    )
    size = sum(float(result.fisher[name].square().sum()) for name in names)
    print(
        f"layer {group.name}: one label per image gives it to {(variance / size) ** 0.5:.0%}"
    )

# %% The second task, with penalties of several strengths
print(f"{'λ':>8} {'first task':>11} {'second task':>12}")
table = {}
for strength in (0.0, 30.0, 300.0, 1000.0, 3000.0):

    def penalty(model, strength=strength):
        return (
            strength
            / 2
            * sum(
                (result.fisher[name].float() * (p - learnt[name]).square()).sum()
                for name, p in model.named_parameters()
            )
        )

    model.load_state_dict(learnt)
    train(model, second, penalty)
    table[strength] = accuracy(model, first_test), accuracy(model, second_test)
    print(f"{strength:8g} {table[strength][0]:11.1%} {table[strength][1]:12.1%}")

# %% The penalty keeps the first task, at little cost to the second
forgetful, remembering = table[0.0], table[300.0]
print(
    f"With λ = 300 the first task keeps {remembering[0]:.0%} instead of {forgetful[0]:.0%}, and "
    f"the second reaches {remembering[1]:.0%} instead of {forgetful[1]:.0%}."
)
assert remembering[0] > forgetful[0] + 0.2
assert remembering[1] > 0.85
