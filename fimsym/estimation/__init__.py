"""What is random: estimators of the Fisher diagonal, their standard errors, and plans."""

from fimsym.estimation.estimate import estimate
from fimsym.estimation.plan import plan
from fimsym.estimation.planned import Option, Plan, PlannedGroup
from fimsym.estimation.result import Estimate, Group

__all__ = ["Estimate", "Group", "Option", "Plan", "PlannedGroup", "estimate", "plan"]
