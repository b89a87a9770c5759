"""The command that tells what each client of a run adds to the others."""

from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import console


def analyze(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run that kept clients' models.")],
) -> None:
    """Show what each client adds to the mean of all clients' predictions, overall and by class, and to their samples.

    Writes tables, a figure and `analysis.json` into RUN/analysis.
    """
    from fd_flower.cli import analyze as analyzing
    from fd_flower.cli.paths import absolute

    path = absolute(run, Path.cwd())
    found = analyzing.analyzed(path)
    analyzing.write(found, path, console())
    typer.echo(path / analyzing.FOLDER / analyzing.PAGE)
