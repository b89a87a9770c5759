"""The report: one page that says what a run measured, what it cost and how to repeat it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fd_flower.config.registry import short_name
from fd_flower.core.client import natural
from fd_flower.core.storage import replace_file
from fd_flower.results import compare, diagnostics, kinds, pictures, reported_pages
from fd_flower.results.folder import CURVES, REPORT, RunFolder
from fd_flower.results.history import History
from fd_flower.results.outcome import held_out
from fd_flower.results.page import (
    Markup,
    element,
    folded,
    joined,
    megabytes,
    page,
    rounded,
    table,
    terms,
    words,
)
from fd_flower.results.pictures import Picture
from fd_flower.results.reproduce import command


def draw(folder: RunFolder) -> None:
    """Write ``curves.png`` and ``report.html`` of a finished run into its folder."""
    drawn = _pictures(folder)
    replace_file(folder.path / CURVES, pictures.strip(drawn))
    replace_file(folder.path / REPORT, page(f"{_name(folder)} · FD-Flower", _run(folder, drawn)))


def write(folders: Sequence[RunFolder], out: str | Path) -> Path:
    """Write ``report.html`` into ``out``: of one run, or of several with a comparison first.

    Raises
    ------
    InvalidInputError
        Where a run is not finished.
    """
    if len(folders) == 1:
        title, sections = _name(folders[0]), _run(folders[0], _pictures(folders[0]))
    else:
        title = f"{len(folders)} runs"
        runs = [
            folded(f"{_name(folder)} ({folder.path.name})", joined(*_run(folder, _pictures(folder))))
            for folder in folders
        ]
        sections = [element("h1", title), *compare.sections(folders), element("h2", "Each run"), *runs]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / REPORT, page(f"{title} · FD-Flower", sections))
    return out / REPORT


def _name(folder: RunFolder) -> str:
    summary = folder.summary
    return f"{short_name(summary['method'])} ({summary['status']}), seed {summary['seed']}"


def _pictures(folder: RunFolder) -> list[Picture]:
    """Draw how a run went."""
    summary = folder.summary
    kind = kinds.of(summary["task"])
    return [Picture.of(panel) for panel in kind.panels(folder.lines(), kind.evaluated(summary))]


def _run(folder: RunFolder, drawn: Sequence[Picture]) -> list[Markup]:
    """Return the sections of one run."""
    lines, summary = folder.lines(), folder.summary
    kind = kinds.of(summary["task"])
    evaluated = kind.evaluated(summary)
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    parts = (
        f"status: {summary['status']}",
        f"{summary['clients']} clients · rounds: {summary['rounds']} · seed {summary['seed']}",
        *([f"stopped {summary['stopped']}"] if "stopped" in summary else []),
        f"model {words(summary['model'])}",
        f"engine {words(summary['engine'])}",
    )
    return [
        element("h1", short_name(summary["method"])),
        element("p", " · ".join(parts), "soft"),
        element("p", f"Data: {words(summary['data'])}", "soft"),
        *([element("p", idle, "soft")] if (idle := held_out(summary)) else []),
        element("h2", kind.title),
        *kind.headline(summary, folder.config),
        pictures.beside(drawn),
        element("p", _legend(History.of(lines, evaluated), lines), "soft"),
        *reported_pages.sections(summary, lines),
        *diagnostics.sections(lines),
        *kind.sections(summary, lines),
        element("h2", "Cost"),
        *_cost(rounds, summary),
        element("h2", "Failures"),
        *_failures(rounds),
        element("h2", "Clients"),
        *kind.clients(lines, evaluated),
        element("h2", "To repeat this run"),
        element("pre", command(folder.config, summary["engine"])),
        terms((name, version) for name, version in summary["versions"].items()),
        folded("All settings (config.yaml)", element("pre", OmegaConf.to_yaml(OmegaConf.create(folder.config)))),
    ]


def _legend(history: History, lines: Iterable[Mapping[str, Any]]) -> str:
    """Say what in the curves does not explain itself."""
    notes = []
    if any(line.get("closing") for line in lines):
        notes.append("The diamond is the closing measurement: the clients learn from the last aggregate, and no more.")
    first = [min(track) for track in history.own.get("accuracy", {}).values()]
    if len(set(first)) > 1:
        notes.append(
            f"In early rounds the mean is over fewer clients: from round {max(first)[0]} on every client has a figure, "
            "and only then do points count as selected or best."
        )
    return " ".join(notes)


def _cost(rounds: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[Markup]:
    """Return bytes per kind and direction, and seconds."""
    ways: dict[str, Counter[str]] = {"up": Counter(), "down": Counter()}
    for line in rounds:
        for way, counted in ways.items():
            counted.update(line["bytes"][way])
    kinds = sorted(ways["up"].keys() | ways["down"].keys())
    turns = {"up": sum(len(line["replied"]) for line in rounds), "down": sum(len(line["asked"]) for line in rounds)}

    def row(name: str, count: Mapping[str, int]) -> tuple[object, ...]:
        each = [count[way] / turns[way] / 1e3 if turns[way] else None for way in ("up", "down")]
        return (name, megabytes(count["up"]), megabytes(count["down"]), *(rounded(value, 1) for value in each))

    rows = [row(kind, {way: counted[kind] for way, counted in ways.items()}) for kind in kinds]
    rows.append(row("total", summary["bytes"]))
    head = ["payload", "MB up, all", "MB down, all", "kB up, a client and round", "kB down, a client and round"]
    wire, seconds = summary["bytes"]["wire"], summary["seconds"]
    note = (
        "Encoded payloads of all clients and rounds, as if each client were a device; the closing measurement is free."
    )
    note += "" if wire is None else f" Sent between nodes: {megabytes(wire)} MB."
    time = f"{seconds['total']:,.1f} s in all"
    time += "" if seconds["round"] is None else f", {seconds['round']:.2f} s a round"
    return [table(head, rows), element("p", note, "soft"), element("p", f"Time: {time}.", "soft")]


def _failures(rounds: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Return who failed, how often and why at last."""
    reasons: dict[str, list[tuple[int, str]]] = {}
    for line in rounds:
        for client, reason in (line.get("failed") or {}).items():
            reasons.setdefault(client, []).append((line["round"], reason))
    if not reasons:
        return [element("p", "None: every sampled client replied.")]
    rows = [
        (client, len(reasons[client]), _ranges([round for round, _ in reasons[client]]), reasons[client][-1][1])
        for client in sorted(reasons, key=natural)
    ]
    return [table(["client", "times", "in rounds", "the last reason"], rows, texts=(0, 2, 3), kind="tall")]


def _ranges(numbers: Sequence[int]) -> str:
    """Return ``1-3, 7`` for 1, 2, 3, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(first) if first == end else f"{first}-{end}" for first, end in spans)
