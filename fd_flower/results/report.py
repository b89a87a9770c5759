"""The report: one page that says what a run measured, what it cost and how to repeat it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fd_flower.core.client import natural
from fd_flower.core.storage import replace_file
from fd_flower.results import compare, diagnostics, plots, retrieval
from fd_flower.results.folder import CURVES, REPORT, RunFolder
from fd_flower.results.history import History, Track, at_best, last
from fd_flower.results.page import (
    Markup,
    Share,
    element,
    folded,
    image,
    joined,
    megabytes,
    page,
    percent,
    rounded,
    table,
    terms,
    words,
)
from fd_flower.results.reproduce import command

EVALUATION_POINTS = {
    "received": "received: after a client has learned from what the server says, before it trains on its own data",
    "trained": "trained: at the end of a client's turn, after training on its own data",
    "aggregated": "aggregated: the server's model, after aggregation",
}


def draw(folder: RunFolder) -> None:
    """Write ``curves.png`` and ``report.html`` of a finished run into its folder."""
    lines, summary = folder.lines(), folder.summary
    replace_file(folder.path / CURVES, plots.png(plots.of_run(lines, summary, _evaluated(summary))))
    write([folder], folder.path)


def _evaluated(summary: Mapping[str, Any]) -> dict[str, str | None]:
    """Return when ``global`` and ``personal`` figures were measured."""
    figures = summary["retrieval" if retrieval.of_retrieval(summary) else "accuracy"]
    return {scope: figures[scope]["evaluated"] for scope in ("global", "personal")}


def write(folders: Sequence[RunFolder], out: str | Path) -> Path:
    """Write ``report.html`` into ``out``: of one run, or of several with a comparison first.

    Raises
    ------
    InvalidInputError
        Where a run is not finished.
    """
    if len(folders) == 1:
        title, sections = _name(folders[0]), _run(folders[0])
    else:
        title = f"{len(folders)} runs"
        runs = [folded(f"{_name(folder)} ({folder.path.name})", joined(*_run(folder))) for folder in folders]
        sections = [element("h1", title), *compare.sections(folders), element("h2", "Each run"), *runs]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    replace_file(out / REPORT, page(f"{title} · FD-Flower", sections))
    return out / REPORT


def _name(folder: RunFolder) -> str:
    return f"{folder.summary['method']}, seed {folder.summary['seed']}"


def _run(folder: RunFolder) -> list[Markup]:
    """Return the sections of one run."""
    lines, summary = folder.lines(), folder.summary
    searching = retrieval.of_retrieval(summary)
    evaluated = _evaluated(summary)
    history = History.of(lines, evaluated)
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    drawn = folder.path / CURVES
    curves = drawn.read_bytes() if drawn.is_file() else plots.png(plots.of_run(lines, summary, evaluated))
    parts = (
        f"{summary['clients']} clients · rounds: {summary['rounds']} · seed {summary['seed']}",
        *([f"stopped {summary['stopped']}"] if "stopped" in summary else []),
        f"model {words(summary['model'])}",
        f"engine {words(summary['engine'])}",
    )
    return [
        element("h1", summary["method"]),
        element("p", " · ".join(parts), "soft"),
        element("p", f"Data: {words(summary['data'])}", "soft"),
        element("h2", "Retrieval" if searching else "Accuracy"),
        *(retrieval.headline(summary) if searching else _accuracy(folder, summary)),
        image(curves, "nDCG@10 and loss per round" if searching else "accuracy and loss per round"),
        element("p", _legend(history, lines), "soft"),
        *([] if searching else [*diagnostics.sections(lines), element("h2", "Calibration"), *_calibration(summary)]),
        element("h2", "Cost"),
        *_cost(rounds, summary),
        element("h2", "Failures"),
        *_failures(rounds),
        element("h2", "Clients"),
        *(retrieval.clients(lines, evaluated) if searching else _clients(history, lines, rounds)),
        element("h2", "To repeat this run"),
        element("pre", command(folder.config, summary["engine"])),
        terms((name, version) for name, version in summary["versions"].items()),
        folded("All settings (config.yaml)", element("pre", OmegaConf.to_yaml(OmegaConf.create(folder.config)))),
    ]


def _accuracy(folder: RunFolder, summary: Mapping[str, Any]) -> list[Markup]:
    """Return the headline: what to report, and what each word in it means."""
    accuracy = summary["accuracy"]
    served = accuracy["global"]["evaluated"] == "aggregated"
    whose = "the server's model" if served else "mean over the clients' models"
    rows = [
        ("global", f"balanced test set, {whose}"),
        ("pooled", f"all clients' test parts together, {whose}"),
        ("personal", "each client on its own test part, mean over clients"),
    ]
    cells = [
        (
            f"{scope}: {what}",
            element("strong", percent(accuracy[scope]["final"])),
            element("strong", percent(accuracy[scope]["selected"])),
            percent(accuracy[scope]["best"]),
            percent(accuracy[scope].get("std")),
            percent(accuracy[scope].get("worst10")),
            accuracy[scope]["evaluated"],
        )
        for scope, what in rows
    ]
    head = ["accuracy, %", "final", "selected", "best on test", "std over clients", "worst 10 %", "measured"]
    said = [
        "Final is after the last round. Selected is at the round with the best validation accuracy"
        f"{_judge(summary)}. Best on test is the best round by test accuracy itself: nobody can pick it without "
        "the test labels, so quote it only beside papers that do.",
        "Std and worst 10 % (the mean of the worst tenth of the clients) are over clients, at the end.",
    ]
    used = dict.fromkeys(accuracy[scope]["evaluated"] for scope, _ in rows)
    said.append("Measured " + "; ".join(EVALUATION_POINTS[point] for point in used if point) + ".")
    if limit := folder.config["data"]["test_limit"]:
        said.append(
            f"Between the first and the last evaluation, the test set is {limit} of its images, class-balanced."
        )
    return [table(head, cells, texts=(0, 6)), *(element("p", sentence, "soft") for sentence in said)]


def _judge(summary: Mapping[str, Any]) -> str:
    if summary["selected_on"] == "pooled":
        return " (global and pooled: on all clients' validation parts together; personal: each client on its own)"
    return " (each client's own validation part; nobody holds them all)" if summary["selected_on"] == "own" else ""


def _legend(history: History, lines: Iterable[Mapping[str, Any]]) -> str:
    """Say what in the curves does not explain itself."""
    said = []
    if any(line.get("closing") for line in lines):
        said.append("The diamond is the closing measurement: the clients learn from the last aggregate, and no more.")
    first = [min(track) for track in history.own.get("accuracy", {}).values()]
    if len(set(first)) > 1:
        said.append(
            f"In early rounds the mean is over fewer clients: from round {max(first)[0]} on every client has a figure, "
            "and only then do points count as selected or best."
        )
    return " ".join(said)


def _calibration(summary: Mapping[str, Any]) -> list[Markup]:
    rows = [(scope, rounded(at["ece"]), rounded(at["nll"])) for scope, at in summary["calibration"].items()]
    note = "At the end. ECE: expected calibration error, 15 bins of equal width. NLL: negative log-likelihood."
    return [table(["", "ECE", "NLL, nats"], rows), element("p", note, "soft")]


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
    said = (
        "Encoded payloads of all clients and rounds, as if each client were a device; the closing measurement is free."
    )
    said += "" if wire is None else f" What crossed the wire between nodes: {megabytes(wire)} MB."
    time = f"{seconds['total']:,.1f} s in all"
    time += "" if seconds["round"] is None else f", {seconds['round']:.2f} s a round"
    return [table(head, rows), element("p", said, "soft"), element("p", f"Time: {time}.", "soft")]


def _failures(rounds: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Return who failed, how often and why at last."""
    reasons: dict[str, list[tuple[int, str]]] = {}
    for line in rounds:
        for client, reason in (line.get("failed") or {}).items():
            reasons.setdefault(client, []).append((line["round"], reason))
    if not reasons:
        return [element("p", "None: every client that was asked replied.")]
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


