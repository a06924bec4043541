"""The law of the labels as a specification samples it: no log-partition, no evaluator."""

from fimsym.laws.law import Law, Support

__all__ = ["Law", "Support"]
