"""What a network supplies: u = ∂h/∂θ and v = ∂²h/∂θ², accumulated over data."""

from fimsym.engine.analysis import Analysis
from fimsym.engine.analyze import analyze
from fimsym.engine.groups import Group

__all__ = ["Analysis", "Group", "analyze"]