def _clients(history: History, lines: Iterable[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """Return one row per client."""
    examples = {line["client"]: line.get("examples") for line in lines if "client" in line and not line.get("closing")}
    asked = Counter(client for line in rounds for client in line["asked"])
    replied = Counter(client for line in rounds for client in line["replied"])
    own, shared = history.own, history.shared

    def final(tracks: Mapping[str, Mapping[str, Track]], key: str, client: str) -> float | None:
        track = tracks.get(key, {}).get(client)
        return None if track is None else last(track)

    rows = [
        (
            client,
            examples.get(client),
            f"{replied[client]} of {asked[client]}",
            Share(final(own, "accuracy", client)),
            percent(at_best(own.get("validation", {}).get(client, {}), own.get("accuracy", {}).get(client, {}))),
            percent(final(own, "validation", client)),
            percent(final(shared, "accuracy", client)),
            rounded(final(own, "nll", client)),
            rounded(final(own, "ece", client)),
        )
        for client in sorted(asked.keys() | examples.keys(), key=natural)
    ]
    head = [
        "client",
        "samples",
        "replies",
        "own test, %",
        "selected, %",
        "own validation, %",
        "global, %",
        "NLL",
        "ECE",
    ]
    kept = [i for i in range(len(head)) if i < 4 or any(row[i] is not None for row in rows)]
    note = f"Newest figures of each of the {len(rows)} clients."
    note += " Global: its own model on the balanced test set." if "global, %" in [head[i] for i in kept] else ""
    shown = [[row[i] for i in kept] for row in rows]
    return [table([head[i] for i in kept], shown, kind="tall"), element("p", note, "soft")]
