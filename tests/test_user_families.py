"""Families from TOML files and from Python: read, refused, generated, cached."""

import hashlib
import os
import pickle
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import fimsym
from fimsym import codegen
from fimsym.cli import main
from fimsym.errors import DomainError, SpecError
from fimsym.families import Constant, Density, Family, Link, Sampler
from fimsym.families.file import MAX_BYTES, load, read
from fimsym.generated import evaluator

ROOT = Path(__file__).parent.parent
RAYLEIGH = ROOT / "docs/families/rayleigh.toml"
MINIMAL = """\
name = "mine"
natural = ["h"]
log_partition = "-log(-h)"
domain = "h < 0"
sufficient_statistics = "y"
"""
FULL = """\
name = "mine"
title = "my law"
natural = ["h1", "h2"]
log_partition = "-a * log(-h1) + exp(h2)"
domain = "h1 < 0 and -5 < h2, h2 < 5"
sufficient_statistics = ["y**b", "log(y)"]
structure = "independent"

[constants]
a = 2
b = { default = 3, meaning = "exponent", integer = true }

[density]
base_measure = "1 / y"
support = "counts"
largest = 7

[sampler]
distribution = "Weibull"
scale = "-1 / h1"
concentration = 2.5

[links.log_mean]
outputs = ["log_mean", "other"]
natural = ["-exp(-log_mean)", "other / a"]
domain = "other > 0"
"""


def write(folder, text):
    path = folder / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def changed(old, new):
    assert old in FULL
    return FULL.replace(old, new)


def test_reads_every_key(tmp_path):
    assert load(write(tmp_path, FULL)) == Family(
        name="mine",
        title="my law",
        natural=("h1", "h2"),
        log_partition="-a * log(-h1) + exp(h2)",
        domain=("h1 < 0", "-5 < h2", "h2 < 5"),
        sufficient_statistics=("y**b", "log(y)"),
        constants=(Constant("a", "known constant", 2.0), Constant("b", "exponent", 3.0, True)),
        density=Density("1 / y", "counts", "7"),
        sampler=Sampler("Weibull", {"scale": "-1 / h1", "concentration": "2.5"}),
        links=(
            Link(
                "log_mean",
                ("log_mean", "other"),
                ("-exp(-log_mean)", "other / a"),
                ("other > 0",),
            ),
        ),
    )


def test_little_is_needed(tmp_path):
    spec = load(write(tmp_path, MINIMAL.replace('domain = "h < 0"\n', "")))
    assert (spec.domain, spec.structure, spec.title) == ((), "independent", "mine")
    assert load(write(tmp_path, b"\xef\xbb\xbf" + MINIMAL.encode())).domain == ("h < 0",)
    assert load(write(tmp_path, MINIMAL.replace("\n", "\r\n"))).domain == ("h < 0",)


def test_sampler_arguments_may_have_a_table(tmp_path):
    nested = changed("scale =", "[sampler.arguments]\nscale =")
    assert load(write(tmp_path, nested)) == load(write(tmp_path, FULL))


