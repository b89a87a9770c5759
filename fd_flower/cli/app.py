"""The commands and their options, and how an error is told."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import click
import typer

from fd_flower import __version__
from fd_flower.cli.console import Interrupted, Output, console
from fd_flower.cli.paths import look_here
from fd_flower.core.errors import InvalidInputError

app = typer.Typer(
    name="fd-flower",
    help="Federated distillation for Flower: run methods, compare them, see what they left behind.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Engine(StrEnum):
    """Where rounds happen."""

    local = "local"
    flower = "flower"


Select = StrEnum("Select", ["global", "personal"])
"""Whose validation data choose; `global` is a word of Python's own."""


def _from_here(methods: str | list[str]) -> str | list[str]:
    """Let a method be imported from the user's directory."""
    look_here([methods] if isinstance(methods, str) else methods)
    return methods


Method = Annotated[str, typer.Argument(metavar="METHOD", callback=_from_here)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option, or several in quotes; `describe METHOD` lists them."),
]
Recipe = Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Another recipe than the method's own.")]
InEngine = Annotated[Engine, typer.Option(help="In this process, or in Flower's simulation.")]
Task = Annotated[str, typer.Option(metavar="MODULE:NAME", help="Your own task, found from your directory.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder to write.")]
Jobs = Annotated[int, typer.Option(min=1, help="Runs at a time, each a process with one thread.")]


@app.command()
def run(
    context: typer.Context,
    method: Method,
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    on: Annotated[
        Path | None, typer.Option(metavar="DIR", help="On the devices of the federation that `keys DIR` made.")
    ] = None,
) -> None:
    """Run METHOD (`fd-flower methods` lists them); the last line names the folder with its results."""
    from fd_flower.cli import run as runs
    from fd_flower.config.registry import short_name

    output: Output = context.obj
    order = runs.order(method, set or [], recipe, engine.value, out, task, on)
    with output.board() as board:
        folder = runs.execute(order, board, short_name(method))
        board.say(runs.outcome(folder.summary))
    typer.echo(folder.path)


@app.command()
def compare(
    context: typer.Context,
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", callback=_from_here)],
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method, from run.seed on.")] = 1,
    jobs: Jobs = 1,
    reach: Annotated[
        float | None, typer.Option(min=0, max=100, metavar="PERCENT", help="Tell when runs first have this accuracy.")
    ] = None,
) -> None:
    """Compare methods on the same data, models and seeds: a table, CSV, plots and a page.

    An option with a method's short name before it is for that method alone: --set fd.client.kd_weight=0.5
    """
    from fd_flower.cli import compare as comparing
    from fd_flower.cli.plan import carry_out

    output: Output = context.obj
    comparison = comparing.ordered(methods, set or [], recipe, engine.value, out, task, seeds)
    with output.board() as board:
        for remark in comparing.remarks(comparison):
            board.say(remark)
        carry_out(comparison, jobs, board, output)
    comparing.write(comparison, console(), None if reach is None else reach / 100)
    typer.echo(comparison.path)
    if comparison.failures:
        raise typer.Exit(1)


@app.command()
def sweep(
    context: typer.Context,
    method: Method,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="A key and the values to try; repeat it for more keys. With --random also a range: "
            "KEY=0.1..0.9, KEY=log:1e-4..1e-1; whole ends give whole numbers.",
        ),
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Draw N points by run.seed, in place of the whole grid.")
    ] = None,
    select: Annotated[
        Select,
        typer.Option(help="Choose by all clients' validation data together, or by each client's own."),
    ] = Select["global"],
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each point, from run.seed on.")] = 1,
    jobs: Jobs = 1,
) -> None:
    """Search options of METHOD for the best validation accuracy: tables, heat maps, a page, the best as a recipe.

    A point stands where its runs have their best validation round, in the mean over seeds; test data choose nothing.
    The same command and --out resume a sweep that was broken off. A point that fails is named in the table; the
    status is 1 where no point is left to choose.

    fd-flower sweep fd --grid client.kd_weight=0.1,1,10 --grid client.lr=0.01,0.1 --seeds 3 --jobs 2 --out runs/fd

    fd-flower run fd --recipe runs/fd/best.yaml
    """
    from fd_flower.cli import sweep as sweeping
    from fd_flower.cli.plan import carry_out

    output: Output = context.obj
    search = sweeping.ordered(
        method, grid or [], random, select.value, set or [], recipe, engine.value, out, task, seeds
    )
    with output.board() as board:
        carry_out(search.plan, jobs, board, output, search.standing)
    chosen = sweeping.write(search, console())
    typer.echo(search.plan.path)
    if not chosen:
        raise typer.Exit(1)


@app.command()
def methods() -> None:
    """List the methods: what each does, needs and exchanges."""
    from fd_flower.cli import describe as describing

    console().print(describing.methods_table())


@app.command()
def describe(method: Method, set: Set = None, recipe: Recipe = None) -> None:
    """Describe METHOD: what it needs, when it is measured, and every option with its value."""
    from fd_flower.cli import describe as describing
    from fd_flower.cli.run import words_of

    for part in describing.described(method, words_of(set or [], recipe)):
        console().print(part)


@app.command()
def data(
    method: Annotated[str, typer.Argument(metavar="[METHOD]", callback=_from_here)] = "fd",
    set: Set = None,
    recipe: Recipe = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE|DIR", help="Where to draw the image.")] = None,
    clusters: Annotated[
        bool, typer.Option("--clusters", help="Count clusters of what data.encoder sees, too.")
    ] = False,
) -> None:
    """Show who holds what: samples of each class at each client, as a run of METHOD (or `fd`) deals them out."""
    from fd_flower.cli import data as showing

    showing.show(method, set or [], recipe, out, console(), clusters=clusters)


