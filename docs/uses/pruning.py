# %% [markdown]
# # Pruning by size, and by what a weight is worth
#
# Setting a weight to zero raises the loss by about ½ I_i θ_i², with I the Fisher diagonal
# (optimal brain damage, in expectation over the model's labels). Sorting weights by that needs no
# labels and is one call of `analyze`; magnitude pruning sorts by θ_i² alone.

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn

import fimsym

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)
test = torch.arange(len(y)) % 4 == 0
model = nn.Sequential(
    nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for _ in range(300):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x[~test]), y[~test]).backward()
    optimizer.step()
learnt = {name: p.detach().clone() for name, p in model.named_parameters()}
weights = [name for name, p in learnt.items() if p.ndim == 2]

# %% What every weight is worth
result = fimsym.analyze(
    model, x[~test], family="categorical", quantities="fisher", progress=False
)
worth = {
    "magnitude": {name: learnt[name].square() for name in weights},
    "Fisher": {
        name: result.fisher[name].float() * learnt[name].square() for name in weights
    },
}


# %% Accuracy on held-out digits when the least worthy weights are zero
def pruned(scores, share):
    """Return the accuracy without a share of the weights."""
    every = torch.cat([score.flatten() for score in scores.values()])
    limit = every.quantile(share)
    kept = {name: learnt[name] * (score > limit) for name, score in scores.items()}
    model.load_state_dict({**learnt, **kept})
    return float((model(x[test]).argmax(1) == y[test]).float().mean())


shares = (0.0, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)
curves = {
    name: [pruned(scores, share) for share in shares] for name, scores in worth.items()
}
print("removed    " + "".join(f"{share:8.0%}" for share in shares))
for name, curve in curves.items():
    print(f"{name:<11}" + "".join(f"{accuracy:8.1%}" for accuracy in curve))

# %% The Fisher knows which weights are worth keeping
fisher, magnitude = (
    curves[name][shares.index(0.7)] for name in ("Fisher", "magnitude")
)
print(
    f"Without 70% of the weights {fisher:.0%} of held-out digits are right if they are sorted by "
    f"½ F θ², {magnitude:.0%} if by magnitude."
)
assert fisher > magnitude + 0.05
