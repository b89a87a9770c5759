"""The command that measures what shared knowledge leaks."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import Output, console
from fd_flower.cli.options import Out, Recipe, Set, Task, from_here


def audit(
    context: typer.Context,
    methods: Annotated[list[str], typer.Argument(metavar="METHOD|RUN...", callback=from_here)],
    set: Set = None,
    recipe: Recipe = None,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per method, starting at run.seed.")] = 1,
    candidates: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Training samples of each client that are attacked, and as many held-out ones. Default: what the "
            "smallest client has, at most 100.",
        ),
    ] = None,
    shadow_steps: Annotated[
        int, typer.Option(min=1, help="Training steps of each model that the server trains for its attacks.")
    ] = 500,
) -> None:
    """Measure what the server learns about clients' training samples from what they send: membership inference.

    METHOD is run, or the settings of the finished RUN are run again; no run folder is written. Writes tables, a figure
    and `audit.json`.
    """
    from fd_flower.audit.report import PAGE
    from fd_flower.cli import audit as auditing
    from fd_flower.cli.run import changes_of

    output: Output = context.obj
    logging.getLogger("flwr").setLevel(logging.WARNING)
    changes = changes_of(set or [], recipe) if set or recipe else []
    audits = auditing.ordered(methods, changes, None, out, task, seeds, candidates, shadow_steps)
    with output.board() as board:
        auditing.carry_out(audits, board, output)
    auditing.write(audits, console())
    if (page := Path(audits.path / PAGE)).is_file():
        typer.echo(f"report: {page}")
        typer.echo(page.parent)
    if audits.failures:
        raise typer.Exit(1)