MISTAKES = [
    ("", "this file is empty; expected the keys name, natural"),
    ("# nothing\n", "name: this key is missing"),
    ("name = mine", r"not valid TOML: Invalid value \(at line 1, column 8\). Texts need quotes"),
    ('name = "mine"\nnatural = ["h"', r"line 2, column 15|end of document"),
    (b'name = "mi\xffne"', r"byte 0xff at line 1, column 11 is not UTF-8"),
    (b'\nname = "\x00"', r"not valid TOML: .*line 2"),
    ("x = " + "[" * 20_000, "not valid TOML: too deeply nested"),
    ("x = " + "9" * 10_000, "not valid TOML"),
    ("a" + ".a" * 20_000 + " = 1", "line 1 has more than 400 dots"),
    ("#" * (MAX_BYTES + 1), f"at most {MAX_BYTES} bytes"),
    ("#" * 10_000_000, f"at most {MAX_BYTES} bytes"),
    (changed("log_partition", "log_partitoin"), "log_partitoin: unknown key.*'log_partition'"),
    (changed("natural = [", "symbols = ["), "symbols: unknown key"),
    (MINIMAL.replace('name = "mine"', ""), "name: this key is missing"),
    (MINIMAL.replace("log_partition", "title"), "log_partition: this key is missing"),
    (MINIMAL.replace('"mine"', "3"), "name: expected text in quotes; got the number 3"),
    (MINIMAL.replace('"mine"', '"my law"'), "name: expected a plain identifier"),
    (MINIMAL.replace('"mine"', '"../mine"'), "name: expected a plain identifier"),
    (MINIMAL.replace('"mine"', '"class"'), "name: .* no keyword"),
    (MINIMAL.replace('"mine"', '"__init__"'), "name: expected a plain identifier"),
    (MINIMAL.replace('"mine"', '"' + "m" * 99 + '"'), "name: .* at most 64"),
    (MINIMAL.replace('["h"]', "[]"), "natural must list at least one symbol"),
    (MINIMAL.replace('["h"]', '["h", 1]'), r"natural\[1\]: expected text in quotes"),
    (MINIMAL.replace('["h"]', '["y"]'), "natural: 'y' already means something"),
    (MINIMAL.replace('["h"]', '["exp"]'), "natural: 'exp' already means something"),
    (MINIMAL.replace('"-log(-h)"', "1979-05-27"), "log_partition: expected text .* a date"),
    (MINIMAL.replace('"-log(-h)"', '"-log(-g)"'), r"unknown name 'g'.*line 1, column 7"),
    (MINIMAL.replace('"-log(-h)"', '"-lug(-h)"'), r"log_partition: unknown function 'lug'.*'log'"),
    (MINIMAL.replace('"-log(-h)"', '"h.__class__"'), r"log_partition: .*line 1, column 2"),
    (MINIMAL.replace('"-log(-h)"', '"9**9**9"'), r"log_partition: .*line 1, column 4"),
    (MINIMAL.replace('"-log(-h)"', '"sum(h)"'), r"log_partition: unknown function 'sum'"),
    (MINIMAL.replace('"-log(-h)"', '"atan2(h, h)"'), r"log_partition: unknown function 'atan2'"),
    (MINIMAL.replace('"-log(-h)"', '"""\nh +\n  x"""'), r"log_partition: .*line 2, column 3"),
    (MINIMAL.replace('"h < 0"', "0"), "domain: expected text or a list of texts; got the number 0"),
    (MINIMAL.replace('"h < 0"', '"g < 0"'), r"domain: expected an inequality.*line 1, column 1"),
    (MINIMAL.replace('"h < 0"', '"h < 0 and h < x"'), r"domain: .*line 1, column 15"),
    (MINIMAL.replace('"h < 0"', '"h < 0, h > 0"'), "domain of h is empty"),
    (MINIMAL.replace('"y"', '["y", "y"]'), "sufficient_statistics: expected one for each of h"),
    (MINIMAL.replace('"y"', '"z"'), "sufficient_statistics: unknown name 'z'"),
    (MINIMAL + 'structure = "jiont"', "structure: expected .*Did you mean 'joint'"),
    (MINIMAL + 'structure = "matrix"', "structure: expected 'independent' or 'joint'"),
    (MINIMAL + "density = 1", r"density: expected a table, \[density\]; got the number 1"),
    (changed("a = 2", "a = 0"), "constants.a: a must be a positive finite number"),
    (changed("a = 2", "a = nan"), "constants.a: a must be a positive finite number"),
    (changed("a = 2", 'a = "2"'), "constants.a: a must be a positive finite number"),
    (changed("a = 2", "k = 2"), "constant: 'k' already means something"),
    (changed("a = 2", "lambda = 2"), "constant: expected a plain identifier"),
    (changed("a = 2", "h1 = 2"), "must differ from each other; got 'h1' twice"),
    (changed("default = 3", "default = 3.5"), "constants.b: b must be a whole number"),
    (changed("default = 3,", ""), "constants.b.default: this key is missing"),
    (changed("integer = true", "integer = 1"), "constants.b.integer: expected true or false"),
    (changed("integer = true", "whole = true"), "constants.b.whole: unknown key"),
    (changed('"1 / y"', '"1 / h1"'), "density.base_measure: unknown name 'h1'"),
    (changed('"1 / y"', "[1]"), "density.base_measure: expected text in quotes; got a list"),
    (changed('"counts"', '"count"'), "density.support: .*Did you mean 'counts'"),
    (changed('"counts"', '"one_hot"'), "density.support: expected one of real"),
    (changed("largest = 7", 'largest = "y"'), "density.largest: unknown name 'y'"),
    (changed("largest", "biggest"), "density.biggest: unknown key"),
    (changed('distribution = "Weibull"', ""), "sampler.distribution: this key is missing"),
    (changed('"Weibull"', '"os.system"'), "sampler.distribution: expected the name of a class"),
    (changed('"Weibull"', '"_Weibull"'), "sampler.distribution: expected the name of a class"),
    (changed('"-1 / h1"', '"-1 / y"'), "sampler.scale: unknown name 'y'"),
    (changed('"-1 / h1"', "true"), "sampler.scale: expected text .*; got true or false"),
    (changed("concentration = 2.5", "arguments.scale = 1"), "sampler.scale: given twice"),
    (changed("[links.log_mean]", "[links]"), "links.outputs: expected a table"),
    (changed("[links.log_mean]", "[links.natural]"), "links.natural: this name stands for"),
    (changed("[links.log_mean]", '[links."a b"]'), "links.a b: expected a plain identifier"),
    (changed("outputs =", "output ="), "links.log_mean.output: unknown key.*'outputs'"),
    (changed('"other"]', '"log_mean"]'), "links.log_mean.outputs: 'log_mean' already has"),
    (changed('"other"]', '"a"]'), "links.log_mean.outputs: 'a' already has a meaning"),
    (changed('"other / a"]', '"h1"]'), "links.log_mean.natural: unknown name 'h1'"),
    (changed(', "other / a"]', "]"), "links.log_mean.natural: expected a formula for each of h1"),
    (changed('"other > 0"', '"h1 > 0"'), "links.log_mean.domain: expected an inequality"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_every_mistake_is_named_in_a_line(tmp_path, text, message):
    path = write(tmp_path, text)
    start = time.process_time()
    with pytest.raises(SpecError, match=message) as caught:
        load(path)
    assert time.process_time() - start < 1
    assert str(caught.value).startswith(f"{path}: ")
    shown = CliRunner().invoke(main, ["derive", str(path)])
    assert (shown.exit_code, shown.output) == (2, f"Error: {caught.value}\n")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.toml", "missing.toml: cannot be read: No such file"),
        (".", "this is a folder"),
        ("/dev/zero", "this is not a regular file"),
        ("a\0.toml", "cannot be read"),
        ("a" * 300 + ".toml", "cannot be read: File name too long"),
    ],
)
def test_what_is_no_file(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=message):
        load(path)
    with pytest.raises(SpecError):
        read(path)


