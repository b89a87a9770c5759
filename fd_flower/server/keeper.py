"""Which of the models that were evaluated stay in a run's folder (``run.keep``): a function of the run's lines."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from torch import Tensor

from fd_flower.core import kept
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.core.kept import When
from fd_flower.core.storage import folder_name
from fd_flower.results.history import Track, best_point, curve
from fd_flower.tasks.kept import FOLDER, SERVER, name_of

OFFERED = ".evaluated"
"""Of the folder of kept models: where the server's lie until the round is written down."""


class Keeper:
    """Takes models that clients, and the server, wrote where they were evaluated, once the round is written down.

    Of each client it is the newest that is in the lines, or the one at the client's own best validation figure; of
    the server the one at the best figure on all clients' validation samples together (on devices the mean over clients'
    own): those of ``final`` and ``selected`` in the summary. Nothing but one model of each lies in memory or on disk.

    Parameters
    ----------
    run : Path
        The run's folder.
    memory : Path
        The folder of this run's hosted clients.
    rule : str
        ``run.keep``, ``last`` or ``best``.
    personal : str
        Where clients' own models are evaluated.
    higher : bool
        Whether the higher validation figure is the better one.
    """

    def __init__(self, run: Path, memory: Path, rule: str, personal: str, *, higher: bool) -> None:
        self.folder = run / FOLDER
        self.memory = memory
        self.rule = rule
        self.personal = personal
        self.higher = higher
        self._points: dict[str, set[When]] = {}
        self._own: dict[str, Track] = {}
        self._servers: set[When] = set()
        self._pooled: Track = {}
        self._unsettled: set[str] = set()

    def note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take in lines of ``rounds.jsonl``."""
        for line in lines:
            when = (line["round"], bool(line.get("closing")))
            if "client" not in line:
                if figures := line.get("global"):
                    self._servers.add(when)
                    _put(self._pooled, when, figures)
            elif figures := (line.get("evaluations") or {}).get(self.personal):
                self._points.setdefault(line["client"], set()).add(when)
                self._unsettled.add(line["client"])
                _put(self._own.setdefault(line["client"], {}), when, figures)

    def offer(self, when: When, architecture: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Write a server's model that has been evaluated; "" is the architecture of the only one."""
        self._servers.add(when)  # also where there was nothing to evaluate it on
        kept.offer(self.folder / OFFERED / name_of(SERVER, architecture), when, tensors, about)

    def settle(self) -> None:
        """Take the models that are chosen as the lines are by now, and drop the others that were written since."""
        for client in self._unsettled:  # the choice of others stands, as it depends on their own lines alone
            kept.take(self.memory / folder_name(client), self._of_client(client), self.folder / name_of(client))
        self._unsettled.clear()
        for offers in (self.folder / OFFERED).glob("*"):
            kept.take(offers, self._of_server(), self.folder / offers.name)

    def finish(self) -> None:
        """Drop what is left over, and any model that the lines do not choose: of figures that were cut off since."""
        shutil.rmtree(self.folder / OFFERED, ignore_errors=True)
        servers = {path.name: self._of_server() for path in self.folder.glob(f"{SERVER}*.safetensors")}
        clients = {name_of(client): self._of_client(client) for client in self._points}
        for name, chosen in {**servers, **clients}.items():
            path = self.folder / name
            if path.is_file() and kept.when(kept.read_about(path)) != chosen:
                path.unlink()
                log(WARNING, "%s is not kept: the model of its best round was replaced at the run's first end", path)
        if self.rule == "best" and self._points and not (self._pooled or any(self._own.values())):
            log(WARNING, "run.keep=best kept the last models: nothing was evaluated on validation samples")

    def resume(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take up a run with these lines: what it wrote last may not be settled yet."""
        self.note(lines)
        last = max(((line["round"], bool(line.get("closing"))) for line in lines), default=(0, False))
        for path in [*self.folder.glob(f"{SERVER}*.safetensors"), *(self.folder / OFFERED).glob("*/*.safetensors")]:
            try:
                when = kept.when(kept.read_about(path))
            except InvalidInputError:
                continue
            if when <= last:
                self._servers.add(when)
        self.settle()

    def where(self, *, servers: bool) -> str | None:
        """Return where the server's models, or the clients', lie from the run's folder; None: there are none."""
        names = sorted(path.name for path in self.folder.glob(f"{SERVER if servers else 'client'}*.safetensors"))
        if not names:
            return None
        if not servers:
            return f"{FOLDER}/client-<client>.safetensors"
        return f"{FOLDER}/{names[0] if len(names) == 1 else f'{SERVER}-<architecture>.safetensors'}"

    def _of_client(self, client: str) -> When:
        """Return when a client's chosen model was evaluated; one without validation samples keeps its last."""
        points = self._points[client]
        chosen = best_point(self._own[client], points, higher=self.higher) if self.rule == "best" else None
        return chosen or max(points)

    def _of_server(self) -> When | None:
        if self.rule == "best":
            score = self._pooled or curve({who: track for who, track in self._own.items() if track})
            if chosen := best_point(score, self._servers, higher=self.higher):
                return chosen
        return max(self._servers, default=None)


def _put(track: Track, when: When, figures: Mapping[str, Any]) -> None:
    figure = figures.get("validation")
    if isinstance(figure, int | float):
        track[when] = figure
