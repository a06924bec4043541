"""From links to a Gaussian vector's natural parameters to functions that return h, u and v."""

from __future__ import annotations

from collections.abc import Mapping

from fimsym.codegen.links import LinkFunction
from fimsym.codegen.program import Statement
from fimsym.derivation.letters import Letter, Word
from fimsym.derivation.matrices import Words, derivative, words
from fimsym.derivation.matrix_program import evaluate
from fimsym.derivation.text import text
from fimsym.families import Family, Link

_MEAN, _FIRST_MEAN, _SECOND_MEAN = (
    Letter(name, vector=1) for name in ("mean", "mean_first", "mean_second")
)
_ROOT, _FIRST_ROOT, _SECOND_ROOT = (
    Letter(name) for name in ("cholesky", "cholesky_first", "cholesky_second")
)
_ALONG = {
    _MEAN: words(_FIRST_MEAN),
    _FIRST_MEAN: words(_SECOND_MEAN),
    _ROOT: words(_FIRST_ROOT),
    _FIRST_ROOT: words(_SECOND_ROOT),
}
"""Derivatives of outputs that are a vector and a lower triangular factor."""
_SHORT = {
    (_ROOT.inverse, _MEAN): Letter("whitened_mean", vector=1),
    (_ROOT.inverse, _FIRST_MEAN): Letter("whitened_first", vector=1),
    (_ROOT.inverse, _SECOND_MEAN): Letter("whitened_second", vector=1),
    (_ROOT.inverse, _FIRST_ROOT): Letter("slope"),
    (_ROOT.inverse, _SECOND_ROOT): Letter("curvature"),
}
"""Products that are computed once."""


_STARTS = (
    {"cholesky": "log_diagonal(triangle)", "root": "inverse_triangle(cholesky)"},
    {"cholesky_first": "log_diagonal(triangle, triangle_first)"},
    {"cholesky_second": "log_diagonal(triangle, triangle_first, triangle_second)"},
)
_KINDS = ("vector", "matrix")


def layout(family: Family, role: str = "h") -> str:
    """Return the code of the layout of a vector and a matrix in one axis."""
    size = family.minimum_outputs
    return (
        f'runtime.Layout(names=("{role}",), minimum_outputs={size * (size + 3) // 2}, '
        f'limits=((float("-inf"), float("inf")),), precise=True, role="{role}")'
    )


def link_function(family: Family, link: Link) -> LinkFunction:
    """Return the function of a link from a mean and a Cholesky factor of the covariance.

    Its formulas are differentiated twice as words.
    """
    names = dict(zip(link.outputs, map(words, (_MEAN, _ROOT)), strict=True))
    levels = [[evaluate(formula, names) for formula in link.natural]]
    for _ in range(2):
        levels.append([derivative(value, _ALONG) for value in levels[-1]])
    groups = _groups(levels)
    return LinkFunction(
        link=link,
        equations=tuple(
            f"h{n} = {text(value.expression)}" for n, value in enumerate(levels[0], start=1)
        ),
        layout=layout(family, "outputs"),
        outputs=("mean", "triangle"),
        of_outputs=groups[0],
        of_first=groups[1],
        of_second=groups[2],
        naturals={
            **{letter: (f"{letter}1", f"{letter}2") for letter in "huv"},
            "first": ("mean_first", "triangle_first"),
            "second": ("mean_second", "triangle_second"),
        },
    )


def _groups(levels: list[list[Words]]) -> list[tuple[Statement, ...]]:
    """Return the statements of h, u and v, from each natural parameter in words."""
    done: set[Letter] = set()
    groups = []
    for letter, start, values in zip("huv", _STARTS, levels, strict=True):
        shortened = [_shortened(value) for value in values]
        used = {x.plain for value in shortened for word in value.terms for x in word}
        new = [(pair, short) for pair, short in _SHORT.items() if short in used - done]
        done |= used
        groups.append(
            (
                *(Statement(name, f"runtime.{code}") for name, code in start.items()),
                *(Statement(short.name, _printed(pair)) for pair, short in new),
                *(
                    Statement(f"{letter}{number}", f"runtime.{kind}_column({_sum(value)})")
                    for number, kind, value in zip((1, 2), _KINDS, shortened, strict=True)
                ),
            )
        )
    return groups


def _shortened(value: Words) -> Words:
    """Replace the products that are computed once, and their transposes."""
    pairs = dict(_SHORT)
    pairs |= {(b.transposed, a.transposed): x.transposed for (a, b), x in _SHORT.items()}
    return Words({_short(word, pairs): c for word, c in value.terms.items()}, value.shape)


def _short(word: Word, pairs: Mapping[Word, Letter]) -> Word:
    found: list[Letter] = []
    for letter in word:
        pair = (*found[-1:], letter)
        if pair in pairs:
            found[-1] = pairs[pair]
        else:
            found.append(letter)
    return tuple(found)


def _sum(value: Words) -> str:
    """Return a sum of words as code, with what they begin and end with in common outside."""
    every = list(value.terms)
    shortest = min(map(len, every)) - 1 if len(every) > 1 else 0
    before = next(n for n in range(shortest, -1, -1) if len({word[:n] for word in every}) == 1)
    after = next(
        n
        for n in range(shortest - before, -1, -1)
        if len({word[len(word) - n :] for word in every}) == 1
    )
    terms = []
    for word, coefficient in value.terms.items():
        rest = _printed(word[before : len(word) - after])
        size = abs(coefficient)
        size = "" if size == 1 else f"{int(size) if size.is_Integer else float(size)!r} * "
        terms.append(f"{'-' if coefficient < 0 else '+'} {size}{rest}")
    inner = " ".join(terms).removeprefix("+ ")
    if not (before or after):
        return inner
    parts = [_printed(every[0][:before]), f"({inner})", _printed(every[0][len(every[0]) - after :])]
    return " @ ".join(part for part in parts if part)


def _printed(word: Word) -> str:
    return " @ ".join(map(_letter, word))


def _letter(letter: Letter) -> str:
    transposed, inverted = letter.flags
    name = "root" if letter.plain == _ROOT and inverted else letter.name
    return f"{name}.mT" if transposed else name
