"""Audits of a run: it is run again while a recorder watches the server, and attacks work with what was received."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from fd_flower import attacks
from fd_flower.audit.findings import REFERENCES, Finding, Histogram, findings, findings_of_injected, histograms
from fd_flower.audit.pool import Pool, auxiliary
from fd_flower.audit.recorder import KNOWN, PREDICTIONS, TABLES, Recorder
from fd_flower.config import Settings, registry
from fd_flower.config.registry import short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.tasks.candidates import LEAST, most
from fd_flower.wire import LabelCounts, Payload


@dataclass(frozen=True)
class Audit:
    """What was found in the runs of one method with one seed.

    Attributes
    ----------
    name : str
        What the method or the run is called.
    seed : int
        The seed.
    findings : tuple[Finding, ...]
        Membership inference.
    histograms : tuple[Histogram, ...]
        Inference of label distributions.
    notes : tuple[str, ...]
        What of the knowledge could not be attacked.
    """

    name: str
    seed: int
    findings: tuple[Finding, ...]
    histograms: tuple[Histogram, ...]
    notes: tuple[str, ...]


MOST = 100
"""Candidates of each client where none are asked for: so many, or all that the smallest client has."""


def check(settings: Settings, count: int | None) -> int:
    """Refuse an audit that cannot be, before anything trains; return the number of candidates.

    Parameters
    ----------
    settings : Settings
        The run.
    count : int | None
        Members of each client, and as many non-members; None: what the smallest client has, at most ``MOST``.

    Raises
    ------
    InvalidInputError
        With the reason.
    """
    name = short_name(settings.method)
    if settings.attack.name != attacks.NONE or settings.attack.inject:
        raise InvalidInputError(
            f"an audit is of honest clients, and attack.name={settings.attack.name} attack.inject="
            f"{settings.attack.inject}: leave both out"
        )
    strategy = Strategy.for_method(settings)
    sent = dict.fromkeys((*strategy.expected_kinds(1), *strategy.expected_kinds(2)))  # some begin in round two
    if not _usable(sent):
        raise InvalidInputError(
            f"{name} sends {', '.join(kind.kind for kind in sent) or 'nothing'}, for which the audit has no attack; it "
            f"has attacks on {', '.join(kind.kind for kind in KNOWN)}"
        )
    world = strategy.world
    if world.task.kind is not None or not world.has_data:
        raise InvalidInputError(
            f"an audit needs clients' samples with class labels, and this task has none ({world.kind.name}): take a "
            "task of classification"
        )
    if len(world.clients) <= REFERENCES:
        raise InvalidInputError(
            f"data.clients={len(world.clients)} leaves too few other clients as reference models: take "
            f"{REFERENCES + 1} or more"
        )
    if any(issubclass(kind, PREDICTIONS) for kind in sent) and world.public is None:
        raise InvalidInputError(f"clients of {name} predict on public samples, and data.public is none: name some")
    if any(issubclass(kind, PREDICTIONS) for kind in sent) and strategy.requirements(settings).labels:
        raise InvalidInputError(
            f"clients of {name} learn from the labels of public samples, and an injected candidate would be a training "
            "sample of every client: set client.label_epochs=0"
        )
    count = count or min(MOST, *(most(world.data(client)) for client in world.clients))
    pool = Pool.of(world, max(count, LEAST))
    if settings.privacy.sum != "none" or any(issubclass(kind, TABLES) for kind in sent):
        auxiliary(world, pool)
    return count


def audit(
    name: str, settings: Settings, count: int, steps: int, on_line: Callable[[dict[str, Any]], None] | None = None
) -> Audit:
    """Run a method while the server is watched, and attack what it has received.

    Clients that predict on public samples run a second time, with the candidates among these samples.

    Parameters
    ----------
    name : str
        What the method or the run is called in tables.
    settings : Settings
        The run; it leaves no folder behind.
    count : int
        Members of each client, and as many non-members.
    steps : int
        Training steps of a shadow model.
    on_line : Callable | None
        Gets the lines of both runs.

    Raises
    ------
    InvalidInputError
        As ``check`` does, and for a run that cannot be.
    """
    settings = replace(settings, run=replace(settings.run, out=None, resume=None, keep="none", track=None))
    seen = _watched(settings, count, steps, on_line)
    found = [*findings(seen)]
    labels = tuple(histograms(seen, seen.clients))
    if seen.predictions:
        found += findings_of_injected(_watched(_injecting(settings, seen, count), count, steps, on_line))
    return Audit(name, settings.run.seed, tuple(found), labels, tuple(_notes(seen)))


def _watched(settings: Settings, count: int, steps: int, on_line: Callable[[dict[str, Any]], None] | None) -> Recorder:
    """Run a method, and return what the server has received."""
    strategy = Strategy.for_method(settings)
    strategy.on_line = on_line
    strategy.on_replies = seen = Recorder(strategy, count, steps)
    strategy.start(InProcessGrid(registry.client_app(settings.method), run_config={"task": settings.task}))
    return seen


def _injecting(settings: Settings, seen: Recorder, count: int) -> Settings:
    """Return settings of a run whose rounds are about all public samples, the candidates among them."""
    total = len(seen.public) + len(seen.pool.labels)
    return replace(
        settings,
        attack=replace(settings.attack, inject=count),
        data=replace(settings.data, public_batch=total),
    )


def _usable(sent: Iterable[type[Payload]]) -> list[type[Payload]]:
    return [kind for kind in sent if issubclass(kind, KNOWN)]


def _notes(seen: Recorder) -> list[str]:
    kinds = sorted(kind.kind for kind in seen.kinds if not issubclass(kind, (*KNOWN, LabelCounts)))
    others = [f"no attack on {kind}" for kind in kinds]
    return [*others, *(f"no attack on {why}" for why in sorted(seen.unusable))]
