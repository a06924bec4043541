"""Is it true? Monte Carlo against closed form, and the verdict."""

from fimsym.validation.validate import Validation, validate

__all__ = ["Validation", "validate"]
