"""The record of everything derived from one log-partition."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import sympy as sp

from fimsym.derivation import (
    accurate,
    bounds,
    certificates,
    digits,
    estimators,
    means,
    moments,
    quadrature,
    sanity,
    stable,
    whitening,
)
from fimsym.derivation.cumulants import cumulant, in_naturals
from fimsym.derivation.functions import exact
from fimsym.derivation.identity import Identity, Proof, prove
from fimsym.derivation.normal import Definition, inline, letter_sums, unroll
from fimsym.derivation.proofs import identities
from fimsym.derivation.symbols import (
    axis,
    constants,
    directions,
    h,
    labels,
    log_partition,
    total,
    u,
    v,
)
from fimsym.derivation.targets import in_sums
from fimsym.derivation.tensors import Tensors, tensors
from fimsym.derivation.text import latex_name
from fimsym.errors import ShapeError, SpecError, nearest
from fimsym.families import Family, families, family

_ORDERS = ((1, 0), (2, 0), (3, 0), (4, 0), (0, 1), (0, 2), (2, 1))


@dataclasses.dataclass(frozen=True, repr=False)
class Derivation:
    """What follows from one log-partition F, with C (or m) outputs symbolic.

    The expressions use the bases ``h``, ``u`` and ``v`` (``h[i]`` is the i-th natural
    parameter, u = ∂h/∂θ, v = ∂²h/∂θ²), the family's constants, and C or m. All are per
    label; a mean of N labels has variance V/N.

    Attributes:
        family: The specification it follows from.
        log_partition: F(h).
        mean: η_i = E[t_i]; a tuple, one per natural parameter of a target, if there are several.
        fisher: I = Var(s).
        third: κ₃₀ = E[s³].
        variance_score_squared: V₁, the variance of Î₁ = s².
        variance_negative_hessian: V₂, the variance of Î₂ = −∂²ℓ.
        covariance: Cov(Î₁, Î₂).
        cumulants: κ_ab by differentiating F (route a), by (a, b).
        central_moments: E[s^a w^b] from the density (route b), by (a, b).
        definitions: The same quantities line by line, in stable form.
        program: The same again, as code is generated: accurate to the last digits.
        bounds: Theorem 4.1's constants: fisher_min, fisher_max, quartic_min, quartic_max.
        bound_definitions: Those constants line by line, as they are generated.
        estimators: The variance of each estimator of I from one label or one probe, by name:
            score_squared, negative_hessian, mixed, score_squared_cv, gaussian_probe,
            rademacher_probe (where the root has a formula) and exact.
        coefficients: The best α of ``mixed`` and the best c of ``score_squared_cv``.
        root: (L g)_i of a probe g, with I = L Lᵀ; a tuple, one per natural parameter of a
            target, if there are several; None where L has no formula.
        whitening: The lines of a = Lᵀu, k, R, b = Lᵀv and L g that estimators are made of.
        proofs: Every identity the above rests on, each with its zero residual and how it was
            shown: symbolically, or compared by quadrature.
    """

    family: Family
    log_partition: sp.Expr
    mean: sp.Expr
    fisher: sp.Expr
    third: sp.Expr
    variance_score_squared: sp.Expr
    variance_negative_hessian: sp.Expr
    covariance: sp.Expr
    cumulants: dict[tuple[int, int], sp.Expr]
    central_moments: dict[tuple[int, int], sp.Expr]
    definitions: tuple[Definition, ...]
    program: tuple[Definition, ...]
    bounds: dict[str, sp.Expr]
    bound_definitions: tuple[Definition, ...]
    estimators: dict[str, sp.Expr]
    coefficients: dict[str, sp.Expr]
    root: sp.Expr | None
    whitening: tuple[Definition, ...]
    proofs: tuple[Proof, ...]

    def __repr__(self) -> str:
        proven = sum(proof.method == "symbolic" for proof in self.proofs)
        compared = len(self.proofs) - proven
        rest = f", {compared} compared by quadrature" if compared else ""
        return f"Derivation({self.family.name}: {proven} identities proven{rest})"

    @property
    def outputs(self) -> sp.Symbol:
        """The symbol of the number of outputs, C or m, as it occurs in every quantity."""
        return axis(self.family)

    @property
    def formulas(self) -> dict[str, tuple[str, str]]:
        """LaTeX of each definition, left- and right-hand side, in reading order."""
        names = {}
        for line in self.definitions:
            base = line.symbol.base if isinstance(line.symbol, sp.Indexed) else line.symbol
            names[base] = type(base)(latex_name(line.name))
        return {
            line.name: (
                sp.latex(line.symbol.subs(names)),
                sp.latex(letter_sums(line).subs(names)),
            )
            for line in self.definitions
        }

    def prove(self, left: sp.Expr, right: sp.Expr, statement: str = "") -> Proof:
        """Prove that two expressions in the derivation's symbols are equal.

        It holds for every number of outputs, and is decided as the derivation's own proofs
        are. For softmax laws either side may be written in p or in h.

        Args:
            left: One side, such as ``derivation.variance_score_squared``.
            right: The other, such as ``2 * derivation.fisher**2``.
            statement: The claim in words, for messages.

        Raises:
            DerivationError: they differ; the message shows by what.
            UnsupportedError: a side divides by a sum over independent targets.
        """
        left, right = sp.sympify(left), sp.sympify(right)
        claim = statement or f"{left} = {right}"
        return prove(Identity("your claim", claim, left, right, self._reduce))

    def _reduce(self, difference):
        return stable.reduction(self.family)(in_naturals(difference, self.family))

    def tensors(self, outputs: int) -> Tensors:
        """Return the paper's tensors I, K and M = K − I⊗I for a small number of outputs."""
        if outputs < self.family.minimum_outputs:
            raise ShapeError(
                f"{self.family.name} needs at least {self.family.minimum_outputs} outputs; "
                f"got {outputs}."
            )
        return tensors(self.family, outputs)

    def of_mean(self, quantity: str, count: sp.Expr | int = labels) -> sp.Expr:
        """Return V₁, V₂ or the covariance for estimators that average `count` labels.

        Args:
            quantity: Its name; it is the variance or covariance for one label.
            count: Number of independent labels, the symbol N by default.
        """
        variances = ("variance_score_squared", "variance_negative_hessian", "covariance")
        if quantity not in variances:
            raise SpecError(
                f"{quantity!r} does not shrink with labels; expected one of "
                f"{', '.join(variances)}.{nearest(quantity, variances)}"
            )
        return self._look_up(quantity) / count

    def explicit(self, quantity: str | sp.Expr, outputs: int) -> sp.Expr:
        """Return a quantity with its sums written out for `outputs` outputs."""
        expression = self._look_up(quantity) if isinstance(quantity, str) else quantity
        targets = self._targets(outputs)
        return unroll(in_sums(expression, self.family), axis(self.family), targets)

    def _targets(self, outputs: int) -> int:
        spec = self.family
        if outputs % (1 if spec.vector else spec.components):
            raise ShapeError(
                f"{spec.name} has {spec.components} natural parameters per target; expected a "
                f"multiple of {spec.components} outputs, got {outputs}."
            )
        return outputs if spec.vector else outputs // spec.components

    def evaluate(
        self,
        quantity: str,
        natural: Sequence[float],
        direction: Sequence[float] | None = None,
        second: Sequence[float] | None = None,
        digits: int = 50,
        **values: float,
    ) -> sp.Float:
        """Return a quantity at numbers, to `digits` digits.

        Args:
            quantity: Its name, such as ``"variance_score_squared"``.
            natural: h, one number per output.
            direction: u = ∂h/∂θ, likewise, where the quantity needs it.
            second: v = ∂²h/∂θ², likewise.
            digits: Decimal digits of the result.
            **values: Constants of the family.
        """
        expression = self.explicit(quantity, len(natural))
        bound = self.family.bind(values)
        numbers = {
            symbol: sp.Rational(bound[name]) for name, symbol in constants(self.family).items()
        }
        targets = self._targets(len(natural))
        for base, entries in ((h, natural), (u, direction), (v, second)):
            for n, entry in enumerate(entries or ()):
                part = directions(self.family, base)[n // targets]
                numbers[part[n % targets + 1]] = sp.Rational(float(entry))
        value = exact(expression).xreplace(numbers)
        if value.atoms(sp.Indexed):
            raise ShapeError(
                f"{quantity} needs values for {sorted(map(str, value.atoms(sp.Indexed)))}; "
                "pass one number per output in `direction` (u) and `second` (v)."
            )
        return sp.N(value, digits)

    def latex(self) -> str:
        """Return every formula as LaTeX lines ``left = right``."""
        lines = [rf"F(h) &= {sp.latex(self.log_partition)}"]
        lines += [f"{left} &= {right}" for left, right in self.formulas.values()]
        body = " \\\\\n".join(lines)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"

    def _repr_latex_(self) -> str:
        return f"$$\n{self.latex()}\n$$"

    def _look_up(self, quantity: str) -> sp.Expr:
        if quantity in self.estimators:
            return self.estimators[quantity]
        known = ("log_partition", "mean", *stable.QUANTITIES)
        if quantity not in known:
            known = (*known, *self.estimators)
            raise SpecError(
                f"unknown quantity {quantity!r}; expected one of {', '.join(known)}."
                f"{nearest(quantity, known)}"
            )
        return getattr(self, quantity)


def derive(name_or_family: str | Family) -> Derivation:
    """Derive and prove everything that follows from a family's log-partition.

    Args:
        name_or_family: A built-in family's name, or a `Family`.

    Returns:
        The derivation; its `proofs` hold each identity with its residual, zero.

    Raises:
        SpecError: the name or a formula is wrong, or F is no log-partition at some point.
        DerivationError: two routes to a quantity disagree, or a stated theorem fails.

    Source:
        Soen & Sun (2024), Lemma 3.1 and Theorem 4.1; ``derivations/``.
    """
    return _derive(family(name_or_family))


@functools.cache
def _derive(spec: Family) -> Derivation:
    if spec.name not in families() or spec != family(spec.name):
        sanity.check(spec)
        digits.warn(spec)
    if spec.structure == "matrix":
        from fimsym.derivation import matrix_family  # its derivation is a kind of this one

        return matrix_family.derive(spec)
    proofs = tuple(map(prove, (*identities(spec), *certificates.certificates(spec))))
    if not moments.available(spec) and quadrature.applies(spec):
        proofs += quadrature.proofs(spec)
    program = stable.definitions(spec)
    explicit = {
        name: exact(in_sums(inline(stable.symbol_of(program, name), program), spec))
        for name in stable.QUANTITIES
    }
    softmax = [line for line in program if line.name == "probability"]
    bound_lines = bounds.definitions(spec)
    return Derivation(
        family=spec,
        log_partition=log_partition(spec),
        mean=means.mean(spec),
        cumulants={key: inline(cumulant(spec, *key), softmax) for key in _ORDERS},
        central_moments={
            key: inline(moments.score_moment(spec, *key), softmax)
            for key in (_ORDERS if moments.available(spec) else ())
        },
        definitions=program,
        program=accurate.program(spec),
        **_estimators(spec, explicit),
        bounds={
            name: inline(stable.symbol_of(bound_lines, name), _without_softmax(bound_lines))
            for name in bounds.QUANTITIES
        },
        bound_definitions=bound_lines,
        proofs=proofs,
        **explicit,
    )


def _estimators(spec, quantities):
    """Return the fields of a derivation that concern estimators and the root."""
    found = {"coefficients": estimators.coefficients(quantities), "root": None, "whitening": ()}
    fourth = None
    if whitening.available(spec):
        powers = (x**4 for x in whitening.values(spec, "whitened_u"))
        fourth = exact(sp.Add(*(total(spec, power) for power in powers)))
        roots = whitening.values(spec, "root_probe")
        found["root"] = roots[0] if len(roots) == 1 else sp.Tuple(*roots)
        found["whitening"] = whitening.program(spec, True)
    return {**found, "estimators": estimators.variances(quantities, fourth)}


def _without_softmax(lines):
    return tuple(line for line in lines if line.name != "probability")
