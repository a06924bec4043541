"""The products that I and V₁ of a perceptron take, and nothing else: how fast it can be.

No input is checked, nothing is found out, and sums are float32: this is what stays of
`fimsym.analyze` for one kind of network that is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_ROWS = 512
_SLOPES: dict[type, Callable[[Tensor], Tensor]] = {
    nn.Sigmoid: lambda a: a * (1 - a),
    nn.Tanh: lambda a: 1 - a * a,
}
"""φ'(z) from a = φ(z)."""


class Bare:
    """I and V₁ of linear layers with sigmoid or tanh between them.

    Args:
        model: The perceptron.
        family: ``categorical``, or ``gaussian`` with one output and σ = 1.
    """

    def __init__(self, model: nn.Sequential, family: str):
        self.names = [name for name, m in model.named_children() if isinstance(m, nn.Linear)]
        self.layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        self.between = [layer for layer in model if not isinstance(layer, nn.Linear)]
        self.classes = family == "categorical"

    def __call__(self, batches: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the mean of I over all inputs; V₁ is computed as well."""
        return self.means(batches)[0]

    @torch.no_grad()
    def means(self, batches: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the means of I and of V₁, by parameter."""
        x = torch.cat([*batches])
        sums = [[torch.zeros_like(p) for p in layer.parameters()] for layer in self.layers]
        more = [[torch.zeros_like(p) for p in layer.parameters()] for layer in self.layers]
        for rows in x.split(_ROWS):
            inputs, h = self._forward(rows)
            for place, (fisher, variance) in self._neurons(inputs, h):
                a = inputs[place].square()
                _add(sums[place], fisher, a)
                _add(more[place], variance, a.square_())
        return self._named(sums, len(x)), self._named(more, len(x))

    def _named(self, sums, count) -> dict[str, Tensor]:
        return {
            f"{name}.{kind}": total / count
            for name, totals in zip(self.names, sums, strict=True)
            for kind, total in zip(("weight", "bias"), totals, strict=True)
        }

    def _forward(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return what comes into every layer, and h."""
        inputs = [x]
        for layer, function in zip(self.layers[:-1], self.between, strict=True):
            inputs.append(function(layer(inputs[-1])))
        return inputs, self.layers[-1](inputs[-1])

    def _neurons(self, inputs, h):
        """Yield I and V₁ of every neuron, [row, neuron], from the last layer down."""
        p = h.softmax(-1) if self.classes else torch.ones_like(h)
        u = torch.eye(h.shape[1]).to(h).expand(len(h), -1, -1)
        u = u - p.unsqueeze(1) if self.classes else u
        for place in reversed(range(len(self.layers))):
            square = u.square()
            if self.classes:
                fisher = torch.bmm(p.unsqueeze(1), square)
                variance = torch.bmm(p.unsqueeze(1), square.sub_(fisher).square_())
            else:
                fisher, variance = square, 2 * square.square()
            yield place, (fisher.squeeze(1), variance.squeeze(1))
            if place:
                slope = _SLOPES[type(self.between[place - 1])](inputs[place])
                u = (u @ self.layers[place].weight).mul_(slope.unsqueeze(1))


def _add(totals: list[Tensor], values: Tensor, powers: Tensor) -> None:
    """Add the sums of a layer's weight and bias."""
    totals[0].addmm_(values.T, powers)
    totals[1].add_(values.sum(0))
