"""Personal accuracy by the rule that predicts: among own classes or all, by prototypes or by the model's head."""

from collections.abc import Mapping, Sequence
from typing import Any

from fd_flower.results.columns import Column, Summaries
from fd_flower.results.history import Track
from fd_flower.results.metrics import of_clients
from fd_flower.results.page import Markup, element, percent, table

RULES = {
    "own": ("accuracy_own",),
    "all": ("accuracy_all", "accuracy"),
    "head": ("accuracy_head", "accuracy_all", "accuracy"),
    "head_own": ("accuracy_head_own", "accuracy_own"),
}
"""What each rule's figure is called in a line: the first of these that is there, since most methods have one head."""

HEADERS = {"own": "own classes", "all": "all classes", "head": "head", "head_own": "head, own classes"}
MEANING = (
    "Personal accuracy by the rule that predicts, in %, at the end, mean over clients. Own classes: among the classes "
    "of the client's own training samples; all classes: among all. Methods with prototypes: by the nearest one, and by "
    "the model's head; of all others both are the model. Own classes are known before a sample is seen, so compare own "
    "with own and head with head."
)

Lines = Sequence[Mapping[str, Any]]
Evaluated = Mapping[str, str | None]


def summarize(lines: Lines, evaluated: Evaluated) -> dict[str, dict[str, float | str | None]]:
    """Return ``final``, ``selected``, ``best``, ``std`` and ``worst10`` of each rule, on clients' own test parts."""
    found = {}
    for rule, names in RULES.items():
        tests, validations = (_tracks(lines, evaluated["personal"], names, part) for part in ("", "validation_"))
        found[rule] = {**of_clients(tests, validations, higher=True), "evaluated": evaluated["personal"]}
    return found


def _tracks(lines: Lines, point: str | None, names: Sequence[str], part: str) -> dict[str, Track]:
    """Return each client's figures over time, on its own test part or its validation part."""
    called = [f"{part}{name}" if part == "" or name != "accuracy" else "validation" for name in names]
    tracks: dict[str, Track] = {}
    for line in lines:
        figures = (line.get("evaluations") or {}).get(point) or {}
        value = next((figures[name] for name in called if figures.get(name) is not None), None)
        if "client" in line and value is not None:
            tracks.setdefault(line["client"], {})[line["round"], bool(line.get("closing"))] = value
    return tracks


def columns(runs: Summaries) -> list[Column]:
    """Return a column a rule, for tables; none where no run has such figures."""
    every = [Column(f"rule_{rule}", header, ("rules", rule, "final")) for rule, header in HEADERS.items()]
    return [column for column in every if any(column.of(run) is not None for run in runs)]


def section(summary: Mapping[str, Any]) -> list[Markup]:
    """Return the part of a run's page about rules: those that differ."""
    figures = ("final", "selected", "std", "worst10")
    rows = {
        rule: [percent(summary["rules"][rule][key]) for key in figures]
        for rule in RULES
        if summary["rules"][rule]["final"] is not None
    }
    if not rows:
        return []
    if rows.get("head") == rows.get("all"):
        rows = {rule: row for rule, row in rows.items() if not rule.startswith("head")}
    head = ["personal accuracy, %", "final", "selected", "std over clients", "worst 10 %"]
    cells = [(HEADERS[rule], *row) for rule, row in rows.items()]
    return [element("h2", "Rules of prediction"), table(head, cells), element("p", MEANING, "soft")]