@app.command()
def estimate(
    method: Method,
    set: Set = None,
    recipe: Recipe = None,
    task: Task = "",
    rounds: Annotated[int, typer.Option(min=3, help="Rounds to play, in short.")] = 3,
    steps: Annotated[int, typer.Option(min=2, help="Steps to take of each loop of training.")] = 4,
) -> None:
    """Estimate what a run of METHOD would send and take, from a few of its rounds in short; nothing is written."""
    from fd_flower.cli import estimate as estimating

    estimating.show(method, set or [], recipe, task, rounds, steps, console())


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name or address of the server, as devices call it.")
    ] = None,
    client: Annotated[list[str] | None, typer.Option(metavar="ID", help="A client id; may be given again.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")] = 8443,
    days: Annotated[int, typer.Option(min=1, help="How long the server's certificate is good.")] = 365,
    venv: Annotated[Path, typer.Option(metavar="DIR", help="Where FD-Flower is installed, on every machine.")] = Path(
        "/opt/fd-flower"
    ),
    bfv: Annotated[
        bool, typer.Option("--bfv", help="Also DIR/bfv.key, of all clients and not of the server: docs/privacy.md.")
    ] = False,
) -> None:
    """Make certificates, keys and services of a federation of devices, or add clients to one: docs/deployment.md."""
    from fd_flower.cli import deploy, keys
    from fd_flower.cli.paths import absolute
    from fd_flower.privacy.bfv import make_key

    place = absolute(folder, Path.cwd())
    if bfv:
        make_key(place / "bfv.key")
    if host or client or not bfv:
        keys.make(place, host or [], client or [], days)
        deploy.write(place, host[0] if host else None, port, venv)
    typer.echo(place)


@app.command()
def register(folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `keys` made.")]) -> None:
    """Register every client of DIR at its SuperLink, which must be running."""
    from fd_flower.cli import deploy
    from fd_flower.cli.paths import absolute

    for client in deploy.register(absolute(folder, Path.cwd())):
        typer.echo(client)


@app.command()
def doctor(
    node: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Check a device, too: the folder with its key and node.toml.")
    ] = None,
) -> None:
    """Check this machine, and say which `--federation-config` fits it, or whether it can be a device."""
    from fd_flower.cli import doctor as checking
    from fd_flower.cli.paths import absolute

    if not checking.check(console(), None if node is None else absolute(node, Path.cwd())):
        raise typer.Exit(1)


@app.command()
def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder; on a device its state-dir.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    client: Annotated[str, typer.Option(metavar="ID", help="Whose retriever searches.")],
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="A collection, or a folder of .txt and .md files.")],
    count: Annotated[int, typer.Option(min=1, help="Passages to show, at most.")] = 5,
) -> None:
    """Show the passages that a client's own retriever, from a run that kept its clients, finds for QUESTION."""
    from fd_flower.cli import ask as asking

    asking.show(run, question, client, corpus, count, console())


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...")],
    out: Out = None,
) -> None:
    """Write a report of finished runs, by their folders or that of a comparison: one page that needs nothing else."""
    from fd_flower.cli.paths import absolute
    from fd_flower.cli.run import runs_in
    from fd_flower.results import report as page

    folders = [folder for path in runs for folder in runs_in(absolute(path, Path.cwd()))]
    look_here([folder.config["method"] for folder in folders])
    if out is None and len(folders) > 1:
        raise InvalidInputError(f"{len(folders)} runs make one report: say where by --out DIR")
    typer.echo(page.write(folders, absolute(out, Path.cwd()) if out else folders[0].path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a failed run, 2 for wrong input, 130 when interrupted."""
    output = Output()
    command = typer.main.get_group(app)
    command.params.append(_version())
    for each in (command, *command.commands.values()):
        each.params += _switches(output)
    try:
        return command.main(arguments, prog_name="fd-flower", standalone_mode=False, obj=output) or 0
    except (Interrupted, click.Abort) as error:
        return _tell(output.reason(error) if isinstance(error, Interrupted) else "interrupted", 130)
    except click.UsageError as error:
        # Typer and click both suggest the nearest command: once is enough.
        return _tell(" ".join(dict.fromkeys(re.split(r"(?<=[.?]) ", error.format_message()))), 2)
    except InvalidInputError as error:
        return _tell(output.reason(error), 2)
    except Exception as error:
        return _tell(output.reason(error), 1)


def _version() -> click.Parameter:
    """Return ``--version``, which prints it and ends."""

    def say(context: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            typer.echo(f"fd-flower {__version__}")
            context.exit()

    return typer.core.TyperOption(
        param_decls=["--version"],
        is_flag=True,
        is_eager=True,
        default=False,
        expose_value=False,
        callback=say,
        help="The version.",
    )


def _switches(output: Output) -> list[click.Parameter]:
    """Return ``--quiet`` and ``--debug``, which stand before or after a command's name."""

    def remember(context: click.Context, option: click.Parameter, given: bool) -> None:
        if given:
            setattr(output, str(option.name), True)

    helps = {"quiet": "Results alone, no progress.", "debug": "A traceback with every error."}
    return [
        typer.core.TyperOption(
            param_decls=[f"--{name}"], is_flag=True, default=False, expose_value=False, callback=remember, help=text
        )
        for name, text in helps.items()
    ]


def _tell(text: str, status: int) -> int:
    typer.echo(f"fd-flower: {' '.join(text.split())}", err=True)
    return status
