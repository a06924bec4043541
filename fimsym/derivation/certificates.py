"""Certificates of Theorem 4.1: identities whose right-hand side cannot be negative.

Every bound that `fimsym.derivation.bounds` states is proven from its own lines, inlined,
for any number of outputs.
"""

from __future__ import annotations

from fimsym.derivation import (
    certificates_of_classes,
    certificates_of_concentrations,
    certificates_of_targets,
    concentration,
)
from fimsym.derivation.cumulants import cumulant
from fimsym.derivation.identity import Identity
from fimsym.derivation.stable import uses_probabilities
from fimsym.families import Family


def certificates(family: Family) -> tuple[Identity, ...]:
    """Return the identities that prove the six inequalities of Theorem 4.1.

    There are none for a law of which nothing is known but its forms: their values on a few
    directions are taken as they are.
    """
    if not family.vector:
        return certificates_of_targets.certificates(family)
    if uses_probabilities([cumulant(family, 2, 0)]):
        return tuple(certificates_of_classes.certificates(family))
    if concentration.applies(family):
        return tuple(certificates_of_concentrations.certificates(family))
    return ()
