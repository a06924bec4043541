"""What went wrong in code that is the user's own: a model, a factory, a module."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"
_INSTALLED = ("stdlib", "purelib", "platlib")


def told(error: BaseException) -> str:
    """Return an exception's type, its text and where it comes from."""
    text = " ".join(str(error).split()).rstrip(".")
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return said if isinstance(error, SyntaxError) else said + where(error)


def where(error: BaseException) -> str:
    """Return file and line of the innermost frame that is the user's own, if there is one.

    An error of this package, that arose while it ran no such code, has none.
    """
    installed = tuple(sysconfig.get_path(name) for name in _INSTALLED)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_PACKAGE):
            break
        if not frame.filename.startswith(("<frozen", *installed)):
            return f", in {frame.filename}, line {frame.lineno}"
    return ""
