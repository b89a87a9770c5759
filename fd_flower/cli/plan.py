"""Several runs that belong together: a folder each, finished ones are kept, one that fails stops no other."""

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fd_flower.cli import paths
from fd_flower.cli.console import CTRL_C, Interrupted, Output
from fd_flower.cli.gpus import Place, remark
from fd_flower.cli.order import Order
from fd_flower.cli.progress import Board
from fd_flower.cli.run import execute, new_folder
from fd_flower.cli.superlink import Terminated
from fd_flower.cli.workers import at_once
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder
from fd_flower.results.folder import CONFIG
from fd_flower.results.outcome import outcome, standing
from fd_flower.results.reproduce import flatten

PLACE = (
    "run.out",
    "run.resume",
    "run.device",
    "run.keep",
    "run.report",
    "run.track",
)  # where a run happens, not what it computes


@dataclass
class Plan:
    """Runs that are asked for together, and what has come of them.

    Attributes
    ----------
    path : Path
        The folder with all of it.
    orders : dict[str, Order]
        The runs by their folders' names (``fd-seed0``), in the order in which they are run and listed.
    command : str
        The command line that asks for them.
    folders : dict[str, RunFolder]
        Those that are finished.
    failures : dict[str, str]
        Why others are not: one line each.
    """

    path: Path
    orders: dict[str, Order]
    command: str = field(default_factory=lambda: command_line())
    folders: dict[str, RunFolder] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """Which runs are missing, and why."""
        return [f"{name} is missing: {reason}" for name, reason in self.failures.items()]

    @property
    def devices(self) -> list[str]:
        """The ``run.device`` of each run."""
        return [order.settings.run.device for order in self.orders.values()]

    @property
    def finished(self) -> list[RunFolder]:
        """The folders of finished runs, in the order of the plan."""
        return [self.folders[name] for name in self.orders if name in self.folders]


def place(words: Sequence[str], out: Path | None, name: str) -> Path:
    """Return the folder of a plan: what ``--out`` says, or a new ``runs/<time>-<name>`` in the user's directory.

    Raises
    ------
    InvalidInputError
        Where words say where a single run is put.
    """
    for key in ("run.resume", "run.out"):
        if paths.value_of(words, key):
            raise InvalidInputError(
                f"{key} is for a single run; for several runs, --out sets the folder and resumes them"
            )
    here = Path.cwd()
    return new_folder(name, here) if out is None else paths.absolute(out, here)


def carry_out(
    plan: Plan, places: Sequence[Place], board: Board, output: Output, so_far: Callable[[], str] | None = None
) -> None:
    """Run what is not finished, one a place at a time; one that fails does not stop the others.

    ``so_far`` reports progress after every run; it receives ``plan`` in its current state.

    Raises
    ------
    InvalidInputError
        Where a folder holds a run of other settings.
    Interrupted
        Where the user broke it off.
    """
    pending = {}
    for name, order in plan.orders.items():
        if not (order.out / CONFIG).is_file():
            pending[name] = order
            continue
        folder = RunFolder.open(order.out)
        _need_the_same(folder, order)
        if folder.finished:
            plan.folders[name] = folder
        else:
            pending[name] = replace(order, words=(paths.path_word("run.resume", order.out),))
    try:
        if hint := remark(places, plan.devices):
            board.say(hint)
        alone = list(places) == [None]
        for name, reason in _one_by_one(pending, board, output) if alone else at_once(pending, places, board):
            if reason is None:
                plan.folders[name] = RunFolder.open(pending[name].out)
                reason = outcome(plan.folders[name].summary)
            else:
                plan.failures[name] = reason
            ended = len(plan.folders) + len(plan.failures)
            board.say(f"{ended}/{len(plan.orders)} {name}: {reason}")
            if so_far is not None:
                board.say(so_far())
    except (KeyboardInterrupt, Terminated, Interrupted) as error:
        status = error.status if isinstance(error, Interrupted | Terminated) else CTRL_C
        go_on = f"resume with the same command and --out {shlex.quote(str(plan.path))}"
        done = f"{len(plan.folders)} of {len(plan.orders)} runs are done"
        raise Interrupted(f"interrupted; {done}, {go_on}", status) from None


def collect(plan: Plan, failures: Mapping[str, str]) -> bool:
    """Take in what is there, and run nothing; whether every run was finished or failed, for the reason given here.

    Raises
    ------
    InvalidInputError
        Where a folder holds a run of other settings.
    """
    complete = True
    for name, order in plan.orders.items():
        folder = RunFolder.open(order.out) if (order.out / CONFIG).is_file() else None
        if folder is not None:
            _need_the_same(folder, order)
        if folder is not None and folder.finished:
            plan.folders[name] = folder
        elif name in failures:
            plan.failures[name] = failures[name]
        else:
            complete = False
            plan.failures[name] = "no shard has run it" if folder is None else f"unfinished, {standing(folder)}"
    return complete


def _one_by_one(orders: Mapping[str, Order], board: Board, output: Output) -> Iterator[tuple[str, str | None]]:
    """Run orders in this process; give the name of each that ends, and why it failed, if it did."""
    for name, order in orders.items():
        try:
            execute(order, board, name)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the others are not to suffer
            yield name, output.reason(error)
        else:
            yield name, None


def _need_the_same(folder: RunFolder, order: Order) -> None:
    """Refuse a folder whose run computes something else than what is asked for."""
    there, here = (flatten(tree) for tree in (folder.config, order.settings.tree()))
    about_other_data = {f"data.{key}" for key in folder.left_out} if order.task else set()
    for key in sorted((there.keys() | here.keys()) - about_other_data):
        if key not in PLACE and there.get(key) != here.get(key):
            raise InvalidInputError(
                f"{folder.path} holds a run with {key}={there.get(key)}, not {here.get(key)}: name another --out"
            )


def command_line() -> str:
    """Return the command line that the user typed, of the whole where it was for one shard."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--shard":
            next(words, None)
        elif not word.startswith("--shard="):
            kept.append(word)
    return shlex.join(["fd-flower", *kept])
