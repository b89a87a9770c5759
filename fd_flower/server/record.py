"""What a run writes down as it goes: its folder, its lines, its checkpoint."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord
from safetensors import SafetensorError

from fd_flower.config import Settings
from fd_flower.config.registry import short_name, strategy
from fd_flower.core import nonce
from fd_flower.core.client import Client, natural
from fd_flower.core.clients import kinds
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.kept import MODEL
from fd_flower.core.storage import Position, reason
from fd_flower.core.versions import versions
from fd_flower.results import RunFolder
from fd_flower.results.callback import Round, rounds_of
from fd_flower.results.folder import finite
from fd_flower.results.history import evaluated_at
from fd_flower.results.summary import summarize
from fd_flower.results.validation import Validation
from fd_flower.server.checkpoint import FILE, Checkpoint
from fd_flower.server.clock import Flight
from fd_flower.server.host_grid import HostGrid
from fd_flower.server.keeper import Keeper
from fd_flower.server.lines import RoundLines
from fd_flower.server.resume import Standing, chained, changes, code
from fd_flower.server.stopping import stalled
from fd_flower.tasks.backdoor import NAME as BACKDOOR
from fd_flower.tasks.facts import data_facts, licenses, model_facts, unused
from fd_flower.tasks.kept import SERVER, about_model, completed
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import Weights

ENGINES = {"InMemoryGrid": "simulation", "HttpGrid": "deployment"}
"""Flower's grids, by what runs beneath them; any other is in this process."""


