import importlib.util

import pytest
import torch

from tests.cases import CASES

# Small operations are faster and steadier on one thread, and tests run in parallel.
torch.set_num_threads(1)

# Packages that are compared with: `make peers` installs them.
PEERS = ("backpack", "curvlinops", "laplace", "nngeometry")
if not all(importlib.util.find_spec(name) for name in PEERS):
    collect_ignore = ["test_audit_peers.py"]


@pytest.fixture(params=sorted(CASES))
def case(request):
    return CASES[request.param]
