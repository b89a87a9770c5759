"""What a run tells others of as it goes: callbacks of the user's own, and trackers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from logging import WARNING
from pathlib import Path
from statistics import fmean
from traceback import extract_tb
from typing import Any

from fd_flower.config import Settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.flower import log

Line = Mapping[str, Any]
"""A line of ``rounds.jsonl``."""
Summary = Mapping[str, Any]
"""What ``summary.json`` says."""


@dataclass(frozen=True)
class Round:
    """What came out of a round.

    Attributes
    ----------
    number : int
        Which round, from 1, over the whole run, resumed or not.
    closing : bool
        Whether it is the closing measurement that follows the last round, whose number it has.
    lines : Sequence[Line]
        Its lines as ``rounds.jsonl`` has them: the round's own, then one of each client that replied.
    metrics : dict[str, float]
        All of its finite figures by flat names: ``loss`` and what else clients report (mean over clients),
        ``evaluate_fn/<name>`` (a user's own function),
        ``<point>/<name>`` (``trained/accuracy``, ``aggregated/nll``: at an evaluation point, the server's or the mean
        over clients), ``validation`` (what early stopping goes by), ``diagnostics/<name>``, ``seconds``,
        ``virtual_seconds`` (since the run began, in simulations with virtual time), ``bytes/up``,
        ``bytes/down``, ``clients/asked``, ``clients/replied``, ``clients/failed``; each has ``closing/`` before it in a
        closing measurement.
    """

    number: int
    closing: bool
    lines: Sequence[Line]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Started:
    """A run that begins or is resumed.

    Attributes
    ----------
    method : str
        The method's short name.
    settings : Settings
        All options, merged.
    options : dict[str, Any]
        Those that say something of this run, by their dotted keys (``client.lr``): its hyperparameters.
    run_key : str
        The run's own key, 16 hexadecimal digits, the same when it is resumed.
    folder : Path | None
        The run's folder; None: nothing is written.
    clients : tuple[str, ...]
        Ids of those that take part.
    past : Sequence[Round]
        The rounds that are done already, where the run is resumed.
    """

    method: str
    settings: Settings
    options: dict[str, Any]
    run_key: str
    folder: Path | None
    clients: tuple[str, ...]
    past: Sequence[Round] = ()


class Callback:
    """What a run calls as it goes; a subclass overrides what it needs.

    Callbacks run where the strategy runs, one after the other, in the order in which they were given. What
    ``on_start`` raises ends the run before its first round. Later a callback that raises is left out from there on,
    with one warning, and the run continues.
    """

    def on_start(self, run: Started) -> None:
        """Before the first round of a run, or the first one that a resumed run has left."""

    def on_round(self, round: Round) -> None:
        """After a round, or the closing measurement, has been written down."""

    def on_end(self, summary: Summary | None) -> None:
        """When the run has ended and its report is written; None: it failed, and may be resumed.

        The summary of a run that was interrupted has ``interrupted``.
        """


@dataclass
class Callbacks:
    """The callbacks of a run, called so that none of them costs it a round.

    Attributes
    ----------
    names : dict[str, Callback]
        What is called, by the name in messages.
    """

    names: dict[str, Callback] = field(default_factory=dict)

    @classmethod
    def of(cls, callbacks: Sequence[Callback], more: Mapping[str, Callback]) -> "Callbacks":
        """Return a run's: the user's own, and those that ``run.track`` names.

        Raises
        ------
        InvalidInputError
            For what is no callback.
        """
        names: dict[str, Callback] = {}
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise InvalidInputError(
                    f"callbacks has {callback!r}; expected objects of subclasses of fd_flower.Callback"
                )
            name = type(callback).__name__
            names[name if name not in names else f"{name} {len(names) + 1}"] = callback
        return cls({**names, **more})

    def start(self, run: Started) -> None:
        """Tell of the start.

        Raises
        ------
        InvalidInputError
            Where a callback raises; those before it are notified that the run has failed.
        """
        waiting, self.names = self.names, {}
        for name, callback in waiting.items():
            try:
                callback.on_start(run)
            except (InvalidInputError, RunError):
                raise
            except Exception as error:
                raise InvalidInputError(f"{name} cannot start: {_where(error)}") from error
            self.names[name] = callback

    def round(self, round: Round) -> None:
        """Tell of a round."""
        self._call("on_round", lambda callback: callback.on_round(round))

    def end(self, summary: Summary | None) -> None:
        """Tell of the end, once."""
        self._call("on_end", lambda callback: callback.on_end(summary))
        self.names = {}

    def _call(self, hook: str, call: Callable[[Callback], None]) -> None:
        for name, callback in list(self.names.items()):
            try:
                call(callback)
            except Exception as error:  # whatever it is, the run is not to suffer
                del self.names[name]
                log(WARNING, "%s is left out from here on, the run continues: %s raised %s", name, hook, _where(error))


def _where(error: Exception) -> str:
    """Return an error in one line, with the innermost place that raised it."""
    place = extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{text} ({place.filename}:{place.lineno})"


def rounds_of(lines: Sequence[Line], validation: Callable[[Sequence[Line]], float | None]) -> list[Round]:
    """Return the rounds that lines are of, in their order; ``validation`` takes the lines of those not closing."""
    rounds = []
    for (number, closing), group in groupby(lines, key=lambda line: (line["round"], bool(line.get("closing")))):
        own = list(group)
        metrics = _metrics(own)
        if not closing and (figure := validation(own)) is not None:
            metrics["validation"] = figure
        if closing:
            metrics = {f"closing/{name}": value for name, value in metrics.items()}
        rounds.append(Round(number, closing, own, metrics))
    return rounds


def _metrics(lines: Sequence[Line]) -> dict[str, float]:
    """Return a round's finite figures by flat names."""
    head, clients = lines[0], [line for line in lines if "client" in line]
    found = {**head["metrics"], "seconds": head["seconds"]}
    found |= {"virtual_seconds": head["virtual_seconds"]} if "virtual_seconds" in head else {}
    found |= {f"aggregated/{name}": value for name, value in (head["global"] or {}).items() if name != "images"}
    found |= {f"evaluate_fn/{name}": value for name, value in (head.get("evaluate_fn") or {}).items()}
    found |= {f"diagnostics/{name}": value for name, value in (head.get("diagnostics") or {}).items()}
    found |= {f"bytes/{way}": sum(head["bytes"][way].values()) for way in ("up", "down")}
    found |= {f"clients/{what}": len(head[what]) for what in ("asked", "replied", "failed")}
    at_points: dict[str, list[float]] = {}
    for line in clients:
        for point, figures in line["evaluations"].items():
            for name, value in figures.items():
                at_points.setdefault(f"{point}/{name}", []).append(value)
    # Of one client whose figure is no number, or not finite, there is no mean.
    found |= {name: fmean(values) for name, values in at_points.items() if all(map(_is_figure, values))}
    return {name: float(value) for name, value in found.items() if _is_figure(value)}


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
