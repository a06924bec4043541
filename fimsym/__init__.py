"""fimsym: the diagonal of the Fisher information matrix, with error bars.

Write down a log-partition; get back proven formulas, stable vectorised torch code, and
a network's Fisher diagonal with the variances of its estimators.

Importing fimsym is cheap: SymPy and torch are loaded when something needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fimsym.errors import (
    AccuracyWarning,
    DerivationError,
    DomainError,
    FimsymError,
    ShapeError,
    SpecError,
    UnsupportedError,
)
from fimsym.families import Constant, Density, Family, Link, Sampler, families, family
from fimsym.families.file import load as load_family

if TYPE_CHECKING:
    from fimsym.auditing import Audit, audit
    from fimsym.codegen import generate
    from fimsym.derivation import Derivation, derive
    from fimsym.engine import Analysis, analyze
    from fimsym.estimation import Estimate, Plan, estimate, plan
    from fimsym.generated import evaluator
    from fimsym.runtime import Bounds, Moments
    from fimsym.validation import Validation, validate, validate_model

__version__ = "0.1.0"

_LAZY = {
    "derive": "fimsym.derivation",
    "Derivation": "fimsym.derivation",
    "generate": "fimsym.codegen",
    "evaluator": "fimsym.generated",
    "Moments": "fimsym.runtime",
    "Bounds": "fimsym.runtime",
    "analyze": "fimsym.engine",
    "audit": "fimsym.auditing",
    "Audit": "fimsym.auditing",
    "Analysis": "fimsym.engine",
    "estimate": "fimsym.estimation",
    "Estimate": "fimsym.estimation",
    "plan": "fimsym.estimation",
    "Plan": "fimsym.estimation",
    "validate": "fimsym.validation",
    "validate_model": "fimsym.validation",
    "Validation": "fimsym.validation",
}

__all__ = [
    "AccuracyWarning",
    "Analysis",
    "Audit",
    "Bounds",
    "Constant",
    "Density",
    "Derivation",
    "DerivationError",
    "DomainError",
    "Estimate",
    "Family",
    "FimsymError",
    "Link",
    "Moments",
    "Plan",
    "Sampler",
    "ShapeError",
    "SpecError",
    "UnsupportedError",
    "Validation",
    "analyze",
    "audit",
    "derive",
    "estimate",
    "evaluator",
    "families",
    "family",
    "generate",
    "load_family",
    "plan",
    "validate",
    "validate_model",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fimsym' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