def test_names_and_paths_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, MINIMAL).rename("poisson")
    assert read("poisson") is fimsym.family("poisson")
    assert read("./poisson").name == "mine"
    assert read(Path("poisson")).name == "mine"
    assert read(fimsym.family("gamma")) is fimsym.family("gamma")
    with pytest.raises(SpecError, match="Did you mean 'poisson'"):
        read("poison")
    with pytest.raises(SpecError, match="a family's name"):
        read(3)


def test_a_family_from_python_is_checked_alike():
    spec = Family(name="mine", log_partition="-log(-h)", domain="h < 0")
    assert spec.domain == ("h < 0",)
    with pytest.raises(SpecError, match="log_partition: unknown name 'g'"):
        Family(name="mine", log_partition="-log(-g)")
    with pytest.raises(SpecError, match="constants must be a tuple of Constant"):
        Family(name="mine", log_partition="exp(h)", constants={"a": 1})
    with pytest.raises(SpecError, match="density must be a Density or None"):
        Family(name="mine", log_partition="exp(h)", density="1")


def test_files_are_read_without_torch_and_sympy():
    script = (
        "import sys; from fimsym.families.file import load; load(sys.argv[1]);"
        "print({'torch', 'sympy', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, RAYLEIGH], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


# ---------------------------------------------------------------- the cache of evaluators


BODY = "SCALE = 3\n\n\ndef mean(h):\n    return SCALE * h\n"
SOURCE = f"""\
# Generated by `fimsym generate mine`. Do not edit:
# SymPy 1
# body sha256 {hashlib.sha256(BODY.encode()).hexdigest()}
{BODY}"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the cache folder, and a list that grows with every generation."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FIMSYM_CACHE", str(folder))
    calls = []

    def generate(spec):
        calls.append(spec)
        return SOURCE

    monkeypatch.setattr(codegen, "generate", generate)
    before = set(sys.modules)
    yield folder, calls
    for name in set(sys.modules) - before:
        if name.startswith("fimsym_evaluator_"):
            del sys.modules[name]


def forget(module):
    del sys.modules[module.__name__]


def test_generated_once_and_read_afterwards(cache):
    folder, calls = cache
    spec = load(RAYLEIGH)
    module = evaluator(spec)
    assert evaluator(load(RAYLEIGH)) is module
    forget(module)
    again = evaluator(spec)
    assert again is not module
    assert calls == [spec]
    (path,) = folder.iterdir()
    assert Path(again.__file__) == path
    assert re.fullmatch(r"rayleigh_[0-9a-f]{64}\.py", path.name)
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    assert path.read_text() == SOURCE
    h = torch.tensor([0.5])
    assert pickle.loads(pickle.dumps(again.mean))(h) == again.mean(h)


def test_every_specification_has_a_module_of_its_own(cache):
    folder, calls = cache
    first = evaluator(Family(name="mine", log_partition="exp(h)"))
    second = evaluator(Family(name="mine", log_partition="exp(2 * h)"))
    assert first is not second
    assert len(calls) == len(list(folder.iterdir())) == 2
    assert evaluator("gaussian") is evaluator(fimsym.family("gaussian"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-10],
        lambda text: text + "import os\n",
        lambda text: text.replace("SCALE = 3", "SCALE = 2"),
        lambda text: "import os\n" + text,
        lambda text: text.replace("# SymPy", "import os\n# SymPy", 1),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_file_is_replaced(cache, damage):
    folder, calls = cache
    spec = load(RAYLEIGH)
    forget(evaluator(spec))
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    evaluator(spec)
    assert len(calls) == 2
    assert path.read_text() == SOURCE


def test_a_folder_others_can_write_to_is_refused(cache):
    folder, _ = cache
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(DomainError, match=rf"others can write .*chmod go-w {folder}"):
        evaluator(load(RAYLEIGH))


def test_a_folder_of_someone_else_is_refused(cache, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DomainError, match="belongs to user"):
        evaluator(load(RAYLEIGH))


def test_without_a_usable_folder_there_is_a_private_one(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIMSYM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="Not a directory. Generated evaluators are kept in"):
        module = evaluator(load(RAYLEIGH))
    assert Path(module.__file__).parent.stat().st_mode & 0o777 == 0o700


def test_without_space_there_is_a_private_folder(cache, monkeypatch):
    folder, _ = cache
    true = os.replace

    def full(source, target):
        if Path(target).parent == folder:
            raise OSError(28, "No space left on device")
        true(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        module = evaluator(load(RAYLEIGH))
    assert Path(module.__file__).parent != folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"XDG_CACHE_HOME": "/x"}, "/x/fimsym"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, "/home/me/.cache/fimsym"),
        ({"FIMSYM_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/home/me"}, "/home/me/.cache/fimsym"),
        ({"FIMSYM_CACHE": "~/f", "XDG_CACHE_HOME": "/x", "HOME": "/home/me"}, "/home/me/f"),
    ],
)
def test_where_the_folder_is(monkeypatch, variables, place):
    from fimsym.generated import _wanted

    monkeypatch.delenv("FIMSYM_CACHE", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(_wanted()) == place


# ------------------------------------------------------------------- the whole walk


@pytest.mark.parametrize("name", ["rayleigh", "weibull"])
def test_documented_families_pass_every_step(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FIMSYM_CACHE", str(tmp_path / "cache"))
    path = ROOT / f"docs/families/{name}.toml"
    target = tmp_path / "mine.py"
    derived = CliRunner().invoke(main, ["derive", str(path)])
    assert derived.exit_code == 0, derived.output
    generated = CliRunner().invoke(main, ["generate", str(path), "-o", str(target)])
    assert generated.exit_code == 0, generated.output
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module = evaluator(load(path))
    assert Path(module.__file__).read_text() == target.read_text()

    h = torch.tensor([[-0.5, -2.0], [-1e-3, -30.0]], dtype=torch.float64)
    u = torch.tensor([[[1.0], [2.0]], [[-0.5], [0.25]]], dtype=torch.float64)
    fisher = (u**2 / h[..., None] ** 2).sum(-2)  # F = −log(−h) + constant
    torch.testing.assert_close(module.mean(h), -1 / h)
    torch.testing.assert_close(module.fisher(h, u), fisher)
    fourth = (6 * u**4 / h[..., None] ** 4).sum(-2)
    torch.testing.assert_close(module.variance_score_squared(h, u), fourth + 2 * fisher**2)
    torch.testing.assert_close(module.covariance(h, u, u), (2 * u**3 / h[..., None] ** 3).sum(-2))


def test_a_generated_file_needs_no_symbolic_half(tmp_path):
    target = tmp_path / "mine.py"
    target.write_text(codegen.generate(load(RAYLEIGH)))
    script = (
        "import sys, mine, torch; mine.mean(torch.tensor([-1.0]));"
        "print({'sympy', 'jinja2', 'fimsym.derivation', 'fimsym.codegen'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("command", ["derive", "generate"])
def test_what_is_no_log_partition_is_refused(tmp_path, command):
    path = write(tmp_path, MINIMAL.replace("-log(-h)", "log(-h)"))
    shown = CliRunner().invoke(main, [command, str(path)])
    assert shown.exit_code == 2
    assert "log_partition is not convex at h = -" in shown.output
    assert "Traceback" not in shown.output
