"""Numerical checks of a log-partition before anything is derived from it.

F is a log-partition only if it is finite and convex on its domain and if its cumulants
are those of some law; and, where a density π(y) exp(⟨t(y), h⟩) is given, if F is the log
of that density's integral. All of it is checked at sampled points, in many digits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from fimsym.derivation.domain import Point, advice, points, scale
from fimsym.derivation.integrals import log_integral, outputs
from fimsym.derivation.multiprecision import Vector, context, evaluate
from fimsym.errors import SpecError
from fimsym.families import Family, Link
from fimsym.families.spec import Limits, limits

AGREEMENT = 1e-15
"""Largest relative difference of F from the density's integral."""

_DIGITS = 90
_STEP = context.mpf("1e-12")
_NOISE = context.mpf("1e-20")
_ZERO = context.mpf("1e-50")
_OUTPUTS = 3
_DISTANCES = (0.001, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 30.0)
_FRACTIONS = (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999)
_NEAR = (0.5, 1.0, 2.0, 3.0)
"""Distances from a bound, or from 0, at which a density is integrated."""
_POINTS = 24
_INTEGRALS = 5
_EXPECTED = "expected the F of an exponential family, log ∫ π(y) exp(⟨t(y), h⟩) dy"


def check(family: Family) -> None:
    """Refuse a formula that is not the log-partition of the family's density, or of any.

    Args:
        family: The family; where h holds a matrix, nothing is checked.

    Raises:
        SpecError: F is not finite, not convex or affine in a parameter, no law has its
            cumulants, or it differs from the density's integral; names the point.
    """
    if family.structure == "matrix":
        return
    for constants in _constants(family):
        _Check(family, constants).run()
        for link in family.links:
            _check_link(family, link, constants)


def _check_link(family: Family, link: Link, constants: Mapping[str, float]) -> None:
    """Refuse a link that maps no sampled output into the family's domain."""
    known = {name: context.mpf(value) for name, value in constants.items()}
    shown = ""
    for point in points(limits(link.outputs, link.domain), _NEAR, _FRACTIONS[2:-2], _POINTS):
        outputs_at = dict(zip(link.outputs, map(context.mpf, point), strict=True))
        try:
            h = [evaluate(formula, {**known, **outputs_at}) for formula in link.natural]
        except ArithmeticError:
            continue
        if all(x.low < value < x.high for x, value in zip(family.limits, h, strict=True)):
            return
        values = zip((*link.outputs, *family.natural), (*outputs_at.values(), *h), strict=True)
        shown = "; ".join(f"{name} = {context.nstr(value, 5)}" for name, value in values)
    raise SpecError(
        f"links.{link.name}: no sampled output gives natural parameters with "
        f"{' and '.join(map(str, family.limits))}"
        + (f" (the last: {shown})" if shown else "")
        + ". Check the signs of its formulas."
    )


