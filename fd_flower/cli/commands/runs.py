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
        Path | None, typer.Option(metavar="DIR", help="Run on the devices of the federation created by `keys DIR`.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers of `--engine flower`. Default: one a core, fewer where GPUs are small."),
    ] = None,
    open: Open = False,
) -> None:
    """Run METHOD (`fd-flower methods` lists them). The last line of the output is the folder with the results."""
    from fd_flower.cli import run as runs
    from fd_flower.config.registry import short_name
    from fd_flower.results.folder import REPORT
    from fd_flower.results.outcome import ending

    output: Output = context.obj
    order = runs.order(method, set or [], recipe, engine.value, out, task, on, workers)
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
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per method, starting at run.seed.")] = 1,
    jobs: Jobs = None,
    devices: Devices = None,
    shard: Part = None,
    reach: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="PERCENT", help="Report when runs first reach this accuracy."),
    ] = None,
    baseline: Annotated[
        str, typer.Option(metavar="NAME", help="Baseline method for differences. Default: the first method.")
    ] = "",
    rules: Annotated[
        bool,
        typer.Option(
            "--rules", help="Also compare personal accuracy by prediction rule: own classes, all classes, heads."
        ),
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
    vary: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V1,V2,...", help="A row for each method and value: --vary wire.up=none,int8,argmax."),
    ] = None,
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
    asked |= {"vary": vary or []}
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
    _ended(comparison.path / PAGE)
    if open and not part:
        output.open(comparison.path / PAGE)
    if mine.failures:
        raise typer.Exit(1)


def attack(
    context: typer.Context,
    methods: Annotated[list[str], typer.Argument(metavar="METHOD...", callback=from_here)],
    attacks: Annotated[
        str, typer.Option(metavar="NAME,...", help="Attacks, comma-separated: values of attack.name.")
    ] = "label_flip,noise,sign_flip,scaled,opposite,lie",
    rules: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="Values of server.rule, for methods that have it."),
    ] = "",
    fractions: Annotated[str, typer.Option(metavar="SHARE,...", help="Shares of clients that attack.")] = "0.2,0.3",
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per cell, starting at run.seed.")] = 1,
    jobs: Jobs = None,
    devices: Devices = None,
) -> None:
    """Run methods under attacks, rules and shares of attackers; a table each with the rows none, absent and local.

    Runs of attacks that a method's replies cannot have are missing from the table, with the reason.
    """
    from fd_flower.cli import attack as attacking
    from fd_flower.cli.gpus import places
    from fd_flower.cli.plan import carry_out
    from fd_flower.cli.run import changes_of
    from fd_flower.results.attack_tables import FILE

    output: Output = context.obj
    names, rule, shares = (
        [part for part in map(str.strip, text.split(",")) if part] for text in (attacks, rules, fractions)
    )
    asked: dict[str, Any] = {"names": names, "rules": rule, "fractions": shares, "recipe": None}
    asked |= {"engine": engine.value, "out": out, "task": task, "seeds": seeds}
    trials = attacking.ordered(methods, changes=changes_of(set or [], recipe), **asked)
    with output.board() as board:
        carry_out(trials.plan, places(devices, jobs, trials.plan.devices), board, output)
    attacking.write(trials, console())
    _ended(trials.plan.path / FILE)
    if trials.plan.failures:
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
        int | None, typer.Option(min=1, metavar="N", help="Sample N points with run.seed, instead of the whole grid.")
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            metavar="global|personal|METRIC",
            help="Choose by accuracy (retrievers: nDCG@10) on all clients' validation data together (global) or on "
            "each client's own; or by another metric: balanced_accuracy, macro_f1, auc, one of your task's; "
            "personal:METRIC for clients' own. The metric says whether its higher or lower values are better.",
        ),
    ] = "global",
    set: Set = None,
    recipe: Recipe = None,
    engine: InEngine = Engine.local,
    out: Out = None,
    task: Task = "",
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds per point, starting at run.seed.")] = 1,
    jobs: Jobs = None,
    devices: Devices = None,
    shard: Part = None,
    baseline: Annotated[
        str, typer.Option(metavar="POINT", help="Baseline point for differences, such as `lr=0.1`. Default: the best.")
    ] = "",
    open: Open = False,
) -> None:
    """Search options of METHOD by a validation figure; writes tables, heat maps, a page and the best recipe.

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
    _ended(search.plan.path / PAGE)
    if open and not part:
        output.open(search.plan.path / PAGE)
    if not some:
        raise typer.Exit(1)


def merge(
    context: typer.Context,
    shards: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that were given as --out with --shard.")
    ],
    out: Out = None,
    open: Open = False,
) -> None:
    """Merge the shards of a comparison or sweep: runs in one folder, and the tables. Starts no runs.

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
    _ended(page)
    if open:
        output.open(page)
    if not complete:
        raise typer.Exit(1)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...")],
    out: Out = None,
) -> None:
    """Write a report of finished runs, given by their folders or a comparison's: one self-contained page."""
    from fd_flower.cli.paths import absolute
    from fd_flower.cli.run import runs_in
    from fd_flower.results import report as page

    folders = [folder for path in runs for folder in runs_in(absolute(path, Path.cwd()))]
    look_here([folder.config["method"] for folder in folders])
    if out is None and len(folders) > 1:
        raise InvalidInputError(f"{len(folders)} runs make one report: say where by --out DIR")
    typer.echo(page.write(folders, absolute(out, Path.cwd()) if out else folders[0].path))


def ask(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder, or a device's state-dir.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    client: Annotated[str, typer.Option(metavar="ID", help="Id of the client with the retriever.")],
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="A collection, or a folder of .txt and .md files.")],
    count: Annotated[int, typer.Option(min=1, help="Maximum number of passages to show.")] = 5,
) -> None:
    """Show the passages that a client's retriever finds for QUESTION. The run must have kept its models."""
    from fd_flower.cli import ask as asking

    asking.show(run, question, client, corpus, count, console())


def reproduce(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Name of an entry. Without one, list all entries.")
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with data sets by name. Default: download from the hub."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Run the small form, on scikit-learn's digits.")] = False,
    out: Out = None,
    jobs: Jobs = None,
    devices: Devices = None,
) -> None:
    """Reproduce a claim of a paper and judge it by a rule fixed in advance; writes `result.json`.

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


def _ended(page: Path) -> None:
    """Name the page and the folder of several runs, where there are any."""
    if page.is_file():
        typer.echo(f"report: {page}")
    if page.parent.is_dir():
        typer.echo(page.parent)
