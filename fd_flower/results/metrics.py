"""Figures in addition to accuracy: those that are means over classes, and a task's own, over rounds and at the end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from fd_flower.core.client import share
from fd_flower.objectives.metrics import BY_CLASS
from fd_flower.results.columns import Column, end
from fd_flower.results.history import SERVER, Track, at_best, best_of, curve, last

Tracks = Mapping[str, Track]
Lines = Iterable[Mapping[str, Any]]
Evaluated = Mapping[str, str | None]
SCOPES = ("global", "personal")
HEADERS = {"balanced_accuracy": "bal. accuracy", "macro_f1": "macro-F1", "auc": "AUC"}
MEANING = (
    "At the end, built-in metrics in %, others unscaled. Global: global test set; personal: each client's own test "
    "part, mean over clients. Balanced accuracy (mean recall), macro-F1 and AUC (one class against the rest) are means "
    "over the classes that have samples."
)

GLOBAL_NAMES = {"accuracy": ("global", "pooled_validation")}
"""What a client's line calls accuracy on all clients' test and validation samples; of others see ``_names``."""


@dataclass(frozen=True)
class Scored:
    """One metric of a run over time, by scope (``global``, ``personal``) and by whose model.

    Attributes
    ----------
    test, validation : Mapping[str, Tracks]
        On test and on validation samples: of all clients (``global``) or each one's own (``personal``).
    higher : bool
        Whether the higher figure is the better one.
    lacking : Mapping[str, Sequence[str]]
        Whose model was evaluated and has no figure at its newest evaluation: it was not defined there.
    """

    test: Mapping[str, Tracks]
    validation: Mapping[str, Tracks]
    higher: bool
    lacking: Mapping[str, Sequence[str]]

    @classmethod
    def of(
        cls,
        lines: Iterable[Mapping[str, Any]],
        evaluated: Mapping[str, str | None],
        metric: str,
        *,
        higher: bool,
    ) -> "Scored":
        """Read the lines of ``rounds.jsonl``; ``evaluated`` says when each scope is measured."""
        tracks: dict[str, dict[str, dict[str, Track]]] = {
            part: {scope: {} for scope in (*SCOPES, SERVER)} for part in ("test", "validation", "evaluated")
        }
        for line in lines:
            when = (line["round"], bool(line.get("closing")))
            for scope, who, figures, names in _measured(line, evaluated, metric):
                for part, name in zip(tracks, names, strict=True):
                    if (value := figures.get(name)) is not None:
                        tracks[part][scope].setdefault(who, {})[when] = value
        for of_scope in tracks.values():
            of_server = of_scope.pop(SERVER)
            of_scope["global"] = of_server or of_scope["global"]
        lacking = {
            scope: [
                who
                for who, track in of_all.items()
                if max(track) != max(tracks["test"][scope].get(who, {}), default=None)
            ]
            for scope, of_all in tracks["evaluated"].items()
        }
        return cls(tracks["test"], tracks["validation"], higher, lacking)


def _measured(
    line: Mapping[str, Any], evaluated: Evaluated, metric: str
) -> Iterable[tuple[str, str, Mapping[str, Any], tuple[str, str, str]]]:
    """Yield scope, whose model, its figures, and what they call this metric on test and validation samples.

    The third name is of a figure that every evaluation on the same test samples has.
    """
    plain = (
        ("accuracy", "validation", "accuracy") if metric == "accuracy" else (metric, f"validation_{metric}", "accuracy")
    )
    if "client" not in line:
        yield SERVER, SERVER, line.get("global") or {}, plain
        return
    everybodys = GLOBAL_NAMES.get(metric, (f"global_{metric}", f"pooled_validation_{metric}"))
    evaluations = line.get("evaluations") or {}
    yield "global", line["client"], evaluations.get(evaluated["global"]) or {}, (*everybodys, "global")
    yield "personal", line["client"], evaluations.get(evaluated["personal"]) or {}, plain


def axis(name: str) -> str:
    """Return the label of an axis, or the head of a column, of a metric's figures, with its unit."""
    return f"{HEADERS[name]}, %" if name in BY_CLASS else name


