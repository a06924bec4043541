"""Extreme values of forms that are found by a search, and what is promised of them.

Each function stands for a number that code computes to some digits and on the safe side. Its
docstring states the promise; `certificates_of_searches` proves that the search keeps it.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.symbols import AxisFunction


class SearchBase(AxisFunction):
    """A function of one or more columns, written in LaTeX by its name."""

    nargs = None
    name = ""

    def _latex(self, printer):
        arguments = ", ".join(map(printer._print, self.args))
        return rf"\operatorname{{{self.name}}}\left({arguments}\right)"


class LargestCentred(SearchBase):
    """λ(d, w, r): Σ w d g² ≤ λ Σ w g² for every g with Σ w g = 0, where r + Σ w = 1.

    r is the weight of one more entry, of which d is zero; without it r = 0.
    """

    name = "largest centred"


class SmallestReduced(SearchBase):
    """λ(d, w, r): λ < min d and λ Σ w/(d − λ) ≤ r."""

    name = "smallest reduced"


class LargestOfClasses(SearchBase):
    """λ(D, p, c): the least of c and of bounds of one-hot labels' V₁/‖u‖⁴ by a matrix norm.

    Each of the others is x (1 + κ/(1 − κd)), d = C − 1, κ < 1/d, with
    Σ p D φ² + (2 − 4κ)(Σ p² φ)² ≤ x Σ p φ² for every φ with Σ p φ = 0.
    """

    name = "largest of classes"


class LargestOnCircle(SearchBase):
    """λ(m₀, …, m₄) ≥ Σ binom(4, k) m_k x^(4−k) y^k where x² + y² = 1."""

    name = "max on circle"


class SmallestOnCircle(SearchBase):
    """λ(m₀, …, m₄) ≤ Σ binom(4, k) m_k x^(4−k) y^k where x² + y² = 1."""

    name = "min on circle"


class LargestOfTargets(SearchBase):
    """λ(l, q) ≥ Σ q_j n_j² + 2 Σ_{j≠k} l_j l_k n_j n_k where n ≥ 0 and Σ n = 1."""

    name = "max of targets"


class SmallestOfTargets(SearchBase):
    """λ(l, q) ≤ Σ q_j n_j² + 2 Σ_{j≠k} l_j l_k n_j n_k where n ≥ 0 and Σ n = 1."""

    name = "min of targets"


class Larger(sp.Function):
    """The largest of its arguments; SymPy's Max compares them again in every substitution."""

    nargs = None

    def _latex(self, printer):
        return rf"\max\left({', '.join(map(printer._print, self.args))}\right)"


class Smaller(sp.Function):
    """The smallest of its arguments, likewise."""

    nargs = None

    def _latex(self, printer):
        return rf"\min\left({', '.join(map(printer._print, self.args))}\right)"


class OverDirections(sp.Function):
    """A bound of a form, 0 or ∞ in mind, on unit vectors: found from its values on a few."""

    nargs = 2

    def _latex(self, printer):
        form, side = self.args
        return rf"\{'max' if side == 1 else 'min'}_{{\|u\| = 1}} {printer._print(form)}"
