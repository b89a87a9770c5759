"""Commands that write a skeleton to start from."""

from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import Output

new = typer.Typer(no_args_is_help=True, help="Create a tested skeleton of a method or a Flower project.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, '-' and '_'.")]


@new.command()
def method(context: typer.Context, name: Name) -> None:
    """Create the method NAME: a package with both halves, options, a recipe, an entry point and tests."""
    from fd_flower.cli import scaffold

    _say(context.obj, scaffold.method(name, Path.cwd()))


@new.command()
def project(context: typer.Context, name: Name) -> None:
    """Create the Flower project NAME: your model and data as a task, a ServerApp, a ClientApp and a test."""
    from fd_flower.cli import scaffold

    _say(context.obj, scaffold.project(name, Path.cwd()))


def _say(output: Output, made: Path) -> None:
    if not output.quiet:
        typer.echo(f"next: cd {made.name} && pip install -e . --no-deps && pytest, then what README.md says")
    typer.echo(made)
