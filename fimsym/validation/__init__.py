"""Is it true? Monte Carlo against closed form, and the verdict."""

from fimsym.validation.result import Validation
from fimsym.validation.validate import validate, validate_model

__all__ = ["Validation", "validate", "validate_model"]
