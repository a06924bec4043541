"""Functions with one accurate implementation each, and what they are made of.

Every function here knows its derivative, and `exact()` returns the expression it stands
for: proofs replace it by that, generated code calls it.
"""

from __future__ import annotations

import mpmath as mp
import sympy as sp
from mpmath.libmp import prec_to_dps


class Elementary(sp.Function):
    """A function of one argument that LaTeX writes as `tex` before it."""

    tex = ""

    def _latex(self, printer, exp=None):
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"{self.tex}{power}\left({printer._print(self.args[0])}\right)"


class Softplus(Elementary):
    """log(1 + e^x)."""

    nargs = 1
    tex = r"\operatorname{softplus}"

    def fdiff(self, argindex=1):
        """Return its derivative, the logistic function."""
        return Logistic(self.args[0])

    def exact(self) -> sp.Expr:
        """Return the same in elementary functions."""
        return sp.log(1 + sp.exp(self.args[0]))


class Logistic(Elementary):
    """1 / (1 + e^−x)."""

    nargs = 1
    tex = r"\operatorname{logistic}"

    def fdiff(self, argindex=1):
        """Return its derivative."""
        return Logistic(self.args[0]) * Logistic(-self.args[0])

    def exact(self) -> sp.Expr:
        """Return the same in elementary functions."""
        return sp.exp(self.args[0]) / (1 + sp.exp(self.args[0]))


class RootLogistic(Elementary):
    """The square root of the logistic function, which underflows later."""

    nargs = 1
    tex = r"\sqrt{\operatorname{logistic}}"

    def exact(self) -> sp.Expr:
        """Return the same in elementary functions."""
        return sp.sqrt(Logistic(self.args[0]).exact())


class TanhHalf(Elementary):
    """tanh(x/2) = (e^x − 1) / (e^x + 1), the difference of two complementary probabilities."""

    nargs = 1
    tex = r"\tanh\tfrac12"

    def exact(self) -> sp.Expr:
        """Return the same in elementary functions."""
        return (sp.exp(self.args[0]) - 1) / (sp.exp(self.args[0]) + 1)


class Expm1(Elementary):
    """e^x − 1."""

    nargs = 1
    tex = r"\operatorname{expm1}"

    def fdiff(self, argindex=1):
        """Return its derivative."""
        return sp.exp(self.args[0])

    def exact(self) -> sp.Expr:
        """Return the same in elementary functions."""
        return sp.exp(self.args[0]) - 1


class Log1p(Elementary):
    """log(1 + x)."""

    nargs = 1
    tex = r"\operatorname{log1p}"

    def fdiff(self, argindex=1):
        """Return its derivative."""
        return 1 / (1 + self.args[0])

    def exact(self) -> sp.Expr:
        """Return the same in elementary functions."""
        return sp.log(1 + self.args[0])


class PolygammaRemainder(sp.Function):
    """R_n(x) = ψ_n(x) − (−1)^(n+1) (n−1)!/x^n: polygamma without its leading term."""

    nargs = 2

    def _latex(self, printer, exp=None):
        order, x = map(printer._print, self.args)
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"R_{{{order}}}{power}\left({x}\right)"

    def fdiff(self, argindex=1):
        """Return its derivative with respect to x."""
        if argindex != 2:
            raise sp.function.ArgumentIndexError(self, argindex)
        return PolygammaRemainder(self.args[0] + 1, self.args[1])

    def exact(self) -> sp.Expr:
        """Return the same in polygamma functions."""
        order, x = self.args
        return sp.polygamma(order, x) - leading_polygamma(order, x)


def leading_polygamma(order: sp.Expr, x: sp.Expr) -> sp.Expr:
    """Return the leading term of ψ_n(x) for large x, n ≥ 1."""
    return (-1) ** (order + 1) * sp.factorial(order - 1) / x**order


def with_remainders(expression: sp.Expr) -> sp.Expr:
    """Write every polygamma function of order 1 or more as leading term plus remainder."""
    return expression.replace(
        lambda node: isinstance(node, sp.polygamma) and node.args[0].is_positive,
        lambda node: leading_polygamma(*node.args) + PolygammaRemainder(*node.args),
    )


class PolygammaDifference(sp.Function):
    """ψ_n(a) − ψ_n(a + b), accurate relative to itself."""

    nargs = 3

    def exact(self) -> sp.Expr:
        """Return the same in polygamma functions."""
        order, a, b = self.args
        return sp.polygamma(order, a) - sp.polygamma(order, a + b)


class LogBessel(sp.Function):
    """∂ⁿg_j(r), where g_0 = log I₀ and g_(j+1)(r) = g_j'(r)/r."""

    nargs = 3

    def _latex(self, printer, exp=None):
        level, order, r = map(printer._print, self.args)
        power = "" if exp is None else f"^{{{exp}}}"
        return rf"\left(g_{{{level}}}^{{({order})}}\left({r}\right)\right){power}"

    def fdiff(self, argindex=1):
        """Return its derivative with respect to r."""
        if argindex != 3:
            raise sp.function.ArgumentIndexError(self, argindex)
        level, order, r = self.args
        return LogBessel(level, order + 1, r)

    def exact(self) -> sp.Expr:
        """Return the same in the g_j, by ∂g_j = r g_(j+1)."""
        level, order, r = self.args
        x = sp.Symbol("x", positive=True)
        value = LogBessel(level, 0, x)
        for _ in range(int(order)):
            value = sp.expand(
                value.diff(x).replace(
                    lambda node: isinstance(node, LogBessel) and node.args[1] == 1,
                    lambda node: x * LogBessel(node.args[0] + 1, 0, x),
                )
            )
        return value.xreplace({x: r})

    def _eval_evalf(self, prec):
        """Evaluate g_j by 2^j dʲ/dqʲ log I₀(√q) at q = r²."""
        if self.args[1] != 0:
            return self.exact().evalf(prec_to_dps(prec))
        with mp.workprec(3 * prec + 50):
            level, r = int(self.args[0]), mp.mpf(str(self.args[2].evalf(prec_to_dps(2 * prec))))
            value = mp.diff(lambda q: mp.log(mp.besseli(0, mp.sqrt(q))), r**2, level) * 2**level
        return sp.Float(value, prec_to_dps(prec))


class SumOfProducts(sp.Function):
    """a b + c d, rounded once: right to the last digits however much it cancels."""

    nargs = 4

    def _latex(self, printer):
        return printer.parenthesize(self.exact(), 1000)

    def exact(self) -> sp.Expr:
        """Return the same as plain arithmetic."""
        a, b, c, d = self.args
        return a * b + c * d


FUNCTIONS = {
    "exp": sp.exp,
    "log": sp.log,
    "sqrt": sp.sqrt,
    "expm1": Expm1,
    "log1p": Log1p,
    "softplus": Softplus,
    "lgamma": sp.loggamma,
    "gamma": sp.gamma,
    "sin": sp.sin,
    "cos": sp.cos,
    "log_bessel_i0": lambda r: LogBessel(0, 0, r),
}
"""SymPy's reading of every function that a formula may call, but sums."""


def exact(expression: sp.Expr) -> sp.Expr:
    """Replace every function of this module by what it is made of."""
    return expression.replace(
        lambda node: hasattr(node, "exact") and not _is_level(node),
        lambda node: exact(node.exact()),
    )


def _is_level(node):
    return isinstance(node, LogBessel) and node.args[1] == 0
