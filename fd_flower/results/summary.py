"""What a run comes to: the figures of ``summary.json``, from its lines alone."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fd_flower.results import kinds, reported

INTERRUPTED = "interrupted"
"""Why a run stopped that was interrupted; it can be resumed."""


def summarize(lines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of a run; what was not measured is None.

    ``final`` is the newest figure of every client (the closing one where there is one), ``selected`` the figure at
    the point of the best validation accuracy, ``best`` the one at the best *test* accuracy. Figures of a mean over
    clients count from the point where every client has one.

    Parameters
    ----------
    lines : Sequence[Mapping[str, Any]]
        The lines of ``rounds.jsonl``.
    facts : Mapping[str, Any]
        ``method`` and its ``status``, ``seed``, ``rounds`` of those that were ``planned`` and why it ``stopped`` before
        ("": it did not), ``clients``, ``engine``, ``model``, ``data``,
        ``versions``, and ``evaluated``: the evaluation points of ``global`` and ``personal``; ``state``: where the
        evaluated models lie, from the run's folder, None where they are not kept; ``own_loops``: whether the clients'
        app evaluates on its own, so that its figures are ``reported``; ``held_out_unused``: training rows that clients
        do without for public samples that the method does not need; ``judges``: how many clients' models are evaluated
        on all clients' samples, where these are not all; ``resolved``: what ``auto`` options came to; ``attack``: its
        options and who attacked, where somebody did, so that figures are those of the other clients; of a task that is
        not classification also ``task``, its kind, and ``references``: figures, by name, of what needs no training.
    """
    task = facts.get("task", "classification")
    head = {"method": facts["method"], "status": facts.get("status", "unstated")}
    head |= {key: facts[key] for key in ("seed", "rounds", "clients", "engine", "model", "data")}
    head |= {"judges": few} if (few := facts.get("judges")) else {}
    head |= {"held_out_unused": idle} if (idle := facts.get("held_out_unused")) else {}
    head |= {"resolved": found} if (found := facts.get("resolved")) else {}
    head |= {"attack": found} if (found := facts.get("attack")) else {}
    head |= {"licenses": found} if (found := facts.get("licenses")) else {}
    if why := facts.get("stopped"):
        head["stopped"] = f"after round {facts['rounds']} of {facts['planned']}: {why}"
        head |= {"interrupted": True} if why == INTERRUPTED else {}
    return {
        **head,
        "task": task,
        **kinds.of(task).summarize(lines, facts),
        **({"reported": found} if (found := _reported(lines, facts)) else {}),
        "state": facts.get("state"),
        **_cost(lines),
        "versions": facts["versions"],
    }


def _reported(lines: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user's own code reports; without the figures that FD-Flower's client halves report."""
    return {
        whose: of
        for whose, of in reported.summarize(lines).items()
        if whose != reported.CLIENTS or facts.get("own_loops")
    }


def _cost(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return bytes, seconds and steps; the closing measurement is an instrument and costs the method nothing."""
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    traffic = [line["bytes"] for line in rounds]
    wires = [counted["wire"] for counted in traffic if counted.get("wire") is not None]
    seconds = [line["seconds"] for line in rounds]
    virtual = [line["virtual_seconds"] for line in rounds if "virtual_seconds" in line]
    return {
        "bytes": {
            **{way: sum(sum(counted[way].values()) for counted in traffic) for way in ("up", "down")},
            "wire": sum(wires) if wires else None,
        },
        "seconds": {"total": sum(seconds), "round": fmean(seconds) if seconds else None},
        **({"virtual_seconds": virtual[-1]} if virtual else {}),
        "steps": {kind: _mean_steps(lines, kind) for kind in ("local", "public", "server")},
    }


def _mean_steps(lines: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """Return optimizer steps of one kind, mean over rounds, a client's over clients and rounds; None: not counted."""
    counts = [line["steps"][kind] for line in lines if kind in line.get("steps", {})]
    return fmean(counts) if counts else None
