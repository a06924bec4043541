"""The evaluators: one checked-in torch module per built-in family, never edited by hand.

The module of any other family is generated once and kept in a folder of the user:
``$FIMSYM_CACHE``, else ``$XDG_CACHE_HOME/fimsym``, else ``~/.cache/fimsym``.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from types import ModuleType

from fimsym.errors import DomainError, UnsupportedError
from fimsym.families import Family, families, family

_PACKAGE = Path(__file__).parent.parent
_SOURCES = ("families", "derivation", "codegen")
_HEADER = re.compile(r"(?:#[^\n]*\n)*?# body sha256 ([0-9a-f]{64})\n")
_LOCK = threading.RLock()


def evaluator(name_or_family: str | Family, compiled: bool = False) -> ModuleType:
    """Return the module of closed forms of a family.

    It holds ``mean``, ``log_partition``, ``fisher``, ``variance_score_squared``,
    ``variance_negative_hessian``, ``covariance``, ``moments`` and ``bounds``. That of a
    family which is not built-in is derived, proven and generated on first use, which
    takes seconds, and imported from the cache afterwards.

    Args:
        name_or_family: A built-in family's name, or a specification.
        compiled: Return functions that `torch.compile` turns into one pass over u and v: many
            times faster where these are large. Each takes seconds at its first call, and again
            for another dtype, number of dimensions or derivatives; after eight such variants
            torch goes on with the plain function. They do not check whether values are finite
            and inside the domain, and can be differentiated once.

    Raises:
        SpecError: no family has that name, or the specification is wrong.
        DerivationError: a proof about the family fails.
        DomainError: others could write to the cache folder.
    """
    module = _module(family(name_or_family))
    if not compiled:
        return module
    with _LOCK:
        return importlib.import_module("fimsym.runtime.compiled").compiled(module)


def _module(spec: Family) -> ModuleType:
    """Return the checked-in or cached module of a family."""
    if spec.name in families() and spec == family(spec.name):
        return importlib.import_module(f"fimsym.generated.{spec.name}")
    digest = _digest(spec)
    name = f"fimsym_evaluator_{spec.name}_{digest[:16]}"
    with _LOCK:
        if name not in sys.modules:
            path, source = _cached(spec, digest)
            sys.modules[name] = _load(name, path, source)
        return sys.modules[name]


def edited(name_or_family: str | Family) -> bool:
    """Tell whether a family's module was changed since it was generated."""
    path = evaluator(name_or_family).__file__
    return path is None or not _intact(Path(path).read_text(encoding="utf-8"))


def _digest(spec: Family) -> str:
    """Return the hash of everything a family's module follows from."""
    return hashlib.sha256(f"{spec.canonical()}\n{_sources()}".encode()).hexdigest()


@functools.cache
def _sources() -> str:
    """Return the hash of the code that derives and prints."""
    digest = hashlib.sha256(importlib.metadata.version("sympy").encode())
    digest.update((_PACKAGE / "__init__.py").read_bytes())  # holds fimsym's version
    for folder in _SOURCES:
        for path in sorted((_PACKAGE / folder).glob("*.*")):
            if path.is_file():
                digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _cached(spec: Family, digest: str) -> tuple[Path, str]:
    """Return path and source of a family's module, generated unless an intact one is there."""
    folder = _folder()
    path = folder / f"{spec.name}_{digest}.py"
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        source = ""
    if not _intact(source):
        try:
            generate = importlib.import_module("fimsym.codegen").generate
        except ImportError as error:
            raise UnsupportedError(
                f"the evaluator of {spec.name} has to be generated once, which needs SymPy and "
                f"jinja2 ({error}). Install them, or generate it elsewhere and copy the cache."
            ) from None
        source = generate(spec)
        path = _write(path, source)
    return path, source


def _intact(source: str) -> bool:
    """Whether the body of a module is the one whose hash its header holds."""
    header = _HEADER.match(source)
    if header is None:
        return False
    return hashlib.sha256(source[header.end() :].encode()).hexdigest() == header[1]


def _load(name: str, path: Path, source: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, origin=str(path))
    exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    return module


def _folder() -> Path:
    """Return a folder that this user alone can write to; a temporary one if need be."""
    path = _wanted()
    if path is None:
        return _temporary("there is no home folder")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        writable = os.access(path, os.W_OK | os.X_OK)
    except OSError as error:
        return _temporary(f"{path} cannot be used: {error.strerror}")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise DomainError(
            f"the cache folder {path} belongs to user {found.st_uid}, not to {os.geteuid()}; code "
            "in it is run. Set FIMSYM_CACHE to a folder of your own."
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DomainError(
            f"others can write to the cache folder {path} (mode {stat.S_IMODE(found.st_mode):o}); "
            f"code in it is run. Run `chmod go-w {path}`, or set FIMSYM_CACHE to another folder."
        )
    return path if writable else _temporary(f"{path} cannot be written")


def _wanted() -> Path | None:
    if chosen := os.environ.get("FIMSYM_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "fimsym"
    try:
        return Path.home() / ".cache" / "fimsym"
    except RuntimeError:
        return None


def _temporary(why: str) -> Path:
    folder = _private()
    warnings.warn(
        f"{why}. Generated evaluators are kept in {folder} until this process ends; set "
        "FIMSYM_CACHE to a folder of your own to keep them.",
        stacklevel=2,
    )
    return folder


@functools.cache
def _private() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fimsym-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _write(path: Path, source: str) -> Path:
    """Write a module whole or not at all; return where, another folder if it cannot be."""
    try:
        _replace(path, source)
    except OSError as error:
        path = _temporary(f"{path} cannot be written: {error.strerror}") / path.name
        _replace(path, source)
    return path


def _replace(path: Path, source: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".py")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(source)
        os.replace(draft, path)
    except OSError:
        Path(draft).unlink(missing_ok=True)
        raise
