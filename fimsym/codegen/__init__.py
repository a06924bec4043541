"""How it is written: stable forms, printer, one template. SymPy in, text out."""

from fimsym.codegen.module import generate, regenerate, stale

__all__ = ["generate", "regenerate", "stale"]
