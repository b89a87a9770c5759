"""What audits leave behind: tables, a figure, and ``audit.json`` with every client's figures."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fd_flower.audit import findings as names
from fd_flower.audit.findings import Finding, Histogram
from fd_flower.audit.run import Audit
from fd_flower.audit.scores import Interval
from fd_flower.core.storage import replace_file
from fd_flower.results.pictures import Picture
from fd_flower.results.plots import COLORS
from fd_flower.results.tables import Table

PAGE, FIGURES, PLOT = "audit.md", "audit.json", "audit"
CHANCE = 0.5

MEANING = (
    "AUC: chance that a training sample of a client has a higher score than a held-out one. TPR: share of training "
    "samples that are found when at most 1 % of the held-out ones are taken for training samples. Means over clients "
    "and seeds with 95 % intervals. An AUC of 0.5 is chance for this attack; a stronger attack may find more."
)

SUM_OF = "sum of "
STRONGER = {
    names.MODELS: "LiRA with shadow models that are trained with and without each candidate, and weights that a "
    "malicious server crafts",
    names.PASSIVE: "candidates among the public samples (the rows below), and shadow models that are trained with and "
    "without each candidate",
    names.INJECTED: "shadow models that are trained with and without each candidate",
    names.MEANS: "simulated federations with and without each candidate, and means that a malicious server crafts",
}
"""For what the server looks at, attacks that were not tried."""

SUM_STRONGER = "sums of rounds in which a single client is missing, and outliers among the candidates"

Row = tuple[str, str, str]
"""Name of the method or run, what the server looks at, attack."""


def table(audits: Sequence[Audit]) -> Table:
    """Return membership inference: a row for each method and attack."""
    rows = [
        [
            method,
            knowledge,
            attack,
            *(Interval.of(values).text() for values in _values(audits, (method, knowledge, attack))),
        ]
        for method, knowledge, attack in _rows(audits)
    ]
    return Table.of(["method", "server looks at", "attack", "AUC", "TPR at 1 % FPR"], rows, texts=(0, 1, 2))


def labels(audits: Sequence[Audit]) -> Table:
    """Return inference of label distributions: a row for each method and source."""
    kinds = dict.fromkeys((audit.name, each.source) for audit in audits for each in audit.histograms)
    rows = []
    for method, source in kinds:
        found = [each for audit in audits if audit.name == method for each in audit.histograms if each.source == source]
        columns = (_all(found, lambda each: each.estimated), _all(found, lambda each: each.uniform))
        rows.append([method, source, *(Interval.of(values).text(3) for values in columns)])
    return Table.of(["method", "estimated from", "distance to the truth", "equal shares"], rows, texts=(0, 1))


def notes(audits: Sequence[Audit]) -> list[str]:
    """Return what could not be attacked, and what was not tried where attacks are no better than chance."""
    found = [f"{audit.name}: {note}" for audit in audits for note in audit.notes]
    for method, knowledge in dict.fromkeys(row[:2] for row in _rows(audits)):
        attacks = [row for row in _rows(audits) if row[:2] == (method, knowledge)]
        intervals = [Interval.of(_values(audits, row)[0]) for row in attacks]
        if all(each.contains(CHANCE) or each.mean < CHANCE for each in intervals):
            plain = knowledge.removeprefix(SUM_OF)
            more = f"{STRONGER[plain]}; {SUM_STRONGER}" if plain != knowledge else STRONGER[plain]
            found.append(f"{method}, {knowledge}: no attack is better than chance here. Not tried: {more}")
    return list(dict.fromkeys(found))


def meaning(count: int) -> str:
    """Return what the tables say, with so many candidates."""
    return f"Candidates: {count} training and {count} held-out samples of each client. {MEANING}"


def write(audits: Sequence[Audit], out: Path, command: str, failures: Sequence[str], count: int) -> None:
    """Write ``audit.md``, ``audit.json`` and the figure, of audits with so many candidates."""
    out.mkdir(parents=True, exist_ok=True)
    parts = ["# Audit", f"`{command}`", meaning(count), table(audits).markdown()]
    if any(audit.histograms for audit in audits):
        parts += ["## Label distributions", labels(audits).markdown()]
    parts += [f"- {note}" for note in (*notes(audits), *failures)]
    replace_file(out / PAGE, "\n\n".join(parts) + "\n")
    content: dict[str, Any] = {
        "command": command,
        "candidates": count,
        "audits": [asdict(audit) for audit in audits],
        "missing": list(failures),
    }
    replace_file(out / FIGURES, json.dumps(content, indent=1) + "\n")
    picture(audits).write(out)


def picture(audits: Sequence[Audit]) -> Picture:
    """Return the AUC of each method's attacks with its interval."""
    rows = _rows(audits)
    found = [Interval.of(_values(audits, row)[0]) for row in rows]
    figure = Figure(figsize=(7.2, 1.2 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(method for method, *_ in rows))
    for place, (row, interval) in enumerate(zip(rows, found, strict=True)):
        color = COLORS[methods.index(row[0]) % len(COLORS)]
        axes.errorbar(interval.mean, place, xerr=interval.half or 0.0, fmt="o", color=color, capsize=3, markersize=4)
    axes.axvline(CHANCE, color="#888888", linewidth=1.0, linestyle="--")
    axes.set_yticks(range(len(rows)), [", ".join(row) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("AUC of membership inference; 0.5 is chance", fontsize=9)
    axes.grid(axis="x", alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    told = [f"{', '.join(row)} {interval.text()}" for row, interval in zip(rows, found, strict=True)]
    return Picture(PLOT, f"AUC of membership inference: {'; '.join(told)}.", figure)


def _rows(audits: Sequence[Audit]) -> list[Row]:
    return list(dict.fromkeys((a.name, each.knowledge, each.attack) for a in audits for each in a.findings))


def _values(audits: Sequence[Audit], row: Row) -> tuple[list[float], list[float]]:
    """Return AUC and true positives of all clients and seeds."""
    found: list[Finding] = [
        each for a in audits if a.name == row[0] for each in a.findings if (each.knowledge, each.attack) == row[1:]
    ]
    return [v for each in found for v in each.auc], [v for each in found for v in each.true_positives]


def _all(found: Sequence[Histogram], values: Callable[[Histogram], Sequence[float]]) -> list[float]:
    return [value for each in found for value in values(each)]
