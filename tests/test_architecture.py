"""What may import what, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


ANALYSIS = """
import fimsym, torch
from torch import nn
model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).eval()
fimsym.analyze(model, torch.ones(2, 3), 'categorical', progress=False,
"""


def loaded_after(code):
    """Return which of the heavy packages a fresh interpreter has loaded after `code`."""
    check = "import sys; print(*sorted({'torch', 'sympy', 'numpy'} & set(sys.modules)))"
    script = f"import sys\nsys.argv = ['fimsym', '--help']\n{code}\n{check}"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_data_flows_one_way():
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_oracles_import_nothing_they_judge():
    for path in (ROOT / "tests/reference").glob("*.py"):
        assert not [name for name in imported(path) if name.startswith("fimsym")], path


def test_generated_code_imports_torch_and_the_runtime_alone():
    for path in (ROOT / "fimsym/generated").glob("*.py"):
        if path.stem != "__init__":
            allowed = {"__future__", "torch", "fimsym", "fimsym.runtime"}
            assert set(imported(path)) <= allowed


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import fimsym; fimsym.families(); fimsym.family('gaussian')", set()),
        ("import fimsym.cli\ntry: fimsym.cli.main()\nexcept SystemExit: pass", set()),
        ("import fimsym; fimsym.derive", {"sympy"}),
        ("import fimsym; fimsym.evaluator('categorical')", {"torch", "numpy"}),
        ("import fimsym; fimsym.analyze; fimsym.validate", {"torch", "numpy"}),
        (f"{ANALYSIS} quantities=('fisher', 'variance_score_squared'))", {"torch", "numpy"}),
    ],
)
def test_only_what_is_needed_is_loaded(code, heavy):
    # torch itself loads SymPy in some versions only when compiling, never at import.
    assert loaded_after(code) == heavy


def test_lazy_names_resolve():
    import fimsym

    for name in fimsym.__all__:
        assert getattr(fimsym, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fimsym.nonsense
    assert "derive" in dir(fimsym)
