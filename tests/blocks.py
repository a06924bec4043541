"""Code blocks of a Markdown page: find them, run them, compare what they print.

* ``python`` blocks run in order, in one namespace for the page. One that begins with
  ``# name.py`` is a file of that name, for the blocks after it to import.
* ``console`` blocks hold commands after ``$`` and what these print; ``sh`` blocks commands.
  ``fimsym`` runs in this process, as does what ``torchrun`` starts; of ``make`` and ``pip`` it
  is checked that what they name exists.
* ``toml`` blocks are specifications of families, which load.
* ``text`` is what the block right before it prints, an error's last line included; elsewhere
  it is only text.

In what is printed ``…`` stands for anything, and numbers may differ by one in the last place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import runpy
import shlex
import socket
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from unittest import mock

from click.testing import CliRunner
from markdown_it import MarkdownIt

import fimsym
from fimsym.cli import main
from fimsym.errors import FimsymError

ROOT = Path(__file__).parent.parent
NUMBER = r"[-+]?\d[\d,]*(?:\.\d*)?(?:e[-+]?\d+)?"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: The first word after the fence; ``"indented"`` for a block without one.
        code: Its text.
        line: Number of its fence in the page.
        shown: The text block right after it, if there is one.
        silent: Whether it is such a text block.
    """

    language: str
    code: str
    line: int
    shown: str | None = None
    silent: bool = False


def blocks(page: str) -> Iterator[Block]:
    """Yield the code blocks of a page; directives of the documentation are none."""
    tokens = MarkdownIt().parse(page)
    before = None
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        shown = after.content if after and _language(after) == "text" else None
        language = _language(token)
        if language and not language.startswith("{"):
            silent = language == "text" and before == "python"
            yield Block(language, token.content, token.map[0] + 1, shown, silent)
        before = language


def _language(token):
    if token.type == "code_block":
        return "indented"
    return (token.info.split() or ["unnamed"])[0] if token.type == "fence" else None


def run(block: Block, names: dict) -> str:
    """Return what a block prints; `names` is the namespace of its page.

    Raises:
        AssertionError: the block is of no kind that can be run, or its command failed.
    """
    if block.language == "python":
        return _python(block, names)
    if block.language == "console":
        return "".join(f"{line}{_command(line[2:])}" for line in _commands(block.code))
    if block.language == "sh":
        return "".join(_command(line) for line in block.code.splitlines())
    if block.language == "toml":
        path = Path(f"{tomllib.loads(block.code)['name']}.toml")
        path.write_text(block.code)
        fimsym.load_family(path)
    else:
        assert block.language == "text", f"line {block.line}: {block.language} block is not run"
    return ""


def _python(block, names):
    named = re.match(r"# (\w+\.py)\n", block.code)
    if named:
        Path(named[1]).write_text(block.code)
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(compile("\n" * block.line + block.code, "page", "exec"), names)
        except FimsymError as error:
            if block.shown is None:
                raise
            print(f"{type(error).__module__}.{type(error).__name__}: {error}")
    return printed.getvalue()


def _commands(code):
    lines = re.sub(r"\\\n\s*", "", code).splitlines(keepends=True)
    found = [line for line in lines if line.startswith("$ ")]
    assert found, f"no command in\n{code}"
    return found


def _command(text: str) -> str:
    """Run a command and return what it prints."""
    words = shlex.split(text, comments=True)
    if words[:1] == ["torchrun"] and "-m" in words:
        words = words[words.index("-m") + 1 :]
    elif words[:1] == ["torchrun"]:
        return _one_process(words[-1])
    if words[:1] == ["fimsym"]:
        done = CliRunner().invoke(main, words[1:])
        unexpected = done.exception and not isinstance(done.exception, SystemExit)
        assert not unexpected, f"{text}: {done.exception!r}"
        return done.output
    return _named(text, words)


def _one_process(script):
    """Return what a script prints that torchrun starts, here as a group of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    printed = io.StringIO()
    with mock.patch.dict(os.environ, group), contextlib.redirect_stdout(printed):
        runpy.run_path(script, run_name="__main__")
    return printed.getvalue()


def _named(text, words):
    """Check that what a command of the shell names exists."""
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    if words[:1] == ["make"]:
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"no target: {text}"
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[(.*?)\]", text):
            assert set(extra.split(",")) <= set(extras), text
    elif words and words[:2] != ["git", "clone"] and words[0] not in ("cd", ".", "python3"):
        path = next((word for word in words if (ROOT / word).exists()), None)
        assert path or "pytest" in words, f"nobody runs: {text}"
    return ""


def expected(block: Block) -> str | None:
    """Return what the page says a block prints, None if it does not say."""
    if block.language == "console":
        return re.sub(r"\\\n\s*", "", block.code)
    return block.shown if block.language == "python" else None


def differences(shown: str, printed: str) -> str:
    """Return the first line of `shown` that `printed` does not have in its place, or ``""``."""
    got = [line.rstrip() for line in printed.splitlines()]
    at, anywhere = 0, False
    for line in shown.rstrip().splitlines():
        if line.strip() == "…":
            anywhere = True
            continue
        places = range(at, len(got)) if anywhere else range(at, min(at + 1, len(got)))
        place = next((n for n in places if _alike(line.rstrip(), got[n])), None)
        if place is None:
            return f"the page shows\n{line}\nbut printed was\n{chr(10).join(got[at : at + 12])}"
        at, anywhere = place + 1, False
    rest = [line for line in got[at:] if line]
    return "" if anywhere or not rest else f"the page leaves out\n{chr(10).join(rest)}"


def _alike(shown, got):
    """Compare two lines; numbers may differ by one in the last digit shown."""
    pattern, numbers = "", []
    for part in re.split(rf"({NUMBER}|\s+|…)", shown):
        if re.fullmatch(NUMBER, part):
            numbers.append(part)
            pattern += f"({NUMBER})"
        else:
            pattern += {"…": ".*"}.get(part, r"\s+" if part.isspace() else re.escape(part))
    found = re.fullmatch(pattern, got)
    return bool(found) and all(map(_close, numbers, found.groups()))


def _close(shown, got):
    shown, got = (Decimal(text.replace(",", "")) for text in (shown, got))
    return abs(shown - got) <= Decimal(1).scaleb(shown.as_tuple().exponent)


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """Work in a new folder in which ``docs`` is the documentation; forget its modules after."""
    with tempfile.TemporaryDirectory() as path, contextlib.chdir(path):
        Path("docs").symlink_to(ROOT / "docs")
        before = set(sys.modules)
        sys.path.insert(0, "")
        try:
            yield
        finally:
            sys.path.remove("")
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(path):
                    del sys.modules[name]
