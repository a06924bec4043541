"""Blocks on several threads equal blocks on one, in every state that torch keeps for a thread."""

import subprocess
import sys
import threading
import time

import pytest
import torch
from torch.func import jvp, vmap
from torch.overrides import TorchFunctionMode

import fimsym
from fimsym.runtime import blocks, threads
from tests.cases import CASES, points


@pytest.fixture(autouse=True)
def two(monkeypatch):
    monkeypatch.setattr(blocks, "ENTRIES", 500)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def used(monkeypatch):
    """Names of the threads that a block was computed in."""
    names = []
    part = blocks._of_column

    def noted(column, region):
        names.append(threading.current_thread().name)
        return part(column, region)

    monkeypatch.setattr(blocks, "_of_column", noted)
    return names


def wide(dtype=torch.float64):
    h, u, v = points(CASES["categorical"], 10, 1.0, dtype=dtype)
    return h, u.repeat(1, 1, 50), v.repeat(1, 1, 50)


def results(*arguments):
    got = fimsym.evaluator("categorical").moments(*arguments)
    return got.fisher, got.variance_score_squared, got.third, got.covariance


def test_threads_change_no_bit(used):
    found = results(*wide())
    assert {name[:6] for name in used} == {"fimsym"}
    torch.set_num_threads(1)
    alone = results(*wide())
    assert used[-1] == "MainThread"
    assert all(map(torch.equal, found, alone))
    assert torch.get_num_threads() == 1


def test_each_takes_a_part_of_the_threads():
    results(*wide())
    assert torch.get_num_threads() == 2
    assert set(threads.shared(lambda _: torch.get_num_threads(), range(8), [])) == {1}


def test_modes_are_handed_on(used):
    h, u, v = wide()
    with torch.no_grad():
        found = results(h, u.clone().requires_grad_(), v)
    assert used
    assert not found[0].requires_grad
    with torch.inference_mode():
        found = results(h, u, v)
        assert found[0].is_inference()
    assert not results(h, u, v)[0].is_inference()


class Counting(TorchFunctionMode):
    """Counts squares."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.Tensor.square
        return func(*args, **(kwargs or {}))


def test_what_cannot_be_handed_on_stays(used):
    h, u, v = wide()
    plain = results(h, u, v)
    used.clear()
    with Counting() as mode:
        results(h, u, v)
    assert mode.count > 10
    mapped = vmap(lambda *x: results(*x)[:3])(h, u, v)
    torch.testing.assert_close(mapped, plain[:3])
    module = fimsym.evaluator("categorical")
    _, slope = jvp(lambda x: module.fisher(h, x), (u,), (u,))
    torch.testing.assert_close(slope, 2 * plain[0])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(results(h, u, v), plain)
    assert set(used) == {"MainThread"}


def test_an_error_ends_the_others():
    done = []

    def work(n):
        if n == 1:
            raise ValueError("of the second")
        time.sleep(0.01)
        done.append(n)

    with pytest.raises(ValueError, match="of the second"):
        list(threads.shared(work, range(100), []))
    assert len(done) < 50


def test_gradients_of_constants():
    sigma = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    u = torch.ones(20, 7, 100, dtype=torch.float64)
    value = fimsym.evaluator("gaussian").fisher(u[..., 0], u, sigma=sigma).sum()
    value.backward()
    assert sigma.grad is not None
    assert float(sigma.grad) == pytest.approx(float(4 * value.detach()))


FORKED = """
import os, torch
from fimsym.runtime.threads import shared
torch.set_num_threads(2)
assert list(shared(abs, range(4), [])) == list(range(4))
child = os.fork()
if child == 0:
    os._exit(list(shared(abs, range(4), [])) != list(range(4)))
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_has_threads_of_its_own():
    command = [sys.executable, "-W", "ignore", "-c", FORKED]
    assert subprocess.run(command, timeout=300, check=False).returncode == 0
