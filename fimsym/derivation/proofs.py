"""The identities that a derivation rests on, except its bounds."""

from __future__ import annotations

import sympy as sp

from fimsym.derivation import (
    accurate,
    cumulants,
    estimators,
    moments,
    stable,
    target,
    targets,
    whitening,
)
from fimsym.derivation.functions import exact
from fimsym.derivation.identity import Identity
from fimsym.derivation.normal import inline, unroll
from fimsym.derivation.symbols import (
    axis,
    directions,
    h,
    labels,
    log_partition,
    probability,
    read,
    total,
    u,
)
from fimsym.derivation.targets import in_sums
from fimsym.derivation.tensors import contract, cumulant_tensor, tensors
from fimsym.errors import SpecError, nearest
from fimsym.families import Family


def identities(family: Family) -> tuple[Identity, ...]:
    """Return every identity that a family's derivation rests on, except its bounds."""
    from_density: tuple[Identity, ...] = ()
    if moments.available(family):
        from_density = (
            *_density_identities(family),
            *_route_identities(family),
            _label_identity(family),
        )
    return (
        *from_density,
        *_stable_identities(family),
        *_tensor_identities(family),
        *_theorem_identities(family),
        *(whitening.identities(family) if whitening.available(family) else ()),
        *estimators.identities(),
    )


def reduce_probabilities(expression: sp.Expr) -> sp.Expr:
    """Expand after replacing the last probability by one minus the others."""
    found = {node.indices[0] for node in expression.atoms(sp.Indexed) if node.base == probability}
    if found:
        last = max(found)
        rest = 1 - sp.Add(*(probability[n] for n in range(1, int(last))))
        expression = expression.xreplace({probability[last]: rest})
    return sp.expand(expression)


def _density_identities(family):
    derivative = cumulants.cumulant(family, 1, 0)
    return (
        Identity(
            "normaliser",
            "log ∫ π(y) exp⟨t, h⟩ dy = F(h)",
            moments.log_normaliser(family),
            log_partition(family),
            _reduction(family),
        ),
        Identity(
            "mean",
            "⟨E[t], u⟩ = κ₁₀",
            total(family, moments.mean(family)),
            derivative,
            _reduction(family),
        ),
    )


def _route_identities(family):
    by_cumulants = stable.in_cumulants(family)
    statements = {
        "fisher": "Var(s) = κ₂₀",
        "third": "E[s³] = κ₃₀",
        "variance_score_squared": "Var(Î₁) = κ₄₀ + 2κ₂₀²",
        "variance_negative_hessian": "Var(Î₂) = κ₀₂",
        "covariance": "Cov(Î₁, Î₂) = −κ₂₁",
    }
    return tuple(
        Identity(
            f"two routes: {name}",
            statement,
            getattr(moments, name)(family),
            by_cumulants[name],
            _reduction(family),
        )
        for name, statement in statements.items()
    )


def _stable_identities(family):
    programs = {"stable": stable.definitions(family)}
    if accurate.program(family) != programs["stable"]:
        programs["accurate"] = accurate.program(family)
    return tuple(
        Identity(
            f"{kind} form: {name}",
            f"{name} in the {kind} form equals its cumulants",
            stable.inlined(program, name),
            expression,
            _reduction(family),
        )
        for kind, program in programs.items()
        for name, expression in stable.in_cumulants(family).items()
    )


def _label_identity(family):
    """Prove Var of the mean of N labels from E[(Σ_k s_k²)²] over independent labels."""
    second, fourth = (moments.score_moment(family, order, 0) for order in (2, 4))
    of_the_sum = labels * fourth + labels * (labels - 1) * second**2
    return Identity(
        "labels",
        "Var of the mean of N squared scores = V₁/N",
        of_the_sum / labels**2 - second**2,
        moments.variance_score_squared(family) / labels,
        _reduction(family),
    )


def _reduction(family):
    return stable.reduction(family)


