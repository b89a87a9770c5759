"""The lines of a round, from its beginning until they are written: one of the round, then one a client."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

from flwr.app import MetricRecord

from fd_flower.server.diagnostics import Figure
from fd_flower.server.host_grid import HostGrid
from fd_flower.tasks.kept import SERVER
from fd_flower.tasks.kind import Figures
from fd_flower.tasks.world import World
from fd_flower.training import LOCAL, PUBLIC, counted
from fd_flower.wire import Weights
from fd_flower.wire.replies import STEPS, Reply
from fd_flower.wire.traffic import Bytes


@final
class RoundLines:
    """The lines of the round under way.

    Attributes
    ----------
    number : int
        The round.
    closing : bool
        Whether they are of the closing message.
    failed, remarks : dict[str, str]
        By client: why its reply does not count, and what else there is to say of it.
    steps : dict[str, Counter[str]]
        The round's optimizer steps by client and kind.
    server_steps : int
        The server's.
    pending : list[dict[str, Any]]
        The lines that are not written yet.
    evaluated : dict[str, Any] | None
        What is measured of the server's model.
    awaited : list[str]
        Clients whose replies end with the round: those that are asked, unless the round does not wait for them.
    under_way : list[str] | None
        Clients whose replies come in a later round; None: rounds wait for all.
    virtual : float | None
        Virtual seconds at the round's end, since the run began; None: there are none.
    attackers : frozenset[str]
        Clients that attack: their evaluations are not written down, so that figures are those of honest clients.
    """

    def __init__(self) -> None:
        self.number = 0
        self.closing = False
        self.failed: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        self.steps: dict[str, Counter[str]] = {}
        self.server_steps = 0
        self.pending: list[dict[str, Any]] = []
        self.evaluated: dict[str, Any] | None = None
        self.awaited: list[str] = []
        self.under_way: list[str] | None = None
        self.virtual: float | None = None
        self.attackers: frozenset[str] = frozenset()

    def begin(self, number: int, asked: Sequence[str], host: HostGrid) -> None:
        """Begin a round."""
        self.number, self.asked, self._host = number, list(asked), host
        self.awaited, self.under_way, self.virtual = self.asked, None, None
        self.closing, self.failed, self.remarks, self.evaluated = False, {}, {}, None
        self.steps, self.server_steps = {}, 0
        host.bytes = Bytes()
        self._clock = time.monotonic()

    def close(self, number: int, asked: Sequence[str], host: HostGrid) -> None:
        """Begin the closing message."""
        self.begin(number, asked, host)
        self.closing = True

    def add_steps(self, reply: Reply) -> None:
        """Add the optimizer steps that a reply says, where it says any: a round may have several exchanges."""
        for key, value in (reply.metrics or {}).items():
            kind = key.removeprefix(f"{STEPS}/")
            if kind in (LOCAL, PUBLIC) and kind != key and isinstance(value, int | float):
                self.steps.setdefault(reply.client.id, Counter())[kind] += int(value)

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the server's optimizer steps inside."""
        with counted(SERVER) as steps:
            yield
        self.server_steps += steps.total()

    def end(
        self,
        replies: Sequence[Reply],
        metrics: MetricRecord,
        notes: Mapping[str, Mapping[str, Figure]],
        sum: Mapping[str, Any] | None = None,
        lost: str = "",
    ) -> None:
        """Keep the lines of a round, or of the closing message, until it is measured.

        Notes are by client ("": all); ``sum`` is what there is to say about a secure sum, ``lost`` why what was known
        before the round stays.
        """
        traffic, mark = self._host.bytes, {"closing": True} if self.closing else {}
        failed = {**self._host.absent, **self.failed}
        silent = set(self.awaited) - {r.client.id for r in replies} - failed.keys()
        figures = [_figures(reply) for reply in replies]
        self.pending.append(
            {
                "round": self.number,
                **mark,
                "seconds": time.monotonic() - self._clock,
                **({} if self.virtual is None else {"virtual_seconds": self.virtual}),
                "asked": self.asked,
                "replied": [r.client.id for r in replies],
                **({} if self.under_way is None else {"under_way": self.under_way}),
                "failed": {**failed, **dict.fromkeys(sorted(silent), "no reply in time")},
                **({"remarks": self.remarks} if self.remarks else {}),
                **(
                    {"attackers": [client for client in self.asked if client in self.attackers]}
                    if self.attackers
                    else {}
                ),
                "bytes": {"up": traffic.up, "down": traffic.down, "wire": traffic.wire},
                **({"numbers": traffic.numbers} if traffic.numbers else {}),
                **({"exchanges": traffic.exchanges} if len(traffic.exchanges) > 1 else {}),
                **({"sum": dict(sum)} if sum else {}),
                **({"lost": lost} if lost else {}),
                **({"steps": {SERVER: self.server_steps}} if not self.closing else {}),
                "metrics": {k: v for k, v in metrics.items() if "/" not in k and k != "num-examples"},
                "global": None,
                **_diagnostics(notes, ""),
            }
        )
        for reply, (plain, evaluations) in zip(replies, figures, strict=True):
            line = {"round": self.number, **mark, "client": reply.client.id, "examples": reply.examples}
            if self.under_way is not None:
                line["version"] = self.number - reply.late
            if steps := self.steps.get(reply.client.id):
                line["steps"] = {kind: steps[kind] for kind in (LOCAL, PUBLIC)}
            if reply.client.id in self.attackers:
                evaluations = {}
            diagnostics = _diagnostics(notes, reply.client.id)
            self.pending.append({**line, "metrics": plain, "evaluations": evaluations, **diagnostics})

    def judge(
        self, world: World, students: Sequence[Weights], limit: int, names: Mapping[str, str]
    ) -> MetricRecord | None:
        """Measure the server's model, or the mean over several students, and keep the figures for the round's line."""
        found = []
        for student in students if world.kind.judges(world) else ():  # with nothing to measure on it needs no model
            model = world.load(names.get(student.model, student.model), student.values)
            found.append(world.kind.judged(world, model, limit))
        totals = _together(found)
        if totals:
            test = world.test_part(limit)
            images = {} if test is None else {"images": len(test)}
            self.evaluated = {"evaluated": "aggregated", **totals, **images}
        figures = {name: value for name, value in totals.items() if isinstance(value, float)}
        return MetricRecord({**figures}) if figures else None


