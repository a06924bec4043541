"""What a planted defect is: a change of the package's own source."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change of one module's text.

    Attributes:
        module: Its name, without ``fimsym.``.
        old: What is replaced, everywhere; ``""`` to add at the end.
        new: What it is replaced by.
    """

    module: str
    old: str
    new: str


@dataclasses.dataclass(frozen=True)
class Defect:
    """One planted defect.

    Attributes:
        title: What is wrong, in words.
        family: The family whose validation should see it.
        edits: How it is planted.
        by_hand: A generated file is left with the hash of what was generated; otherwise it
            gets that of the defect, as if it had been generated so.
    """

    title: str
    family: str
    edits: tuple[Edit, ...]
    by_hand: bool = False

    @property
    def where(self) -> str:
        """The part of the package that is wrong."""
        return self.edits[0].module.partition(".")[0]


def one(title: str, family: str, module: str, old: str, new: str, more: str = "") -> Defect:
    """Return a defect of one module: a replacement, and more at its end."""
    edits = (Edit(module, old, new), *((Edit(module, "", more),) if more else ()))
    return Defect(title, family, edits)
