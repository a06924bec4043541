"""Families from TOML files. Nothing in a file is ever executed."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fimsym.errors import FimsymError, SpecError, nearest
from fimsym.families import family
from fimsym.families.spec import Constant, Density, Family, Link, Sampler, positive

MAX_BYTES = 50_000
MAX_DOTS = 400
"""Dots of one line: reading a dotted key takes the square of its length."""

_REQUIRED = ("name", "natural", "log_partition", "sufficient_statistics")
_TEXTS = ("name", "log_partition", "structure", "title")
_LISTS = ("natural", "domain", "sufficient_statistics")
_TABLES = ("constants", "density", "sampler", "links")


def read(name_or_path: str | Path | Family) -> Family:
    """Return a built-in family by its name, or one from a file.

    Args:
        name_or_path: A name, a path, or a `Family`, which is returned as it is. Text is a
            path where it names no built-in family, and ends in ``.toml``, has a slash or exists.

    Raises:
        SpecError: there is no such family or file, or the file is wrong.
    """
    if isinstance(name_or_path, Path):
        return load(name_or_path)
    try:
        return family(name_or_path)
    except SpecError:
        if not isinstance(name_or_path, str) or not _is_path(name_or_path):
            raise
    return load(name_or_path)


def _is_path(text: str) -> bool:
    try:
        return text.lower().endswith(".toml") or "/" in text or Path(text).exists()
    except (OSError, ValueError):
        return False


def load(path: str | Path) -> Family:
    """Return the family that a TOML file specifies.

    Args:
        path: The file; its keys are described in ``docs/your-own-family.md``.

    Raises:
        SpecError: the file cannot be read or specifies no family; the message names file,
            key, what was expected and what came, and the place in the file or formula.
    """
    shown = str(path)[-200:]
    try:
        return _Reader(_parse(Path(path))).family()
    except FimsymError as error:
        raise SpecError(f"{shown}: {error}") from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = _text(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        why = str(why).rstrip(".")
        raise SpecError(f"cannot be read: {why}.") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        why = "too deeply nested" if isinstance(error, RecursionError) else str(error)[:200]
        hint = ' Texts need quotes: key = "text".' if "Invalid value" in why else ""
        raise SpecError(f"not valid TOML: {why}.{hint}") from None


def _text(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise SpecError(f"expected a TOML file; this is {kind}.")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise SpecError(f"expected at most {MAX_BYTES} bytes; this file has more.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        why = f"byte 0x{data[error.start]:02x} at line {line}, column {column} is not UTF-8"
        raise SpecError(f"{why}. Save the file as UTF-8.") from None
    if not text.strip():
        raise SpecError(f"this file is empty; expected the keys {', '.join(_REQUIRED)}.")
    for number, row in enumerate(text.split("\n"), 1):
        if row.count(".") > MAX_DOTS:
            raise SpecError(f"line {number} has more than {MAX_DOTS} dots; it is too long to read.")
    return text


class _Reader:
    """Turns the tables of a file into a Family, naming the key of every mistake."""

    def __init__(self, table: dict[str, Any]):
        self.table = table

    def family(self) -> Family:
        _check_keys("", self.table, (*_TEXTS, *_LISTS, *_TABLES), _REQUIRED)
        fields: dict[str, Any] = {
            key: _string(key, self.table[key]) for key in _TEXTS if key in self.table
        }
        fields |= {key: _strings(key, self.table[key]) for key in _LISTS if key in self.table}
        if fields.get("structure", "joint") not in ("independent", "joint"):
            structure = fields["structure"]
            hint = nearest(structure, ("independent", "joint"))
            _wrong("structure", "'independent' or 'joint'", f"{structure[:80]!r}", hint)
        fields["constants"] = self.constants()
        fields["density"] = self.density()
        fields["sampler"] = self.sampler()
        fields["links"] = self.links()
        return Family(**fields)

    def constants(self) -> tuple[Constant, ...]:
        found = []
        for name, value in _table("constants", self.table).items():
            key = f"constants.{name}"
            value = value if isinstance(value, dict) else {"default": value}
            _check_keys(key, value, ("default", "meaning", "integer"), ("default",))
            integer = value.get("integer", False)
            if not isinstance(integer, bool):
                _wrong(f"{key}.integer", "true or false", _kind(integer))
            try:
                default = positive(name, value["default"], integer)
            except FimsymError as error:
                raise SpecError(f"{key}: {error}") from None
            meaning = _string(f"{key}.meaning", value.get("meaning", "known constant"))
            found.append(Constant(name, meaning, default, integer))
        return tuple(found)

    def density(self) -> Density | None:
        if "density" not in self.table:
            return None
        table = _table("density", self.table)
        _check_keys(
            "density", table, ("base_measure", "support", "largest"), ("base_measure", "support")
        )
        largest = table.get("largest")
        return Density(
            _formula("density.base_measure", table["base_measure"]),
            _string("density.support", table["support"]),  # pyright: ignore[reportArgumentType]
            None if largest is None else _formula("density.largest", largest),
        )

    def sampler(self) -> Sampler | None:
        if "sampler" not in self.table:
            return None
        table = dict(_table("sampler", self.table))
        if "distribution" not in table:
            _missing("sampler", "distribution", table)
        distribution = _string("sampler.distribution", table.pop("distribution"))
        if not distribution.isidentifier() or distribution.startswith("_"):
            what = 'the name of a class of torch.distributions, such as "Normal"'
            _wrong("sampler.distribution", what, repr(distribution[:80]))
        arguments = table.pop("arguments", {})
        if not isinstance(arguments, dict):
            _wrong("sampler.arguments", "a table", _kind(arguments))
        for name in arguments:
            if name in table:
                raise SpecError(f"sampler.{name}: given twice, here and in sampler.arguments.")
        arguments = {**table, **arguments}
        return Sampler(
            distribution, {name: _formula(f"sampler.{name}", v) for name, v in arguments.items()}
        )

    def links(self) -> tuple[Link, ...]:
        found = []
        for name, table in _table("links", self.table).items():
            key = f"links.{name}"
            if not isinstance(table, dict):
                _wrong(key, "a table with the keys outputs and natural", _kind(table))
            _check_keys(key, table, ("outputs", "natural", "domain"), ("outputs", "natural"))
            outputs = _strings(f"{key}.outputs", table["outputs"])
            domain = _strings(f"{key}.domain", table.get("domain", []))
            if not outputs:
                _wrong(f"{key}.outputs", "at least one name", "an empty list")
            natural = _strings(f"{key}.natural", table["natural"])
            found.append(Link(name, outputs, natural, domain))
        return tuple(found)


def _table(key: str, tables: Mapping[str, Any]) -> Mapping[str, Any]:
    table = tables.get(key, {})
    if not isinstance(table, dict):
        _wrong(key, f"a table, [{key}]", _kind(table))
    return table


def _check_keys(
    key: str, table: Mapping[str, Any], known: tuple[str, ...], required: tuple[str, ...]
) -> None:
    for name in table:
        if name not in known:
            place = f"{key}.{name}" if key else name
            raise SpecError(
                f"{place[:80]}: unknown key; expected one of {', '.join(known)}."
                f"{nearest(name[:80], known)}"
            )
    for name in required:
        if name not in table:
            _missing(key, name, table)


def _missing(key: str, name: str, table: Mapping[str, Any]) -> NoReturn:
    place = f"{key}.{name}" if key else name
    has = ", ".join(table) or "none"
    raise SpecError(f"{place}: this key is missing (keys that are there: {has[:200]}).")


def _formula(key: str, value: Any) -> str:
    """Return a formula; a number is one too."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)[:100]
    return _string(key, value)


def _string(key: str, value: Any) -> str:
    if not isinstance(value, str):
        _wrong(key, "text in quotes", _kind(value))
    return value


def _strings(key: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list):
        _wrong(key, "text or a list of texts", _kind(value))
    return tuple(_string(f"{key}[{n}]", text) for n, text in enumerate(values))


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "a table"}
    if type(value) in (int, float):
        return f"the number {str(value)[:40]}"
    return kinds.get(type(value), "a date or time")


def _wrong(key: str, expected: str, got: str, hint: str = "") -> NoReturn:
    raise SpecError(f"{key}: expected {expected}; got {got}.{hint}")
