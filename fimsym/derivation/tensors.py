"""The paper's tensors for an explicit, small number of outputs (Lemma 3.1).

I_ab and K_abcd are the second and fourth central moments of t, from the density, and
M = K − I⊗I. Nothing is evaluated through them: they show that the directional form
used everywhere else is their contraction with u.
"""

from __future__ import annotations

import dataclasses
import itertools

import sympy as sp

from fimsym.derivation import moments, target
from fimsym.derivation.normal import unroll
from fimsym.derivation.symbols import axis, h, index, log_partition, probability
from fimsym.families import Family


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Central moments of t as SymPy arrays.

    Attributes:
        fisher: I_ab, the core Fisher information, m×m.
        fourth: K_abcd, the fourth central moment, m×m×m×m.
        quartic: M = K − I⊗I, so that V₁ = M_abcd u_a u_b u_c u_d.
    """

    fisher: sp.ImmutableDenseNDimArray
    fourth: sp.ImmutableDenseNDimArray
    quartic: sp.ImmutableDenseNDimArray


def tensors(family: Family, outputs: int) -> Tensors:
    """Return I, K and M from the density, for `outputs` outputs.

    Categorical-like families are written in p_1 … p_C.
    """
    fisher = _array(family, outputs, 2)
    fourth = _array(family, outputs, 4)
    quartic = fourth - sp.tensorproduct(fisher, fisher)
    return Tensors(fisher, fourth, sp.ImmutableDenseNDimArray(quartic))


def cumulant_tensor(family: Family, outputs: int) -> sp.ImmutableDenseNDimArray:
    """Return κ_abcd = ∂⁴F/∂h_a∂h_b∂h_c∂h_d, by differentiating F."""
    of = _of_vector(family, outputs) if family.vector else _of_targets(family, outputs)
    places = itertools.combinations_with_replacement(range(outputs), 4)
    values = {positions: of(positions) for positions in places}
    everywhere = itertools.product(range(outputs), repeat=4)
    return sp.ImmutableDenseNDimArray(
        [values[tuple(sorted(positions))] for positions in everywhere], (outputs,) * 4
    )


def _of_vector(family, outputs):
    partition = unroll(log_partition(family), axis(family), outputs)
    naturals = [h[n] for n in range(1, outputs + 1)]
    # Adding a constant to every h changes no derivative: take it so that Σ exp(h) = 1.
    weights = {natural: sp.log(probability[n]) for n, natural in enumerate(naturals, 1)}

    def value(positions):
        derivative = sp.diff(partition, *(naturals[position] for position in positions))
        return derivative.subs(weights)

    return value


def _of_targets(family, outputs):
    targets = outputs // family.components
    one = target.target(family)

    def value(positions):
        places = [divmod(position, targets) for position in positions]
        if len({n for _, n in places}) > 1:
            return sp.Integer(0)
        word = tuple(sorted(component for component, _ in places))
        return one.at(target.cumulant_of(family, word)).xreplace(
            {index: sp.Integer(places[0][1] + 1)}
        )

    return value


def contract(array: sp.ImmutableDenseNDimArray, *bases: sp.IndexedBase) -> sp.Expr:
    """Return the array contracted with one vector per axis."""
    ranges = [range(size) for size in array.shape]
    return sp.Add(
        *(
            array[positions]
            * sp.Mul(*(base[n + 1] for base, n in zip(bases, positions, strict=True)))
            for positions in itertools.product(*ranges)
        )
    )


def _array(family, outputs, order):
    positions = list(itertools.product(range(1, outputs + 1), repeat=order))
    moment = {
        key: moments.central_moment(family, key, outputs)
        for key in sorted({tuple(sorted(p)) for p in positions})
    }
    values = [moment[tuple(sorted(p))] for p in positions]
    return sp.ImmutableDenseNDimArray(values, (outputs,) * order)
