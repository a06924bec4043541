"""One registry of family cases; every property runs on every family through it.

A region draws natural parameters h. A family's spread, crude and by hand, says how wide its
sufficient statistics are there, so that u and v can be sized to give ordinary moments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Point = tuple[Tensor, Tensor, Tensor]
Region = Callable[[torch.Generator, int, int], Tensor]

PARAMETERS = 3
_DOUBLE = torch.float64


@dataclasses.dataclass(frozen=True)
class Case:
    """Regions of a family's domain and values of its constants.

    Attributes:
        family: Name.
        outputs: Numbers of outputs to try, of all targets and components together.
        constants: Values of its constants to try.
        regions: Name -> (generator, batch, outputs) -> h, float64; one is "normal".
        spread: h -> variance and fourth cumulant of each statistic, roughly.
        inside: h -> whether it lies in the domain, [batch].
        cancels: Statistics nearly cancel along h: every region has a twin "…, along h".
    """

    family: str
    outputs: tuple[int, ...]
    constants: tuple[dict[str, float], ...]
    regions: Mapping[str, Region]
    spread: Callable[[Tensor], tuple[Tensor, Tensor]]
    inside: Callable[[Tensor], Tensor] = lambda h: h.isfinite().all(-1)
    cancels: bool = False

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the regions."""
        return tuple(self.regions)


def _gauss(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=_DOUBLE)


