"""The formula language of family specifications.

A formula is parsed with Python's `ast` and checked against a whitelist: numbers, known
names, ``+ - * / **``, parentheses, and calls of known functions. Nothing in a formula is
ever executed. The same tree is then interpreted in an algebra of the caller's choice:
SymPy for derivations, torch for the laws that Monte Carlo samples.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fimsym.errors import SpecError, nearest

MAX_LENGTH = 10_000
MAX_DEPTH = 50
MAX_NUMBER_LENGTH = 50
MAX_EXPONENT = 64

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}


def interpret(
    text: str,
    names: Mapping[str, Any],
    functions: Mapping[str, Callable[..., Any]],
    number: Callable[[str], Any],
) -> Any:
    """Interpret the formula `text` in an algebra.

    Args:
        text: The formula.
        names: Value of each name a formula may use.
        functions: Each function it may call, of one argument.
        number: Makes a number of the algebra from its decimal digits.

    Returns:
        The formula's value in that algebra.

    Raises:
        SpecError: the text is not such a formula; the message names line and column.
    """
    return _Interpreter(text, names, functions, number).visit(_parse(text), depth=0)


def _parse(text: str) -> ast.expr:
    if not isinstance(text, str):
        raise SpecError(f"a formula must be text; got {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        raise SpecError(
            f"formula of {len(text)} characters is too long; at most {MAX_LENGTH} are "
            "read (line 1, column 1). Split it or simplify it."
        )
    for position, character in enumerate(text):
        if ord(character) > 126 or (ord(character) < 32 and character not in "\n\t"):
            line = text.count("\n", 0, position) + 1
            column = position - text.rfind("\n", 0, position)
            raise SpecError(
                f"character {character!r} is not allowed in a formula "
                f"(line {line}, column {column}); write it in plain ASCII."
            )
    nesting = 0
    for position, character in enumerate(text):
        nesting += {"(": 1, ")": -1}.get(character, 0)
        if nesting > MAX_DEPTH:
            raise SpecError(
                f"parentheses are nested more than {MAX_DEPTH} deep "
                f"(line 1, column {position + 1}); simplify the formula."
            )
    try:
        return ast.parse("(" + text + "\n)", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        column = max(1, (getattr(error, "offset", None) or 1) - (line == 1))
        raise SpecError(
            f"not a formula: {text!r} (line {line}, column {column}): {error.args[0]}."
        ) from None


class _Interpreter:
    def __init__(self, text, names, functions, number):
        self.text = text
        self.names = names
        self.functions = functions
        self.number = number

    def visit(self, node: ast.expr, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self.refuse(node, f"the formula is more than {MAX_DEPTH} levels deep")
        if isinstance(node, ast.Constant):
            return self._constant(node)
        if isinstance(node, ast.Name):
            return self._look_up(node, node.id, self.names, "name")
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return _UNARY[type(node.op)](self.visit(node.operand, depth + 1))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            if isinstance(node.op, ast.Pow):
                self._check_power(node)
            left, right = self.visit(node.left, depth + 1), self.visit(node.right, depth + 1)
            return _BINARY[type(node.op)](left, right)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        raise self.refuse(node, f"{type(node).__name__} is not part of the formula language")

    def _constant(self, node: ast.Constant) -> Any:
        digits = ast.get_source_segment("(" + self.text + "\n)", node) or ""
        if type(node.value) not in (int, float) or len(digits) > MAX_NUMBER_LENGTH:
            raise self.refuse(node, f"{digits[:40]!r} is not a plain number")
        mantissa, _, exponent = digits.lower().partition("e")
        plain = (mantissa + exponent.lstrip("+-")).replace(".", "", 1)
        if not plain.isdigit() or (exponent and abs(int(exponent)) > 400):
            raise self.refuse(node, f"{digits[:40]!r} is not a plain decimal number")
        return self.number(digits)

    def _look_up(self, node: ast.expr, name: str, table: Mapping[str, Any], kind: str) -> Any:
        if name not in table:
            known = ", ".join(sorted(table)) or "none"
            raise self.refuse(
                node, f"unknown {kind} {name!r} (known: {known}).{nearest(name, table)}"
            )
        return table[name]

    def _call(self, node: ast.Call, depth: int) -> Any:
        if not isinstance(node.func, ast.Name):
            raise self.refuse(node, "only functions called by name are allowed")
        function = self._look_up(node, node.func.id, self.functions, "function")
        if node.keywords or len(node.args) != 1:
            raise self.refuse(node, f"{node.func.id} takes exactly one argument")
        return function(self.visit(node.args[0], depth + 1))

    def _check_power(self, node: ast.BinOp) -> None:
        exponent = node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right
        value = exponent.value if isinstance(exponent, ast.Constant) else 0
        plain = isinstance(value, int | float) and value <= MAX_EXPONENT
        if not isinstance(exponent, ast.Name | ast.Constant) or not plain:
            raise self.refuse(
                node.right, f"an exponent must be a name or a number of at most {MAX_EXPONENT}"
            )
        inside = list(ast.walk(node.left))
        nested = any(isinstance(part, ast.BinOp) for part in inside)
        if nested and not any(isinstance(part, ast.Name) for part in inside):
            raise self.refuse(node, "a power of numbers must have a plain number as its base")

    def refuse(self, node: ast.expr, why: str) -> SpecError:
        column = node.col_offset + (node.lineno > 1)
        return SpecError(f"{why} (line {node.lineno}, column {column} of {self.text[:200]!r})")
