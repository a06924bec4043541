"""Print SymPy expressions over outputs as torch code on columns [*batch, output, param].

One allow-list: a node that has no row here is refused, naming the node and the
expression, so that nothing is ever printed by accident.
"""

from __future__ import annotations

from collections.abc import Collection

import sympy as sp
from sympy.printing.codeprinter import CodePrinter
from sympy.printing.precedence import PRECEDENCE

from fimsym.derivation.symbols import index
from fimsym.derivation.text import positive_first
from fimsym.errors import DerivationError

FUNCTIONS = {
    "exp": "torch.exp({0})",
    "log": "torch.log({0})",
    "sin": "torch.sin({0})",
    "cos": "torch.cos({0})",
    "Logistic": "torch.sigmoid({0})",
    "RootLogistic": "torch.exp(0.5 * torch.nn.functional.logsigmoid({0}))",
    "Expm1": "torch.expm1({0})",
    "Log1p": "torch.log1p({0})",
    "Softplus": "runtime.softplus({0})",
    "TanhHalf": "runtime.tanh_half({0})",
    "loggamma": "torch.lgamma({0})",
    "polygamma": "special.polygamma({0}, {1})",
    "PolygammaRemainder": "special.polygamma_remainder({0}, {1})",
    "LogBessel": "special.log_bessel_i0({0}, {1}, {2})",
    "Norm": "runtime.norm({0}, {1})",
    "Log1mExp": "runtime.log1mexp({0})",
    "PolygammaDifference": "special.polygamma_difference({0}, {1}, {2})",
    "Cosine": "runtime.cosine({0}, {1}, {2})",
    "SumOfProducts": "runtime.sum_of_products({0}, {1}, {2}, {3})",
    "LargestPair": "runtime.largest_pair({0})",
    "SmallestPair": "runtime.smallest_pair({0})",
    "LogSumExp": "torch.logsumexp({0}, dim=-2, keepdim=True)",
    "Softmax": "torch.softmax({0}, dim=-2)",
    "AxisMax": "torch.amax({0}, dim=-2, keepdim=True)",
    "AxisMin": "torch.amin({0}, dim=-2, keepdim=True)",
    "Others": "runtime.others({0})",
    "Balance": "runtime.balance({0}, top, second)",
    "RoundedUp": "runtime.rounded_up({0}, {1})",
    "Root": "torch.exp(torch.log_softmax({0}, dim=-2) / 2)",
}
"""Code of every function."""

NODES = frozenset(
    [
        "Symbol",
        "Indexed",
        "Integer",
        "Rational",
        "Half",
        "One",
        "Zero",
        "NegativeOne",
        "Float",
        "Pi",
        "Exp1",
        "Infinity",
        "Add",
        "Mul",
        "Pow",
        "Sum",
        "Max",
        "Min",
    ]
)
"""Every other node that has a printing rule."""


