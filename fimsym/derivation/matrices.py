"""Algebra of vectors and matrices whose size D is a symbol.

A word is a product of letters, a `Words` a sum of them. L is a lower triangular matrix with
Λ = L Lᵀ; in a word, neighbours that are inverse to each other cancel and L Lᵀ becomes Λ.
Scalars are SymPy expressions in `Form` (xᵀ … y), `Trace` and `LogDeterminant`, each named by
one canonical word, so that expressions equal for every D expand to the same polynomial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import sympy as sp

from fimsym.derivation.letters import (
    FACTOR,
    PRECISION,
    SIZE,
    Form,
    Letter,
    LogDeterminant,
    Scalar,
    Trace,
    Word,
)
from fimsym.errors import DerivationError


@dataclasses.dataclass(frozen=True)
class Words:
    """A sum of words with scalar coefficients.

    Attributes:
        terms: Coefficient of each word; the empty word is the identity.
        shape: Its rows and columns, 1 for one and 2 for D.
    """

    terms: Mapping[Word, sp.Expr]
    shape: tuple[int, int] = (2, 2)

    def __add__(self, other: Words) -> Words:
        if not isinstance(other, Words) or self.shape != other.shape:
            raise DerivationError(f"cannot add {other} to {self}: the shapes differ.")
        terms = dict(self.terms)
        for word, coefficient in other.terms.items():
            terms[word] = sp.expand(terms.get(word, 0) + coefficient)
        return Words({word: c for word, c in terms.items() if c != 0}, self.shape)

    def __neg__(self) -> Words:
        return -1 * self

    def __sub__(self, other: Words) -> Words:
        return self + -other

    def __rmul__(self, factor) -> Words:
        terms = {word: sp.expand(factor * c) for word, c in self.terms.items()}
        return Words({word: c for word, c in terms.items() if c != 0}, self.shape)

    def __truediv__(self, divisor) -> Words:
        return (1 / sp.sympify(divisor)) * self

    def __mul__(self, other) -> Words | sp.Expr:
        if not isinstance(other, Words):
            return other * self
        if self.shape[1] != other.shape[0]:
            raise DerivationError(f"cannot multiply {self} by {other}: the shapes differ.")
        shape = (self.shape[0], other.shape[1])
        result, scalar = Words({}, shape), sp.Integer(0)
        for left, first in self.terms.items():
            for right, second in other.terms.items():
                factor, word = _without_forms((*left, *right))
                if shape == (1, 1):
                    scalar += first * second * factor
                else:
                    result += first * second * factor * Words({reduced(word): 1}, shape)
        return sp.expand(scalar) if shape == (1, 1) else result

    @property
    def transposed(self) -> Words:
        """The transpose."""
        return Words({reverse(word): c for word, c in self.terms.items()}, self.shape[::-1])

    @property
    def inverse(self) -> Words:
        """The inverse of a multiple of a single word of matrices."""
        if len(self.terms) != 1 or self.shape != (2, 2):
            raise DerivationError(f"cannot invert {self}; expected a product of matrices.")
        ((word, coefficient),) = self.terms.items()
        return Words({tuple(x.inverse for x in reversed(word)): 1 / coefficient})

    @property
    def expression(self) -> sp.Expr:
        """The sum as a noncommutative SymPy expression."""
        one = Letter("1", symmetric=1)
        return sp.Add(*(c * sp.Mul(*(word or (one,))) for word, c in self.terms.items()))


def words(letter: Letter) -> Words:
    """Return a letter as a sum of words."""
    return Words({(letter,): sp.Integer(1)}, letter.shape)


def reverse(word: Word) -> Word:
    """Return the transpose of a word."""
    return tuple(letter.transposed for letter in reversed(word))


def reduced(word: Iterable[Letter]) -> Word:
    """Cancel inverse neighbours, and write L Lᵀ as Λ."""
    found: list[Letter] = []
    for letter in _factors(word):
        if found and found[-1] == letter.inverse:
            found.pop()
        else:
            found.append(letter)
    return _collapsed(found)


def _factors(word):
    for letter in word:
        if letter == PRECISION:
            yield from (FACTOR, FACTOR.transposed)
        elif letter == PRECISION.inverse:
            yield from (FACTOR.transposed.inverse, FACTOR.inverse)
        else:
            yield letter


def _collapsed(word):
    found: list[Letter] = []
    for letter in word:
        pair = (*found[-1:], letter)
        if pair == tuple(_factors([PRECISION])):
            found[-1] = PRECISION
        elif pair == tuple(_factors([PRECISION.inverse])):
            found[-1] = PRECISION.inverse
        else:
            found.append(letter)
    return tuple(found)


def _without_forms(word):
    """Take every xᵀ … y out of a word as a scalar factor."""
    factor, rest, start = sp.Integer(1), [], None
    for letter in word:
        rest.append(letter)
        if letter.shape == (1, 2):
            start = len(rest) - 1
        elif letter.shape == (2, 1) and start is not None:
            factor *= _form(rest[start:])
            rest, start = rest[:start], None
    return factor, tuple(rest)


def _form(word):
    word = reduced(word)
    return Form(*min(word, reverse(word), key=_order))


def _order(word):
    return len(word), [(letter.name, letter.flags) for letter in word]


def trace(matrix: Words) -> sp.Expr:
    """Return the trace of a sum of words of matrices."""
    return sp.Add(*(sp.expand(c * _trace(word)) for word, c in matrix.terms.items()))


def _trace(word):
    for place, letter in enumerate(word):
        if letter.shape == (1, 2):  # tr(… x yᵀ …) = yᵀ … x
            return _form((*word[place:], *word[:place]))
    word = list(_factors(reduced(word)))
    while len(word) > 1 and word[-1] == word[0].inverse:
        word = word[1:-1]
    if not word:
        return SIZE
    turned = [(*word[n:], *word[:n]) for n in range(len(word))]
    candidates = [_collapsed(x) for turn in turned for x in (turn, reverse(turn))]
    return Trace(*min(candidates, key=_order))


def dot(x: Words, y: Words) -> sp.Expr:
    """Return xᵀy of vectors, tr(XᵀY) of matrices."""
    product = x.transposed * y
    return trace(product) if isinstance(product, Words) else product


def log_determinant(matrix: Words) -> sp.Expr:
    """Return log det of a positive multiple of a symmetric letter."""
    if len(matrix.terms) == 1:
        ((word, coefficient),) = matrix.terms.items()
        if len(word) == 1 and word[0].args[2] and coefficient.is_positive:
            return SIZE * sp.log(coefficient) + LogDeterminant(*word)
    raise DerivationError(
        f"cannot take log det of {matrix.expression}; expected a positive multiple of a matrix "
        "that is positive definite in the domain."
    )


def derivative(value: Words | sp.Expr, along: Mapping[Letter, Words]) -> Words | sp.Expr:
    """Return the directional derivative.

    Args:
        value: What is differentiated.
        along: Derivative of every plain letter in it; those of inverses and transposes
            follow, ∂X⁻¹ = −X⁻¹ ∂X X⁻¹.
    """
    if not isinstance(value, Words):
        atoms = sorted(value.atoms(Scalar), key=lambda atom: _order(atom.args))
        return sp.expand(sp.Add(*(value.diff(x) * _of_scalar(x, along) for x in atoms)))
    result = Words({}, value.shape)
    for word, coefficient in value.terms.items():
        result += derivative(coefficient, along) * Words({word: 1}, value.shape)
        for product in _leibniz(word, along):
            result += coefficient * product
    return result


def _leibniz(word, along):
    for place, letter in enumerate(word):
        product = _of_letter(letter, along)
        for left in reversed(word[:place]):
            product = words(left) * product
        for right in word[place + 1 :]:
            product = product * words(right)
        yield product


def _of_scalar(atom, along):
    if isinstance(atom, LogDeterminant):
        (letter,) = atom.args
        return trace(words(letter.inverse) * _of_letter(letter, along))
    parts = list(_leibniz(atom.args, along))
    return sp.Add(*(trace(part) if isinstance(part, Words) else part for part in parts))


def _of_letter(letter, along):
    if letter.plain not in along:
        raise DerivationError(f"the derivative of {letter.plain} is not known.")
    value, (transposed, inverted) = along[letter.plain], letter.flags
    value = value.transposed if transposed else value
    return -(words(letter) * value * words(letter)) if inverted else value
