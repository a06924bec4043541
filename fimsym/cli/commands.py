"""Every subcommand. Heavy imports happen inside, so that ``--help`` is instant."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from fimsym import __version__
from fimsym.cli.analyze import analyze_command
from fimsym.cli.audit import audit_command
from fimsym.cli.estimate import estimate_command
from fimsym.cli.failures import placed, told, where
from fimsym.cli.plan import plan_command
from fimsym.cli.printing import echo, print_json, print_table
from fimsym.cli.processes import INTERRUPTED, print_error, print_interruption
from fimsym.cli.reproduce import reproduce_command
from fimsym.cli.validate import validate_command
from fimsym.errors import FimsymError, SpecError


class Commands(click.Group):
    """A group whose commands report what the user can mend in a line, and exit with 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, turning expected errors into messages."""
        try:
            return super().invoke(ctx)
        except FimsymError as error:
            print_error(placed(error))
            ctx.exit(2)
        except KeyboardInterrupt:
            print_interruption("interrupted; nothing was written")
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except (Exception, SystemExit) as error:
            if where(error):
                print_error(f"the model failed: {told(error)}.")
            elif isinstance(error, OSError):
                print_error(f"{type(error).__name__}: {error}".rstrip(": ") + ".")
            else:
                raise
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fimsym")
def main() -> None:
    """Fisher information diagonals with error bars.

    Write down a log-partition; get back proven formulas, stable vectorised torch code, and
    a network's Fisher diagonal with the variances of its estimators.

    Exit status: 0 agreed or done, 1 disagreed, 2 bad input, 130 ended by Ctrl-C.
    """


main.add_command(analyze_command)
main.add_command(audit_command)
main.add_command(estimate_command)
main.add_command(plan_command)
main.add_command(reproduce_command)
main.add_command(validate_command)


@main.command("families")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_families(as_json: bool) -> None:
    """List the built-in output families."""
    from fimsym.families import families, family

    specs = [family(name) for name in families()]
    if as_json:
        print_json([json.loads(spec.canonical()) for spec in specs])
        return
    laws = [
        (
            spec.name,
            ", ".join(spec.sufficient_statistics),
            spec.log_partition,
            ", ".join(spec.domain) or "R",
            ", ".join(f"{c.name}={c.default:g}" for c in spec.constants) or "–",
        )
        for spec in specs
    ]
    print_table(("name", "t(y)", "F(h)", "h in", "constants"), laws, "Laws of one target")
    links = [(spec.name, ", ".join(["natural", *(x.name for x in spec.links)])) for spec in specs]
    print_table(("name", "links"), links, "What a network may put out")


@main.command("derive")
@click.argument("name", metavar="NAME_OR_FILE")
@click.option(
    "--format",
    "style",
    type=click.Choice(["pretty", "latex", "json"]),
    default="pretty",
    show_default=True,
    help="How to print the formulas.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
def derive_command(name: str, style: str, as_json: bool) -> None:
    """Derive and prove a family's formulas from its log-partition.

    NAME_OR_FILE is a family of `fimsym families`, or a TOML file that specifies one.
    """
    from fimsym.families.file import read

    spec = read(name)
    from fimsym.derivation import derive
    from fimsym.derivation.record import as_dict, pretty

    derivation = derive(spec)
    if as_json or style == "json":
        print_json(as_dict(derivation))
    elif style == "latex":
        echo(derivation.latex())
    else:
        echo(pretty(derivation))


@main.command("generate")
@click.argument("name", required=False, metavar="NAME_OR_FILE")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file.")
@click.option("--all", "everything", is_flag=True, help="Rewrite every checked-in evaluator.")
@click.option("--check", is_flag=True, help="Exit 1 if a checked-in evaluator is stale.")
def generate_command(name: str | None, output: Path | None, everything: bool, check: bool) -> None:
    """Generate a family's evaluators as one torch module.

    NAME_OR_FILE is a family of `fimsym families`, or a TOML file that specifies one. The
    source goes to standard output, or to the file of --output.
    """
    from fimsym.families.file import read

    given = {"NAME": name is not None, "--all": everything, "--check": check}
    if sum(given.values()) != 1:
        came = " and ".join(word for word, present in given.items() if present) or "nothing"
        raise SpecError(
            f"expected exactly one of NAME, --all and --check; got {came}. "
            "For example: fimsym generate categorical."
        )
    if output is not None and name is None:
        raise SpecError("--output goes with NAME_OR_FILE; got it with --all or --check.")
    spec = None if name is None else read(name)
    from fimsym import codegen
    from fimsym.report.files import check_writable, write

    if spec is not None and output is not None:
        check_writable(output)
    if check:
        _check_generated(codegen.stale())
    elif everything:
        changed = codegen.regenerate()
        echo(f"rewrote {', '.join(changed)}" if changed else "nothing has changed")
    elif spec is not None and output is not None:
        write(output, codegen.generate(spec))
        echo(f"wrote {output}")
    elif spec is not None:
        echo(codegen.generate(spec), newline=False)


def _check_generated(stale):
    import difflib

    for name, present, fresh in stale:
        lines = difflib.unified_diff(
            present.splitlines(), fresh.splitlines(), f"checked in: {name}", "derived", lineterm=""
        )
        echo("\n".join(lines))
    if stale:
        click.echo("generated code is stale; run: make generate", err=True)
        sys.exit(1)
    echo("generated code is up to date")
