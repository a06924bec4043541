"""Laws whose log-partition depends on ‖h‖ alone, such as von Mises directions.

With a and b the parts of u along h and across it, and r = ‖h‖, cumulants are those at
h = (r, 0): every odd power of b vanishes by reflection.
"""

from __future__ import annotations

import sympy as sp

from fimsym.derivation.functions import LogBessel, exact
from fimsym.derivation.normal import Definition
from fimsym.derivation.symbols import Cosine, Norm, directions, index, naturals, u, v
from fimsym.derivation.target import target
from fimsym.errors import DerivationError
from fimsym.families import Family

_r = sp.Symbol("r", positive=True)


def applies(family: Family) -> bool:
    """Tell whether F is log I₀ of the norm of both parameters."""
    one = target(family)
    x, y = one.parameters
    return one.log_partition == LogBessel(0, 0, sp.sqrt(x**2 + y**2))


def cumulant_at(along: int, across: int) -> sp.Expr:
    """Return ∂_a^along ∂_b^across log I₀(‖(r + a, b)‖) at 0, as a function of r.

    Raises:
        DerivationError: it is not the function that the pattern says.
    """
    if across % 2:
        return sp.Integer(0)
    x, y = sp.symbols("a b", real=True)
    value = LogBessel(0, 0, sp.sqrt((_r + x) ** 2 + y**2))
    value = sp.diff(value, *[x] * along, *[y] * across).subs({x: 0, y: 0})
    stated = sp.factorial2(across - 1) * LogBessel(sp.Integer(across) / 2, along, _r)
    if sp.expand(exact(value - stated)) != 0:
        raise DerivationError(f"expected ∂^{along}∂^{across} log I₀(‖h‖) = {stated}; got {value}.")
    return stated


def program(family: Family) -> list[Definition]:
    """Return the lines of each target's quantities."""
    x, y = (base[index] for base in naturals(family))
    radius, cosine, sine = (_column(name) for name in ("radius", "cosine", "sine"))
    lines = [
        _line("radius", Norm(x, y), "‖h‖"),
        _line("cosine", Cosine(x, radius, 1), "direction of h"),
        _line("sine", Cosine(y, radius, 0), "direction of h"),
    ]
    parts = {}
    for base in (u, v):
        first, second = (part[index] for part in directions(family, base))
        along, across = _column(f"radial_{base}"), _column(f"tangential_{base}")
        parts[base] = (along, across)
        lines += [
            _line(f"radial_{base}", cosine * first + sine * second, f"{base} along h"),
            _line(f"tangential_{base}", cosine * second - sine * first, f"{base} across h"),
        ]
    kappa = {
        (a, b): cumulant_at(a, b).xreplace({_r: radius})
        for a, b in ((2, 0), (0, 2), (3, 0), (1, 2), (4, 0), (2, 2), (0, 4))
    }
    return [*lines, *_quantities(kappa, parts)]


def _quantities(kappa, parts):
    (a, b), (c, d) = parts[u], parts[v]
    along, across = _column("variance_along"), _column("variance_across")
    skew, coskew = _column("third_along"), _column("third_mixed")
    quartic = [_column(f"quartic_{key}") for key in ("40", "22", "04")]
    return [
        _line("variance_along", kappa[2, 0], "variance of the statistic along h"),
        _line("variance_across", kappa[0, 2], "variance of the statistic across h"),
        _line("third_along", kappa[3, 0], "third cumulant along h"),
        _line("third_mixed", kappa[1, 2], "third cumulant, once along and twice across"),
        _line("quartic_40", kappa[4, 0] + 2 * along**2, "coefficient of a⁴ in V₁"),
        _line("quartic_22", 6 * kappa[2, 2] + 4 * along * across, "coefficient of a²b²"),
        _line("quartic_04", kappa[0, 4] + 2 * across**2, "coefficient of b⁴"),
        _line("information", along * a**2 + across * b**2, ""),
        _line("asymmetry", skew * a**3 + 3 * coskew * a * b**2, ""),
        _line(
            "variance_of_target",
            quartic[0] * a**4 + quartic[1] * a**2 * b**2 + quartic[2] * b**4,
            "",
        ),
        _line("information_v", along * c**2 + across * d**2, ""),
        _line("mixed", skew * a**2 * c + coskew * (b**2 * c + 2 * a * b * d), ""),
    ]


def _column(name):
    return sp.IndexedBase(name, real=True)[index]


def _line(name, expression, meaning):
    return Definition(name, _column(name), expression, meaning)