class Record:
    """A run's folder, and the lines of the round under way.

    Parameters
    ----------
    settings : Settings
        The run; ``run.out`` None writes nothing.
    on_line : Callable | None
        Receives every line when it is written.
    """

    def __init__(self, settings: Settings, on_line: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.settings = settings
        self.lines = RoundLines()
        self._on_line = on_line
        self.kept: list[dict[str, Any]] | None = None
        """Every line so far, where they are to be kept without a folder."""
        self.past: list[Round] = []
        """The rounds that a resumed run has behind it."""
        self.round = 0
        """The newest round that is written."""
        self.summary: dict[str, Any] | None = None
        """What the run came to, at its end."""
        self._written = 0
        self._checksum = ""
        self._keeper: Keeper | None = None
        run = settings.run
        for key, path in (("run.out", run.out), ("run.resume", run.resume)):
            if path is not None and not Path(path).is_absolute():
                raise InvalidInputError(
                    f"{key} is the relative path '{path}'; give an absolute one: a ServerApp's directory is not yours"
                )
        self.folder = RunFolder.open(run.resume) if run.resume else None
        self.run_key = self.folder.run_key if self.folder else secrets.token_hex(8)
        where = run.resume or run.out
        self.state = str(
            Path(where) / "clients" if where else Path(tempfile.gettempdir()) / f"fd-flower-{self.run_key}"
        )

    def open(
        self,
        begun: Standing,
        clients: Sequence[Client],
        brought: Task,
        validation: Validation,
        one_by_one: Callable[[], str],
        *,
        hosted: bool,
        personal: str,
        plain: bool = False,
    ) -> Checkpoint | None:
        """Make a new run's folder, or return what the resumed run knew, its later lines cut off.

        Called once the run has been found possible, so that a refused one leaves no folder behind. The folder is locked
        until ``release``.

        Parameters
        ----------
        begun : Standing
            Where the run stands before round one, as this process sees it.
        clients : Sequence[Client]
            Where they run a user's own task, what ``data.*`` says of other data is not written.
        brought : Task
            The server's task.
        validation : Validation
            Takes the rounds in that are done.
        one_by_one : Callable[[], str]
            As of ``Standing.check``.
        hosted : bool
            Whether they are simulated, so that the task that their nodes name is the experimenter's.
        personal : str
            The evaluation point of clients' own models.
        plain : bool
            Whether their apps know nothing of FD-Flower.

        Raises
        ------
        InvalidInputError
            Where the folder holds a run already, or the resumed one is at its end and its clients' memory is gone, or
            has stopped early and would stop again, or its options, data or lines are not what they were, or another run
            writes it.
        """
        self._standing = begun
        if self.folder is None:
            if out := self.settings.run.out:
                # A resume imports it, so a device's word is not enough.
                tasks = {client.task for client in kinds(clients)} if hosted else set()
                task = tasks.pop() if len(tasks) == 1 else self.settings.task
                left_out = unused(brought) if task or plain else ()
                self.folder = RunFolder.create(out, replace(self.settings, task=task), self.run_key, left_out)
                self._standing = replace(begun, settings=self.folder.settings.text)  # as a resume reads it
                self._keeper = self._new_keeper(personal, higher=validation.kind.higher_is_better)
            return None
        self.folder.lock()
        found = Checkpoint.read(self.folder.path, self.settings.method)
        done = found.round if found else 0
        if self.folder.finished and done < self.settings.server.rounds and self.settings.run.keep == "none":
            raise InvalidInputError(
                f"{self.folder.path} is finished and its clients' memory is gone; "
                "to continue a run after its end needs run.keep=last or best"
            )
        if not found and any(line["round"] > 1 for line in self.folder.lines()):
            raise InvalidInputError(
                f"{self.folder.path} has lines of finished rounds and no checkpoint: put checkpoint/ back, or "
                "begin another run"
            )
        if found:
            kept = [line for line in self.folder.lines() if line["round"] <= done and not line.get("closing")]
            found.standing.check(begun, kept, str(self.folder.path), one_by_one)
            self._written, self._checksum = len(kept), found.standing.checksum
            self.past, self.round = rounds_of(kept, validation.add), done
            why = stalled(self.settings.server, validation) if done < self.settings.server.rounds else ""
            if self.folder.finished and why:
                raise InvalidInputError(
                    f"{self.folder.path} is finished, it was stopped after round {done}: {why}; to continue, resume it "
                    "with server.patience=0 server.min_delta=0, or with more patience"
                )
            history = found.standing.history(code(self.settings.method), done)
            self._standing = replace(begun, code=history, remembered=found.standing.remembered)
        with self._writing():
            if done < self.settings.server.rounds or not self.folder.finished:
                self.folder.cut(done, ended=done >= self.settings.server.rounds)
            self.folder.update(self.settings)
            self._keeper = self._new_keeper(personal, higher=validation.kind.higher_is_better)
            if self._keeper is not None:
                self._keeper.resume(self.folder.lines())
        return found

    def _new_keeper(self, personal: str, *, higher: bool) -> Keeper | None:
        rule = self.settings.run.keep
        if self.folder is None or rule == "none":
            return None
        return Keeper(self.folder.path, Path(self.state) / self.run_key, rule, personal, higher=higher)

    def keeps(self, *, hosted: bool) -> bool:
        """Whether clients' models are kept: in the run's folder if ``hosted`` on its disk, else where they train."""
        return self._keeper is not None if hosted else self.settings.run.keep != "none"

    def standing(self, remembered: Mapping[str, Position], flights: Sequence[Flight], virtual: float) -> Standing:
        """Return where the run stands with the lines that are not written yet."""
        lines = self._written + sum(not line.get("closing") for line in self.lines.pending)
        standing = replace(self._standing, lines=lines, remembered=dict(remembered))
        return replace(standing, flights=list(flights), virtual=virtual)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise RunError where the folder cannot be written, with what to do."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            path = self.folder.path if self.folder else ""
            raise RunError(
                f"{path} cannot be written ({reason(error)}): make room, or let it be written, and resume by "
                f"run.resume={path}"
            ) from None

    def release(self) -> None:
        """Let other runs into the folder."""
        if self.folder is not None:
            self.folder.release()

    def discard(self) -> None:
        """Leave a new run's folder as one that another run can begin in."""
        if self.folder is not None and not self.round:
            self.folder.discard()

    def offer(
        self,
        world: World,
        students: Sequence[Weights],
        names: Mapping[str, str],
        clients: Sequence[Client],
        *,
        plain: bool,
    ) -> None:
        """Write the server's current models, for ``run.keep``.

        Parameters
        ----------
        world : World
            The server's.
        students : Sequence[Weights]
            Its models, one an architecture.
        names : Mapping[str, str]
            What their architectures are called.
        clients : Sequence[Client]
            As they answered the handshake.
        plain : bool
            Whether their apps know nothing of FD-Flower, so that their task may differ from the server's.
        """
        if self._keeper is None or self.folder is None or not self.lines.pending:
            return
        when = (self.lines.pending[0]["round"], bool(self.lines.pending[0].get("closing")))
        figures = (
            dict(self.lines.evaluated or {}) if len(students) == 1 else {}
        )  # a mean over several belongs to none of them
        samples = None if plain else world.sample
        for student in students:
            name = names.get(student.model, student.model)
            like = next((client for client in kinds(clients) if client.model == name), clients[0])
            about = about_model(world, name, like.network, SERVER, samples)
            about |= {"named": self.folder.settings.task, "evaluated": "aggregated", "figures": figures}
            if samples is None and like.shape and not about["named"]:
                about["input"] = {"shape": list(like.shape), "type": "uint8"}
            with self._writing():
                values = completed(world, name, student.values)
                self._keeper.offer(when, name if len(students) > 1 else "", values, about)

    def write(self, own: MetricRecord | None, checkpoint: Checkpoint | None) -> list[dict[str, Any]]:
        """Write the round's lines and return them, then its checkpoint: a crash between plays the round again.

        ``own`` is what the user's ``evaluate_fn`` says of the server's model.
        """
        if self.lines.pending:
            self.lines.pending[0]["global"] = self.lines.evaluated
            self.lines.pending[0] |= {"evaluate_fn": dict(own)} if own else {}
            self.round = self.lines.number
        if self.folder is not None:
            self._checksum = chained(self._checksum, self.lines.pending)
            with self._writing():
                self.folder.append(self.lines.pending)
                if checkpoint is not None:
                    standing = replace(checkpoint.standing, checksum=self._checksum)
                    replace(checkpoint, standing=standing).write(self.folder.path, self.settings.method)
                if self._keeper is not None:
                    self._keeper.note(self.lines.pending)
                    self._keeper.settle()
            self._written += sum(not line.get("closing") for line in self.lines.pending)
        if self.kept is not None:
            self.kept += self.lines.pending
        for line in self.lines.pending:
            if self._on_line:
                self._on_line(line)
        written, self.lines.pending = self.lines.pending, []
        return written

    def forget(self) -> None:
        """Remove the hosted clients' memory, unless it is to be kept."""
        state = Path(self.state)
        if self._keeper is not None:
            if not self._standing.shares:  # hosts hold the newest
                nonce.remove(state, self.run_key)
        else:
            shutil.rmtree(state / self.run_key, ignore_errors=True)
        for path in (*sorted((state / self.run_key).rglob("*"), reverse=True), state / self.run_key, state):
            with suppress(OSError):  # a client's memory, or another run's, is in it
                path.rmdir()

    def finish(
        self,
        *,
        clients: Sequence[Client],
        host: HostGrid,
        evaluated: str,
        rounds: int,
        world: World,
        stopped: str = "",
        own_loops: bool = False,
        resolved: Mapping[str, str] | None = None,
        idle: int = 0,
        judges: int = 0,
    ) -> None:
        """Write the summary and the report of a run of so many rounds.

        Parameters
        ----------
        clients : Sequence[Client]
            Who took part.
        host : HostGrid
            Where they were.
        evaluated : str
            The method's evaluation point.
        rounds : int
            How many were played.
        world : World
            The server's.
        stopped : str
            Why no more were, where it is not the last one; ``INTERRUPTED``: it was interrupted and can be resumed.
        own_loops : bool
            Whether the clients' app trains and evaluates on its own.
        resolved : Mapping[str, str] | None
            What ``auto`` options came to, by option.
        idle : int
            Training rows that are held out as public samples though the method needs none.
        judges : int
            How many clients' models are evaluated on all clients' samples; 0: none, or all.
        """
        if self.folder is None and self.kept is None:
            return
        settings = self.settings
        if self._keeper is not None:
            with self._writing():
                self._keeper.finish()
        facts = {
            "method": short_name(settings.method),
            "status": str(strategy(settings.method).status),
            "seed": settings.run.seed,
            "rounds": rounds,
            "planned": settings.server.rounds,
            "stopped": stopped,
            "clients": len(clients),
            "engine": ENGINES.get(host.engine, "local"),
            "model": model_facts(world, clients, plain=host.plain),
            "licenses": {} if host.plain else licenses(world, clients),
            "data": data_facts(world, clients, plain=host.plain),
            "versions": versions() | ({"changed": changed} if (changed := changes(self._standing.code)) else {}),
            "task": world.kind.name,
            "references": world.kind.references(world),
            "classes": list(world.class_names),
            "metrics": {name: metric.higher_is_better for name, metric in world.metrics.items()}
            | ({BACKDOOR: False} if settings.attack.name == BACKDOOR else {}),
            "evaluated": evaluated_at(evaluated),
            "state": self._state_of(evaluated, hosted=world.hosted, shares=host.shares),
            "own_loops": own_loops,
            "resolved": dict(resolved or {}),
            "held_out_unused": idle,
            "judges": judges,
            "attack": self._attack(),
        }
        if self.folder is None:
            self.summary = finite(summarize(self.kept or [], facts))
            return
        with self._writing():
            self.summary = self.folder.finish(facts)
            if settings.run.report:
                from fd_flower.results import report  # matplotlib takes half a second, and most processes never draw

                report.draw(self.folder)

    def _attack(self) -> dict[str, Any]:
        """Return which attack there was and by whom; nothing for none."""
        who = sorted(self.settings.attackers, key=natural)
        return {**asdict(self.settings.attack), "attackers": who} if who else {}

    def _state_of(self, point: str, *, hosted: bool, shares: int) -> str | None:
        """Return where the models are that the figures of all classes belong to; None: they are not kept."""
        keeper = self._keeper
        if point == "aggregated":
            return (None if keeper is None else keeper.where(servers=True)) or FILE
        if hosted and not shares:
            return None if keeper is None else keeper.where(servers=False)
        where = f"<state-dir>/{self.run_key}/<client>/{MODEL}, on each {'host' if shares else 'device'}"
        return where if self.keeps(hosted=False) else None