def _diagnostics(notes: Mapping[str, Mapping[str, Figure]], who: str) -> dict[str, Any]:
    return {"diagnostics": dict(notes[who])} if who in notes else {}


def _together(found: Sequence[Figures]) -> Figures:
    """Return means of the numbers that all of several models have, and sums of their counts."""
    totals: Figures = {}
    for name in [name for name in (found[0] if found else {}) if all(name in one for one in found)]:
        every = [one[name] for one in found]
        counts = [value for value in every if isinstance(value, list)]
        numbers = [value for value in every if not isinstance(value, list)]
        totals[name] = [sum(of) for of in zip(*counts, strict=True)] if counts else sum(v / len(found) for v in numbers)
    return totals


def _figures(reply: Reply) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Split a reply's metrics into plain ones and those measured at a point (``trained/accuracy``)."""
    plain: dict[str, Any] = {}
    evaluations: dict[str, dict[str, Any]] = {}
    for key, value in (reply.metrics or {}).items():
        point, slash, name = key.partition("/")
        if point == STEPS and slash:
            continue
        if slash and isinstance(value, int | float):
            evaluations.setdefault(point, {})[name] = float(value)
        elif slash and isinstance(value, list):  # counts by class
            evaluations.setdefault(point, {})[name] = value
        elif key != "num-examples":
            plain[key] = value
    return plain, evaluations
