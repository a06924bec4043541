"""Print SymPy expressions over outputs as torch code on columns [*batch, output, param].

One allow-list: a node that has no row here is refused, naming the node and the
expression, so that nothing is ever printed by accident.
"""

from __future__ import annotations

from collections.abc import Collection

import sympy as sp
from sympy.printing.codeprinter import CodePrinter
from sympy.printing.precedence import PRECEDENCE

from fimsym.codegen.passes import factors, symbols_in
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
    "SumOfProducts": "runtime.sum_of_products({0}, {1}, {2}, {3}, dtype)",
    "LargestPair": "runtime.largest_pair({0})",
    "SmallestPair": "runtime.smallest_pair({0})",
    "LogSumExp": "torch.logsumexp({0}, dim=-2, keepdim=True)",
    "Softmax": "torch.softmax({0}, dim=-2)",
    "AxisMax": "torch.amax({0}, dim=-2, keepdim=True)",
    "AxisMin": "torch.amin({0}, dim=-2, keepdim=True)",
    "Others": "runtime.others({0})",
    "Pairs": "runtime.pairs({0})",
    "Rest": "runtime.rest({0}, top, second)",
    "Weights": "runtime.weights({0}, {1}, {2}, top, second, dtype)",
    "Lead": "-torch.expm1({1} - {0}) * {2}",
    "RoundedUp": "runtime.rounded_up({0}, {1})",
    "LogProbability": "torch.log_softmax({0}, dim=-2)",
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
        return f"runtime.total({self._print(summand)})"

    def _is_column(self, expr):
        return self._moves(expr) or expr.has(sp.Indexed)

    def _moves(self, expr):
        return bool(symbols_in(expr) & self.moving)

    def _split(self, product):
        return factors(product, self.moving)

    def _print_Add(self, expr, order=None):
        """Print products that are added to a column in the pass that adds them."""
        if not self._moves(expr):
            return super()._print_Add(expr, order=order)
        terms = self._as_ordered_terms(expr, order)
        pairs = self._pairs(terms)
        columns = [term for term in terms if term not in pairs and self._is_column(term)]
        first = next(iter((*columns, *pairs)), terms[0])
        plain = [term for term in terms if term is first or term not in pairs]
        code = self._print(first) if len(plain) == 1 else super()._print_Add(sp.Add(*plain))
        for term in terms:
            if term not in plain:
                code = self._added(code, *pairs[term])
        return code

    def _pairs(self, terms):
        return {term: pair for term in terms if (pair := self._pair(term))}

    def parenthesize(self, item, level, strict=False):
        """Print an operand; sums that end in a call need no parentheses."""
        if item.is_Add and self._moves(item) and self._pairs(item.args):
            return self._print(item)
        return super().parenthesize(item, level, strict)

    def _pair(self, term):
        """Return a number and one or two factors in columns that make up a product, or None."""
        number, product = term.as_coeff_Mul()
        if (
            sp.fraction(product, exact=True)[1] != 1
        ):  # dividing keeps a digit more than multiplying by 1/x
            return None
        if number not in (1, -1) and (product.is_Symbol or product.is_Indexed):
            return number, product
        fixed, moving = self._split(product)
        if fixed == 1 and moving.is_Pow and moving.exp == 2:
            base = moving.base
            return (number, base, base) if base.is_Symbol or base.is_Indexed else None
        if fixed == 1 and moving.is_Mul:
            fixed, moving = moving.args[0], sp.Mul(*moving.args[1:])
        columns = 1 not in (fixed, moving) and self._named(fixed) and self._named(moving)
        return (number, fixed, moving) if columns else None

    def _named(self, expr):
        """Tell whether an expression has columns and no constant of the family."""
        labels = {base.label for base in expr.atoms(sp.IndexedBase)}
        symbols = expr.atoms(sp.Symbol) - labels - {index}
        return bool(expr.free_symbols) and symbols <= set(self.names)

    def _added(self, code, number, *pair):
        function, scale = ("addcmul", "value") if len(pair) == 2 else ("add", "alpha")
        arguments = [code, *map(self._print, pair)]
        if number != 1:
            arguments.append(f"{scale}={self._print(number)}")
        return f"torch.{function}({', '.join(arguments)})"

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
        fixed, moving = self._split(rest)
        if moving != 1 and (fixed != 1 or moving.is_Mul):
            return self._scaled(number, fixed, moving)
        if number.is_Rational and not number.is_Integer and number > 0:
            return f"{self._print_Number(number)} * {self.parenthesize(rest, PRECEDENCE['Mul'])}"
        return super()._print_Mul(expr)

    def _scaled(self, number, fixed, moving):
        """Print a product from what is smallest: what is the same for every parameter first."""
        above, below = sp.fraction(fixed, exact=True)
        above, sign = abs(number) * above, sp.sign(number)
        if above == 1 != below and sign < 0:
            below, sign = -below, 1
        level = PRECEDENCE["Mul"]
        parts = [] if above == 1 else [self.parenthesize(above, level, strict=True)]
        parts += [self.parenthesize(x, level) for x in sp.Mul.make_args(moving)]
        if len(parts) > 2 and above != 1:
            parts = [parts[0], f"({' * '.join(parts[1:])})"]
        code = ("-" if sign < 0 else "") + " * ".join(parts)
        return code if below == 1 else f"{code} / {self.parenthesize(below, level, strict=True)}"

    def _print_Pow(self, expr):
        if expr.exp in (2, 4) and self._moves(expr.base):
            base = self.parenthesize(expr.base, PRECEDENCE["Atom"], strict=True)
            return base + ".square()" * int(expr.exp / 2)
        base = self.parenthesize(expr.base, PRECEDENCE["Pow"])
        if expr.exp == sp.Rational(1, 2):
            return f"{base}**0.5"
        if expr.exp == -1:
            return f"1 / {base}"
        if expr.exp.is_Rational and not expr.exp.is_Integer:
            return f"{base}**{self._print_Number(expr.exp)}"
        return f"{base}**{self.parenthesize(expr.exp, PRECEDENCE['Pow'])}"

    def _format_code(self, lines):
        return lines
