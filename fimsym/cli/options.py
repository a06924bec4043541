"""Options of every command that measures a network, and what they name, opened."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimsym.cli.constants import Result, read_constants, with_constants
from fimsym.cli.processes import together
from fimsym.errors import SpecError

if TYPE_CHECKING:
    import torch

    from fimsym.families import Family

_OPTIONS = (
    click.option(
        "--model",
        required=True,
        metavar="PACKAGE.MODULE:FACTORY",
        help="The network; it is put in evaluation mode.",
    ),
    click.option(
        "--weights", type=click.Path(path_type=Path), help="State dict, .safetensors or .pt."
    ),
    click.option(
        "--data",
        required=True,
        type=click.Path(path_type=Path),
        help="Inputs: .npz, .pt or .safetensors that hold inputs (and labels), .npy, .csv or IDX.",
    ),
    click.option("--family", required=True, help="Output family: its name, or a TOML file."),
    click.option("--link", help="What the model puts out instead of natural parameters."),
    click.option(
        "--constant", "constants", multiple=True, metavar="NAME=VALUE", help="Such as sigma=0.5."
    ),
    click.option(
        "--groups",
        type=click.Choice(["layer", "parameter", "model"]),
        default="layer",
        show_default=True,
    ),
    click.option("--max-memory", help="Budget such as 2GB."),
    click.option("--device", help="Where to compute, such as cuda."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
)

_OTHERS = {".pt", ".pth", ".npz", ".npy", ".csv", ".json"}
"""Suffixes of other kinds of files."""

output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write tensors (.safetensors)."
)


def network_options(command: Callable) -> Callable:
    """Add the options that name a network, its data and the law of its labels."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclasses.dataclass(frozen=True)
class Given:
    """What the options name.

    Attributes:
        positional: Network, data and family.
        named: Link, groups, budget, device, and whether progress is shown.
        constants: Values of the family's constants.
        first: Whether this process prints.
        as_json: Print JSON.
        output: Where to write tensors.
    """

    positional: tuple[Any, Any, Family]
    named: dict[str, Any]
    constants: dict[str, float]
    first: bool
    as_json: bool
    output: Path | None

    def without_labels(self) -> Given:
        """Return the same without labels, which may be those of another family."""
        network, data, family = self.positional
        inputs = data[0] if isinstance(data, tuple) else data
        return dataclasses.replace(self, positional=(network, inputs, family))

    def call(self, function: Callable[..., Result], *before: Any, **options: Any) -> Result:
        """Call a function of fimsym with what the options name.

        Args:
            function: Takes network, data and family, and constants.
            *before: Arguments that come before these.
            **options: Arguments of its own.

        Raises:
            SpecError: a constant is called like an argument of the function.
        """
        bound = with_constants(function, self.constants, self.positional[2])
        with _prints_apart():
            return bound(*before, *self.positional, **self.named, **options)


@contextlib.contextmanager
def opened(
    model: str,
    weights: Path | None,
    data: Path,
    family: str,
    link: str | None,
    constants: tuple[str, ...],
    groups: str,
    max_memory: str | None,
    device: str | None,
    as_json: bool,
    output: Path | None = None,
) -> Iterator[Given]:
    """Load what the options name, and join the processes that torchrun has started.

    An error in loading is printed by the process that has it, one inside by the first process
    alone; all exit with 2.
    """
    from fimsym.cli.sources import load_data, load_model
    from fimsym.engine.distributed import launched_rank
    from fimsym.families.file import read
    from fimsym.report.files import check_writable

    first = launched_rank() == 0
    if output is not None and first:
        check_writable(output, (weights, data))
        if output.suffix in _OTHERS:
            raise SpecError(
                f"--output is written as safetensors; expected {output.with_suffix('.safetensors')}"
                f", got {output}."
            )
    spec = read(family)
    values = read_constants(constants, spec)
    with _prints_apart():
        network, inputs = load_model(model, weights), load_data(data)
    with together(_device(device, network)) as place:
        named = {"link": link, "groups": groups, "max_memory": max_memory}
        named |= {"device": place, "progress": not as_json}
        yield Given((network, inputs, spec), named, values, first, as_json, output)


def finite(value: float) -> float | None:
    """Return a number JSON can hold; it has no infinity."""
    return value if math.isfinite(value) else None


def _prints_apart() -> contextlib.AbstractContextManager:
    """Send what the user's code prints to standard error; the result alone is on the output."""
    return contextlib.redirect_stdout(sys.stderr)


def _device(name: str | None, network: torch.nn.Module) -> torch.device:
    """Return the device of --device, or the network's own."""
    import torch

    if name is None:
        return next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        return torch.device(name)
    except RuntimeError:
        raise SpecError(f"--device must be cpu, cuda or cuda:N; got {name!r}.") from None
