"""Every error fimsym raises on purpose.

Each leaf is also the standard exception a caller would expect, so ``except
ValueError`` keeps working. Messages say what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FimsymError(Exception):
    """Base class of every error fimsym raises on purpose."""


class ShapeError(FimsymError, ValueError):
    """A tensor has the wrong shape, or data has the wrong size."""


class DomainError(FimsymError, ValueError):
    """A value, dtype or state lies outside what is allowed."""


class SpecError(FimsymError, ValueError):
    """A name, option or family specification is wrong."""


class DerivationError(FimsymError, ArithmeticError):
    """A symbolic identity that must hold was not reduced to zero."""


class UnsupportedError(FimsymError, NotImplementedError):
    """The request is understood but cannot be served."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice closest to `word`, or ``""``."""
    found = difflib.get_close_matches(word.lower(), list(choices), n=1, cutoff=0.5)
    return f" Did you mean {found[0]!r}?" if found else ""


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where there is none."""
    return next(filter(str.strip, str(error).splitlines()), type(error).__name__)


class AccuracyWarning(UserWarning):
    """A formula loses most of its digits somewhere in its domain."""
