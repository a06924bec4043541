"""The syntax of formulas: text in, tree out, or the line and column of the mistake."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import NoReturn

from fimsym.errors import SpecError

MAX_LENGTH = 10_000
MAX_DEPTH = 50
MAX_TOKENS = 2_000
MAX_NUMBER_LENGTH = 50
MAX_DECIMAL_EXPONENT = 300

_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z_0-9]*)|(?P<sign>\*\*|<=|>=|[-+*/(),<>])|(?P<space>[ \t\r\n]+)"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A decimal number, as written, and where it stands in the text."""

    digits: str
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """A parameter, constant or other name."""

    name: str
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Negative:
    """Minus its operand."""

    operand: Node
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Chain:
    """Terms or factors, from left to right: ``first`` and each (operator, operand) after it."""

    first: Node
    rest: tuple[tuple[str, Node], ...]
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Power:
    """``base**exponent``."""

    base: Node
    exponent: Node
    at: int


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A function of arguments."""

    name: str
    arguments: tuple[Node, ...]
    at: int


Node = Number | Name | Negative | Chain | Power | Call


def read(text: str) -> tuple[tuple[Node, ...], tuple[tuple[str, int], ...]]:
    """Return the sides of an inequality, and the signs between them with their places.

    A formula is an inequality of one side.

    Raises:
        SpecError: it is too long, too deeply nested, not ASCII, or no formula.
    """
    if not isinstance(text, str):
        raise SpecError(f"a formula must be text; got {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        why = f"formula of {len(text)} characters is too long: at most {MAX_LENGTH} are read"
        refuse(text, MAX_LENGTH, why)
    return _Parser(text).comparison()


def refuse(text: str, at: int, why: str) -> NoReturn:
    """Raise SpecError for what stands at position `at` of `text`."""
    line = text.count("\n", 0, at) + 1
    start = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    shown = text[max(start, at - 60) : min(at + 60, end if end >= 0 else len(text))]
    raise SpecError(f"{why} (line {line}, column {at - start + 1} of {shown!r}).")


class _Parser:
    """Recursive descent; each level of nesting counts against MAX_DEPTH, chains do not."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = _tokens(text)
        self.place = 0
        self.depth = 0

    @property
    def token(self) -> str:
        return self.tokens[self.place][1]

    @property
    def at(self) -> int:
        return self.tokens[self.place][2]

    def comparison(self):
        sides, signs = [self.chain("+-")], []
        while self.token in ("<", "<=", ">", ">="):
            signs.append((self.token, self.at))
            self.place += 1
            sides.append(self.chain("+-"))
        if self.token:
            self.expected("an operator")
        return tuple(sides), tuple(signs)

    def chain(self, signs: str) -> Node:
        operand = functools.partial(self.chain, "*/") if signs == "+-" else self.signed
        at, first, rest = self.at, operand(), []
        while self.token and self.token in signs:
            sign = self.token
            self.place += 1
            rest.append((sign, operand()))
        return Chain(first, tuple(rest), at) if rest else first

    def signed(self) -> Node:
        at, sign = self.at, self.token
        if sign not in ("-", "+"):
            return self.power()
        self.enter()
        operand = self.signed()
        self.depth -= 1
        return Negative(operand, at) if sign == "-" else operand

    def power(self) -> Node:
        at, base = self.at, self.atom()
        if self.token != "**":
            return base
        self.enter()
        exponent = self.signed()
        self.depth -= 1
        return Power(base, exponent, at)

    def atom(self) -> Node:
        kind, token, at = self.tokens[self.place]
        if token == "(":
            self.enter()
            node = self.chain("+-")
            self.close()
            return node
        if kind not in ("number", "name"):
            self.expected("a number, a name or '('")
        self.place += 1
        if kind == "number":
            return _number(self.text, token, at)
        return self.call(token, at) if self.token == "(" else Name(token, at)

    def call(self, name: str, at: int) -> Call:
        self.enter()
        arguments = [] if self.token == ")" else [self.chain("+-")]
        while self.token == ",":
            self.place += 1
            arguments.append(self.chain("+-"))
        self.close()
        return Call(name, tuple(arguments), at)

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            refuse(self.text, self.at, f"more than {MAX_DEPTH} levels deep: simplify the formula")
        self.place += 1

    def close(self) -> None:
        if self.token != ")":
            self.expected("an operator or ')'")
        self.depth -= 1
        self.place += 1

    def expected(self, what: str) -> NoReturn:
        got = repr(self.token) if self.token else "the end"
        product = what == "an operator" and self.token
        hint = "; a product needs *" if product else ""
        refuse(self.text, self.at, f"expected {what}; got {got}{hint}")


_HINTS = {"^": "; a power is written **", "=": "; an equation is no formula"}


def _tokens(text: str) -> list[tuple[str, str, int]]:
    """Return (kind, token, place) of each token, and an empty one at the end."""
    found, place = [], 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            plain = _HINTS.get(text[place], "")
            plain = plain if text[place].isascii() else "; write it in plain ASCII"
            refuse(text, place, f"character {text[place]!r} is not part of formulas{plain}")
        if match.lastgroup != "space":
            found.append((match.lastgroup, match.group(), place))
        if len(found) > MAX_TOKENS:
            refuse(text, place, f"more than {MAX_TOKENS} numbers, names and signs: simplify it")
        place = match.end()
    return [*found, ("end", "", len(text))]


def _number(text: str, digits: str, at: int) -> Number:
    exponent = digits.lower().partition("e")[2] or "0"
    if len(digits) > MAX_NUMBER_LENGTH:
        refuse(text, at, f"a number of more than {MAX_NUMBER_LENGTH} characters")
    if abs(int(exponent)) > MAX_DECIMAL_EXPONENT:
        refuse(text, at, f"the number {digits} is beyond 1e±{MAX_DECIMAL_EXPONENT}")
    return Number(digits, at)
