"""Numbers of inputs that are taken at a time, chosen by what the first ones took."""

import subprocess
import sys

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


def test_what_is_done_once_does_not_hold_chunks_at_a_single_input():
    fitting = Fitting(LIMIT, True)
    fitting.most, taken = 4096, []
    for _ in range(8):
        taken.append(fitting.rows(()))
        with fitting.watched(taken[-1], ()):
            torch.empty(int(0.45 * LIMIT), dtype=torch.uint8)
    assert taken[-1] == 4096


FAULTS = """
import resource, torch
from fimsym.engine.memory import keep_freed_memory
keep_freed_memory()
sizes = (5_000_000, 1_000_000, 7_000_000)
faults = []
for size in sizes * 3:
    torch.ones(size)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[2])
"""


def test_memory_that_is_freed_is_taken_again_without_new_pages():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100
