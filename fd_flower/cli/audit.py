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
    runs : dict[str, Settings]
        The runs by name (``fd-seed0``).
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
    runs: dict[str, Settings]
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
    count: int,
    steps: int,
) -> Audits:
    """Return the audits that a user asks for, checked before anything trains.

    Parameters
    ----------
    asked : Sequence[str]
        Methods, or folders of runs, whose settings are used.
    changes, recipe, out, task, seeds
        As of ``fd-flower compare``.
    count, steps : int
        As ``Audits`` has them.

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
    runs: dict[str, Settings] = {}
    if methods:
        plan = compare.ordered(methods, changes, recipe, "local", path, task, seeds)
        runs |= {name: order.settings for name, order in plan.orders.items()}
    for folder in folders:
        of_run = _settings_of(folder)
        first = of_run.run.seed
        runs |= {
            f"{folder.name}-seed{seed}": replace(of_run, run=replace(of_run.run, seed=seed))
            for seed in range(first, first + seeds)
        }
    found = Audits(path, runs, count, steps)
    paths.look_here([module for settings in runs.values() for module in paths.modules_of(settings)])
    for settings in runs.values():
        check(settings, count)
    return found


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
    for name, settings in audits.runs.items():
        try:
            with board.run(name, settings.server.rounds) as hear:
                audits.done.append(audit(settings, audits.count, audits.steps, hear))
        except Exception as error:  # whatever it is, the others are not to suffer
            audits.failures.append(f"{name} is missing: {output.reason(error)}")
        board.say(f"{len(audits.done) + len(audits.failures)}/{len(audits.runs)} {name}: audited")


def write(audits: Audits, console: Console) -> None:
    """Show the tables, and write them, a figure and every client's figures."""
    if not audits.done:
        return
    report.write(audits.done, audits.path, command_line(), audits.failures)
    console.print(report.table(audits.done))
    if any(each.histograms for each in audits.done):
        console.print(report.labels(audits.done))
    told(console, report.MEANING)
    for note in (*report.notes(audits.done), *audits.failures):
        told(console, note)
