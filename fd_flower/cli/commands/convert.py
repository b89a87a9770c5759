"""Commands that make sources of other projects' data."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make a source (`data.source`) of another project's data.", no_args_is_help=True)


@app.callback()
def convert() -> None:
    """Make a source (`data.source`) of another project's data."""


@app.command()
def htfllib(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set of theirs: dataset/<name>.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
) -> None:
    """Write Parquet with a column `client` of what HtFLlib or PFLlib dealt out: train/0.npz, ... and test/.

    Such files are pickles, which can hold programs. They are read in a process of its own that makes numpy's arrays of
    them and nothing else; a file that asks for more is refused, and named.
    """
    from fd_flower.cli import convert as converting
    from fd_flower.cli.paths import absolute

    here = Path.cwd()
    for line in converting.htfllib(absolute(folder, here), absolute(out, here)):
        typer.echo(line)
