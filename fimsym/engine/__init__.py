"""What a network supplies: u = ∂h/∂θ and v = ∂²h/∂θ², accumulated over data."""

from fimsym.engine.analysis import Analysis, Group
from fimsym.engine.analyze import analyze

__all__ = ["Analysis", "Group", "analyze"]
