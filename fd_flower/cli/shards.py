"""The runs of a comparison or a sweep, split over several machines and merged again."""

import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from fd_flower.cli import compare, paths, sweep
from fd_flower.cli.plan import Plan, collect
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import replace_file
from fd_flower.results import RunFolder
from fd_flower.results.compare import PAGE as COMPARISON
from fd_flower.results.folder import CONFIG, writable
from fd_flower.results.sweep_files import PAGE as SWEEP

FILES = "shard-*-of-*.json"
SHARD = re.compile(r"(\d+)/(\d+)")


@dataclass
class Shard:
    """One part of a comparison or a sweep, as described by a file next to its runs' folders.

    Attributes
    ----------
    number, count : int
        It is this one, from 1, of so many.
    kind : str
        The command, ``compare`` or ``sweep``.
    arguments : Mapping[str, Any]
        What the whole was ordered with, without a folder; every path absolute.
    shown : Mapping[str, Any]
        What its tables are to show.
    command : str
        The command line of the whole.
    failures : dict[str, str]
        Why runs of this part failed, by their folders' names.
    """

    number: int
    count: int
    kind: str
    arguments: Mapping[str, Any]
    shown: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    failures: dict[str, str] = field(default_factory=dict)

    def deal(self, whole: Plan) -> Plan:
        """Return this part of a plan: every ``count``-th run, from the ``number``-th on."""
        names = list(whole.orders)[self.number - 1 :: self.count]
        return Plan(whole.path, {name: whole.orders[name] for name in names}, whole.command)

    def ended(self, mine: Plan) -> str:
        """Write down why runs of this part failed, and say how the whole is made."""
        self.failures = mine.failures
        self.write(mine.path)
        done = f"shard {self.number}/{self.count}: {len(mine.folders)} of {len(mine.orders)} runs are done"
        return f"{done}; when all shards are: fd-flower merge {shlex.quote(str(mine.path))}"

    def write(self, folder: Path) -> None:
        """Write the file into a folder, where other parts of the same whole may be.

        Raises
        ------
        InvalidInputError
            Where there are parts of another whole.
        """
        writable(folder)
        for path in sorted(folder.glob(FILES)):
            self.need_the_same(_read(path), path)
        text = json.dumps(vars(self), indent=2, default=str)
        replace_file(folder / f"shard-{self.number}-of-{self.count}.json", text + "\n")

    def need_the_same(self, other: "Shard", path: Path) -> None:
        """Refuse a part of another whole, which ``path`` tells of."""
        here, there = ({"command": each.kind, **each.arguments, **each.shown} for each in (self, other))
        for key in here | there:
            if here.get(key) != there.get(key):
                raise InvalidInputError(
                    f"{path} is of another command, with {key} {there.get(key)}, not {here.get(key)}: "
                    "name another --out"
                )


def begun(
    text: str, out: Path | None, whole: Plan, kind: str, arguments: Mapping[str, Any], shown: Mapping[str, Any]
) -> Shard:
    """Return the part that ``--shard`` names, written down in the folder of the whole.

    Raises
    ------
    InvalidInputError
        For a folder that is not a shard, one that was not named, or one with parts of another whole.
    """
    found = SHARD.fullmatch(text.strip())
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise InvalidInputError(f"--shard '{text}' is no part of a whole: expected I/N, with I from 1 to N, like 2/3")
    if out is None:
        raise InvalidInputError(f"--shard {text} needs --out DIR: a folder that all shards share, or one for each")
    arguments, shown = (json.loads(json.dumps(values)) for values in (arguments, shown))
    part = Shard(number, count, kind, arguments, shown, whole.command)
    part.write(whole.path)
    return part


def merged(folders: Sequence[Path], out: Path, console: Console) -> tuple[Path, bool]:
    """Make a comparison or a sweep of its parts; return its page, and whether no run is missing.

    Raises
    ------
    InvalidInputError
        As ``gathered``, or where the parts are of what can be ordered here no more.
    """
    whole = gathered(folders, out)
    paths.look_here([*whole.arguments.get("methods", [whole.arguments.get("method", "")]), whole.arguments["task"]])
    if whole.kind == "compare":
        comparison = compare.ordered(**whole.arguments, out=out)
        comparison.command = whole.command
        collect(comparison, whole.failures)
        compare.write(comparison, console, **whole.shown)
        return out / COMPARISON, not comparison.failures
    search = sweep.ordered(**whole.arguments, out=out)
    search.plan.command = whole.command
    complete = collect(search.plan, whole.failures)
    return out / SWEEP, sweep.write(search, console) and complete


def gathered(folders: Sequence[Path], out: Path) -> Shard:
    """Put the runs of all parts into one folder, and return the whole: a part 1/1 with the failures of all.

    Parameters
    ----------
    folders : Sequence[Path]
        The folders of the parts; several may share one.
    out : Path
        The folder of the whole, which may be one of them. Its runs stay; a run that continued since it was copied is
        copied again.

    Raises
    ------
    InvalidInputError
        Where a folder holds no part, parts are not of one whole, or two runs have one name.
    """
    parts: dict[Path, Shard] = {}
    for folder in folders:
        found = sorted(folder.glob(FILES))
        if not found:
            raise InvalidInputError(
                f"{folder} holds no shard (no {FILES}): expected the --out of a command with --shard"
            )
        parts |= {path: _read(path) for path in found}
    first = next(iter(parts.values()))
    for path, part in parts.items():
        first.need_the_same(part, path)
    runs: dict[str, RunFolder] = {}
    for folder in (out, *(folder for folder in folders if folder != out)):
        for config in sorted(folder.glob(f"*/{CONFIG}")):
            run = RunFolder.open(config.parent)
            known = runs.setdefault(run.path.name, run)
            if known.run_key != run.run_key:
                raise InvalidInputError(f"{known.path} and {run.path} are two runs of one name: leave one of them out")
            if run.finished and not known.finished:
                runs[run.path.name] = run
    writable(out)
    for name, run in runs.items():
        if run.path != out / name:
            _copy(run.path, out / name)
    failures = {name: reason for part in parts.values() for name, reason in part.failures.items()}
    return Shard(1, 1, first.kind, first.arguments, first.shown, first.command, failures)


def _copy(source: Path, target: Path) -> None:
    """Copy a run's folder; a copy that is broken off leaves none that looks whole."""
    partial = target.with_name(f".{target.name}.partial")
    for folder in (partial, target):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)


def _read(path: Path) -> Shard:
    try:
        return Shard(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} cannot be read as a shard's file: {error}") from None
