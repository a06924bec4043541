"""Is a diagonal that other code computed the Fisher's, and if not, which mistake was made?"""

from fimsym.auditing.audit import audit
from fimsym.auditing.record import Audit, Audited, Match

__all__ = ["Audit", "Audited", "Match", "audit"]