def of_mean(tracks: Tracks, validation: Track, *, higher: bool) -> dict[str, float | None]:
    """Return final, selected and best of the mean over clients (or of the server's model)."""
    test = curve(tracks)
    if not test:
        return {"final": None, "selected": None, "best": None}
    return {
        "final": last(test),
        "selected": at_best(validation, test, higher=higher),
        "best": best_of(test.values(), higher=higher),
    }


def of_clients(tests: Tracks, validations: Tracks, *, higher: bool) -> dict[str, float | None]:
    """Return the figures of clients on their own data, where each one selects for itself."""
    if not tests:
        return {"final": None, "selected": None, "best": None, "std": None, "worst10": None}
    finals = sorted((last(track) for track in tests.values()), reverse=not higher)
    selected = None
    if validations:
        # A client too small for a validation part has nothing to choose by and stays at its last figure.
        chosen = {client: at_best(validations.get(client, {}), track, higher=higher) for client, track in tests.items()}
        selected = fmean(last(tests[client]) if figure is None else figure for client, figure in chosen.items())
    return {
        "final": fmean(finals),
        "selected": selected,
        "best": best_of(curve(tests).values(), higher=higher),
        "std": pstdev(finals),
        "worst10": fmean(finals[: share(len(finals), 0.1)]),
    }


def summarize(lines: Sequence[Mapping[str, Any]], evaluated: Evaluated, own: Mapping[str, bool]) -> dict[str, Any]:
    """Return every metric at the end, selected by its own validation figure, and best on test.

    Parameters
    ----------
    lines : Sequence[Mapping[str, Any]]
        The lines of a run.
    evaluated : Mapping[str, str | None]
        When ``global`` and ``personal`` figures are measured.
    own : Mapping[str, bool]
        The task's own metrics: whether higher is better.

    Returns
    -------
    dict[str, Any]
        By metric ``higher_is_better``, and by scope ``final``, ``selected``, ``best``, of clients' own samples also
        ``std`` and ``worst10``, and ``undefined``: how many of the clients (or the server) have no figure. ``reason``
        where no client has.
    """
    return {
        name: _summary(Scored.of(lines, evaluated, name, higher=higher), name) for name, higher in _all(own).items()
    }


def _all(own: Mapping[str, bool]) -> dict[str, bool]:
    return {**dict.fromkeys(BY_CLASS, True), **own}


def _summary(scored: Scored, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"higher_is_better": scored.higher}
    pooled = curve(scored.validation["global"]) or curve(scored.validation["personal"])
    for scope in SCOPES:
        lacking = scored.lacking[scope]
        tracks = {who: track for who, track in scored.test[scope].items() if who not in lacking}
        if scope == "global":
            figures = of_mean(tracks, pooled, higher=scored.higher)
        else:
            figures = of_clients(tracks, scored.validation[scope], higher=scored.higher)
        found[scope] = {**figures, "undefined": len(lacking)}
        if not tracks:
            found[scope]["reason"] = _reason(name) if lacking else "not evaluated on any test samples"
    return found


def _reason(name: str) -> str:
    if name == "auc":
        return "no client has test samples of two classes, or predictions are NaN"
    return "predictions are NaN" if name in BY_CLASS else "the metric returned None or NaN, or predictions are NaN"


def figures(runs: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the metrics of runs that tables show: each at the end, of all clients' and of clients' own samples."""
    known: dict[str, bool] = {}
    for summary in runs:
        known |= {name: of["higher_is_better"] for name, of in (summary.get("metrics") or {}).items()}
    return [
        Column(
            f"{scope}_{name}",
            f"{scope} {HEADERS.get(name, name)}",
            ("metrics", name, scope, "final"),
            100 if name in BY_CLASS else 1,
            1 if name in BY_CLASS else 3,
            end(higher=higher),
        )
        for name, higher in known.items()
        for scope in SCOPES
    ]
