"""Diagonals of the Fisher information from other packages, one adapter each.

An adapter takes the network and the output family, prepares what need not be timed, and
returns a function from batches to a dict: parameter name → diagonal of the mean over the
inputs of the Fisher information. Each package is driven the way its documentation says, in
its exact mode; whatever it sums or halves is brought to that convention. Packages are
imported by their adapter alone.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

Diagonal = dict[str, Tensor]
Run = Callable[[Sequence[Tensor]], Diagonal]
JACOBIAN_BYTES = 2**30
"""How large a Jacobian the naive road holds at a time."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A package that computes the exact diagonal.

    Attributes:
        name: What the tables call it.
        package: Distribution it comes in.
        prepare: The adapter.
    """

    name: str
    package: str
    prepare: Callable[[nn.Module, str], Run]


def naive(model: nn.Module, family: str) -> Run:
    """Per-example Jacobians by ``vmap(jacrev)``, then the closed form, in chunks of examples.

    Categorical: I = Σ_k p_k (J_k − Σ_l p_l J_l)²; Gaussian: I = Σ_k J_k².
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    size = sum(p.numel() * p.element_size() for p in parameters.values())

    def output(parameters, x):
        h = functional_call(model, parameters, (x[None],))[0]
        return h, h

    def run(batches):
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        with torch.no_grad():
            outputs = model(batches[0][:1]).shape[1]
        chunk = max(1, JACOBIAN_BYTES // (outputs * size))
        for x in (part for batch in batches for part in batch.split(chunk)):
            jacobian, h = vmap(jacrev(output, has_aux=True), in_dims=(None, 0))(parameters, x)
            for name, j in jacobian.items():
                total[name] += _closed_form(j.flatten(2), h, family).view_as(total[name])
        return _mean(total, batches)

    return run


def _closed_form(j: Tensor, h: Tensor, family: str) -> Tensor:
    """Return the sum over inputs of I for Jacobians [batch, output, param]."""
    if family == "gaussian":
        return j.square().sum(dim=(0, 1))
    p = torch.softmax(h, dim=1)
    mean = torch.einsum("bk,bki->bi", p, j)
    return torch.einsum("bk,bki->i", p, (j - mean[:, None]).square_())


def backpack(model: nn.Module, family: str) -> Run:
    """BackPACK's ``DiagGGNExact``, for a loss summed over the inputs."""
    return _backpack(model, family, "DiagGGNExact", "diag_ggn_exact")


def backpack_hessian(model: nn.Module, family: str) -> Run:
    """BackPACK's ``DiagHessian``: of the loss for given labels, which is not the Fisher."""
    return _backpack(model, family, "DiagHessian", "diag_h")


def _backpack(model, family, extension, attribute):
    import backpack
    from backpack import extensions

    loss, factor = _loss(family)
    network, criterion = backpack.extend(model), backpack.extend(loss)

    def run(batches):
        total = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
        found = set()
        for x in batches:
            network.zero_grad()
            h = network(x)
            with backpack.backpack(getattr(extensions, extension)()):
                criterion(h, _labels(h, family)).backward()
            for name, parameter in network.named_parameters():
                if hasattr(parameter, attribute):
                    total[name] += factor * getattr(parameter, attribute)
                    delattr(parameter, attribute)
                    found.add(name)
        return _mean({name: total[name] for name in total if name in found}, batches)

    return run


def nngeometry(model: nn.Module, family: str) -> Run:
    """NNGeometry's exact ``FIM`` as a ``PMatDiag``; layers it does not know are left out."""
    from nngeometry.layercollection import LayerCollection
    from nngeometry.metrics import FIM
    from nngeometry.object import PMatDiag

    layers = LayerCollection.from_model(model, ignore_unsupported_layers=True)
    modules = dict(model.named_modules())
    known = [
        (f"{layer}.{kind}".lstrip("."), getattr(modules[layer], kind))
        for layer in layers.layers
        for kind in ("weight", "bias")
        if getattr(modules[layer], kind, None) is not None
    ]
    variant = "regression" if family == "gaussian" else "classif_logits"

    def run(batches):
        loader = _loader([(x,) for x in batches])
        diagonal = FIM(
            model=model, loader=loader, representation=PMatDiag, variant=variant,
            device=str(batches[0].device), layer_collection=layers,
        ).get_diag()  # fmt: skip
        total = diagonal * len(batches)  # it divides by the number of items of the loader
        parts = total.split([parameter.numel() for _, parameter in known])
        named = {name: part.view_as(p) for (name, p), part in zip(known, parts, strict=True)}
        return _mean(named, batches)

    return run


def asdfghjkl(model: nn.Module, family: str) -> Run:
    """ASDL's exact Fisher (distribution ``asdfghjkl``) of shape ``diag``."""
    from asdl.fisher import FisherConfig, get_fisher_maker
    from asdl.grad_maker import LOSS_CROSS_ENTROPY, LOSS_MSE
    from asdl.matrices import FISHER_EXACT, SHAPE_DIAG

    config = FisherConfig(
        fisher_type=FISHER_EXACT,
        fisher_shapes=[SHAPE_DIAG],
        loss_type=LOSS_MSE if family == "gaussian" else LOSS_CROSS_ENTROPY,
        data_size=1,
    )
    maker = get_fisher_maker(model, config)

    def run(batches):
        for i, x in enumerate(batches):
            maker.setup_model_call(model, x)
            maker.forward_and_backward(accumulate=i > 0)
        named = {}
        for name, parameter in model.named_parameters():
            module, _, kind = name.rpartition(".")
            fisher = getattr(model.get_submodule(module), "fisher", None)
            part = getattr(getattr(fisher, "diag", None), kind, None)
            if part is not None:
                named[name] = part.reshape(parameter.shape)
        return _mean(named, batches)

    return run


def laplace(model: nn.Module, family: str) -> Run:
    """The Hessian of laplace-torch's ``Laplace(…, "all", "diag")`` with its default backend."""
    from laplace import Laplace

    kind = "regression" if family == "gaussian" else "classification"
    fit = Laplace(model, kind, subset_of_weights="all", hessian_structure="diag")

    def run(batches):
        with torch.no_grad():
            h = model(batches[0][:1])
        fit.fit(_loader([(x, _labels(h.expand(len(x), -1), family)) for x in batches]))
        named, offset = {}, 0
        for name, parameter in model.named_parameters():
            part = fit.H[offset : offset + parameter.numel()]
            named[name], offset = part.view_as(parameter), offset + parameter.numel()
        return _mean(named, batches)

    return run


PEERS: tuple[Peer, ...] = (
    Peer("BackPACK DiagGGNExact", "backpack-for-pytorch", backpack),
    Peer("NNGeometry PMatDiag", "nngeometry", nngeometry),
    Peer("ASDL exact diag", "asdfghjkl", asdfghjkl),
    Peer("Laplace diag", "laplace-torch", laplace),
    Peer("torch.func vmap(jacrev)", "torch", naive),
)
"""curvlinops is missing: its diagonals are estimates from random probes."""
HESSIAN = Peer("BackPACK DiagHessian", "backpack-for-pytorch", backpack_hessian)


def versions() -> dict[str, str]:
    """Return the installed version of each package, "not installed" without one."""
    found = {}
    for package in dict.fromkeys(peer.package for peer in PEERS):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _loss(family: str) -> tuple[nn.Module, float]:
    """Return a loss summed over inputs, and its factor to −log p: the squared error halves."""
    if family == "gaussian":
        return nn.MSELoss(reduction="sum"), 0.5
    return nn.CrossEntropyLoss(reduction="sum"), 1.0


def _labels(h: Tensor, family: str) -> Tensor:
    """Return labels a loss accepts; the diagonals do not depend on them."""
    if family == "gaussian":
        return torch.zeros_like(h)
    return torch.zeros(len(h), dtype=torch.long, device=h.device)


def _loader(batches: Sequence[tuple[Tensor, ...]]):
    """Return a loader that hands out whole batches, detached."""
    items = [tuple(t.detach() for t in batch) for batch in batches]
    return torch.utils.data.DataLoader(items, batch_size=None, shuffle=False)


def _mean(total: Diagonal, batches: Sequence[Tensor]) -> Diagonal:
    count = sum(len(x) for x in batches)
    return {name: value.detach() / count for name, value in total.items()}
