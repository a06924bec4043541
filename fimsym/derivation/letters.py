"""Letters of an algebra of matrices, and the scalars that words of them make, as SymPy."""

from __future__ import annotations

import sympy as sp
from sympy.core.symbol import Str

_SUFFIXES = {(0, 0): "", (1, 0): "ᵀ", (0, 1): "⁻¹", (1, 1): "⁻ᵀ"}
_EXPONENTS = {(0, 0): "", (1, 0): "^{T}", (0, 1): "^{-1}", (1, 1): "^{-T}"}
_GREEK = {"Λ": r"\Lambda", "μ": r"\mu"}


class Letter(sp.Expr):
    """A vector or square matrix, its transpose or its inverse."""

    is_commutative = False

    def __new__(cls, name, vector=0, symmetric=0, transposed=0, inverted=0):
        """Return the letter `name`; the flags are 0 or 1."""
        transposed = 0 if symmetric else transposed
        flags = map(sp.Integer, (vector, symmetric, transposed, inverted))
        return super().__new__(cls, Str(str(name)), *flags)

    @property
    def name(self) -> str:
        """Its name, without transposition or inversion."""
        return str(self.args[0])

    @property
    def flags(self) -> tuple[int, int]:
        """Whether it is transposed, and whether inverted."""
        return int(self.args[3]), int(self.args[4])

    @property
    def shape(self) -> tuple[int, int]:
        """Its rows and columns, 1 for one and 2 for D."""
        if not self.args[1]:
            return 2, 2
        return (1, 2) if self.args[3] else (2, 1)

    @property
    def transposed(self) -> Letter:
        """Its transpose."""
        return Letter(*self.args[:3], 1 - self.args[3], self.args[4])

    @property
    def inverse(self) -> Letter:
        """Its inverse."""
        return Letter(*self.args[:4], 1 - self.args[4])

    @property
    def plain(self) -> Letter:
        """The letter itself, neither transposed nor inverted."""
        return Letter(*self.args[:3])

    def _text(self, _printer):
        return self.name + _SUFFIXES[self.flags]

    _sympystr = _text

    def _latex(self, _printer):
        return _GREEK.get(self.name, self.name) + _EXPONENTS[self.flags]


Word = tuple[Letter, ...]
FACTOR = Letter("L")
PRECISION = Letter("Λ", symmetric=1)
SIZE = sp.Symbol("D", integer=True, positive=True)


class Scalar(sp.Expr):
    """A scalar made from a word; a variable in differentiation."""

    is_commutative = True
    is_extended_real = True
    _diff_wrt = True

    def _eval_derivative(self, variable):
        return sp.Integer(int(self == variable))

    def _letters(self, printer):
        return " ".join(map(printer._print, self.args))


class Form(Scalar):
    """The scalar xᵀ … y."""

    def _text(self, printer):
        return f"({self._letters(printer)})"

    _sympystr = _latex = _text


class Trace(Scalar):
    """The trace of a product of matrices."""

    def _text(self, printer):
        return f"tr({self._letters(printer)})"

    _sympystr = _text

    def _latex(self, printer):
        return rf"\operatorname{{tr}}({self._letters(printer)})"


class LogDeterminant(Scalar):
    """The logarithm of the determinant of a positive definite matrix."""

    def _text(self, printer):
        return f"log det({self._letters(printer)})"

    _sympystr = _text

    def _latex(self, printer):
        return rf"\log\det {self._letters(printer)}"
