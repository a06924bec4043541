"""Elementwise special functions of the generated evaluators, in plain torch operations.

Every function works on float64 tensors of any shape and device, under autograd of any
order, `torch.func.vmap` and `torch.compile`, without host synchronisation; none reads a
value, so none checks the domain it states.
"""

from fimsym.special.bessel import log_bessel_i0
from fimsym.special.gamma import polygamma, polygamma_difference, polygamma_remainder

__all__ = ["log_bessel_i0", "polygamma", "polygamma_difference", "polygamma_remainder"]
