"""How often `fimsym.audit` is right: planted diagonals, and those of other packages.

``python -m benchmarks.audit planted`` draws networks, data and diagonals and prints what the
audit finds; ``python -m benchmarks.audit peers`` runs the packages of ``make benchmark``, and
curvlinops' estimates. Both print Markdown, as in docs/audit.md.
"""

from __future__ import annotations

import argparse
import collections
import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

import fimsym
from benchmarks.peers import PEERS
from tests.planted import KINDS, RIGHT, WRONG, Planted, planted, setting


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["planted", "peers"])
    parser.add_argument("--seeds", type=int, default=8, help="networks of each kind")
    parser.add_argument("--first", type=int, default=1000, help="first seed")
    parser.add_argument("--only", default="", help="part of a recipe's name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    if given.what == "peers":
        of_peers()
    else:
        seeds = range(given.first, given.first + given.seeds)
        of_planted("right diagonal", RIGHT, seeds, given.only)
        of_planted("mistake", WRONG, seeds, given.only)


def of_planted(what: str, recipes: Mapping[str, Planted], seeds: range, only: str) -> None:
    """Print how often every planted diagonal is taken for what it is."""
    print(f"| {what} | audits | right | found instead | s each |\n|---|---|---|---|---|")
    whole = collections.Counter()
    for name, recipe in recipes.items():
        if only not in name:
            continue
        found, seconds = _found(recipe, seeds)
        count = sum(found.values())
        right = sum(number for finding, number in found.items() if finding in recipe.expected)
        whole.update(count=count, right=right)
        wrong = {f: k for f, k in found.most_common() if f not in recipe.expected}
        instead = ", ".join(f"{f.replace('_', ' ')} {k}" for f, k in wrong.items()) or "–"
        share = f"{right / count:.1%}" if count else "–"
        each = seconds / max(1, count)
        print(f"| {name} | {count} | {share} | {instead} | {each:.2f} |", flush=True)
    if whole["count"]:
        share = whole["right"] / whole["count"]
        print(f"| all | {whole['count']} | {share:.1%} | – | – |\n", flush=True)


def _found(recipe: Planted, seeds: range) -> tuple[collections.Counter, float]:
    found, seconds = collections.Counter(), 0.0
    for kind in KINDS:
        for seed in seeds:
            s = setting(kind, seed)
            if not recipe.applies(s):
                continue
            diagonal, bench = planted(s, recipe, seed), s.bench
            data = (bench.inputs, bench.labels)
            started = time.process_time()
            audit = fimsym.audit(
                diagonal, bench.model, data, bench.family, bench.law.link,
                progress=False, **recipe.known(s), **bench.constants,
            )  # fmt: skip
            seconds += time.process_time() - started
            found[audit.likely] += 1
    return found, seconds


def of_peers() -> None:
    """Print what the audit finds in the diagonals of other packages."""
    print("| network | diagonal | finding | off by |\n|---|---|---|---|")
    for name, model, x, family, link in networks():
        batches = list(x.split(32))
        for words, compute in diagonals(model, batches, family):
            try:
                diagonal = compute()
            except Exception as error:
                print(f"| {name} | {words} | failed: {type(error).__name__} | – |")
                continue
            audit = fimsym.audit(diagonal, model, batches, family, link, progress=False)
            first = audit.matches[0]
            finding = f"{audit.verdict.replace('_', ' ')}: {audit.likely.replace('_', ' ')}"
            if first.draws is not None and math.isfinite(first.draws):
                finding += f", {first.draws:.2g} draws"
            print(f"| {name} | {words} | {finding} | {first.residual:.1g} |", flush=True)


def networks() -> Iterator[tuple[str, nn.Module, Tensor, str, str | None]]:
    """Yield a name, a network, its inputs, and the family and link of its outputs."""
    torch.manual_seed(0)
    body = [nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12), nn.ReLU()]
    x = torch.randn(96, 8)
    yield "classifier", nn.Sequential(*body, nn.Linear(12, 5)), x, "categorical", None
    network = nn.Sequential(*copy.deepcopy(body), nn.Linear(12, 3))
    yield "regression", network, x, "gaussian", "mean"
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    yield "CNN", network, torch.randn(96, 1, 8, 8), "categorical", None