def _constants(family: Family) -> Iterator[dict[str, float]]:
    """Yield the default values of the constants, and others."""
    yield {c.name: c.default for c in family.constants}
    if family.constants:
        yield {
            c.name: c.default + 2 if c.integer else float(f"{1.7 * c.default:.4g}")
            for c in family.constants
        }


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Derivatives of F at a point, each parameter measured in its scale.

    Attributes:
        point: Where.
        scales: Unit of each parameter.
        hessian: ∂²F.
        along: Second to fourth derivative along each parameter, then along a mixture.
        zero: Size of a second derivative that counts as 0.
    """

    point: Point
    scales: list[Any]
    hessian: Any
    along: list[tuple[Any, Any, Any]]
    zero: Any


class _Check:
    def __init__(self, family: Family, constants: Mapping[str, float]):
        self.family = family
        self.constants = {name: context.mpf(value) for name, value in constants.items()}

    def run(self) -> None:
        sampled = points(self._limits(_OUTPUTS), _DISTANCES, _FRACTIONS, _POINTS)
        with context.workdps(_DIGITS):
            self.finite(sampled)
            shapes = [self.shape(point) for point in sampled]
            for judge in (self.convex, self.lawful):
                for shape in shapes:
                    judge(shape)
        for n, symbol in enumerate(self.family.natural):
            if all(shape.along[n][0] <= shape.zero for shape in shapes):
                raise SpecError(
                    f"log_partition is affine in {symbol}: ∂²F is 0 at every sampled point; "
                    f"{_EXPECTED}, where t is not constant."
                )
        if self.family.density is not None:
            limits = self._limits(outputs(self.family))
            for point in points(limits, _NEAR, _FRACTIONS[2:-2], _INTEGRALS):
                self.consistent(point)

    def _limits(self, size: int) -> tuple[Limits, ...]:
        limits = self.family.limits
        return limits * size if self.family.vector else limits

    def value(self, h: tuple[Any, ...]) -> Any:
        """Return F(h).

        Raises:
            ArithmeticError: it is not finite.
        """
        names = (
            {self.family.natural[0]: Vector(h)}
            if self.family.vector
            else dict(zip(self.family.natural, h, strict=True))
        )
        value = evaluate(self.family.log_partition, {**self.constants, **names})
        if isinstance(value, Vector):
            raise SpecError(
                "log_partition: expected one number for the whole vector "
                f"{self.family.natural[0]}; got one for each entry. Add them up with sum(...)."
            )
        return value

    def finite(self, points: list[Point]) -> None:
        """Refuse F unless it is finite and real at every point."""
        failed, passed = [], []
        for point in points:
            try:
                self.value(tuple(map(context.mpf, point)))
                passed.append(point)
            except ArithmeticError as error:
                failed.append((point, str(error)))
        if failed:
            point, why = failed[0]
            verb = "narrow" if self.family.domain else "give"
            hint = self.advice([p for p, _ in failed], passed)
            raise SpecError(
                f"log_partition is not finite at {self.show(point)} ({why[:120]}); {verb} its "
                f'domain, e.g. domain = "{hint}".'
            )

    def advice(self, failed: list[Point], passed: list[Point]) -> str:
        """Return an inequality that would have kept the failing points out."""
        for n, symbol in enumerate(self.family.natural):
            # An entry of a vector fails together with others, so that all of it is looked at.
            entries = slice(None) if self.family.vector else slice(n, n + 1)
            bad, good = ([x for p in some for x in p[entries]] for some in (failed, passed))
            if found := advice(symbol, bad, good):
                return found
        return f"{self.family.natural[0]} < 0"

    def shape(self, point: Point) -> _Shape:
        """Return the derivatives of F at a point, in steps of the distance to a bound."""
        h = tuple(map(context.mpf, point))
        limits = self._limits(len(h))
        scales = [scale(x, interval) for x, interval in zip(h, limits, strict=True)]
        size = len(h)
        axes = [[context.mpf(i == j) for j in range(size)] for i in range(size)]
        sides = [self.cumulants(h, scales, axis) for axis in axes]
        hessian = context.matrix(size, size)
        for i, j in itertools.combinations_with_replacement(range(size), 2):
            both = self.cumulants(h, scales, [a + b for a, b in zip(axes[i], axes[j], strict=True)])
            hessian[i, j] = hessian[j, i] = (both[0] - sides[i][0] - sides[j][0]) / 2
        mixed = [context.mpf(1), *(context.mpf(n) / 7 - 1 for n in range(3, size + 2))]
        along = [*sides, self.cumulants(h, scales, mixed)]
        return _Shape(point, scales, hessian, along, _ZERO * (1 + abs(self.value(h))))

    def cumulants(self, h: Point, scales: list[Any], direction: list[Any]) -> tuple[Any, ...]:
        """Return the second to fourth derivative of F along a direction, in steps of scales."""
        low, left, middle, right, high = (
            self.value(
                tuple(
                    x + n * _STEP * scale * d
                    for x, scale, d in zip(h, scales, direction, strict=True)
                )
            )
            for n in range(-2, 3)
        )
        return (
            (left - 2 * middle + right) / _STEP**2,
            (high - 2 * right + 2 * left - low) / (2 * _STEP**3),
            (high - 4 * right + 6 * middle - 4 * left + low) / _STEP**4,
        )

    def convex(self, shape: _Shape) -> None:
        """Refuse F unless it is convex at a point."""
        hessian, scales = shape.hessian.copy(), shape.scales
        eigenvalues = context.eigsy(hessian, eigvals_only=True)
        if min(eigenvalues) >= -max(shape.zero, _NOISE * max(map(abs, eigenvalues))):
            return
        for i, j in itertools.product(range(len(scales)), repeat=2):
            hessian[i, j] /= scales[i] * scales[j]
        lowest = min(context.eigsy(hessian, eigvals_only=True))
        raise SpecError(
            f"log_partition is not convex at {self.show(shape.point)}: ∂²F has the eigenvalue "
            f"{context.nstr(lowest, 3)}; {_EXPECTED}."
        )

    def lawful(self, shape: _Shape) -> None:
        """Refuse cumulants with κ₄ + 2κ₂² < κ₃²/κ₂: no law's squared score has that variance."""
        for second, third, fourth in shape.along:
            if second <= shape.zero:
                continue
            terms = fourth, 2 * second**2, -(third**2) / second
            if sum(terms) < -_NOISE * 1e8 * sum(map(abs, terms)):
                raise SpecError(
                    f"log_partition is convex, yet no law has its derivatives at "
                    f"{self.show(shape.point)}: along a direction they are κ₂ = "
                    f"{context.nstr(second, 3)}, κ₃ = {context.nstr(third, 3)}, κ₄ = "
                    f"{context.nstr(fourth, 3)}, so that the variance of the squared score, "
                    f"κ₄ + 2κ₂², is less than κ₃²/κ₂; {_EXPECTED}."
                )

    def consistent(self, point: Point) -> None:
        """Refuse F unless it is the log of the density's integral."""
        h = tuple(map(context.mpf, point))
        try:
            weight = log_integral(self.family, h, self.constants)
        except SpecError as error:
            raise SpecError(f"{error} This is at {self.show(point)}.") from None
        if weight is None:
            return
        with context.workdps(_DIGITS):
            value = self.value(h)
            if abs(weight - value) > AGREEMENT * max(1, abs(value)):
                weight = context.chop(weight, AGREEMENT)
                raise SpecError(
                    f"log_partition differs from the density at {self.show(point)}: log ∫ "
                    f"π(y) exp(⟨t(y), h⟩) dy = {context.nstr(weight, 16)}, F = "
                    f"{context.nstr(value, 16)}. Correct log_partition, sufficient_statistics "
                    "or the density."
                )

    def show(self, point: Point) -> str:
        """Return a point as text."""
        values = [f"{x:.12g}" for x in point]
        if self.family.vector:
            shown = [f"{self.family.natural[0]} = ({', '.join(values)})"]
        else:
            shown = [f"{a} = {b}" for a, b in zip(self.family.natural, values, strict=True)]
        shown += [f"{name} = {context.nstr(x, 6)}" for name, x in self.constants.items()]
        return ", ".join(shown)
