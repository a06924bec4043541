"""The command, as a user types it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import fimsym
from fimsym import codegen
from fimsym.cli import main
from fimsym.cli.printing import print_table


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


SMALL = ("--samples", "2000", "--inputs", "2", "--output-samples", "20000", "--no-checkpoint")


def test_version_and_help():
    assert run("--version").output == f"fimsym, version {fimsym.__version__}\n"
    help_text = run("--help")
    assert help_text.exit_code == 0
    assert "130" in help_text.output
    for command in main.commands:
        assert command in help_text.output
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert ("--model" in shown.output) == ("IDX" in shown.output)


def test_module_and_script_are_the_same():
    script = Path(sys.executable).parent / "fimsym"
    outputs = {
        subprocess.run([*command, "families"], capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "fimsym"], [script])
    }
    assert len(outputs) == 1


def test_families():
    shown = run("families")
    assert shown.exit_code == 0
    for name in fimsym.families():
        assert name in shown.output
    assert [f["name"] for f in json.loads(run("families", "--json").output)] == list(
        fimsym.families()
    )


def test_derive_in_every_format():
    assert "V₁ = Σ_i(d_i² p_i)" in run("derive", "categorical").output
    assert "V₁ = 2 I²" in run("derive", "gaussian", "--format", "pretty").output
    latex = run("derive", "categorical", "--format", "latex").output
    assert latex.startswith(r"\begin{aligned}")
    assert latex.count("{") == latex.count("}")
    record = json.loads(run("derive", "categorical", "--format", "json").output)
    assert record == json.loads(run("derive", "categorical", "--json").output)
    assert all(proof["residual"] == "0" for proof in record["proofs"])
    assert record["quantities"]["variance_score_squared"] == str(
        fimsym.derive("categorical").variance_score_squared
    )


def test_generate(tmp_path):
    assert run("generate", "gaussian").output == fimsym.generate("gaussian")
    target = tmp_path / "mine.py"
    assert run("generate", "gaussian", "-o", str(target)).exit_code == 0
    assert target.read_text() == fimsym.generate("gaussian")


def test_check_of_generated_code(monkeypatch):
    monkeypatch.setattr(codegen, "stale", list)
    fresh = run("generate", "--check")
    assert (fresh.exit_code, fresh.output) == (0, "generated code is up to date\n")
    monkeypatch.setattr(codegen, "stale", lambda: [("gaussian.py", "a = 1\n", "a = 2\n")])
    stale = run("generate", "--check")
    assert stale.exit_code == 1
    assert "-a = 1\n+a = 2" in stale.output
    assert "make generate" in stale.output


def test_validate_prints_a_table_and_writes_a_page(tmp_path):
    page = tmp_path / "page.html"
    shown = run("validate", "categorical", "bernoulli", *SMALL, "--report", str(page))
    assert shown.exit_code == 0, shown.output
    assert "digits" in shown.output
    assert "breast_cancer" in shown.output
    assert "largest |z|" in shown.output
    assert re.search(r"^agreed: [\d,]+ tests", shown.output, re.MULTILINE)
    text = page.read_text()
    assert text.count("<svg") == 2 + 4 * 3
    assert text.index("agreed") < text.index("<table")
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)|url\(([^)]+)\)|@import""", text)
    assert all((a or b).startswith(("#", "data:")) for a, b in links)
    assert "<script" not in text
    boxes = re.findall(r"<rect[^>]*>", text)
    assert boxes
    assert all("width=" in box and "height=" in box for box in boxes)


def test_validate_as_json(tmp_path):
    shown = run("validate", "categorical", *SMALL, "--json", "--no-report")
    assert shown.exit_code == 0
    record = json.loads(shown.output)
    assert record["agrees"] is True
    names = [model["name"] for model in record["models"]]
    assert names == ["random h, u, v", "digits", "digits and ink", "anes96"]
    assert {c["quantity"] for c in record["models"][0]["comparisons"]} >= {"covariance"}


def test_disagreement_exits_with_1(monkeypatch, tmp_path):
    module = fimsym.evaluator("gaussian")
    true = module.moments
    monkeypatch.setattr(module, "moments", lambda h, u, v, sigma: true(h, u, v, sigma=1.1 * sigma))
    page = tmp_path / "page.html"
    shown = run("validate", "gaussian", *SMALL, "--report", str(page))
    assert shown.exit_code == 1
    assert "DISAGREE" in shown.output
    assert "disagreed" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("derive", "catgorical"), "Did you mean 'categorical'"),
        (("generate", "poison"), "unknown family 'poison'"),
        (("generate",), "got nothing"),
        (("generate", "gaussian", "--all"), "got NAME and --all"),
        (("generate", "gaussian", "-o", "/dev/null"), "not a regular file"),
        (("validate", "--report", ""), "an empty path"),
        (("generate", "gaussian", "-o", "a" * 300), "too long"),
        (("generate", "gaussian", "-o", "missing/dir/x.py"), "no folder missing/dir"),
        (("validate", "gausian"), "Did you mean 'gaussian'"),
        (("validate", "--report", "."), "it is a folder"),
        (("validate", "--report", "missing/page.html"), "no folder missing"),
        (("validate", "--parameters", "0", "--no-report"), "positive integer"),
        (("validate", "--parameters", "-5", "--no-report"), "positive integer"),
        (("validate", "--samples", "5", "--no-report"), "from 1,000"),
        (("validate", "--seed", "-4", "--no-report"), "seed must be"),
        (("validate", "--inputs", "0", "--no-report"), "inputs must be"),
        (("validate", "--samples", "many"), "not a valid integer"),
        (("derive", "categorical", "--format", "word"), "'word' is not one of"),
        (("derivee",), "No such command"),
    ],
)
def test_bad_input_exits_with_2_and_no_traceback(arguments, message):
    shown = run(*arguments)
    assert shown.exit_code == 2
    assert message in shown.output
    assert "Traceback" not in shown.output
    assert shown.exception is None or isinstance(shown.exception, SystemExit)


def test_brackets_and_colons_in_tables_are_text(capsys):
    print_table(("name", "unit"), [("pace", "[red][/km]:smile:"), ("a", "[/]")], "speed [/km] :x:")
    shown = capsys.readouterr().out
    for text in ("speed [/km] :x:", "[red][/km]:smile:", "[/]"):
        assert text in shown


@pytest.mark.parametrize("arguments", [("families",), ("families", "--json")])
def test_a_full_disk_is_said_to_be_one(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fimsym", *arguments], stdout=full, stderr=-1, text=True
        )
    assert done.returncode in (2, 120)  # Python's own if the last flush fails, too
    assert done.stderr.startswith("Error: cannot write the output: No space left on device.")
