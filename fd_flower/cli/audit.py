"""``fd-flower audit``: methods, or runs that are run again, while attacks use what the server receives."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from fd_flower.audit import report
from fd_flower.audit.run import Audit, audit, check
from fd_flower.cli import compare, paths
from fd_flower.cli.console import Output
from fd_flower.cli.plan import command_line, place
from fd_flower.cli.progress import Board, told
from fd_flower.cli.run import words_of
from fd_flower.config import Settings
from fd_flower.config.registry import short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder
from fd_flower.results.folder import CONFIG
from fd_flower.tasks.facts import OF_DEVICES


@dataclass
class Audits:
    """Audits that are asked for together, and what has come of them.

    Attributes
    ----------
    path : Path
        The folder to write.
    runs : list[tuple[str, Settings]]
        The runs, with the name of their method or folder.
    count : int
        Candidates: training samples of each client, and as many held-out ones.
    steps : int
        Training steps of a shadow model.
    done : list[Audit]
        What was found.
    failures : list[str]
        Why others failed: one line each.
    """

    path: Path
    runs: list[tuple[str, Settings]]
    count: int
    steps: int
    done: list[Audit] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def ordered(
    asked: Sequence[str],
    changes: Sequence[str],
    recipe: str | None,
    out: Path | None,
    task: str,
    seeds: int,
    count: int | None,
    steps: int,
) -> Audits:
    """Return the audits that a user asks for, checked before anything trains.

    Parameters
    ----------
    asked : Sequence[str]
        Methods, or folders of runs, whose settings are used.
    changes, recipe, out, task, seeds
        As of ``fd-flower compare``.
    count : int | None
        As ``Audits`` has it; None: what the smallest client of all runs has, at most 100.
    steps : int
        As ``Audits`` has it.

    Raises
    ------
    InvalidInputError
        For anything that no audit can be made of.
    """
    path = place(words_of(changes, recipe), out, "audit")
    folders = [paths.absolute(Path(name), Path.cwd()) for name in asked if _is_run(name)]
    methods = [name for name in asked if not _is_run(name)]
    if folders and (changes or recipe or task):
        raise InvalidInputError(
            f"{folders[0]} has its own settings: leave out --set, --recipe and --task, or name a method"
        )
    runs: list[tuple[str, Settings]] = []
    if methods:
        plan = compare.ordered(methods, changes, recipe, "local", path, task, seeds)
        runs += [(short_name(order.method), order.settings) for order in plan.orders.values()]
    for folder in folders:
        if folder.name in dict(runs):
            raise InvalidInputError(f"two of what is audited are called '{folder.name}': rename {folder}")
        of_run = _settings_of(folder)
        first = of_run.run.seed
        runs += [(folder.name, replace(of_run, run=replace(of_run.run, seed=first + more))) for more in range(seeds)]
    paths.look_here([module for _, settings in runs for module in paths.modules_of(settings)])
    count = min(check(settings, count) for _, settings in runs)
    return Audits(path, runs, count, steps)


def _settings_of(folder: Path) -> Settings:
    """Return the settings of a finished run of simulated clients."""
    run = RunFolder.open(folder)
    if not run.finished:
        raise InvalidInputError(f"{folder} is no finished run: resume it, or name a method")
    if run.summary.get("data", {}).get("source") == OF_DEVICES:
        raise InvalidInputError(
            f"{folder} is a run of devices, whose samples are not here: simulate it, fd-flower audit METHOD --set ..."
        )
    return run.settings


def _is_run(name: str) -> bool:
    return (Path(name) / CONFIG).is_file()


def carry_out(audits: Audits, board: Board, output: Output) -> None:
    """Audit one run after the other; one that fails does not stop the others."""
    for number, (name, settings) in enumerate(audits.runs, 1):
        title, outcome = f"{name}-seed{settings.run.seed}", "audited"
        try:
            with board.run(title, settings.server.rounds) as hear:
                audits.done.append(audit(name, settings, audits.count, audits.steps, hear))
        except Exception as error:  # whatever it is, the others are not to suffer
            outcome = output.reason(error)
            audits.failures.append(f"{title} is missing: {outcome}")
        board.say(f"{number}/{len(audits.runs)} {title}: {outcome}")


def write(audits: Audits, console: Console) -> None:
    """Show the tables, and write them, a figure and every client's figures."""
    if audits.done:
        report.write(audits.done, audits.path, command_line(), audits.failures, audits.count)
        console.print(report.table(audits.done))
        if any(each.histograms for each in audits.done):
            console.print(report.labels(audits.done))
        told(console, report.meaning(audits.count))
    for note in (*report.notes(audits.done), *audits.failures):
        told(console, note)
