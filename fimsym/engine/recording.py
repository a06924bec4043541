"""The operations of torch that a forward pass carries out, written down as they pass by."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fimsym.engine.decompositions import DECOMPOSED

aten = torch.ops.aten


class NoTape(NotImplementedError):  # noqa: N818
    """Derivatives cannot be taken along a tape; they must be taken another way."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for a recorded value among the arguments of an operation."""

    place: int


@dataclasses.dataclass
class Step:
    """One operation.

    Attributes:
        func: The function of torch.
        args: Its arguments, with slots; likewise kwargs.
        inputs: Places of the recorded values among them.
        results: Places of its results.
        many: Whether the results came as a sequence.
    """

    func: Any
    args: tuple
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    results: tuple[int, ...]
    many: bool

    @property
    def name(self) -> Any:
        """The operation, whatever the types of its arguments."""
        return self.func.overloadpacket

    def call(self, given: Callable[[int], Any]) -> Any:
        """Carry the operation out with these values in the slots."""
        args, kwargs = self.arguments(given)
        return self.func(*args, **kwargs)

    def arguments(self, given: Callable[[int], Any]) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments with these values in the slots."""
        return tree_map(
            lambda leaf: given(leaf.place) if isinstance(leaf, Slot) else leaf,
            (self.args, self.kwargs),
        )


def tensors(found: Any) -> list[Tensor]:
    """Return the tensors in what an operation returned."""
    return [x for x in tree_leaves(found) if isinstance(x, Tensor)]


class Recorder(TorchDispatchMode):
    """Writes down every operation that takes a parameter or what came out of one.

    Attributes:
        places: Place of every recorded tensor, by identity.
        steps: What was written down.
        kept: The recorded tensors, so that no other takes their identity.
    """

    def __init__(self, leaves: Mapping[str, Tensor]):
        super().__init__()
        self.places: dict[int, int] = {}
        self.steps: list[Step] = []
        self.kept: list[Tensor] = []
        for leaf in leaves.values():
            self._enter(leaf)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the compiler would be imported, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = [x for x in given if id(x) in self.places]
        lost = any(x.requires_grad and id(x) not in self.places for x in given)
        if lost and func.overloadpacket is not aten.detach:
            raise NoTape(f"{func} takes a value that came about in an unknown way")
        if not known or not torch.is_grad_enabled():
            if func._schema.is_mutable and any(x is args[0] for x in known):
                raise NoTape(f"{func} writes to what depends on a parameter")
            return func(*args, **kwargs)
        if func.overloadpacket in DECOMPOSED:
            with self:
                return DECOMPOSED[func.overloadpacket](func, *args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        places = tuple(self.places[id(x)] for x in known)
        found = func(*args, **kwargs)
        self._write_down(func, args, kwargs, places, found)
        return found

    def _write_down(self, func, args, kwargs, places, found) -> None:
        noted = tree_map(
            lambda x: Slot(self.places[id(x)])
            if isinstance(x, Tensor) and id(x) in self.places else x,
            (args, kwargs),
        )  # fmt: skip
        written = func._schema.is_mutable
        if func.overloadpacket is aten.copy_:
            func, noted, places = _copied(args, noted)
        elif written and not isinstance(found, Tensor):
            raise NoTape(f"{func} writes into memory it is given")
        elif written:
            func = _out_of_place(func)
        results = tuple(self._enter(x) for x in tensors(found))
        many = isinstance(found, list | tuple)
        self.steps.append(Step(func, noted[0], noted[1], places, results, many))
        if written:
            self._follow(found)

    def _follow(self, written: Tensor) -> None:
        """Give new places to what shares its memory with a tensor that was written to."""
        storage = written.untyped_storage()
        sharing = {id(x): x for x in (written, *self.kept)
                   if x.untyped_storage()._cdata == storage._cdata}  # fmt: skip
        if len(sharing) == 1:
            return
        size = storage.nbytes() // written.element_size()
        whole = next((x for x in sharing.values() if x.is_contiguous() and x.numel() == size), None)
        if whole is None:
            raise NoTape("what is written to is part of something unknown")
        if whole is not written:
            places = self.places[id(whole)], self.places[id(written)]
            args = Slot(places[0]), _numbers(written, size), Slot(places[1])
            self._derive(aten.put.default, args, places, whole)
        for x in sharing.values():
            if x is not written and x is not whole:
                place = self.places[id(whole)]
                self._derive(aten.take.default, (Slot(place), _numbers(x, size)), (place,), x)

    def _derive(self, func: Any, args: tuple, places: tuple[int, ...], result: Tensor) -> None:
        """Write down an operation that torch need not carry out."""
        self.steps.append(Step(func, args, {}, places, (self._enter(result),), False))

    def _enter(self, value: Tensor) -> int:
        """Give a tensor a place, a new one if it has one already and was written to."""
        place = self.places[id(value)] = len(self.kept)
        self.kept.append(value)
        return place


def _numbers(part: Tensor, size: int) -> Tensor:
    """Return where in its memory the entries of a tensor are."""
    whole = torch.arange(size, device=part.device)
    return whole.as_strided(part.shape, part.stride(), part.storage_offset())


def _copied(args: tuple, noted: tuple) -> tuple[Any, tuple, tuple[int, ...]]:
    """Return what copying from one tensor to another comes to, and what it takes."""
    target, source, *_ = args
    if target.dtype != source.dtype or target.device != source.device:
        raise NoTape("a copy changes the type of what it copies")
    source = noted[0][1]
    places = (source.place,) if isinstance(source, Slot) else ()
    return aten.expand.default, ((source, list(target.shape)), {}), places


@functools.cache
def _out_of_place(func: Any) -> Any:
    """Return the operation that returns what another one writes to its first argument."""
    name = func._schema.name.removeprefix("aten::")
    plain = getattr(aten, name.removesuffix("_"), None)
    if name.endswith("_") and plain is not None:
        for form in (getattr(plain, overload) for overload in plain.overloads()):
            if _arguments(form) == _arguments(func):
                return form
    raise NoTape(f"{func} writes into memory it is given")


def _arguments(func: Any) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in func._schema.arguments]
