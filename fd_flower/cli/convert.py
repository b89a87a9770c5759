"""``fd-flower convert``: other projects' data as sources."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import typer

from fd_flower.cli.paths import path_word
from fd_flower.config import DataConfig
from fd_flower.data import htfllib as layout

WARNING = (
    "these files are pickles, which can run programs: they are read in a process of its own that makes nothing but "
    "arrays of them; convert none that you would not open otherwise"
)


def htfllib(folder: Path, out: Path) -> Iterator[str]:
    """Convert a data set of HtFLlib or PFLlib; yield what was written, how it is run, and the folder."""
    typer.echo(f"fd-flower: {WARNING}", err=True)
    made = layout.convert(folder, out)
    rows = ", ".join(f"{count:,} {split}" for split, count in made.rows.items())
    what = "images" if made.images else "inputs"
    yield f"{made.clients} clients, {rows} rows, {what} {list(made.shape)}"
    if made.images:
        words = [path_word("data.source", out), "data.column=client", f"data.clients={made.clients}"]
        words += ["data.own_test=true"] if "test" in made.rows else []
        words += [f"data.min_rows={made.smallest}"] if made.smallest < DataConfig().min_rows else []
        yield f"fd-flower compare local fd --set {shlex.quote(' '.join(words))}"
    else:
        yield (
            "these are no images: task = Task.from_dataset(load_dataset('parquet', data_dir="
            f"{str(out)!r}), x='x', y='label'), and data.column=client data.clients={made.clients}"
        )
    yield str(out)
