"""Commands that make sources of other projects' data."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Convert another project's data to a data source (`data.source`).", no_args_is_help=True)


@app.callback()
def convert() -> None:
    """Make a source (`data.source`) of another project's data."""


@app.command()
def htfllib(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="HtFLlib's or PFLlib's data set: dataset/<name>.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
) -> None:
    """Convert a data set that HtFLlib or PFLlib partitioned (train/0.npz, ... and test/) to Parquet (column `client`).

    These files are pickles, which can contain code. A separate process reads them and creates numpy arrays only; a file
    that contains anything else stops the command with an error that names it.
    """
    from fd_flower.cli import convert as converting
    from fd_flower.cli.paths import absolute

    here = Path.cwd()
    for line in converting.htfllib(absolute(folder, here), absolute(out, here)):
        typer.echo(line)
