"""Cost of second-order jets along every neuron of a layer, in forward and backward passes.

Run ``python -m benchmarks.jets`` from the project's folder. Times are CPU times, the least
of several repeats that take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call

from fimsym.engine.jets import Shifted, second_order

BATCH, WIDTH, REPEATS = 128, 256, 12
CHUNKS = (16, 32, 64)


def contenders() -> dict[str, Callable[[], object]]:
    """Return what is timed: a training step, the products needed, jets in two forms."""
    torch.manual_seed(0)
    layers = [nn.Linear(784, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)]
    network = nn.Sequential(layers[0], nn.Sigmoid(), layers[1], nn.Sigmoid(), layers[2])
    inputs, labels = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))
    weight = layers[0].weight.detach()
    rows, square = torch.randn(32 * BATCH, WIDTH), torch.randn(WIDTH, WIDTH)

    def step():
        network.zero_grad()
        nn.functional.cross_entropy(network(inputs), labels).backward()

    def run(direction):
        return functional_call(network, {"0.weight": Shifted(weight, direction)}, (inputs,))

    found = {
        "forward and backward": step,
        "two dense products": lambda: [rows @ square for _ in range(2 * WIDTH // 32)],
    }
    for chunk in CHUNKS:
        for name, directions in (("dense", torch.eye(WIDTH)), ("by position", torch.arange(WIDTH))):
            found[f"{name}, chunks of {chunk}"] = lambda d=directions, c=chunk: second_order(
                run, d, chunk_size=c
            )
    return found


def main() -> None:
    """Print the times."""
    timed = contenders()
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(REPEATS):
        for name, work in timed.items():
            start = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        ratio = seconds / best["forward and backward"]
        print(f"{name:28} {1e3 * seconds:8.2f} ms {ratio:7.1f} passes")


if __name__ == "__main__":
    main()
