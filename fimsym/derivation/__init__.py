"""What follows: cumulants, moments, variances, bounds and their proofs. SymPy only."""

from fimsym.derivation.derivation import Derivation, derive
from fimsym.derivation.identity import Identity, Proof, prove

__all__ = ["Derivation", "Identity", "Proof", "derive", "prove"]
