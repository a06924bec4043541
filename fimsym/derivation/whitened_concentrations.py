"""Whitening of Dirichlet-like laws, whose I is a diagonal D minus the rank-one c 11ᵀ.

With z = √c D^(−½) 1, ρ² = 1 − ‖z‖² and β = 1/(1 + ρ), I − zzᵀ is the square of I − β zzᵀ, so
that

    L = D^½ (I − β zzᵀ),     L⁻¹ = (I + β/ρ zzᵀ) D^(−½),

both in O(K). D = diag ψ₁(h) and c = ψ₁(h₊); in moments of u/h about their mean and in the
remainders of polygammas, a = Lᵀu, k = L⁻¹x with x_i = κ(s, s, t_i), and ρ² hardly cancel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import sympy as sp

from fimsym.derivation import concentration, target
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.functions import PolygammaDifference, PolygammaRemainder, exact
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import Definition, inline, normal
from fimsym.derivation.symbols import Others, directions, h, index, naturals, probe, total, u, v
from fimsym.derivation.targets import in_sums
from fimsym.families import Family

Add = Callable[[Callable[[int], sp.Expr]], sp.Expr]

_ROOT, _DAMPING = "root_left", "damping"
"""The lines of ρ and β, which proofs keep as symbols: they use ρ² = 1 − c Σ 1/d alone."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the concentrations of a law are written.

    Attributes:
        parameters: Each of them; a single one, indexed, for a vector.
        entries: The parts of u, v and of a probe that belong to each.
        names: What distinguishes the names of their lines.
        add: Sums a term over them.
        without: Sums it over all but one of them.
        scalar: Returns the symbol of what they share.
    """

    parameters: Sequence[sp.Expr]
    entries: dict[sp.IndexedBase, list[sp.Expr]]
    names: Sequence[str]
    add: Add
    without: Callable[[Callable[[int], sp.Expr], int], sp.Expr]
    scalar: Callable[[str], sp.Expr]

    def columns(self, word: str) -> list[sp.Expr]:
        """Return the symbols of what each concentration has."""
        return [_column(f"{word}{name}") for name in self.names]

    def each(self, word: str, values: Sequence[sp.Expr]) -> list[Definition]:
        """Return the lines of what each concentration has."""
        pairs = zip(self.names, values, strict=True)
        return [Definition(f"{word}{n}", _column(f"{word}{n}"), x, word) for n, x in pairs]


def _column(name):
    return sp.IndexedBase(name, real=True)[index]


def layout(family: Family) -> Layout:
    """Return the layout of a vector of concentrations, or of targets with few named ones."""
    bases = (u, v, probe)
    if family.vector:
        return Layout(
            [h[index]],
            {base: [base[index]] for base in bases},
            [""],
            lambda term: total(family, term(0)),
            lambda term, _: Others(term(0)),
            lambda name: sp.Symbol(name, real=True),
        )
    places = range(family.components)
    return Layout(
        [base[index] for base in naturals(family)],
        {base: [part[index] for part in directions(family, base)] for base in bases},
        [str(n + 1) for n in places],
        lambda term: sp.Add(*map(term, places)),
        lambda term, without: sp.Add(*(term(k) for k in places if k != without)),
        _column,
    )


def program(family: Family) -> list[Definition]:
    """Return the lines of one vector, or of targets: R_j of each is the last line."""
    at = layout(family)
    if family.vector:
        base, whole, name = concentration.program(family), "variance_score_squared", "remainder"
    else:
        base, whole = concentration.program_of_targets(family), "variance_of_target"
        name = "own_remainder"
    coskewness = at.columns("coskewness")
    rest = at.scalar(whole) - at.add(lambda k: coskewness[k] ** 2)
    return [*base, *_lines(at), Definition(name, at.scalar(name), rest, "R")]


def share_left(at: Layout) -> tuple[sp.Expr, sp.Expr]:
    """Return what ρ² = 1 − ψ₁(h₊) Σ 1/ψ₁(h) is the difference of, leading terms cancelled.

    With R = ψ₁(h) − 1/h and T = Σ h²R/(1 + hR) / h₊, it is T − h₊R₊(1 − T).
    """
    whole = at.scalar("total")

    def loss(k):
        x, rest = at.parameters[k], PolygammaRemainder(1, at.parameters[k])
        return x**2 * rest / (1 + x * rest)

    lost = at.scalar("lost")
    return at.add(loss) / whole, whole * PolygammaRemainder(1, whole) * (1 - lost)


def left_lines(at: Layout) -> list[Definition]:
    """Return the lines of ρ², with what it is the difference of."""
    lost, taken = share_left(at)
    return [
        Definition("lost", at.scalar("lost"), lost, "T"),
        Definition("taken", at.scalar("taken"), taken, "h₊R₊(1 − T)"),
        Definition("left", at.scalar("left"), at.scalar("lost") - at.scalar("taken"), "ρ²"),
    ]


def _lines(at: Layout) -> list[Definition]:
    whole, shared, left = (at.scalar(name) for name in ("total", "shared", "left"))
    root, damping = at.scalar(_ROOT), at.scalar(_DAMPING)
    variance, source = at.columns("variance"), at.columns("source")
    places = range(len(at.names))
    spread = at.add(lambda k: source[k] / variance[k])
    coskewness = [
        (source[k] + shared * damping / root * spread) / sp.sqrt(variance[k]) for k in places
    ]
    return [
        *at.each("variance", [sp.polygamma(1, x) for x in at.parameters]),
        Definition("shared", shared, sp.polygamma(1, whole), "c"),
        *left_lines(at),
        Definition(_ROOT, root, sp.sqrt(sp.Max(0, left)), "ρ"),
        Definition(_DAMPING, damping, 1 / (1 + root), "β"),
        *at.each("whitened_u", _whitened(at, u)),
        *at.each("whitened_v", _whitened(at, v)),
        *at.each("source", _source(at)),
        *at.each("coskewness", coskewness),
        *at.each(
            "scaled_probe",
            [g / sp.sqrt(d) for g, d in zip(at.entries[probe], variance, strict=True)],
        ),
        *at.each("root_probe", _root_probe(at)),
    ]


def _root_probe(at):
    """Return √d g (1 − β c/d) − c β Σ_{j≠k} g/√d, the first difference without cancellation.

    d − c is a difference of polygammas that is known to its last digits, and 1 − β = ρ β.
    """
    shared, damping = at.scalar("shared"), at.scalar(_DAMPING)
    scaled = at.columns("scaled_probe")
    found = []
    for k, x in enumerate(at.parameters):
        apart = PolygammaDifference(1, x, at.without(lambda n: at.parameters[n], k))
        own = apart + at.scalar(_ROOT) * damping * shared
        rest = at.without(lambda n: scaled[n], k)
        found.append(own * scaled[k] - shared * damping * rest)
    return found


def _whitened(at, base):
    """Return √d u − cβ (Σ u)/√d by moments of u/h about their mean."""
    mean, deviation = at.scalar(f"mean_{base}"), at.columns(f"deviation_{base}")
    whole, variance = at.scalar("total"), at.columns("variance")
    common = at.scalar(_ROOT) - whole * PolygammaRemainder(1, whole)
    return [
        sp.sqrt(variance[k]) * x * deviation[k]
        + mean
        / sp.sqrt(variance[k])
        * (x * PolygammaRemainder(1, x) + at.scalar(_DAMPING) * common)
        for k, x in enumerate(at.parameters)
    ]


def _source(at):
    """Return κ(s, s, t) = ψ₂(h) u² − ψ₂(h₊)(Σ u)² likewise."""
    mean, deviation = at.scalar("mean_u"), at.columns("deviation_u")
    common = PolygammaRemainder(2, at.scalar("total")) * at.scalar("sum_u") ** 2
    return [
        PolygammaRemainder(2, x) * at.entries[u][k] ** 2
        - common
        - deviation[k] * (2 * mean + deviation[k])
        for k, x in enumerate(at.parameters)
    ]


def identities(family: Family) -> Iterator[Identity]:
    """Prove that L is a square root of I, and a, b, k and R what they are."""
    at, lines = layout(family), program(family)
    exact_lines = [line for line in lines if line.name not in (_ROOT, _DAMPING)]
    plain = _plain(at)
    short = [plain.get(line.name, line) for line in exact_lines]
    reduce = _Reduction(family)
    for line in exact_lines:
        if line.name in plain:
            sides = (
                inline(x, exact_lines, 1) for x in (line.expression, plain[line.name].expression)
            )
            yield Identity(f"whitened form: {line.name}", "it is the plain one", *sides, reduce)
    left = next(line.expression for line in lines if line.name == "left")
    share = at.add(lambda k: 1 / sp.polygamma(1, at.parameters[k]))
    share *= sp.polygamma(1, at.add(lambda k: at.parameters[k]))
    yield Identity(
        "whitened form: what the shared normalisation leaves",
        "ρ² = 1 − c Σ 1/d",
        inline(left, exact_lines, 1),
        1 - share,
        lambda difference: cancelled(normal(exact(difference))),
    )
    a, b, k, root = (
        at.columns(word) for word in ("whitened_u", "whitened_v", "coskewness", "root_probe")
    )

    def inner(one, other):
        return inline(at.add(lambda n: one[n] * other[n]), short, 0 if family.vector else 1)

    claims = {
        "fisher": ("‖Lᵀu‖² = I", inner(a, a), (2, 0)),
        "third": ("⟨k, a⟩ = κ₃₀", inner(k, a), (3, 0)),
        "variance_negative_hessian": ("‖Lᵀv‖² = V₂", inner(b, b), (0, 2)),
        "covariance": ("⟨k, b⟩ = κ₂₁", inner(k, b), (2, 1)),
    }
    for name, (statement, value, order) in claims.items():
        stated = _cumulant(family, *order)
        yield Identity(f"whitened form: {name}", statement, value, stated, reduce)
    yield Identity(
        "square root",
        "⟨u, L g⟩ = ⟨Lᵀu, g⟩",
        inner(at.entries[u], root),
        inner(a, at.entries[probe]),
        reduce,
    )
    whole = "variance_score_squared" if family.vector else "variance_of_target"
    yield Identity(
        "whitened form: variance_score_squared",
        "R + ‖k‖² = V₁",
        lines[-1].expression + at.add(lambda n: k[n] ** 2),
        at.scalar(whole),
    )


def _plain(at: Layout) -> dict[str, Definition]:
    """Return the lines that moments and remainders rearrange, as they follow from L."""
    variance, shared = at.columns("variance"), at.scalar("shared")
    whole = at.add(lambda k: at.parameters[k])
    found = []
    for base in (u, v):
        pulled = shared * at.scalar(_DAMPING) * at.add(lambda k, b=base: at.entries[b][k])
        entries = zip(variance, at.entries[base], strict=True)
        values = [sp.sqrt(d) * entry - pulled / sp.sqrt(d) for d, entry in entries]
        found += at.each(f"whitened_{base}", values)
    common = sp.polygamma(2, whole) * at.add(lambda k: at.entries[u][k]) ** 2
    pairs = zip(at.parameters, at.entries[u], strict=True)
    found += at.each("source", [sp.polygamma(2, x) * entry**2 - common for x, entry in pairs])
    return {line.name: line for line in found}


def _cumulant(family, a, b):
    if family.vector:
        return cumulant(family, a, b)
    one = target.target(family)
    return one.at(target.directional(family, a, b))


@dataclasses.dataclass(frozen=True)
class _Reduction:
    """Decides equality with d = ψ₁(h) and c = ψ₁(h₊) = (1 − ρ²)/Σ 1/d."""

    family: Family

    def __call__(self, difference: sp.Expr) -> sp.Expr:
        at = layout(self.family)
        variance, root = at.columns("variance"), at.scalar(_ROOT)
        letters = {sp.polygamma(1, x): d for x, d in zip(at.parameters, variance, strict=True)}
        whole = normal(at.add(lambda k: at.parameters[k]))
        letters[sp.polygamma(1, whole)] = at.scalar("shared")
        expression = normal(exact(in_sums(difference, self.family)))
        expression = normal(expression.xreplace(letters))
        inverse = normal(at.add(lambda k: 1 / variance[k]))
        size = sp.Symbol("size", positive=True)
        if self.family.vector:
            expression = expression.xreplace({inverse: size})
        else:
            size = inverse
        values = {at.scalar("shared"): (1 - root**2) / size, at.scalar(_DAMPING): 1 / (1 + root)}
        return cancelled(expression.xreplace(values))


def cancelled(expression: sp.Expr) -> sp.Expr:
    """Return the numerator of a rational function whose sums and functions are atoms."""
    for kind in (sp.Sum, sp.Function):
        found = sorted(expression.atoms(kind), key=sp.default_sort_key)
        atoms = {one: sp.Symbol(f"{kind.__name__}{n}", real=True) for n, one in enumerate(found)}
        expression = expression.xreplace(atoms)
    return sp.expand(sp.fraction(sp.together(expression))[0])
