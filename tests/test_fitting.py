"""Numbers of inputs that are taken at a time, chosen by what the first ones took."""

import pytest
import torch

from fimsym.engine.fitting import Fitting

LIMIT = 60_000_000


@pytest.mark.parametrize("each", [1_000, 50_000, 5_000_000])
@pytest.mark.parametrize("once", [0, 8_000_000])
def test_memory_is_kept_though_the_first_chunks_do_more(each, once):
    fitting = Fitting(LIMIT, True)
    fitting.most = 4096
    taken = []
    for number in range(8):
        rows = fitting.rows(())
        with fitting.watched(rows, ()):
            torch.empty(once if number < 2 else 0, dtype=torch.uint8)
            torch.empty(rows * each, dtype=torch.uint8)
        taken.append(rows)
    assert taken[0] == 1
    assert max(taken) * each <= LIMIT
    assert taken[-1] >= min(4096, LIMIT // (4 * each))
