"""What a run comes to: the figures of ``summary.json``, from its lines alone."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from fd_flower.core.client import share
from fd_flower.results import retrieval
from fd_flower.results.history import History, Track, at_best, curve, last


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
        ``method``, ``seed``, ``rounds``, ``clients``, ``engine``, ``model``, ``data``, ``versions``, and
        ``evaluated``: the evaluation points of ``global`` and ``personal``; of a task that is not classification also
        ``task``, its kind, and ``references``: figures, by name, of what needs no training.
    """
    evaluated = facts["evaluated"]
    head = {key: facts[key] for key in ("method", "seed", "rounds", "clients", "engine", "model", "data")}
    if facts.get("planned", facts["rounds"]) != facts["rounds"]:
        head["stopped"] = f"after round {facts['rounds']} of {facts['planned']}"
    if facts.get("task") == "retrieval":
        found = retrieval.summarize(lines, evaluated, facts.get("references", {}))
        return {**head, "retrieval": found, **_cost(lines), "versions": facts["versions"]}
    history = History.of(lines, evaluated)
    shared, own = history.shared, history.own
    pooled_validation = curve(shared.get("validation", {}))
    # On devices nobody holds all clients' validation parts: what they say of their own is the next best judge.
    validation = pooled_validation or curve(own.get("validation", {}))
    return {
        **head,
        "accuracy": {
            "global": {**_of_mean(shared.get("accuracy", {}), validation), "evaluated": evaluated["global"]},
            "pooled": {**_of_mean(shared.get("pooled", {}), validation), "evaluated": evaluated["global"]},
            "personal": {**_of_clients(own), "evaluated": evaluated["personal"]},
        },
        "selected_on": "pooled" if pooled_validation else "own" if validation else None,
        "calibration": {
            scope: {key: _final(tracks.get(key, {})) for key in ("ece", "nll")}
            for scope, tracks in (("global", shared), ("personal", own))
        },
        **_cost(lines),
        "versions": facts["versions"],
    }


def _of_mean(tracks: Mapping[str, Track], validation: Track) -> dict[str, float | None]:
    """Return final, selected and best of the mean over clients (or of the server's model)."""
    test = curve(tracks)
    if not test:
        return {"final": None, "selected": None, "best": None}
    return {"final": last(test), "selected": at_best(validation, test), "best": max(test.values())}


def _of_clients(own: Mapping[str, Mapping[str, Track]]) -> dict[str, float | None]:
    """Return the figures of clients on their own data, where each one selects for itself."""
    tests, validations = own.get("accuracy", {}), own.get("validation", {})
    if not tests:
        return {"final": None, "selected": None, "best": None, "std": None, "worst10": None}
    finals = sorted(last(track) for track in tests.values())
    selected = None
    if validations:
        # A client too small for a validation part has nothing to choose by and stays at its last figure.
        chosen = {client: at_best(validations.get(client, {}), track) for client, track in tests.items()}
        selected = fmean(last(tests[client]) if figure is None else figure for client, figure in chosen.items())
    return {
        "final": fmean(finals),
        "selected": selected,
        "best": max(curve(tests).values()),
        "std": pstdev(finals),
        "worst10": fmean(finals[: share(len(finals), 0.1)]),
    }


def _final(tracks: Mapping[str, Track]) -> float | None:
    """Return the mean of the newest figures, None where there are none."""
    return fmean(last(track) for track in tracks.values()) if tracks else None


def _cost(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return bytes and seconds; the closing measurement is an instrument and costs the method nothing."""
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    traffic = [line["bytes"] for line in rounds]
    wires = [counted["wire"] for counted in traffic if counted.get("wire") is not None]
    seconds = [line["seconds"] for line in rounds]
    return {
        "bytes": {
            **{way: sum(sum(counted[way].values()) for counted in traffic) for way in ("up", "down")},
            "wire": sum(wires) if wires else None,
        },
        "seconds": {"total": sum(seconds), "round": fmean(seconds) if seconds else None},
    }
