import pytest
import torch

from tests.cases import CASES

# Small operations are faster and steadier on one thread, and tests run in parallel.
torch.set_num_threads(1)


@pytest.fixture(params=sorted(CASES))
def case(request):
    return CASES[request.param]