def diagonals(
    model: nn.Module, batches: list[Tensor], family: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what a diagonal is, and a function that computes it on a copy of the network."""
    for peer in PEERS:
        own = copy.deepcopy(model)
        yield peer.name, lambda own=own, peer=peer: peer.prepare(own, family)(batches)
    for words in ("FisherMC, 1 label", "FisherMC, 10 labels"):
        count = int(words.split()[1])
        yield f"curvlinops {words}", lambda c=count: _exact(_operator(model, batches, family, c))
    for count in (20, 100):
        yield (
            f"curvlinops Hutchinson, {count}",
            lambda c=count: _estimate("hutchinson_diag", model, batches, family, c),
        )
        yield (
            f"curvlinops XDiag, {count}",
            lambda c=count: _estimate("xdiag", model, batches, family, c),
        )
    yield "curvlinops GGN, column by column", lambda: _exact(_operator(model, batches, family))
    yield "BackPACK DiagGGNMC, 3 samples", lambda: _backpack_mc(model, batches, family)
    for what in ("H", "posterior_precision", "posterior_variance"):
        yield (
            f"Laplace {what}, as it comes",
            lambda what=what: _laplace(model, batches, family, what),
        )


def _labelled(batches: list[Tensor], family: str, outputs: int) -> list[tuple[Tensor, Tensor]]:
    if family == "gaussian":
        return [(x, torch.zeros(len(x), outputs)) for x in batches]
    return [(x, torch.zeros(len(x), dtype=torch.long)) for x in batches]


def _outputs(model: nn.Module, batches: list[Tensor]) -> int:
    with torch.no_grad():
        return model(batches[0][:1]).shape[1]


def _operator(model: nn.Module, batches: list[Tensor], family: str, labels: int = 0):
    """Return curvlinops' operator, and what to multiply it by for the mean over inputs."""
    import curvlinops

    own = copy.deepcopy(model)
    gaussian = family == "gaussian"
    loss = nn.MSELoss(reduction="sum") if gaussian else nn.CrossEntropyLoss(reduction="sum")
    data = _labelled(batches, family, _outputs(model, batches))
    given = (own, loss, list(own.parameters()), data)
    factor = (0.5 if gaussian else 1.0) / sum(len(x) for x in batches)
    if labels:
        return curvlinops.FisherMCLinearOperator(*given, mc_samples=labels), factor
    return curvlinops.GGNLinearOperator(*given), factor


def _exact(pair) -> Tensor:
    operator, factor = pair
    size = operator.shape[0]
    identity = torch.eye(size)
    parts = []
    for first in range(0, size, 64):
        part = slice(first, min(first + 64, size))
        parts.append((operator @ identity[:, part])[part].diagonal())
    return factor * torch.cat(parts).detach()


def _estimate(name: str, model, batches, family, count: int) -> Tensor:
    import curvlinops

    operator, factor = _operator(model, batches, family)
    return factor * getattr(curvlinops, name)(operator, count).detach()


def _backpack_mc(model: nn.Module, batches: list[Tensor], family: str) -> dict[str, Tensor]:
    from backpack import backpack, extend, extensions

    gaussian, own = family == "gaussian", extend(copy.deepcopy(model))
    loss = nn.MSELoss(reduction="sum") if gaussian else nn.CrossEntropyLoss(reduction="sum")
    loss = extend(loss)
    total = {name: torch.zeros_like(p) for name, p in own.named_parameters()}
    for x, y in _labelled(batches, family, _outputs(model, batches)):
        own.zero_grad()
        with backpack(extensions.DiagGGNMC(mc_samples=3)):
            loss(own(x), y).backward()
        for name, p in own.named_parameters():
            total[name] += p.diag_ggn_mc.detach()
    factor = (0.5 if gaussian else 1.0) / sum(len(x) for x in batches)
    return {name: factor * value.detach() for name, value in total.items()}


def _laplace(model: nn.Module, batches: list[Tensor], family: str, what: str) -> Tensor:
    from laplace import Laplace

    kind = "regression" if family == "gaussian" else "classification"
    fit = Laplace(copy.deepcopy(model), kind, subset_of_weights="all", hessian_structure="diag")
    pairs = _labelled(batches, family, _outputs(model, batches))
    data = torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*pairs, strict=True)))
    fit.fit(torch.utils.data.DataLoader(data, batch_size=32))
    return getattr(fit, what).detach()


if __name__ == "__main__":
    main()
