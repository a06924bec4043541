"""Defects of what a network supplies, and of the Monte Carlo side itself."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.defects import Defect, Edit, one

_CHECK = "self._holds[name] = self._agrees(name, uses[name][0], inputs)"


def _of_chain(title: str, old: str, new: str) -> Defect:
    """Return a defect of second derivatives down a chain of layers.

    The engine compares these with a second road and leaves them aside where they differ, so
    that the numbers stay right; that check is taken out as well.
    """
    check = Edit("engine.curvatures", _CHECK, "self._holds[name] = True")
    return Defect(f"{title}, unchecked", "categorical", (Edit("engine.chain", old, new), check))


def networks() -> Iterator[Defect]:
    """Yield defects of what a network supplies."""
    yield one(
        "sum over the inputs for their mean",
        "exponential",
        "engine.accumulate",
        "total.div_(count)",
        "total.div_(1)",
    )
    yield one(
        "a³ for a⁴ in the rank-one rule",
        "categorical",
        "engine.powers",
        "powers[4] = powers[2].square()",
        "powers[4] = powers[2] * inputs[rows].abs()",
    )
    yield _of_chain("φ′ for φ′² in v of a layer below", "found, slope.square())", "found, slope)")
    yield one(
        "V₁ of classes about zero",
        "categorical",
        "engine.classes",
        "square.sub_(fisher)",
        "square.sub_(0 * fisher)",
    )
    yield _of_chain(
        "curvature of the layers above missing in v",
        "terms[-2] @ down.square()",
        "0 * (terms[-2] @ down.square())",
    )
    yield one(
        "a moment's coefficient with many classes",
        "categorical",
        "engine.columns",
        "6 * about_2 - 3 * mean.square()",
        "6 * about_2 - 4 * mean.square()",
    )
    yield one(
        "(p − q)² missing at the output layer",
        "categorical",
        "engine.classes",
        "(self._double - q).square_()",
        "torch.ones_like(q)",
    )
    yield one(
        "the link's curvature missing in v",
        "exponential",
        "generated.exponential",
        "v = (-torch.exp(log_rate)) * first * first + slope_11 * second",
        "v = slope_11 * second",
    )
    yield one(
        "a link's slope missing in u",
        "exponential",
        "generated.exponential",
        "slope_11 = mean ** (-2)",
        "slope_11 = mean ** (-1)",
    )
    yield _analysis(
        "a square weight transposed", "t.T if t.ndim == 2 and len(t) == len(t.T) else t"
    )
    yield _analysis("no information in biases", "0 * t if t.ndim == 1 else t")
    yield _analysis("every layer 5% too large in V₂", "1.05 * t if q.endswith('hessian') else t")
    yield _analysis("parameters in reversed order", "t.flatten().flip(0).reshape(t.shape)")


def _analysis(title: str, changed: str) -> Defect:
    """Change every tensor t of every quantity q that `analyze` returns."""
    code = f"""

_right_analyze = analyze


def analyze(*arguments, **options):
    import dataclasses

    found = _right_analyze(*arguments, **options)
    values = {{q: {{n: {changed} for n, t in of_q.items()}} for q, of_q in found.values.items()}}
    return dataclasses.replace(found, values=values)
"""
    return Defect(title, "categorical", (Edit("engine.analyze", "", code),))


def instrument() -> Iterator[Defect]:
    """Yield defects of the Monte Carlo side itself."""
    yield one(
        "labels from another law: the rate is twice too large",
        "exponential",
        "families.exponential",
        '{"rate": "-h"}',
        '{"rate": "-2 * h"}',
    )
    yield one(
        "a sampler that is not the density's law",
        "poisson",
        "families.poisson",
        "1 / gamma(y + 1)",
        "1 / gamma(y + 2)",
    )
    yield one(
        "labels with 1% too much spread",
        "gaussian",
        "validation.draws",
        "_of(law.scale) * rng",
        "1.01 * _of(law.scale) * rng",
    )
    yield one(
        "standard errors twice too large",
        "categorical",
        "validation.estimates",
        "np.maximum(variance, 0.0) / n",
        "4 * np.maximum(variance, 0.0) / n",
    )
    yield one(
        "standard errors twice too small",
        "categorical",
        "validation.estimates",
        "np.maximum(variance, 0.0) / n",
        "np.maximum(variance, 0.0) / n / 4",
    )
    yield one(
        "half of the labels counted twice",
        "categorical",
        "validation.simulate",
        "multinomial(samples, p)",
        "multinomial(samples // 2, p) * 2",
    )
    yield one(
        "closed forms handed over as estimates",
        "categorical",
        "validation.carried",
        "return Measured(subject, samples, subject.closed(sampled.points), sampled)",
        "return _circular(subject, samples, sampled)",
        """


def _circular(subject, samples, sampled):
    from fimsym.validation.estimates import CLOSED_FORM

    closed = subject.closed(sampled.points)
    found = {
        name: dataclasses.replace(one, mean=closed[CLOSED_FORM[name]])
        for name, one in sampled.estimates.items()
    }
    sampled = dataclasses.replace(sampled, estimates=found)
    return Measured(subject, samples, closed, sampled)
""",
    )
    yield one(
        "derivatives of log p fitted without an intercept",
        "gamma",
        "validation.montecarlo",
        "torch.addmm(both[:, :1], both",
        "torch.addmm(0 * both[:, :1], both",
    )
    yield one(
        "v along the path not halved",
        "categorical",
        "validation.montecarlo",
        "step.square() / 2 * at.v.T",
        "step.square() * at.v.T",
    )
    yield one(
        "the second derivative of a network without its sign",
        "categorical",
        "validation.montecarlo",
        "return torch.cat(found)\n\n\ndef _rows",
        "return torch.cat(found).abs()\n\n\ndef _rows",
    )
