"""The formula language of family specifications.

Numbers, known names, ``+ - * / **``, parentheses, and calls of known functions, read by
`fimsym.families.syntax`: nothing in a formula is ever executed. The tree is interpreted
in an algebra of the caller's choice: SymPy for derivations, torch for the laws that
Monte Carlo samples, mpmath for numerical checks.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fimsym.errors import nearest
from fimsym.families.syntax import Call, Chain, Name, Negative, Node, Number, Power, read, refuse

FUNCTIONS = {
    "exp": 1,
    "log": 1,
    "sqrt": 1,
    "expm1": 1,
    "log1p": 1,
    "softplus": 1,
    "lgamma": 1,
    "gamma": 1,
    "sin": 1,
    "cos": 1,
    "log_bessel_i0": 1,
}
"""Functions of every formula, with their number of arguments."""
SAMPLER_FUNCTIONS = {"atan2": 2}
"""Further functions of a sampler's arguments."""
VECTOR_FUNCTIONS = {"sum": 1}
"""Further functions where one symbol stands for a vector."""
MATRIX_FUNCTIONS = {"dot": 2, "solve": 2, "logdet": 1, "inverse": 1, "transpose": 1}
"""Further functions where a symbol stands for a matrix."""

MAX_EXPONENT = 64
MAX_DEGREE = 256
MAX_DIGITS = 75
"""Digits of the largest number a power may hold, such as those of 9**64."""
MAX_GAMMA = 1000

