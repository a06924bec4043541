"""Print formulas as one line of Unicode, for docstrings."""

from __future__ import annotations

import re

import sympy as sp
from sympy.printing.str import StrPrinter

from fimsym.derivation.symbols import index

NAMES = {
    "centred_u": "ũ",
    "centred_v": "ṽ",
    "mean_u": "ū",
    "mean_v": "v̄",
    "fisher": "I",
    "excess": "d",
    "complement": "q",
    "distance": "r",
    "sigma": "σ",
    "information": "I",
    "variance": "κ₂",
    "cubic": "κ₃",
    "quartic": "q",
    "asymmetry": "κ₃₀",
    "variance_of_target": "V₁",
    "information_v": "V₂",
    "mixed": "κ₂₁",
    "kappa_40": "κ₄₀",
    "combined_u": "û",
    "combined_v": "v̂",
    "total": "h₊",
    "second_moment": "S",
    "third": "κ₃₀",
    "variance_score_squared": "V₁",
    "variance_negative_hessian": "V₂",
    "covariance": "Cov(Î₁, Î₂)",
    "fisher_min": "λ_min(I)",
    "fisher_max": "λ_max(I)",
    "quartic_min": "λ_min(M)",
    "quartic_max": "λ_max(M)",
}

LATEX = {
    "probability": "p",
    "mean_u": r"\bar{u}",
    "mean_v": r"\bar{v}",
    "centred_u": r"\tilde{u}",
    "centred_v": r"\tilde{v}",
    "fisher": r"\mathcal{I}",
    "excess": "d",
    "information": r"\mathcal{I}",
    "variance": r"\kappa",
    "cubic": r"\kappa^{(3)}",
    "quartic": "q",
    "asymmetry": r"\kappa_{30}",
    "variance_of_target": "V_1",
    "information_v": "V_2",
    "mixed": r"\kappa_{21}",
    "third": r"\kappa_{30}",
    "variance_score_squared": "V_1",
    "variance_negative_hessian": "V_2",
    "covariance": r"\operatorname{Cov}",
    "deviation": "d",
    "combined_u": r"\hat{u}",
    "combined_v": r"\hat{v}",
    "radius": "r",
    "cosine": "c",
    "sine": "s",
    "radial_u": "a",
    "tangential_u": "b",
    "radial_v": "a'",
    "tangential_v": "b'",
    "total": "h_+",
    "second_moment": "S",
}
"""LaTeX of the same."""

_FUNCTIONS = {
    "Logistic": "σ",
    "RootLogistic": "√σ",
    "TanhHalf": "tanh½",
    "Expm1": "expm1",
    "Log1p": "log1p",
    "Softplus": "softplus",
    "loggamma": "ln Γ",
}
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_OF_ORDER = re.compile(r"(second_cumulant|third_cumulant|quartic)_(\d)(\d)")
_POWERS = {2: "²", 3: "³", 4: "⁴", 5: "⁵"}


def name(identifier: str) -> str:
    """Return the symbol of a defined quantity, ``third_cumulant_21`` → ``k₂₁``."""
    if found := _OF_ORDER.fullmatch(identifier):
        letter = "M" if found[1] == "quartic" else "k"
        return letter + "".join(_SUBSCRIPTS[int(digit)] for digit in found.groups()[1:])
    return NAMES.get(identifier, identifier)


def latex_name(identifier: str) -> str:
    """Return the same in LaTeX; words for a quantity without a symbol."""
    if found := _OF_ORDER.fullmatch(identifier):
        letter = "M" if found[1] == "quartic" else "k"
        return f"{letter}_{{{found[2]}{found[3]}}}"
    return LATEX.get(identifier, rf"\mathrm{{{identifier.replace('_', ' ')}}}")


def positive_first(terms: list[sp.Expr]) -> list[sp.Expr]:
    """Order the terms of a sum so that it does not begin with a minus sign needlessly."""
    return sorted(terms, key=lambda term: term.could_extract_minus_sign())


class TextPrinter(StrPrinter):
    """``Sum(p[i]*centred_u[i]**2)`` → ``Σ_i(p_i ũ_i²)``."""

    printmethod = "_text"

    def _as_ordered_terms(self, expr, order=None):
        return positive_first(super()._as_ordered_terms(expr, order))

    def _print_Symbol(self, expr):
        return name(expr.name)

    def _print_Indexed(self, expr):
        label = str(expr.base.label)
        return f"{name(label)}_{expr.indices[0]}"

    def _print_Sum(self, expr):
        return f"Σ_{expr.limits[0][0]}({self._print(expr.function)})"

    def _print_AxisMax(self, expr):
        return f"max_i({self._print(expr.args[0])})"

    def _print_AxisMin(self, expr):
        return f"min_i({self._print(expr.args[0])})"

    def _print_Others(self, expr):
        return f"Σ_(j≠i)({self._print(expr.args[0]).replace('_i', '_j')})"

    def _print_Pairs(self, expr):
        return f"Σ_(i<j)({self._pair(expr)})"

    def _print_LargestPair(self, expr):
        return f"max_(i≠j)({self._pair(expr)})"

    def _print_SmallestPair(self, expr):
        return f"min_(i≠j)({self._pair(expr)})"

    def _pair(self, expr):
        other = expr.args[0].xreplace({index: sp.Symbol("j")})
        return f"{self._print(expr.args[0])} {self._print(other)}"

    def _print_Max(self, expr):
        return f"max({', '.join(map(self._print, expr.args))})"

    def _print_Min(self, expr):
        return f"min({', '.join(map(self._print, expr.args))})"

    def _print_Function(self, expr):
        name = _FUNCTIONS.get(type(expr).__name__, type(expr).__name__)
        return f"{name}({', '.join(map(self._print, expr.args))})"

    def _print_PolygammaRemainder(self, expr):
        order, x = expr.args
        return f"R{_SUBSCRIPTS[int(order)]}({self._print(x)})"

    def _print_polygamma(self, expr):
        order, x = expr.args
        return f"ψ{_SUBSCRIPTS[int(order)]}({self._print(x)})"

    def _print_LogBessel(self, expr):
        level, order, r = expr.args
        primes = "′" * int(order)
        return f"g{_SUBSCRIPTS[int(level)]}{primes}({self._print(r)})"

    def _print_Cosine(self, expr):
        return f"{self._print(expr.args[0])}/{self._print(expr.args[1])}"

    def _print_SumOfProducts(self, expr):
        a, b, c, d = expr.args
        return f"({self._print(a * b + c * d)})"

    def _print_Infinity(self, expr):
        return "∞"

    def _print_Norm(self, expr):
        return self._print(expr.exact())

    def _print_RoundedUp(self, expr):
        return self._print(expr.args[0])

    def _print_Pow(self, expr, rational=False):
        if expr.exp in _POWERS:
            base = self._print(expr.base)
            plain = isinstance(expr.base, sp.Indexed | sp.Symbol | sp.Sum)
            return (base if plain else f"({base})") + _POWERS[int(expr.exp)]
        if expr.exp == sp.Rational(1, 2):
            return f"√({self._print(expr.base)})"
        return super()._print_Pow(expr, rational).replace("**", "^")

    def _print_Mul(self, expr):
        return super()._print_Mul(expr).replace("*", " ")


def text(expression: sp.Expr) -> str:
    """Return one line of Unicode for `expression`."""
    return TextPrinter().doprint(expression)
