"""Commands that make runs, or read what these left behind."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fd_flower.cli.console import Output, console
from fd_flower.cli.options import (
    Devices,
    Engine,
    InEngine,
    Jobs,
    Method,
    Open,
    Out,
    Part,
    Recipe,
    Set,
    Task,
    from_here,
)
from fd_flower.cli.paths import look_here
from fd_flower.core.errors import InvalidInputError


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
    open: Open = False,
) -> None:
    """Run METHOD (`fd-flower methods` lists them); the last line names the folder with its results."""
    from fd_flower.cli import run as runs
    from fd_flower.config.registry import short_name
    from fd_flower.results.folder import REPORT
    from fd_flower.results.outcome import ending

    output: Output = context.obj
    order = runs.order(method, set or [], recipe, engine.value, out, task, on)
    with output.board() as board:
        folder = runs.execute(order, board, short_name(method))
        for line in ending(folder):
            board.say(line)
    typer.echo(folder.path)
    if open:
        output.open(folder.path / REPORT)


def compare(
    context: typer.Context,
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", callback=from_here)],
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method, from run.seed on.")] = 1,
    jobs: Jobs = None,
    devices: Devices = None,
    shard: Part = None,
    reach: Annotated[
        float | None, typer.Option(min=0, max=100, metavar="PERCENT", help="Tell when runs first have this accuracy.")
    ] = None,
    baseline: Annotated[
        str, typer.Option(metavar="NAME", help="The method that others are compared with; by default the first.")
    ] = "",
    rules: Annotated[
        bool, typer.Option("--rules", help="Also compare personal accuracy among own classes, all, and by heads.")
    ] = False,
    same_loop: Annotated[
        bool,
        typer.Option(
            "--same-loop",
            help="One private and one public loop for all, over their recipes. It sets client.optimizer=adam lr=0.001 "
            "momentum=0 weight_decay=0 schedule=constant warmup=0 epochs=1 steps=null batch=32 public_epochs=2 "
            "public_steps=null public_batch=32, each but where --set says otherwise; server.* stays.",
        ),
    ] = False,
    open: Open = False,
) -> None:
    """Compare methods on the same data, models and seeds: tables, CSV, LaTeX, plots and a page.

    An option with a method's short name before it is for that method alone: --set fd.client.kd_weight=0.5

    With two seeds or more every method's difference to the baseline is given, seed by seed, with its 95 % interval.
    """
    from fd_flower.cli import compare as comparing
    from fd_flower.cli import shards
    from fd_flower.cli.gpus import places
    from fd_flower.cli.plan import carry_out
    from fd_flower.cli.run import changes_of
    from fd_flower.results.compare import PAGE

    output: Output = context.obj
    asked: dict[str, Any] = {"methods": methods, "changes": changes_of(set or [], recipe), "recipe": None}
    asked |= {"engine": engine.value, "task": task, "seeds": seeds, "same_loop": same_loop}
    shown: dict[str, Any] = {
        "reach": None if reach is None else reach / 100,
        "baseline": comparing.baseline_of(methods, baseline),
        "rules": rules,
    }
    comparison = comparing.ordered(**asked, out=out)
    where = places(devices, jobs, comparison.devices)
    part = shards.begun(shard, out, comparison, "compare", asked, shown) if shard else None
    mine = part.deal(comparison) if part else comparison
    with output.board() as board:
        for remark in comparing.remarks(comparison):
            board.say(remark)
        carry_out(mine, where, board, output)
    if part:
        typer.echo(part.ended(mine))
    else:
        comparing.write(comparison, console(), **shown)
    typer.echo(comparison.path)
    if open and not part:
        output.open(comparison.path / PAGE)
    if mine.failures:
        raise typer.Exit(1)


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
        str,
        typer.Option(
            metavar="global|personal|METRIC",
            help="Choose by accuracy on all clients' validation data together (global) or on each client's own; or by "
            "another metric: balanced_accuracy, macro_f1, auc, one of your task's; personal:METRIC for clients' own.",
        ),
    ] = "global",
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each point, from run.seed on.")] = 1,
    jobs: Jobs = None,
    devices: Devices = None,
    shard: Part = None,
    baseline: Annotated[
        str, typer.Option(metavar="POINT", help="The point that others are compared with, as `lr=0.1`; else the best.")
    ] = "",
    open: Open = False,
) -> None:
    """Search options of METHOD for the best validation figure: tables, heat maps, a page, the best as a recipe.

    A point stands where its runs have their best validation round, in the mean over seeds; test data choose nothing.
    The same command and --out resume a sweep that was broken off. A point that fails is named in the table; the
    status is 1 where no point is left to choose.

    fd-flower sweep fd --grid client.kd_weight=0.1,1,10 --grid client.lr=0.01,0.1 --seeds 3 --jobs 2 --out runs/fd

    fd-flower run fd --recipe runs/fd/best.yaml
    """
    from fd_flower.cli import shards
    from fd_flower.cli import sweep as sweeping
    from fd_flower.cli.gpus import places
    from fd_flower.cli.plan import carry_out
    from fd_flower.cli.run import changes_of
    from fd_flower.results.sweep_files import PAGE

    output: Output = context.obj
    asked: dict[str, Any] = {"method": method, "grids": grid or [], "random": random, "select": select}
    asked |= {"changes": changes_of(set or [], recipe), "recipe": None}
    asked |= {"engine": engine.value, "task": task, "seeds": seeds, "baseline": baseline}
    search = sweeping.ordered(**asked, out=out)
    where = places(devices, jobs, search.plan.devices)
    part = shards.begun(shard, out, search.plan, "sweep", asked, {}) if shard else None
    mine = part.deal(search.plan) if part else search.plan
    with output.board() as board:
        carry_out(mine, where, board, output, None if part else search.standing)
    if part:
        typer.echo(part.ended(mine))
        some = bool(mine.folders) or not mine.failures
    else:
        some = sweeping.write(search, console())
    typer.echo(search.plan.path)
    if open and not part:
        output.open(search.plan.path / PAGE)
    if not some:
        raise typer.Exit(1)


def merge(
    context: typer.Context,
    shards: Annotated[list[Path], typer.Argument(metavar="DIR...", help="What --out was of commands with --shard.")],
    out: Out = None,
    open: Open = False,
) -> None:
    """Make one comparison or sweep of its shards: their runs in one folder, and the tables; nothing is run.

    The status is 1 where runs are missing, which are named. Shards that wrote into one folder need no --out.
    """
    from fd_flower.cli import shards as sharding
    from fd_flower.cli.paths import absolute

    output: Output = context.obj
    folders = [absolute(path, Path.cwd()) for path in shards]
    if out is None and len(folders) > 1:
        raise InvalidInputError(f"{len(folders)} folders make one: say where by --out DIR")
    whole = folders[0] if out is None else absolute(out, Path.cwd())
    page, complete = sharding.merged(folders, whole, console())
    typer.echo(whole)
    if open:
        output.open(page)
    if not complete:
        raise typer.Exit(1)


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


def reproduce(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="An entry; without one all are listed.")] = "",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Data sets in folders of their names; else they come from the hub."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Its small form, on scikit-learn's digits.")] = False,
    out: Out = None,
    jobs: Jobs = None,
    devices: Devices = None,
) -> None:
    """Run what a paper claims of its method, and judge it by a rule that was fixed before: `result.json`.

    The same command and --out resume an entry that was broken off. The status is 1 where a claim is not shown.
    """
    from fd_flower.cli import reproduce as reproducing
    from fd_flower.cli.gpus import places
    from fd_flower.cli.plan import carry_out

    if not name:
        console().print(reproducing.listed())
        return
    output: Output = context.obj
    entry, plan = reproducing.ordered(name, data, out, quick=quick)
    where = places(devices, jobs, plan.devices)
    with output.board() as board:
        carry_out(plan, where, board, output)
    result = reproducing.write(entry, plan, reproducing.command(name, data, quick=quick), quick=quick)
    reproducing.show(entry, result, console())
    typer.echo(plan.path)
    if any(order["verdict"] == "not shown" for found in result["variants"].values() for order in found["orders"]):
        raise typer.Exit(1)
