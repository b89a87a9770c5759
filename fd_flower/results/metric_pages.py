"""The parts of a run's page about other figures than accuracy, and about single classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fd_flower.core.client import natural
from fd_flower.objectives.metrics import BY_CLASS
from fd_flower.results import class_plots, classes, pictures
from fd_flower.results.columns import LOWER
from fd_flower.results.history import curve, last
from fd_flower.results.metrics import HEADERS, SCOPES, Scored, axis
from fd_flower.results.page import NOTHING, Markup, Share, element, folded, image, joined, percent, rounded, table
from fd_flower.results.panels import TEST, TRAINING, VALIDATION, Line, Panel
from fd_flower.results.pictures import Picture

MEANINGS = [f"{what[0].upper()}{what[1:]}." for what in BY_CLASS.values()]
PANELS = {"global": ("global test set", TRAINING), "personal": ("own test part", TEST)}

Lines = Sequence[Mapping[str, Any]]
Evaluated = Mapping[str, str | None]


def sections(summary: Mapping[str, Any], lines: Lines, evaluated: Evaluated) -> list[Markup]:
    """Return metrics at the end, over rounds and by client, recall by class, and confusion matrices."""
    metrics = summary["metrics"]
    scored = {name: Scored.of(lines, evaluated, name, higher=of["higher_is_better"]) for name, of in metrics.items()}
    if not any(of.test[scope] or of.lacking[scope] for of in scored.values() for scope in SCOPES):
        return []
    measured = any(of.test["personal"] for of in scored.values())
    drawn = [_panel(name, of) for name, of in scored.items()]
    called = ", ".join(HEADERS.get(name, name) for name in scored)
    return [
        element("h2", "Other metrics"),
        *_at_the_end(metrics),
        pictures.beside([Picture.of(panel) for panel in drawn]),
        *([folded(f"By client: {called}", _by_client(scored))] if measured else []),
        *_by_class(summary, lines, evaluated),
    ]


def _shown(name: str, value: float | None) -> str | None:
    """Return our shares in per cent and a task's own figures unchanged."""
    return percent(value) if name in BY_CLASS else rounded(value)


def _at_the_end(metrics: Mapping[str, Any]) -> list[Markup]:
    rows = []
    for name, of in metrics.items():
        for scope in SCOPES:
            found = of[scope]
            figures = [_shown(name, found.get(key)) for key in ("final", "selected", "best", "std", "worst10")]
            remark = found.get("reason") or (f"undefined for {found['undefined']}" if found["undefined"] else "")
            better = "" if of["higher_is_better"] else LOWER
            rows.append((f"{axis(name)}{better}", scope, *figures, remark))
    head = ["metric", "of", "final", "selected", "best on test", "std over clients", "worst 10 %", ""]
    own = [name for name in metrics if name not in BY_CLASS]
    notes = [
        f"Global: global test set; personal: each client's own test part, mean over clients. {' '.join(MEANINGS)} "
        "Means are over the classes that have samples: of a client's own test part, its own classes.",
        "Selected: at the round with the best validation figure of the metric itself. Undefined: clients whose samples "
        "give no figure (of one class there is no AUC); means leave them out.",
    ]
    notes += [f"The task's own: {', '.join(own)}."] if own else []
    return [table(head, rows, texts=(0, 1, 7)), *(element("p", note, "soft") for note in notes)]


def _panel(name: str, scored: Scored) -> Panel:
    """Return one metric over rounds."""
    drawn = [
        Line(label, curve(scored.test[scope], from_first=True), color)
        for scope, (label, color) in PANELS.items()
        if scored.test[scope]
    ]
    for scope, label in (("global", "all validation parts"), ("personal", "own validation part")):
        if scored.validation[scope]:
            drawn.append(Line(label, curve(scored.validation[scope], from_first=True), VALIDATION, dashed=True))
            break  # the one that rounds are selected by
    spread = scored.test["personal"]
    scale = 100 if name in BY_CLASS else 1
    better = "" if scored.higher else LOWER
    return Panel(f"{HEADERS.get(name, name)}{better}", drawn, axis(name), scale, spread)


def _by_client(scored: Mapping[str, Scored]) -> Markup:
    """Return a row a client with its newest figures on its own test part."""
    known = {client for of in scored.values() for client in (*of.test["personal"], *of.lacking["personal"])}
    rows = []
    for client in sorted(known, key=natural):
        of_client = {
            name: None if client in of.lacking["personal"] else of.test["personal"].get(client)
            for name, of in scored.items()
        }
        rows.append((client, *(_shown(name, last(track) if track else None) for name, track in of_client.items())))
    note = element("p", f"On its own test part, newest figures; {NOTHING}: not defined on these samples.", "soft")
    return joined(table(["client", *map(axis, scored)], rows, kind="tall"), note)


def _by_class(summary: Mapping[str, Any], lines: Lines, evaluated: Evaluated) -> list[Markup]:
    """Return recall by class as a table, and confusion matrices as an image."""
    found = classes.newest(lines, evaluated)
    recall = {scope: of for scope, of in summary["recall"].items() if of and scope in found}
    if not recall:
        return []
    head, columns, called = ["class"], [], list(next(iter(recall.values())))
    for scope, of in recall.items():
        head += [f"{scope} samples", f"{scope} recall, %"]
        columns += [found[scope].support.tolist(), [Share(value) for value in of.values()]]
    held = np.sum([found[scope].support for scope in recall], axis=0)  # classes of public samples have none here
    rows = [row for row, count in zip(zip(called, *columns, strict=True), held, strict=True) if count]
    of_server = any((line.get("global") or {}).get("evaluated") for line in lines if "client" not in line)
    whose = {
        "global": "the server's model"
        if of_server
        else f"sum over {found['global'].models} clients' models"
        if "global" in found
        else "",
        "personal": f"sum over {found['personal'].models} clients" if "personal" in found else "",
    }
    matrices = {scope: of.confusion for scope, of in found.items() if of.confusion is not None and scope in recall}
    parts = [element("h2", "Classes"), table(head, rows, kind="tall")]
    notes = [f"{scope.capitalize()}: {classes.WHOSE[scope]}, {whose[scope]}." for scope in recall]
    parts.append(element("p", f"At the end. {' '.join(notes)}", "soft"))
    if matrices:
        seen = [f"{scope}: {classes.confused(matrix, called) or 'none'}" for scope, matrix in matrices.items()]
        said = f"Most often taken for another class, {'; '.join(seen)}."
        titles = {f"{scope.capitalize()}: {whose[scope]}": matrix for scope, matrix in matrices.items()}
        parts += [
            element("h3", "Confusion"),
            image(pictures.png(class_plots.confusion(titles, called)), f"Confusion matrices. {said}"),
            element("p", f"{said} A gray row has no samples.", "soft"),
        ]
    if left := [scope for scope in recall if scope not in matrices]:
        parts.append(element("p", f"No confusion matrix, {' and '.join(left)}: there are too many classes.", "soft"))
    return parts