def _sizes(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Return log-uniform numbers between 10^low and 10^high."""
    return 10 ** (low + (high - low) * torch.rand(shape, generator=generator, dtype=_DOUBLE))


def _normal(scale: float) -> Region:
    return lambda generator, *shape: scale * _gauss(generator, *shape)


def _positive(low: float, high: float) -> Region:
    return lambda generator, *shape: _sizes(generator, low, high, *shape)


def _negative(low: float, high: float) -> Region:
    return lambda generator, *shape: -_sizes(generator, low, high, *shape)


def _either(low: float, high: float) -> Region:
    return lambda generator, *shape: (
        _gauss(generator, *shape).sign() * _sizes(generator, low, high, *shape)
    )


def _contest(scale: float) -> Region:
    """Draw logits of a scale, of which the first is an ordinary distance below the top."""

    def draw(generator: torch.Generator, batch: int, outputs: int) -> Tensor:
        h = scale * _gauss(generator, batch, outputs)
        h[:, 0] = h[:, 1:].amax(-1) - _sizes(generator, -2, 1.5, batch)
        return h

    return draw


def _directions(generator: torch.Generator, *shape: int) -> Tensor:
    """Return angles, most of them close to an axis."""
    quarter = torch.randint(4, shape, generator=generator) * (math.pi / 2)
    return quarter + _sizes(generator, -8, 0.5, *shape)


def _pair(natural: Callable, first: Region, second: Region | None = None) -> Region:
    """Draw two textbook parameters of each target and turn them into natural ones."""

    def draw(generator: torch.Generator, batch: int, outputs: int) -> Tensor:
        half = (batch, outputs // 2)
        return torch.cat(natural(first(generator, *half), (second or first)(generator, *half)), -1)

    return draw


def _matrix(reach: float, rotated: bool) -> Region:
    """Draw (Λμ, −Λ/2) with variances 10^±reach along the axes, or along rotated ones."""

    def draw(generator: torch.Generator, batch: int, outputs: int) -> Tensor:
        size = math.isqrt(2 * outputs) - 1
        basis = torch.linalg.qr(_gauss(generator, batch, size, size))[0]
        deviation = _sizes(generator, -reach / 2, reach / 2, batch, size)
        if rotated:
            root = basis / deviation.unsqueeze(-2)
        else:
            root = basis * _sizes(generator, -0.25, 0.25, batch, 1, size) / deviation.unsqueeze(-1)
        precision = root @ root.mT
        mean = _either(-1, 1)(generator, batch, size) * deviation
        row, column = torch.tril_indices(size, size)
        vector = (precision @ mean.unsqueeze(-1)).squeeze(-1)
        return torch.cat([vector, -precision[:, row, column] / 2], -1)

    return draw


def _precision(h: Tensor) -> Tensor:
    size = math.isqrt(2 * h.shape[-1]) - 1
    lower = h.new_zeros(*h.shape[:-1], size, size)
    row, column = torch.tril_indices(size, size)
    lower[..., row, column] = -2 * h[..., size:]
    return lower + lower.tril(-1).mT


def _definite(h: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(_precision(h))[..., 0] > 0


def _between(*limits: tuple[float, float]) -> Callable[[Tensor], Tensor]:
    """Say whether every component lies between its limits."""

    def inside(h: Tensor) -> Tensor:
        low, high = torch.tensor(limits, dtype=h.dtype).T[..., None]
        parts = h.unflatten(-1, (len(limits), -1))
        return ((low < parts) & (parts < high)).all(-1).all(-1)

    return inside


def _class_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    others = h.sort(-1).values[..., :-1].logsumexp(-1, keepdim=True)
    return ((others - h.logsumexp(-1, keepdim=True)).exp().expand_as(h),) * 2


def _logistic_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    return (h.sigmoid() * (-h).sigmoid(),) * 2


def _count_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    variance = h.exp() / torch.expm1(h) ** 2
    return variance, variance + 6 * variance**2


def _gamma_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    shape, rate = h.chunk(2, -1)[0] + 1, h.chunk(2, -1)[1]
    variance = torch.cat([1 / shape + shape**-2, shape / rate**2], -1)
    return variance, torch.cat([2 / shape**3 + 6 / shape**4, 6 * shape / rate**4], -1)


def _log_spread(own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return ψ′(a) − ψ′(a + b) and ψ‴(a) − ψ‴(a + b) with ψ′ ≈ 1/a + 1/a²."""
    a, b, c = own, others, own + others
    variance = b / (a * c) + b * (a + c) / (a * c) ** 2
    fourth = 2 * b * (a * a + a * c + c * c) / (a * c) ** 3
    return variance, fourth + 6 * b * (a + c) * (a * a + c * c) / (a * c) ** 4


def _beta_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    return _log_spread(h, h.roll(h.shape[-1] // 2, -1))


def _dirichlet_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    return _log_spread(h, h @ (1 - torch.eye(h.shape[-1], dtype=h.dtype)))


def _moment_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    first, second = h.chunk(2, -1)
    variance, mean = -1 / (2 * second), -first / (2 * second)
    spread = torch.cat([variance, 2 * variance**2 + 4 * mean**2 * variance], -1)
    return spread, spread**2


def _inverse_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    first, second = h.chunk(2, -1)
    mean, shape = (second / first).sqrt(), -2 * second
    ratio, inverse = mean / shape, 1 / shape
    variance = torch.cat([mean**2 * ratio, inverse / mean + 2 * inverse**2], -1)
    fourth = torch.cat([mean**4 * ratio**3, inverse**3 / mean + 3 * inverse**4], -1)
    return variance, 15 * fourth


def _angle_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.hypot(*h.chunk(2, -1)).repeat(1, 2)
    cosine = (h / size) ** 2
    variance = cosine / (2 + 2 * size**2) + (1 - cosine) / (2 + size)
    return variance, variance**2


def _vector_spread(h: Tensor) -> tuple[Tensor, Tensor]:
    covariance = torch.linalg.inv(_precision(h))
    size = covariance.shape[-1]
    mean = (covariance @ h[..., :size, None])[..., 0]
    own = covariance.diagonal(dim1=-2, dim2=-1).abs()
    row, column = torch.tril_indices(size, size)
    a, b, c, d = own[:, row], own[:, column], mean[:, row] ** 2, mean[:, column] ** 2
    variance = torch.cat([own, 4 * a * b + 2 * (c * b + d * a)], -1)
    return variance, variance**2


_LOGITS = {"logits 0.1": _normal(0.1), "normal": _normal(1.0), "logits 10": _normal(10.0)}
_LOGITS |= {"logits 100": _normal(100.0), "logits 1e4": _contest(1e4)}
_ODDS = {"to 0": _either(-15, 0), "normal": _normal(1.0), "to ±700": _either(0, math.log10(700))}
_COUNTS = {"to 0": _negative(-15, 0), "normal": _negative(-1, 0.5)}
_COUNTS |= {"to −700": _negative(0, math.log10(700))}
_MEANS = {"1e-3": _normal(1e-3), "normal": _normal(1.0), "1e4": _normal(1e4)}
_RATES = {"normal": _normal(1.0), "rates 1e±30": lambda *draw: _positive(-30, 30)(*draw).log()}
_WAITING = {"normal": _negative(-1, 1), "rates 1e±30": _negative(-30, 30)}
_SIZES = {"normal": _positive(-0.5, 1), "1e-3 to 1e6": _positive(-3, 6)}
_GAMMAS = {k: _pair(lambda shape, rate: (shape - 1, -rate), x) for k, x in _SIZES.items()}
_INVERSES = {
    k: _pair(lambda mean, shape: (-shape / (2 * mean**2), -shape / 2), x) for k, x in _SIZES.items()
}
_ANGLES = {
    k: _pair(lambda size, to: (size * to.cos(), size * to.sin()), x, _directions)
    for k, x in {"normal": _positive(-1, 1), "1e±6": _positive(-6, 6)}.items()
}
_MOMENTS = {
    k: _pair(lambda mean, variance: (mean / variance, -1 / (2 * variance)), *x)
    for k, x in {
        "normal": (_normal(1.0), _positive(-0.5, 0.5)),
        "means 1e±4, variances 1e±6": (_either(-4, 4), _positive(-6, 6)),
    }.items()
}
_MATRICES = {"normal": _matrix(0.3, True), "scales 1e±4": _matrix(4, False)}
_MATRICES |= {"condition 1e8": _matrix(4, True)}
_TRIALS = tuple({"n": n} for n in (1, 5, 1000))
_DEVIATIONS = ({}, {"sigma": 0.3}, {"sigma": 25.0})
_SUCCESSES = tuple({"r": r} for r in (1.0, 0.05, 50.0))
_NONE = ({},)
_TARGETS, _PAIRS, _CLASSES = (1, 4), (2, 6), (2, 3, 10)
_HALF = (-math.inf, 0.0)
_ABOVE, _BELOW, _BOTH = _between((0, math.inf)), _between(_HALF), _between(_HALF, _HALF)
_SECOND, _SHAPE_RATE = _between((-math.inf, math.inf), _HALF), _between((-1, math.inf), _HALF)

CASES = {
    case.family: case
    for case in (
        Case("gaussian", (1, 2, 7), _DEVIATIONS, _MEANS, lambda h: (0 * h + 1, 0 * h)),
        Case("categorical", _CLASSES, _NONE, _LOGITS, _class_spread),
        Case("bernoulli", _TARGETS, _NONE, _ODDS, _logistic_spread),
        Case("binomial", _TARGETS, _TRIALS, _ODDS, _logistic_spread),
        Case("multinomial", (2, 5), _TRIALS, _LOGITS, _class_spread),
        Case("poisson", _TARGETS, _NONE, _RATES, lambda h: (h.exp(), h.exp())),
        Case("geometric", _TARGETS, _NONE, _COUNTS, _count_spread, _BELOW),
        Case("negative_binomial", (1, 3), _SUCCESSES, _COUNTS, _count_spread, _BELOW),
        Case("exponential", _TARGETS, _NONE, _WAITING, lambda h: (h**-2, 6 * h**-4), _BELOW),
        Case("gamma", _PAIRS, _NONE, _GAMMAS, _gamma_spread, _SHAPE_RATE, True),
        Case("beta", _PAIRS, _NONE, _SIZES, _beta_spread, _ABOVE, True),
        Case("dirichlet", _CLASSES, _NONE, _SIZES, _dirichlet_spread, _ABOVE, True),
        Case("gaussian_mean_variance", _PAIRS, _NONE, _MOMENTS, _moment_spread, _SECOND, True),
        Case("multivariate_gaussian", (5, 9), _NONE, _MATRICES, _vector_spread, _definite, True),
        Case("inverse_gaussian", _PAIRS, _NONE, _INVERSES, _inverse_spread, _BOTH, True),
        Case("von_mises", _PAIRS, _NONE, _ANGLES, _angle_spread, cancels=True),
    )
}


def points(
    case: Case, outputs: int, region: str | float = "normal", seed=0, batch=20, dtype=_DOUBLE
) -> Point:
    """Return random h [batch, output], u and v [batch, output, 3] in a region of a case.

    h is rounded to the dtype and inside the domain after that; a number as a region is the
    normal one. u and v have sizes where I, V₁ and V₂ of each output are ordinary numbers, or
    are rounded multiples of h in regions "…, along h"; u⁴ and v² are finite in the dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    name, along, _ = (region if isinstance(region, str) else "normal").partition(", along h")
    draw = case.regions[name]
    h = draw(generator, batch, outputs).to(dtype)
    while not (good := case.inside(h.to(_DOUBLE))).all():
        h[~good] = draw(generator, int((~good).sum()), outputs).to(dtype)
    variance, fourth = case.spread(h.to(_DOUBLE))
    directions = []
    for width, power in ((fourth + 2 * variance**2) ** 0.25, 4), (variance**0.5, 2):
        narrowest = 1e4 * torch.finfo(dtype).max ** (-1 / power)
        sizes = _sizes(generator, -2, 2, batch, 1, PARAMETERS)
        drawn = sizes * _gauss(generator, batch, 1 if along else outputs, PARAMETERS)
        weight = h.to(_DOUBLE) if along else 1 / width.clamp(min=narrowest)
        directions.append((drawn * weight.unsqueeze(-1)).to(dtype))
    return h, *directions
