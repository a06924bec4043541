"""From a network's output and its derivatives to the closed forms of the output family."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

from fimsym.engine import bounded, classes, columns
from fimsym.engine.others import Others
from fimsym.engine.powers import in_memory
from fimsym.engine.precision import with_digits
from fimsym.errors import DomainError, FimsymError, SpecError
from fimsym.families import Family, families
from fimsym.families import family as family_of
from fimsym.generated import evaluator

_COPIES = 12
_COPIES_OF_MATRICES = 60
SECOND_ORDER = {"variance_negative_hessian", "covariance", *bounded.OF_SECOND}
"""Quantities that need second derivatives."""
_FEW_CLASSES = 32
"""So few that one gradient less is worth more than what replaces it."""


class Head:
    """The law of the labels, as a function of what the network puts out.

    Args:
        family: Name or specification of the output family.
        link: Name of the link h = g(o); None or ``"natural"`` for h itself.
        constants: Constants of the family.

    Raises:
        SpecError: an unknown family, link or constant.
    """

    def __init__(
        self, family: str | Family | None, link: str | None, constants: Mapping[str, float]
    ):
        if family is None:
            raise SpecError(
                f"no family given; expected family= one of {', '.join(families())}. It is the "
                "law of the labels: categorical for a classifier's logits, gaussian for "
                "regression."
            )
        self.spec: Family = family_of(family)
        known = self.spec.link(link)
        self.constants: dict[str, float] = self.spec.bind(constants)
        self.module: ModuleType = evaluator(self.spec)
        self.link: str = link or "natural"
        self._to_natural = self.module.LINKS[known.name] if known else None
        self._columns: tuple[Hashable, columns.Columns] | None = None

    @property
    def minimum_outputs(self) -> int:
        """Fewest outputs that the family allows."""
        return self.module.LAYOUT.minimum_outputs

    def width(self, dtype: torch.dtype) -> int:
        """Return how many bytes the evaluator holds at once for each entry of u."""
        wide = self.module.LAYOUT.precise or self._to_natural is not None
        size = max(dtype.itemsize, 8 if wide else 4)
        return size * (_COPIES_OF_MATRICES if self.spec.structure == "matrix" else _COPIES)

    def orders(self, asked: Sequence[str]) -> tuple[bool, bool]:
        """Tell which derivatives of the output the quantities need, first and second.

        v of a link depends on first derivatives too.
        """
        second = bool(SECOND_ORDER & set(asked))
        return bool(set(asked) - {"variance_negative_hessian"}) or (
            second and self._to_natural is not None
        ), second

    def check(self, outputs: Tensor, first_row: int) -> None:
        """Raise ShapeError or DomainError unless every row is in the domain of the head.

        Rows are finite numbers.
        """
        if self._to_natural is None and not self.spec.domain and self.spec.structure != "matrix":
            return
        try:
            self._natural(outputs)
        except DomainError:
            for row, output in enumerate(outputs):
                try:
                    self._natural(output)
                except FimsymError as error:
                    raise DomainError(
                        f"the model's output for input {first_row + row} is outside the domain "
                        f"of {self.spec.name}: {error} {self._advice()}"
                    ) from None
            raise

    def _advice(self):
        free = [link.name for link in self.spec.links if not link.domain and not link.identity]
        if self.link != "natural":
            taken = f"The link {self.link!r} is used"
            return f"{taken}; others without bounds: {', '.join(free) or 'none'}."
        if free:
            return f"Let the model put out unbounded numbers and pass link={free[0]!r}."
        return "Bound the model's last layer."

    @property
    def identity(self) -> bool:
        """Whether the network puts out h itself."""
        return self._to_natural is None

    def natural(self, outputs: Tensor) -> Tensor:
        """Return h = g(o), [batch, output], of which autograd knows the derivative."""
        if self._to_natural is None:
            return outputs
        (h,) = self._to_natural(outputs, **self.constants)
        return h

    def _natural(self, outputs):
        # A device is not waited for inside evaluators; this check is, once per batch.
        outputs = outputs.detach().cpu()
        if self._to_natural is not None:
            (outputs,) = self._to_natural(outputs, **self.constants)
        self.module.mean(outputs, **self.constants)

    def values(
        self, asked: Sequence[str], outputs: Tensor, first: Tensor | None, second: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the quantities asked for, each [batch, param].

        Args:
            asked: Their names.
            outputs: o, [batch, output].
            first: ∂o/∂θ, [batch, output, param].
            second: ∂²o/∂θ², likewise.
        """
        take = functools.partial(self._values, asked)
        return with_digits(take, outputs, first, second)

    def _values(self, asked, outputs, first, second) -> dict[str, Tensor]:
        u, v = first, second if set(asked) & SECOND_ORDER else None
        h = outputs
        if self._to_natural is not None:
            h, *found = self._to_natural(outputs, first, v, **self.constants)
            u, v = (*found, None)[:2]
        limits = bounded.values(asked, self.module, self.constants, h, u, v)
        plain = [quantity for quantity in asked if quantity not in limits]
        if plain == ["variance_negative_hessian"]:
            value = self.module.variance_negative_hessian(h, v, **self.constants)
            return {plain[0]: value, **limits}
        moments = self.module.moments(h, u, v, **self.constants)
        return {quantity: getattr(moments, quantity) for quantity in plain} | limits

    def of_estimates(
        self,
        asked: Sequence[str],
        outputs: Tensor,
        first: Tensor | None,
        one: Tensor,
        other: Tensor,
    ) -> dict[str, Tensor]:
        """Return unbiased estimates of V₂ and Cov(Î₁, Î₂) where asked for, [batch, param].

        V₂ is a quadratic form of v; its polar form takes two independent estimates v̂ and v̂′:
        (V₂(v̂ + v̂′) − V₂(v̂ − v̂′)) / 4, of either sign.

        Args:
            asked: Names of quantities.
            outputs: o, [batch, output].
            first: ∂o/∂θ, [batch, output, param].
            one: An unbiased estimate of ∂²o/∂θ², likewise.
            other: Another one, independent of it.
        """
        h, u = outputs, first
        if self._to_natural is not None:
            (h, u, one), (_, _, other) = (
                self._to_natural(outputs, first, v, **self.constants) for v in (one, other)
            )
        found, module, constants = {}, self.module, self.constants
        if "variance_negative_hessian" in asked:
            plus, minus = (
                module.variance_negative_hessian(h, v, **constants)
                for v in (one + other, one - other)
            )
            found["variance_negative_hessian"] = (plus - minus) / 4
        if "covariance" in asked:
            found["covariance"] = module.covariance(h, u, (one + other) / 2, **constants)
        limits = [name for name in asked if name in bounded.OF_SECOND]
        polar = torch.cat([one + other, one - other], dim=-1) if limits else None
        for name, value in bounded.values(limits, module, constants, h, None, polar).items():
            plus, minus = value.chunk(2, dim=-1)
            found[name] = (plus - minus) / 4
        return found

    def of_outputs(self, asked: Sequence[str], outputs: Tensor) -> dict[str, Tensor]:
        """Return the quantities of a parameter that is added to one output, for each output.

        That is u = e_c and v = 0, without an m×m identity where the law allows it: targets
        that are independent depend on their own outputs only, and classes that a parameter
        does not move can be merged into one, of log-odds h_c − log Σ_{j≠c} exp h_j.

        Args:
            asked: Names of the quantities.
            outputs: o, [batch, output].

        Returns:
            Each [batch, output].
        """
        spec, (batch, count) = self.spec, outputs.shape
        if not bounded.NAMES.isdisjoint(asked):
            eye = torch.eye(count).to(outputs).expand(batch, count, count)
            return self.values(asked, outputs, eye, torch.zeros_like(eye))
        if not spec.vector and spec.structure != "matrix":
            parts = spec.components
            targets = outputs.reshape(batch, parts, -1).transpose(1, 2)
            eye = torch.eye(parts).to(outputs).expand(*targets.shape, parts)
            found = self.values(asked, targets, eye, torch.zeros_like(eye))
            return {q: value.transpose(1, 2).reshape(batch, count) for q, value in found.items()}
        if self._merges and count > 2:
            odds = outputs - classes.log_sum_of_others(outputs)
            return _one_of_two(self.constants).of_outputs(asked, odds)
        eye = torch.eye(count).to(outputs).expand(batch, count, count)
        return self.values(asked, outputs, eye, torch.zeros_like(eye))

    def classes(self, outputs: Tensor, fewer: bool = False) -> classes.Classes | None:
        """Return the law of one label out of several classes, if that is what this is.

        Derivatives may then be centred before they reach the parameters: adding the same
        number to every logit changes no probability, and centring, being linear, may be done
        at the output.

        Args:
            outputs: o, [batch, output].
            fewer: Save a gradient, at the cost of more work with each of its entries.
        """
        is_one = (
            self.spec.name == "categorical"
            and self._to_natural is None
            and outputs.shape[1] > 1
            and outputs.dtype in (torch.float32, torch.float64)
        )
        if not is_one:
            return None
        if outputs.shape[1] == 2:
            return classes.Pair(outputs)
        few = fewer and outputs.shape[1] <= _FEW_CLASSES
        return Others(outputs) if few else classes.Classes(outputs)

    def are_probabilities(self, outputs: Tensor) -> bool:
        """Tell whether outputs look like the probabilities of classes instead of their logits."""
        if not self._merges or outputs.shape[1] < 2:
            return False
        sums = outputs.sum(-1)
        return bool((outputs >= 0).all() and ((sums - 1).abs() < 1e-4).all())

    def columns(self, matrix: Tensor) -> columns.Columns:
        """Return the powers of an output layer's weight; those of the last one are kept."""
        key = in_memory(matrix)
        if self._columns is None or self._columns[0] != key:
            self._columns = key, columns.Columns(matrix)
        return self._columns[1]

    @property
    def _merges(self) -> bool:
        return self._to_natural is None and self.spec.name in ("categorical", "multinomial")

    def targets(self, outputs: int) -> int:
        """Return how many columns labels have; 0 for classes, one whole number per input."""
        spec = self.spec
        if spec.vector:
            one_hot = spec.density is not None and spec.density.support == "one_hot"
            return 0 if one_hot else outputs
        if spec.structure == "matrix":
            return next(d for d in range(outputs + 1) if d * (d + 3) // 2 >= outputs)
        return outputs // spec.components


def _one_of_two(constants: Mapping[str, float]) -> Head:
    """Return the law of one class of several: a label of it or not, or the count of such."""
    return Head("binomial" if constants else "bernoulli", None, constants)
