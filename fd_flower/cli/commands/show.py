"""Commands that show what there is and what a run would do; they write no run."""

from pathlib import Path
from typing import Annotated

import typer

from fd_flower.cli.console import console
from fd_flower.cli.options import Method, Recipe, Set, Task, from_here
from fd_flower.core.errors import InvalidInputError


def methods() -> None:
    """List all methods: what each does, needs and exchanges."""
    from fd_flower.cli import describe as describing

    console().print(describing.methods_table())


def describe(method: Method, set: Set = None, recipe: Recipe = None) -> None:
    """Describe METHOD: its needs, its evaluation point, and every option with its value."""
    from fd_flower.cli import describe as describing
    from fd_flower.cli.run import words_of

    for part in describing.described(method, words_of(set or [], recipe)):
        console().print(part)


def data(
    method: Annotated[str, typer.Argument(metavar="[METHOD]", callback=from_here)] = "fd",
    set: Set = None,
    recipe: Recipe = None,
    task: Task = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE|DIR", help="Image file to write.")] = None,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="Also count clusters of encoder features (data.encoder).")
    ] = False,
) -> None:
    """Show the samples of each class at each client, as partitioned in a run of METHOD (default: `fd`)."""
    from fd_flower.cli import data as showing

    showing.show(method, set or [], recipe, out, console(), task=task, clusters=clusters)


def estimate(
    method: Method,
    set: Set = None,
    recipe: Recipe = None,
    task: Task = "",
    rounds: Annotated[int, typer.Option(min=3, help="Number of rounds to run.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Number of training steps per loop.")] = 4,
    numbers: Annotated[
        bool, typer.Option("--numbers", help="Count the floating-point numbers per round, by payload.")
    ] = False,
    models: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="Instead, rank these architectures as students of --teacher, untrained."),
    ] = "",
    teacher: Annotated[str, typer.Option(metavar="NAME", help="Architecture of the teacher of --models.")] = "",
) -> None:
    """Estimate bytes and CPU time of a run of METHOD from a few short rounds. Writes nothing."""
    from fd_flower.cli import estimate as estimating
    from fd_flower.cli import students

    if bool(models) != bool(teacher):
        raise InvalidInputError("--models and --teacher go together: --models lenet,cnn:0.5 --teacher resnet8")
    if models:
        students.show(method, set or [], recipe, task, models, teacher, console())
        return
    estimating.show(method, set or [], recipe, task, rounds, steps, console(), numbers=numbers)


def doctor(
    node: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also check a device: the folder with its key and node.toml.")
    ] = None,
    timed: Annotated[
        str | None,
        typer.Option("--time", metavar="METHOD", help="Instead, time turns of METHOD with 1, 2, 4, ... workers."),
    ] = None,
    set: Set = None,
) -> None:
    """Check this machine and print a fitting `--federation-config`, or check whether it can be a device."""
    from fd_flower.cli import doctor as checking
    from fd_flower.cli import throughput
    from fd_flower.cli.paths import absolute

    if timed is not None and node is not None:
        raise InvalidInputError("--time and --node look at different things: leave out one of them")
    if set and timed is None:
        raise InvalidInputError("--set is for the run of --time METHOD: add it, or leave out --set")
    if timed is not None:
        if not throughput.show(timed, set or [], console()):
            raise typer.Exit(1)
        return
    if not checking.check(console(), None if node is None else absolute(node, Path.cwd())):
        raise typer.Exit(1)
