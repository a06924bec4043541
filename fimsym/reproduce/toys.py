"""Natural gradient descent on two toys with two parameters: what Figure 1 follows.

A step divides every entry of the training gradient by a random estimate of the same entry of
the Fisher diagonal, from one label for each of a few inputs drawn from the training set:

    θ ← θ − rate · ∇L(θ) / (Î(θ) + damping)

The estimates are squares and second derivatives of log p, by autograd. How far they scatter
is not sampled: with N_x inputs and one label for each,

    Var(Î) = (Var_x I(x) + E_x V(x)) / N_x

from the closed forms of the evaluators.

Source: Soen & Sun (2024), Figure 1 and Theorem 4.7.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacfwd

from fimsym.families import family
from fimsym.generated import evaluator
from fimsym.laws import Law

ESTIMATORS = ("score_squared", "negative_hessian", "exact")
"""What the gradient is divided by: Î₁, Î₂ or I itself."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a toy is made and descended.

    Attributes:
        epochs: Steps, each with the gradient of the whole training set.
        inputs: Inputs drawn for an estimate N_x, with one label each.
        rate: Length of a step as a part of the natural gradient.
        damping: What is added to an estimate.
        training: Size of the training set.
        held_out: Size of the test set.
    """

    epochs: int = 20
    inputs: int = 5
    rate: float = 0.3
    damping: float = 0.05
    training: int = 200
    held_out: int = 2000


@dataclasses.dataclass(frozen=True)
class Toy:
    """A data set with a model h = ⟨θ, x⟩ of two parameters.

    Attributes:
        name: Of the task.
        family: Name of the law of the labels.
        inputs: Of the training set, [input, 2].
        labels: Of the training set, [input, 1].
        held_out: Inputs of the test set, likewise.
        held_out_labels: Labels of the test set.
        start: Where descents start, [2].
    """

    name: str
    family: str
    inputs: Tensor
    labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor
    start: Tensor

    @property
    def law(self) -> Law:
        """The law of the labels, with its constants at their defaults."""
        return Law(family(self.family), {})

    def test_loss(self, theta: Tensor) -> Tensor:
        """Return the mean of −log p over the test set, [*batch], for θ [*batch, 2]."""
        return -self.law.log_prob(_outputs(theta, self.held_out), self.held_out_labels).mean(-1)

    def gradient(self, theta: Tensor) -> Tensor:
        """Return the gradient of the mean of −log p over the training set, [2]."""

        def loss(theta):
            return -self.law.log_prob(_outputs(theta, self.inputs), self.labels).mean()

        return grad(loss)(theta)

    def fisher(self, theta: Tensor) -> Tensor:
        """Return the Fisher diagonal, mean over the training set, [2]."""
        return self._moments(theta).fisher.mean(0)

    def variances(self, theta: Tensor, inputs: int) -> dict[str, float]:
        """Return the variance of an estimate from some inputs, summed over the parameters.

        Args:
            theta: θ, [2].
            inputs: Number of inputs N_x, drawn independently, with one label for each.

        Returns:
            ``from_inputs``, what the choice of inputs adds to either estimator; for each of
            ``score_squared`` and ``negative_hessian`` the sum of that and what labels add.
        """
        found = self._moments(theta)
        chance = found.fisher.var(0, correction=0)
        of_labels = {
            "score_squared": found.variance_score_squared,
            "negative_hessian": found.variance_negative_hessian,
        }
        total = {
            name: float((chance + variance.mean(0)).sum() / inputs)
            for name, variance in of_labels.items()
        }
        return {"from_inputs": float(chance.sum() / inputs), **total}

    def estimates(self, theta: Tensor, chosen: Tensor) -> dict[str, Tensor]:
        """Draw a label for each of some inputs and return Î₁ and Î₂ from them.

        Args:
            theta: θ, [2].
            chosen: Places of the inputs in the training set, [input].

        Returns:
            Î by name, [2].
        """
        inputs = self.inputs[chosen]
        labels = self.law.given(_outputs(theta, inputs)).sample()

        def log_prob(theta):
            return self.law.log_prob(_outputs(theta, inputs), labels)

        return {
            "score_squared": jacfwd(log_prob)(theta).square().mean(0),
            "negative_hessian": -jacfwd(jacfwd(log_prob))(theta).diagonal(dim1=1, dim2=2).mean(0),
        }

    def _moments(self, theta):
        u = self.inputs.unsqueeze(1)  # ∂h/∂θ [input, 1, 2]; h is linear in θ, so that v = 0
        module = evaluator(self.family)
        return module.moments(_outputs(theta, self.inputs), u, torch.zeros_like(u))


def _outputs(theta: Tensor, inputs: Tensor) -> Tensor:
    """Return h, [*batch, input, 1], for θ [*batch, 2]."""
    return (theta @ inputs.mT).unsqueeze(-1)


def regression(seed: int, settings: Settings) -> Toy:
    """Return a linear model with Gaussian labels of variance 1."""
    rng = torch.Generator().manual_seed(seed)
    truth = torch.tensor([1.0, -1.0], dtype=torch.float64)

    def draw(count):
        inputs = _normal(rng, count) * torch.tensor([1.0, 0.5], dtype=torch.float64)
        noise = torch.randn(count, 1, generator=rng, dtype=torch.float64)
        return inputs, _outputs(truth, inputs) + noise

    return _toy("regression", "gaussian", draw, rng, truth, settings)


def classification(seed: int, settings: Settings) -> Toy:
    """Return a logistic model of two classes, each a normal cloud around its own centre."""
    rng = torch.Generator().manual_seed(seed)
    centre = torch.tensor([1.0, -0.5], dtype=torch.float64)

    def draw(count):
        labels = torch.randint(2, (count, 1), generator=rng).double()
        return _normal(rng, count) + (2 * labels - 1) * centre, labels

    # The log-odds of clouds of variance 1 around ±centre are ⟨2·centre, x⟩.
    return _toy("classification", "bernoulli", draw, rng, 2 * centre, settings)


TOYS: dict[str, Callable[[int, Settings], Toy]] = {
    "regression": regression,
    "classification": classification,
}
"""The two tasks, by name, from a seed."""


def descend(toy: Toy, estimator: str, settings: Settings, seed: int) -> Tensor:
    """Return the parameters before every step and after the last, [epoch + 1, 2].

    With the same seed every estimator is given the same inputs, and labels drawn alike.
    """
    rng = torch.Generator().manual_seed(seed)
    theta, path = toy.start, [toy.start]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _ in range(settings.epochs):
            chosen = torch.randint(len(toy.inputs), (settings.inputs,), generator=rng)
            exact = estimator == "exact"
            scale = toy.fisher(theta) if exact else toy.estimates(theta, chosen)[estimator]
            theta = theta - settings.rate * toy.gradient(theta) / (scale + settings.damping)
            path.append(theta)
    return torch.stack(path)


def _normal(rng, count):
    return torch.randn(count, 2, generator=rng, dtype=torch.float64)


def _toy(name, family, draw, rng, truth, settings):
    inputs, labels = draw(settings.training)
    held_out, held_out_labels = draw(settings.held_out)
    angle = torch.rand(1, generator=rng, dtype=torch.float64) * 2 * torch.pi
    start = truth + 2 * torch.cat([angle.cos(), angle.sin()])
    return Toy(name, family, inputs, labels, held_out, held_out_labels, start)
