"""Many processes: every one takes its rows of the data, and one all-reduce adds them up.

With an initialised process group of torch.distributed, `analyze` must be called by all its
processes, with the same model and the same data. Process r of w takes rows r, r + w, … At the
end a few words from every process are gathered: how much it covered, or why it failed. If
all went well, process 0's mean is broadcast as the point about which squares are taken, and
one all-reduce of one float64 vector adds everything up.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import datetime
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from fimsym.engine.accumulate import Accumulator
from fimsym.errors import FimsymError, ShapeError, reason

_TIMEOUT = datetime.timedelta(hours=1)
"""How long a process waits for slower ones; a killed one is noticed by torchrun at once."""

_ALONE = contextvars.ContextVar("alone", default=False)


@dataclasses.dataclass(frozen=True)
class Share:
    """What one process covered, or all of them together.

    Attributes:
        count: Number of inputs covered.
        read: Number of rows of the data that were read, the others' included.
        total: Number of inputs of the data, None if not known.
        interrupted: Whether the inputs left out are due to an interruption.
        outputs: Number of outputs, 0 if no input was covered.
        size: Number of trainable parameters.
        weight: Sum of their absolute values.
        taken: How derivatives were taken; anything, for the report.
        failure: Why this process failed, None if it did not.
    """

    count: int = 0
    read: int = 0
    total: int | None = None
    interrupted: bool = False
    outputs: int = 0
    size: int = 0
    weight: float = 0.0
    taken: Any = None
    failure: str | None = None


class Ranks:
    """The processes that share the data; a single one without a process group.

    Attributes:
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(self) -> None:
        joined = dist.is_available() and dist.is_initialized() and not _ALONE.get()
        self.rank = dist.get_rank() if joined else 0
        self.world = dist.get_world_size() if joined else 1
        self._gathered = False

    def rows(self, total: int | None) -> int | None:
        """Return how many of `total` rows are this process's."""
        return None if total is None else len(range(self.rank, total, self.world))

    def located(self, error: FimsymError) -> FimsymError:
        """Return an error about one of this process's inputs, told where that is in the data."""
        if self.world == 1:
            return error
        return type(error)(
            f"{error} (In process {self.rank} of {self.world}, where input i is row "
            f"{self.rank} + {self.world} i of the data.)"
        )

    def merge(self, sums: Accumulator, share: Share) -> Share:
        """Add up the sums of all processes, in every one of them.

        Returns:
            What all covered together; `outputs` and `taken` are those of the first process
            that covered an input.

        Raises:
            FimsymError: another process failed, is gone, or had another model or other data.
        """
        if self.world == 1:
            return share
        shares = self._gather(share)
        _raise_failures(shares)
        self._check(shares)
        counts = [one.count for one in shares]
        count = sum(counts)
        totals = [one.total for one in shares if one.total is not None]
        interrupted = any(one.interrupted for one in shares)
        if count == 0:
            return dataclasses.replace(share, interrupted=interrupted)
        first = next(rank for rank, number in enumerate(counts) if number)
        with _naming_the_lost(self.world):
            self._add_up(sums, share.count, count, first)
        return dataclasses.replace(
            shares[first],
            count=count,
            total=max(totals, default=None),
            interrupted=interrupted,
        )

    def begin(self) -> None:
        """Say that a pass over the data begins, at whose end all processes gather."""
        self._gathered = False

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all processes, which all must call this with."""
        if self.world == 1:
            return values
        total = values.to(_carrier(values.device)).clone()
        with _naming_the_lost(self.world):
            dist.all_reduce(total)
        return total.to(values.device)

    def exchange(self, value: Any) -> list[Any]:
        """Return what every process gives, in their order.

        Raises:
            FimsymError: another process failed, or is gone.
        """
        if self.world == 1:
            return [value]
        shares = self._gather(Share(taken=value))
        _raise_failures(shares)
        self._gathered = False
        return [one.taken for one in shares]

    def report(self, error: BaseException) -> None:
        """Tell the other processes that this one has failed, unless they know."""
        if self.world > 1 and not self._gathered:
            with contextlib.suppress(FimsymError):
                self._gather(Share(failure=f"{type(error).__name__}: {error}"))

    def _gather(self, share: Share) -> list[Share]:
        self._gathered = True
        shares: list[Any] = [None] * self.world
        with _naming_the_lost(self.world):
            dist.all_gather_object(shares, share)
        return shares

    def _add_up(self, sums, own, count, first):
        device = _carrier(next(iter(sums.sums.values())).device)
        reference = None
        if sums.squares is not None:
            reference = (sums.sums["fisher"] / max(1, own)).to(device)
            dist.broadcast(reference, src=first)
            reference = reference.to(sums.squares.device)
        vector = sums.packed(own, reference).to(device)
        dist.all_reduce(vector)
        sums.unpack(vector, count, reference)

    def _check(self, shares):
        size, weight = shares[0].size, shares[0].weight
        for rank, one in enumerate(shares):
            if one.size != size or abs(one.weight - weight) > 1e-6 * abs(weight):
                raise FimsymError(
                    f"ranks 0 and {rank} have different models: {size} and {one.size} parameters, "
                    f"of absolute sum {weight:.9g} and {one.weight:.9g}; expected the same. Load "
                    "the same weights in every process."
                )
        whole = {one.read for one in shares if not one.interrupted}
        if len(whole) > 1:
            raise ShapeError(
                f"the processes read {' and '.join(map(str, sorted(whole)))} rows; expected the "
                "same data in every one of them, which analyze shares out itself."
            )
        outputs = {one.outputs for one in shares if one.count}
        if len(outputs) > 1:
            raise ShapeError(
                f"the model returned {' and '.join(map(str, sorted(outputs)))} outputs for "
                "different inputs; expected the same number."
            )


def _raise_failures(shares: list[Share]) -> None:
    failed = [(rank, one.failure) for rank, one in enumerate(shares) if one.failure]
    if failed:
        told = "; ".join(f"rank {rank} of {len(shares)} failed: {why}" for rank, why in failed)
        raise FimsymError(told)


@contextlib.contextmanager
def sharing() -> Iterator[Ranks]:
    """Yield the processes that take part; an error in one ends the others with its reason."""
    ranks = Ranks()
    try:
        yield ranks
    except (Exception, SystemExit) as error:
        ranks.report(error)
        raise


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let this process cover all inputs itself, whatever group it belongs to."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


def launched_rank() -> int:
    """Return the number that torchrun gave this process, 0 without torchrun."""
    started = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["RANK"]) if started else 0


@contextlib.contextmanager
def launched(device: torch.device) -> Iterator[torch.device]:
    """Join the process group that torchrun started this process for, and leave it at the end.

    Without torchrun, or in a group that exists already, nothing is joined. Leaving waits for
    the others, as torchrun ends all as soon as one has failed.

    Args:
        device: Where to compute; "cuda" becomes the device of this process.

    Yields:
        The device of this process.
    """
    if not (dist.is_available() and dist.is_torchelastic_launched()) or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield device
    except KeyboardInterrupt:
        raise
    except BaseException:
        _wait_for_the_others()
        raise
    else:
        _wait_for_the_others()
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def _wait_for_the_others():
    with contextlib.suppress(RuntimeError):
        dist.barrier()


def _carrier(device: torch.device) -> torch.device:
    """Return where the process group takes tensors from: nccl from CUDA only, others from CPU."""
    if dist.get_backend() != "nccl":
        return torch.device("cpu")
    return device if device.type == "cuda" else torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def _naming_the_lost(world: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, FimsymError):
            raise
        raise FimsymError(
            f"a process of {world} ended or did not answer in time "
            f"({reason(error)[:200]}). Look for its own message; if it is only "
            "slow, raise the timeout of init_process_group."
        ) from error