_ARITY = {**FUNCTIONS, **SAMPLER_FUNCTIONS, **VECTOR_FUNCTIONS, **MATRIX_FUNCTIONS}
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_OF_NUMBERS: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "expm1": math.expm1,
    "log1p": math.log1p,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "lgamma": math.lgamma,
    "gamma": math.gamma,
    "sin": math.sin,
    "cos": math.cos,
    "log_bessel_i0": abs,  # an upper bound
}


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
        functions: Each function it may call.
        number: Makes a number of the algebra from its decimal digits.

    Returns:
        The formula's value in that algebra.

    Raises:
        SpecError: the text is not such a formula; the message names line and column.
    """
    return _evaluate(text, parse(text), names, functions, number)


def _evaluate(text, node, names, functions, number):
    def known(node: Name | Call, table: Mapping[str, Any], kind: str) -> Any:
        if node.name not in table:
            choices = ", ".join(sorted(table)) or "none"
            hint = nearest(node.name[:60], table)
            if kind == "name" and node.name in functions:
                hint = f" {node.name} is a function: write {node.name}(...)."
            refuse(text, node.at, f"unknown {kind} {node.name[:60]!r} (known: {choices}).{hint}")
        return table[node.name]

    def value(node: Node) -> Any:
        match node:
            case Number():
                return number(node.digits)
            case Name():
                return known(node, names, "name")
            case Negative():
                return -value(node.operand)
            case Power():
                return value(node.base) ** value(node.exponent)
            case Call():
                function = known(node, functions, "function")
                return function(*map(value, node.arguments))
        result = value(node.first)
        for sign, operand in node.rest:
            result = _OPERATORS[sign](result, value(operand))
        return result

    return value(node)


def parse(text: str) -> Node:
    """Return the syntax tree of a formula.

    Raises:
        SpecError: it is too long, too deeply nested, not ASCII, no formula, or the powers
            in it are too large; the message names line and column.
    """
    return _parse(text) if isinstance(text, str) else read(text)[0][0]


@functools.lru_cache(maxsize=256)
def _parse(text: str) -> Node:
    (tree, *_), signs = read(text)
    if signs:
        refuse(text, signs[0][1], f"a formula has no {signs[0][0]!r}")
    _Sizes(text).digits(tree)
    return tree


class _Sizes:
    """Refuses powers and factorials that would fill the memory when written out."""

    def __init__(self, text: str):
        self.text = text

    def digits(self, node: Node) -> float:
        """Return how many digits the numbers of `node` have, every name counting as 1."""
        match node:
            case Number():
                size = float(node.digits)
                return abs(math.log10(size)) if size else 0.0
            case Name():
                return 0.0
            case Negative():
                return self.digits(node.operand)
            case Power():
                return self.of_power(node)
            case Call():
                return self.of_call(node)
        sizes = [self.digits(part) for part in _parts(node)]
        if _nameless(node):
            return self.of_numbers(node)
        return max(sizes) + math.log10(len(sizes)) if _is_sum(node) else sum(sizes)

    def of_power(self, node: Power) -> float:
        self.check_exponent(node.exponent)
        exponent = self.largest(node.exponent)
        if not exponent <= MAX_EXPONENT:
            why = f"an exponent must be at most {MAX_EXPONENT} in absolute value"
            refuse(self.text, node.exponent.at, f"{why}, every name counting as 1")
        if not _nameless(node) and self.degree(node) > MAX_DEGREE:
            refuse(self.text, node.at, f"powers of powers up to degree {MAX_DEGREE} are read")
        size = self.digits(node.base) * exponent
        if size > MAX_DIGITS:
            refuse(self.text, node.at, f"a power of numbers beyond 1e{MAX_DIGITS}")
        return self.of_numbers(node) if _nameless(node) else size

    def degree(self, node: Node) -> float:
        """Return the degree of a formula in its names, roots and quotients counted up."""
        match node:
            case Number():
                return 0.0
            case Name():
                return 1.0
            case Negative():
                return self.degree(node.operand)
            case Power():
                return max(1.0, self.degree(node.base)) * max(1.0, self.largest(node.exponent))
            case Call():
                return max((self.degree(argument) for argument in node.arguments), default=0.0)
        parts = [self.degree(node.first), *(self.degree(x) for _, x in node.rest)]
        products = any(sign in "*/" for sign, _ in node.rest)
        return sum(parts) if products else max(parts)

    def of_call(self, node: Call) -> float:
        count = _ARITY.get(node.name, len(node.arguments))
        if len(node.arguments) != count:
            many = "one argument" if count == 1 else f"{count} arguments"
            refuse(self.text, node.at, f"{node.name} takes {many}; got {len(node.arguments)}")
        for argument in node.arguments:
            self.digits(argument)
        if node.name in ("gamma", "lgamma") and not self.largest(node.arguments[0]) <= MAX_GAMMA:
            refuse(self.text, node.at, f"{node.name} of numbers beyond {MAX_GAMMA}")
        return self.of_numbers(node) if _nameless(node) else 0.0

    def of_numbers(self, node: Node) -> float:
        size = abs(self.number(node))
        return abs(math.log10(size)) if size else 0.0

    def number(self, node: Node) -> float:
        """Return the value of a node without names."""
        try:
            value = float(_evaluate(self.text, node, {}, _OF_NUMBERS, float))
        except (ArithmeticError, ValueError, TypeError):
            value = math.nan
        if not math.isfinite(value):
            refuse(self.text, node.at, "this part has no finite value")
        return value

    def largest(self, node: Node) -> float:
        """Return a bound of a node's absolute value, every name and function counting as 1."""
        if _nameless(node):
            return abs(self.number(node))
        match node:
            case Negative():
                return self.largest(node.operand)
            case Power():
                return max(1.0, self.largest(node.base)) ** min(
                    MAX_EXPONENT, self.largest(node.exponent)
                )
            case Number() | Name() | Call():
                return 1.0
        result = self.largest(node.first)
        for sign, part in node.rest:
            size = self.largest(part)
            if sign == "/":
                result /= size if _is_product(part) and size else 1.0
            else:
                result = result * size if sign == "*" else result + size
        return result

    def check_exponent(self, node: Node) -> None:
        match node:
            case Power() | Call():
                why = "an exponent must be made of numbers and names with + - * /"
                refuse(self.text, node.at, why)
            case Negative():
                self.check_exponent(node.operand)
            case Chain():
                for part in _parts(node):
                    self.check_exponent(part)
                for sign, part in node.rest:
                    if sign == "/" and not (_nameless(part) or _is_product(part)):
                        why = "an exponent may be divided by numbers and names alone"
                        refuse(self.text, part.at, why)


def _parts(node: Chain) -> tuple[Node, ...]:
    return (node.first, *(part for _, part in node.rest))


def _is_sum(node: Chain) -> bool:
    return node.rest[0][0] in "+-"


def _is_product(node: Node) -> bool:
    """Whether a node is a product or quotient of numbers and names."""
    if isinstance(node, Negative):
        return _is_product(node.operand)
    if isinstance(node, Chain):
        return not _is_sum(node) and all(map(_is_product, _parts(node)))
    return isinstance(node, Number | Name)


def _nameless(node: Node) -> bool:
    """Whether a node is a number, computed from numbers alone."""
    match node:
        case Number():
            return True
        case Name():
            return False
        case Negative():
            return _nameless(node.operand)
        case Power():
            return _nameless(node.base) and _nameless(node.exponent)
        case Call():
            return node.name in _OF_NUMBERS and all(map(_nameless, node.arguments))
    return all(map(_nameless, _parts(node)))
