"""The formula language: what it reads, and that nothing else gets through."""

import math
import time

import pytest

from fimsym.errors import SpecError
from fimsym.families.formula import interpret

NAMES = {"h": 0.5, "sigma": 2.0, "pi": math.pi}
FUNCTIONS = {"exp": math.exp, "log": math.log, "sqrt": math.sqrt}


def value(text):
    return interpret(text, NAMES, FUNCTIONS, float)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sigma**2 * h**2 / 2", 0.5),
        ("-h", -0.5),
        ("+h - -h", 1.0),
        ("exp(h) * (1 + 2.5e-1)", math.exp(0.5) * 1.25),
        ("log(sqrt(sigma))", math.log(2) / 2),
        ("2**-3", 0.125),
        ("h\n + 1", 1.5),
    ],
)
def test_reads_arithmetic(text, expected):
    assert value(text) == pytest.approx(expected)


HOSTILE = [
    "__import__('os').system('true')",
    "h.__class__",
    "().__class__.__bases__",
    "eval(h)",
    "9**9**9",
    "((9**64)**64)**64",
    "(9**9)**9",
    "h**65",
    "h**(1+1)",
    "(" * 300 + "h" + ")" * 300,
    "-" * 5000 + "h",
    "h" + "+h" * 200,
    "ｈ + 1",
    "h;h",
    "h h",
    "",
    "lambda: h",
    "[h]",
    "h if h else h",
    "exp(h, h)",
    "exp(x=h)",
    "exp(*h)",
    "'h'",
    "True",
    "1j",
    "0x10",
    "1_000",
    "1e9999",
    "9" * 60,
    "h == h",
    "h @ h",
    "h // 2",
    "unknown",
    "h $ h",
    "h\x00",
    "h)(h",
    "x" * 20_000,
    None,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_refuses_everything_else_quickly(text):
    start = time.perf_counter()
    with pytest.raises(SpecError):
        value(text)
    assert time.perf_counter() - start < 1


def test_ten_megabytes_are_refused():
    with pytest.raises(SpecError, match="too long"):
        value("h+" * 5_000_000 + "h")


def test_message_names_place_and_nearest_name():
    with pytest.raises(SpecError, match=r"unknown name 'sigm'.*Did you mean 'sigma'.*column 5"):
        value("h + sigm")
    with pytest.raises(SpecError, match="line 2"):
        value("h +\n sigm")
