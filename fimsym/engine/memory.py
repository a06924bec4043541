"""How much may be held at once: budgets in bytes and the chunks that follow."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

import torch

from fimsym.engine.network import Block, Network
from fimsym.errors import SpecError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_FRACTION_OF_FREE = 0.25
_DEFAULT_CEILING = 10**9
_COPIES_OF_HESSIAN = 6
_LARGEST_CHUNK = 64
_PER_LAUNCH = 64


def at_a_time(size: int, device: torch.device) -> int:
    """Return how much to take at a time on a device, given what fits into a processor's cache.

    An accelerator is idle while little is launched at a time, and reads its memory faster.
    """
    return size if device.type == "cpu" else _PER_LAUNCH * size


def budget(max_memory: int | str | None, device: torch.device) -> int:
    """Return a memory budget in bytes.

    Args:
        max_memory: Bytes, text such as ``"2GB"``, or None for a quarter of what is free, on a
            processor at most 1 GB.
        device: Whose memory it is.

    Raises:
        SpecError: it is not a positive size.
    """
    if max_memory is None:
        ceiling = at_a_time(_DEFAULT_CEILING, device)
        return max(10**7, min(ceiling, int(_FRACTION_OF_FREE * _free(device))))
    size = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)I?B?\s*", str(max_memory).upper())
    try:
        value = int(float(size[1]) * _UNITS[size[2]]) if size else 0
    except ValueError:
        value = 0
    if value <= 0:
        raise SpecError(
            f"max_memory must be a positive size in bytes or text such as '2GB'; got "
            f"{max_memory!r}."
        )
    return value


def keep_freed_memory() -> None:
    """Let the C library keep what chunks free for the next ones.

    It gives memory above twice the largest piece freed so far back to the system, page by page
    zeroed when it is asked for again; pieces of more than 32 MiB do not count.
    """
    torch.empty(2**25 - 2**13, dtype=torch.uint8)


def first_order_chunks(
    network: Network, names: Collection[str], outputs: int, limit: int, width: int
) -> tuple[list[Block], int]:
    """Return the parameter blocks and the number of inputs to take u of at a time.

    Args:
        network: Whose parameters they are.
        names: The parameters to be cut into blocks.
        outputs: Number of outputs.
        limit: Budget in bytes.
        width: Bytes that an evaluator holds at once for each entry of u.
    """
    per_parameter = outputs * width
    blocks = network.blocks(max(1, limit // per_parameter), names)
    largest = max(block.size for block in blocks)
    return blocks, max(1, min(1024, limit // (per_parameter * largest)))


def second_order_chunks(
    network: Network, names: Collection[str], outputs: int, limit: int
) -> tuple[list[Block], int]:
    """Return the parameter blocks and the number of inputs to take v of at a time.

    Every direction of a block costs the gradient of each output with respect to the whole
    tensors that the block overlaps.
    """
    tensor = max(block.size for _, block in network.parameters())
    per_direction = outputs * tensor * network.theta.element_size() * _COPIES_OF_HESSIAN
    directions = max(1, limit // per_direction)
    size = min(directions, _LARGEST_CHUNK)
    return network.blocks(size, names), max(1, min(_LARGEST_CHUNK, directions // size))


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 * _DEFAULT_CEILING
