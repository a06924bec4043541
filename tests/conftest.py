import importlib.util
import signal

import pytest
import torch

from tests.cases import CASES

# Small operations are faster and steadier on one thread, and tests run in parallel.
torch.set_num_threads(1)

# A shell that runs the tests in the background has them ignore Ctrl-C, which some of them send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Packages that are compared with: `make peers` installs them.
PEERS = ("backpack", "curvlinops", "laplace", "nngeometry")
if not all(importlib.util.find_spec(name) for name in PEERS):
    collect_ignore = ["test_audit_peers.py"]


@pytest.fixture(params=sorted(CASES))
def case(request):
    return CASES[request.param]