class TorchPrinter(CodePrinter):
    """Prints expressions whose symbols stand for columns or numbers.

    Args:
        names: Identifier of each symbol or indexed base; others keep their own name.
        moving: Those that have an entry for every parameter, as u has. Sums over the others
            times them are weighted sums, and products of them are added in one pass.
    """

    printmethod = "_torch_code"
    language = "torch"

    def __init__(self, names: dict[sp.Basic, str], moving: Collection[sp.Basic] = ()):
        super().__init__({"human": True})
        self.names = names
        self.moving = frozenset(moving)

    def code(self, expression: sp.Expr) -> str:
        """Return the code of `expression`.

        Raises:
            DerivationError: a node has no row in the allow-list.
        """
        expression = expression.replace(
            lambda node: isinstance(node, sp.Function) and node.is_number,
            lambda node: sp.Float(sp.N(node, 40), 40),
        )
        for node in sp.preorder_traversal(expression):
            if isinstance(node, sp.IndexedBase | sp.Tuple | sp.Idx):
                continue
            name = type(node).__name__
            if name not in NODES and name not in FUNCTIONS:
                raise DerivationError(
                    f"cannot print {name} in {expression}; expected one of "
                    f"{', '.join(sorted(NODES | set(FUNCTIONS)))}. Add a row to the table in "
                    "fimsym/codegen/printer.py, with a test that executes it."
                )
        return self._print(expression)

    def _as_ordered_terms(self, expr, order=None):
        return positive_first(super()._as_ordered_terms(expr, order))

    def _print_Symbol(self, expr):
        return self.names.get(expr, expr.name)

    def _print_Indexed(self, expr):
        name = self.names.get(expr.base, str(expr.base.label))
        place = expr.indices[0]
        return name if place == index else f"runtime.at({name}, {place})"

    def _print_Sum(self, expr):
        bound = expr.limits[0][0]
        if len(expr.limits) > 1 or (bound != index and expr.function.has(index)):
            raise DerivationError(
                f"cannot print {expr}: expected one sum over outputs, got one within "
                "another. Name the inner one by a definition of its own."
            )
        summand = expr.function.xreplace({bound: index})
        weights, rest = self._split(summand)
        if weights.has(index) and rest != 1:
            return f"runtime.weighted_sum({self._print(weights)}, {self._print(rest)})"
        body = self._print(summand)
        if not isinstance(expr.function, sp.Indexed):
            body = f"({body})"
        return f"{body}.sum(dim=-2, keepdim=True)"

    def _moves(self, expr):
        return bool(expr.atoms(sp.IndexedBase, sp.Symbol) & self.moving)

    def _split(self, product):
        """Return the factors that are the same for every parameter, and the others."""
        factors = sp.Mul.make_args(product)
        moving = [factor for factor in factors if self._moves(factor)]
        return sp.Mul(*(f for f in factors if f not in moving)), sp.Mul(*moving)

    def _print_Add(self, expr, order=None):
        """Print a column less a product of two in one pass."""
        terms = self._as_ordered_terms(expr, order)
        for term in terms:
            sign, factors = term.as_coeff_Mul()
            pair = sp.Mul.make_args(factors)
            rest = [other for other in terms if other is not term]
            if sign == -1 and len(pair) == 2 and rest[0].is_Indexed and self._in_outputs(pair):
                one, other = (self._print(factor) for factor in pair)
                code = f"torch.addcmul({self._print(rest[0])}, {one}, {other}, value=-1)"
                after = sp.Add(*rest[1:])
                return code if after == 0 else f"{code}{self._signed(after)}"
        return super()._print_Add(expr, order=order)

    def _in_outputs(self, pair):
        """Tell whether one of two moving atoms has an entry for every output."""
        atoms = all(x.is_Symbol or x.is_Indexed for x in pair) and all(map(self._moves, pair))
        return atoms and any(x.is_Indexed for x in pair)

    def _signed(self, term):
        code = self.parenthesize(-term if term.could_extract_minus_sign() else term, 0)
        return f" - {code}" if term.could_extract_minus_sign() else f" + {code}"

    def _print_Function(self, expr):
        return FUNCTIONS[type(expr).__name__].format(*map(self._print, expr.args))

    def _print_polygamma(self, expr):
        return self._print_Function(expr)

    def _print_loggamma(self, expr):
        return self._print_Function(expr)

    def _print_Infinity(self, expr):
        return 'float("inf")'

    def _print_Integer(self, expr):
        return str(int(expr))

    def _print_Number(self, expr):
        return repr(float(sp.N(expr, 40)))

    _print_Rational = _print_Half = _print_Float = _print_Pi = _print_Exp1 = _print_Number

    def _print_Max(self, expr):
        return self._clamp(expr, "min", "maximum")

    def _print_Min(self, expr):
        return self._clamp(expr, "max", "minimum")

    def _clamp(self, expr, keyword, function):
        numbers = [a for a in expr.args if a.is_number]
        others = sorted((a for a in expr.args if not a.is_number), key=sp.default_sort_key)
        code = self._print(others[0])
        for argument in others[1:]:
            code = f"torch.{function}({code}, {self._print(argument)})"
        for number in numbers:
            code = f"torch.clamp({code}, {keyword}={self._print_Number(number)})"
        return code

    def _print_Mul(self, expr):
        number, rest = expr.as_coeff_Mul()
        if number.is_Rational and not number.is_Integer and number > 0:
            return f"{self._print_Number(number)} * {self.parenthesize(rest, PRECEDENCE['Mul'])}"
        return super()._print_Mul(expr)

    def _print_Pow(self, expr):
        base = self.parenthesize(expr.base, PRECEDENCE["Pow"])
        if expr.exp == sp.Rational(1, 2):
            return f"{base}**0.5"
        if expr.exp == -1:
            return f"1 / {base}"
        if expr.exp == 4 and self._moves(expr.base):
            return f"({base}**2) ** 2"
        if expr.exp.is_Rational and not expr.exp.is_Integer:
            return f"{base}**{self._print_Number(expr.exp)}"
        return f"{base}**{self.parenthesize(expr.exp, PRECEDENCE['Pow'])}"

    def _format_code(self, lines):
        return lines
