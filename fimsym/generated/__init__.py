"""The evaluators: one checked-in torch module per family. Never edited by hand."""

from __future__ import annotations

import importlib
from types import ModuleType

from fimsym.errors import UnsupportedError
from fimsym.families import Family, families, family


def evaluator(name_or_family: str | Family) -> ModuleType:
    """Return the module of closed forms of a built-in family.

    It holds ``mean``, ``log_partition``, ``fisher``, ``variance_score_squared``,
    ``variance_negative_hessian``, ``covariance``, ``moments`` and ``bounds``.

    Args:
        name_or_family: The family's name or specification.

    Raises:
        SpecError: no family has that name.
        UnsupportedError: the specification is not a built-in one.
    """
    spec = family(name_or_family)
    if spec.name not in families() or spec != family(spec.name):
        raise UnsupportedError(
            f"{spec.name!r} is not a built-in family ({', '.join(families())}). Write its "
            "evaluator with fimsym.generate(family) to a file, and import that."
        )
    return importlib.import_module(f"fimsym.generated.{spec.name}")