def _tensor_identities(family):
    if family.vector and not moments.available(family):
        return ()
    outputs = family.minimum_outputs + 1 if family.vector else max(2, family.components)
    reduce = reduce_probabilities if family.vector else _reduce_explicit(family)
    given = tensors(family, outputs)
    size = axis(family)
    w = [sp.IndexedBase(letter, real=True) for letter in "abcd"]
    pairs = (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2)))
    products = sp.Add(
        *(
            contract(given.fisher, *(w[n] for n in left))
            * contract(given.fisher, *(w[n] for n in right))
            for left, right in pairs
        )
    )
    by_cumulants = stable.in_cumulants(family)
    return (
        Identity(
            "tensor: fourth central moment",
            f"K_abcd = κ_abcd + I_ab I_cd + I_ac I_bd + I_ad I_bc ({size} = {outputs})",
            contract(given.fourth, *w),
            contract(cumulant_tensor(family, outputs), *w) + products,
            reduce,
        ),
        Identity(
            "tensor: fisher",
            f"I_ab u_a u_b = κ₂₀ ({size} = {outputs})",
            _split(contract(given.fisher, u, u), family, outputs),
            _explicit(by_cumulants["fisher"], family, outputs),
            reduce,
        ),
        Identity(
            "tensor: variance_score_squared",
            f"M_abcd u_a u_b u_c u_d = κ₄₀ + 2κ₂₀², M = K − I⊗I ({size} = {outputs})",
            _split(contract(given.quartic, u, u, u, u), family, outputs),
            _explicit(by_cumulants["variance_score_squared"], family, outputs),
            reduce,
        ),
    )


def _explicit(expression, family, outputs):
    """Return sums over targets written out, for a total of so many outputs."""
    count = outputs if family.vector else outputs // family.components
    return unroll(in_sums(expression, family), axis(family), count)


def _split(expression, family, outputs):
    """Name u_n by its natural parameter and target, as sums over targets do."""
    if family.vector or family.components == 1:
        return expression
    count = outputs // family.components
    parts = directions(family, u)
    names = {u[n + 1]: parts[n // count][n % count + 1] for n in range(outputs)}
    return expression.xreplace(names)


def _reduce_explicit(family):
    """Return what reduces expressions in explicit targets' parameters to zero."""
    symbols = targets.Reduction(family).symbols(max(2, family.components))

    def reduce(expression):
        return target.canonical(exact(expression).xreplace(symbols))

    return reduce


def _theorem_identities(family):
    by_cumulants = stable.in_cumulants(family)
    found = []
    for theorem in family.theorems:
        if theorem.quantity not in by_cumulants:
            raise SpecError(
                f"a theorem is about {theorem.quantity!r}; expected one of "
                f"{', '.join(by_cumulants)}.{nearest(theorem.quantity, by_cumulants)}"
            )
        left = by_cumulants[theorem.quantity]
        if theorem.outputs is None:
            right = read(family, theorem.formula, dict(by_cumulants))
            at, reduce = "", _reduction(family)
        else:
            numbers = range(1, theorem.outputs + 1)
            names = {f"{base}{n}": base[n] for base in (h, u) for n in numbers}
            right = read(family, theorem.formula, names)
            left = inline(left, [stable.softmax(family)]) if family.vector else left
            left = unroll(in_sums(left, family), axis(family), theorem.outputs)
            reduce = reduce_exponentials if family.vector else _reduce_explicit(family)
            at = f" ({axis(family)} = {theorem.outputs})"
        statement = f"{theorem.quantity} = {theorem.formula}{at}"
        found.append(Identity(f"theorem: {theorem.quantity}{at}", statement, left, right, reduce))
    return tuple(found)


def reduce_exponentials(expression: sp.Expr) -> sp.Expr:
    """Cancel a rational function of exponentials to lowest terms."""
    weights = {node: sp.Dummy(positive=True) for node in expression.atoms(sp.exp)}
    return sp.cancel(sp.together(expression.xreplace(weights)))
