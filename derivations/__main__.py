"""The derivations as notebooks: ``python -m derivations``."""

from __future__ import annotations

from pathlib import Path

import click
import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from fimsym.report.progress import progress

FOLDER = Path(__file__).parent


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--output",
    default="build/notebooks",
    show_default=True,
    type=click.Path(path_type=Path),
)
def main(names: tuple[str, ...], output: Path) -> None:
    """Execute the chapters that begin with NAMES, all by default; write notebooks."""
    chapters = [
        path
        for path in sorted(FOLDER.glob("[0-9]*.py"))
        if path.name.startswith(names or "")
    ]
    if not chapters:
        known = ", ".join(path.stem for path in sorted(FOLDER.glob("[0-9]*.py")))
        raise click.ClickException(
            f"no chapter begins with {', '.join(names)}; there are {known}."
        )
    output.mkdir(parents=True, exist_ok=True)
    failed = []
    with progress("notebooks", len(chapters), True) as advance:
        for path in chapters:
            failed += execute(path, output / f"{path.stem}.ipynb")
            advance(1)
    if failed:
        raise click.ClickException("\n".join(failed))
    click.echo(f"wrote {len(chapters)} notebooks to {output}")


def execute(chapter: Path, notebook: Path) -> list[str]:
    """Run a chapter and write it as far as it came; return what went wrong."""
    book = jupytext.read(chapter)
    client = NotebookClient(
        book,
        timeout=600,
        kernel_name="python3",
        config=Config(KernelManager={"transport": "ipc"}),
        resources={"metadata": {"path": FOLDER.parent}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return [f"{chapter.name}: {error.ename}: {error.evalue}"]
    finally:
        nbformat.write(book, notebook)
    return []


if __name__ == "__main__":
    main()
