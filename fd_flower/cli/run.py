"""``fd-flower run``: one method, in this process or through Flower."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fd_flower.cli import machine, paths
from fd_flower.cli.console import Interrupted
from fd_flower.cli.order import Order
from fd_flower.cli.progress import Board, Listener
from fd_flower.cli.superlink import Terminated, ended_in_order
from fd_flower.config.registry import short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.folder import CONFIG, RunFolder
from fd_flower.results.outcome import standing


def order(
    method: str,
    changes: Sequence[str],
    recipe: str | None,
    engine: str,
    out: Path | None,
    task: str,
    lab: Path | None = None,
    workers: int | None = None,
) -> Order:
    """Return the run that a user asks for, checked.

    Parameters
    ----------
    method, engine, task : str
        As in an `Order`.
    changes : Sequence[str]
        Every ``--set``.
    recipe : str | None
        Another recipe than the method's own.
    out : Path | None
        The folder; None: ``run.out``, or a new one under ``runs`` in the user's directory.
    lab : Path | None
        The folder of a federation of devices, whose allow-list counts unless ``server.allow`` names another.
    workers : int | None
        As in an `Order`.

    Raises
    ------
    InvalidInputError
        For anything that no run can be made of.
    """
    words, here = words_of(changes, recipe), Path.cwd()
    if workers is not None:
        check_workers(workers, engine, lab)
    if lab is not None:
        lab, engine = paths.absolute(lab, here), "flower"
        if not (lab / "flwr" / "config.toml").is_file():
            raise InvalidInputError(
                f"{lab} holds no federation; make one: fd-flower keys {lab} --host NAME --client ID"
            )
        if not paths.value_of(words, "run.resume") and paths.value_of(words, "server.allow") is None:
            words = (*words, paths.path_word("server.allow", lab / "allow.yaml"))
    if resumed := paths.value_of(words, "run.resume"):
        if out is not None:
            raise InvalidInputError(
                f"a resumed run continues in its own folder: leave out --out {out}, or run.resume={resumed}"
            )
        asked = Order(method, words, Path(resumed), task, engine, lab, workers)
    else:
        chosen_out = paths.value_of(words, "run.out") if out is None else paths.absolute(out, here)
        folder = Path(chosen_out) if chosen_out else new_folder(short_name(method), here)
        asked = Order(method, (*words, paths.path_word("run.out", folder)), folder, task, engine, lab, workers)
    asked.settings  # noqa: B018 (refuses what cannot be merged, before anything is written)
    return asked


def check_workers(workers: int, engine: str, lab: Path | None) -> None:
    """Refuse a number of workers where there are none, or more than the machine has cores."""
    if engine != "flower" or lab is not None or os.environ.get("RAY_ADDRESS"):
        raise InvalidInputError(
            f"--workers {workers} is for a simulation on this machine: add --engine flower, or leave it out"
        )
    if workers > (cores := machine.cores()):
        raise InvalidInputError(f"--workers {workers} is more than the {cores} cores here: a worker takes one")


def words_of(changes: Sequence[str], recipe: str | None) -> tuple[str, ...]:
    """Return the words of all ``--set`` and of ``--recipe``, with paths that start from the user's directory.

    Raises
    ------
    InvalidInputError
        For a quote that is not closed.
    """
    words = [] if recipe is None else [f"recipe={recipe}"]
    for change in changes:
        try:
            words += shlex.split(change)
        except ValueError as error:
            raise InvalidInputError(f"--set {change!r} cannot be read: {str(error).lower()}") from None
    return tuple(paths.absolute_words(words, Path.cwd()))


def changes_of(changes: Sequence[str], recipe: str | None) -> list[str]:
    """Return what ``words_of`` does as one ``--set``, which says the same wherever it is read."""
    return [shlex.join(words_of(changes, recipe))]


def new_folder(name: str, folder: Path) -> Path:
    """Return ``runs/<time>-<name>`` in ``folder``, one that does not exist."""
    base = folder / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    others = (base.with_name(f"{base.name}-{i}") for i in range(2, sys.maxsize))
    return base if not base.exists() else next(other for other in others if not other.exists())


def execute(order: Order, board: Board, title: str) -> RunFolder:
    """Run what is ordered and return its folder.

    Raises
    ------
    InvalidInputError
        Where it cannot be run.
    RunError
        Where it could not continue.
    Interrupted
        Where the user broke it off.

    An error of a run that has begun has a note that says how far it came and how it is resumed.
    """
    engine = {"local": _in_process, "flower": _through_flower}[order.engine]
    try:
        with ended_in_order(), board.run(title, order.settings.server.rounds) as hear:
            engine(order, hear)
    except Terminated as error:
        raise Interrupted(_how_it_goes_on(order, f"interrupted by {error.name}"), error.status) from None
    except KeyboardInterrupt:
        raise Interrupted(_how_it_goes_on(order, "interrupted")) from None
    except InvalidInputError:
        raise
    except Exception as error:
        if note := _resumed_by(order):
            error.add_note(note)
        raise
    return RunFolder.open(order.out)


def _in_process(order: Order, hear: Listener) -> None:
    from fd_flower import engine

    logging.getLogger("flwr").setLevel(logging.WARNING)
    paths.look_here(paths.modules_of(order.settings))
    engine.run(order.settings, out=order.out, on_line=hear)


def _through_flower(order: Order, hear: Listener) -> None:
    from fd_flower.cli import flower

    flower.run(order, hear)


def _how_it_goes_on(order: Order, what: str) -> str:
    note = _resumed_by(order)
    return f"{what}; {note}" if note else f"{what} before the run began"


def _resumed_by(order: Order) -> str:
    """Return how far a run came and the command that resumes it; "" where it has not begun."""
    if not (order.out / CONFIG).is_file():
        return ""
    return f"{standing(RunFolder.open(order.out))}, resume: {order.to_go_on}"


def runs_in(path: Path) -> list[RunFolder]:
    """Return the run that a folder holds, or those in the folders of a comparison.

    Raises
    ------
    InvalidInputError
        Where there is none.
    """
    inner = [] if (path / CONFIG).is_file() else sorted(config.parent for config in path.glob(f"*/{CONFIG}"))
    return [RunFolder.open(folder) for folder in inner or [path]]
