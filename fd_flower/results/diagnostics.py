"""What the report says of a run's votes, teachers and heads: the diagnostics of its lines, and their curves."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fd_flower.core.client import natural
from fd_flower.results import evaluation_points, panels, pictures
from fd_flower.results.history import Track, last
from fd_flower.results.page import Markup, Share, element, percent, rounded, table
from fd_flower.results.pictures import Picture

MEANING = {
    "votes": "voters a public sample",
    "valid": "share of the round's public samples with a vote that the server keeps",
    "teacher_entropy": "of the teacher's prediction, nats",
    "agreement": "share of votes with the same most likely class as the teacher",
    "ensemble_accuracy": "the teacher's accuracy on these samples",
    "precision": "share of votes by clients that hold the sample's class",
    "purity": "the same share sample by sample, averaged",
}
"""What the figures of ``fd_flower.server.diagnostics.tally`` mean; a method's own are explained on its page."""

Lines = Sequence[Mapping[str, Any]]


def sections(lines: Lines) -> list[Markup]:
    """Return the parts of a report about diagnostics and heads; none where a run has neither."""
    return [*_rounds(lines), *_voters(lines), *_heads(lines)]


def _rounds(lines: Lines) -> list[Markup]:
    tracks = evaluation_points.of_notes(lines)
    if not tracks:
        return []
    rows = [
        (name, MEANING.get(name, ""), *(rounded(value) for value in (_first(track), last(track), _mean(track))))
        for name, track in tracks.items()
    ]
    return [
        element("h2", "Votes and teachers"),
        table(["figure", "what it is", "first round", "last round", "mean"], rows, texts=(0, 1)),
        pictures.beside([Picture.of(panel) for panel in panels.notes(tracks)]),
    ]


def _voters(lines: Lines) -> list[Markup]:
    """Return who voted for what: one row a client, means over its rounds."""
    shown: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        if "client" in line and line.get("diagnostics"):
            shown.setdefault(line["client"], []).append(line["diagnostics"])
    names = list(dict.fromkeys(name for notes in shown.values() for note in notes for name in note))
    if not names:
        return []
    plain = [name for name in names if name != "accepted_by_class"]
    classes = max((len(note.get("accepted_by_class") or ()) for notes in shown.values() for note in notes), default=0)
    rows = []
    for client in sorted(shown, key=natural):
        notes = shown[client]
        by_class = [note["accepted_by_class"] for note in notes if note.get("accepted_by_class")]
        columns = [Share(_average([row[c] for row in by_class])) for c in range(classes)]
        rows.append((client, *(rounded(_average([note.get(name) for note in notes])) for name in plain), *columns))
    note = "Means over rounds, of each client."
    if classes:
        note += " Columns 0 and on: the share of samples of that true class, in %, on which the client votes."
    head = ["client", *plain, *map(str, range(classes))]
    return [table(head, rows, kind="tall narrow"), element("p", note, "soft")]


def _heads(lines: Lines) -> list[Markup]:
    """Return the newest accuracy of everything that was measured in addition to the models, mean over clients."""
    newest: dict[str, dict[str, dict[str, float]]] = {}
    for line in lines:
        for figures in (line.get("evaluations") or {}).values() if "client" in line else ():
            for key, value in figures.items():
                name, slash, figure = key.partition("/")
                if slash and figure in ("accuracy", "global", "pooled"):
                    newest.setdefault(name, {}).setdefault(figure, {})[line["client"]] = value
    if not newest:
        return []
    rows = [
        (name, *(percent(_average(list(of.get(figure, {}).values()))) for figure in ("accuracy", "pooled", "global")))
        for name, of in newest.items()
    ]
    head = ["head", "own test, %", "pooled, %", "global, %"]
    return [element("h2", "Heads"), table(head, rows), element("p", "Newest figures, mean over clients.", "soft")]


def _first(track: Track) -> float:
    return track[min(track)]


def _mean(track: Track) -> float:
    return fmean(track.values())


def _average(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is there; None for nothing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
