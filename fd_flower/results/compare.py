"""Several runs side by side: methods in rows, seeds folded into mean and standard deviation."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table
from rich.text import Text

from fd_flower.errors import WrongInput
from fd_flower.results import moments, page, plots, reproduce, retrieval, retrieval_tables
from fd_flower.results.folder import RunFolder, replace_file
from fd_flower.results.history import History, Track, When, curve
from fd_flower.results.page import Markup, element, megabytes, percent, picture, rounded, words

# Column -> where the figure stands in summary.json.
FIGURES = {
    "global_final": ("accuracy", "global", "final"),
    "global_selected": ("accuracy", "global", "selected"),
    "personal_final": ("accuracy", "personal", "final"),
    "personal_selected": ("accuracy", "personal", "selected"),
    "personal_worst10": ("accuracy", "personal", "worst10"),
    "bytes_up": ("bytes", "up"),
    "bytes_down": ("bytes", "down"),
    "seconds": ("seconds", "total"),
}
COSTS = ("bytes_up", "bytes_down", "seconds")
PER_ROUND, PER_MEGABYTE = "accuracy-per-round.png", "accuracy-per-megabyte.png"
PER_MOMENT = "moments-per-round.png"
HEAD = (
    "method",
    "global final",
    "global selected",
    "personal final",
    "personal selected",
    "worst 10 %",
    "MB up",
    "MB down",
    "seconds",
)


@dataclass(frozen=True)
class Course:
    """How accuracy went in one run: by point in time, and the megabytes exchanged by then."""

    accuracy: Track
    spent: dict[When, float]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed: one row.

    Attributes
    ----------
    name : str
        The method, with the knobs that tell it from others of the same method.
    folders : list[RunFolder]
        One per seed.
    """

    name: str
    folders: list[RunFolder]

    @cached_property
    def summaries(self) -> list[dict[str, Any]]:
        """What each run's ``summary.json`` says."""
        return [folder.summary for folder in self.folders]

    @cached_property
    def courses(self) -> "list[dict[str, Course]]":
        """How each run's accuracy went, by scope."""
        return [_courses(folder, summary) for folder, summary in zip(self.folders, self.summaries, strict=True)]

    @cached_property
    def series(self) -> list[dict[str, Track]]:
        """Each run's accuracy on everybody's classes over time, by what it is of (``moments.SERIES``)."""
        return [moments.series(folder.lines()) for folder in self.folders]

    @property
    def searching(self) -> bool:
        """Whether these are runs on a retrieval task."""
        return retrieval.of_retrieval(self.summaries[0])

    @property
    def seeds(self) -> list[int]:
        """Their seeds."""
        return [summary["seed"] for summary in self.summaries]

    def figure(self, path: Sequence[str]) -> tuple[float | None, float | None]:
        """Return the mean over seeds of what stands there in summary.json, and its standard deviation if there are."""
        values = [retrieval_tables.at(summary, path) for summary in self.summaries]
        known = [value for value in values if value is not None]
        if not known:
            return None, None
        return fmean(known), stdev(known) if len(known) > 1 else None

    def cells(self) -> list[str]:
        """Return the row as it is printed."""
        accuracies = [percent(*self.figure(path)) for column, path in FIGURES.items() if column not in COSTS]
        up, down, seconds = (self.figure(FIGURES[column])[0] for column in COSTS)
        return [
            self.name,
            *(cell or page.NOTHING for cell in (*accuracies, megabytes(up), megabytes(down), rounded(seconds, 1))),
        ]


def grouped(folders: Sequence[RunFolder]) -> list[Group]:
    """Put runs that differ in nothing but the seed together, in the given order.

    Raises
    ------
    WrongInput
        Where there is no run, and where tasks of two kinds are mixed.
    """
    if not folders:
        raise WrongInput("there is nothing to compare: expected the folders of finished runs")
    alike: dict[str, list[RunFolder]] = {}
    for folder in folders:
        alike.setdefault(repr(_knobs(folder)), []).append(folder)
    groups = list(alike.values())
    kinds = {retrieval.of_retrieval(folder.summary) for folder in folders}
    if len(kinds) > 1:
        raise WrongInput("some of these runs tell classes apart and some retrieve: they have no figure in common")
    return [Group(_name(runs[0], [other[0] for other in groups]), runs) for runs in groups]


def _knobs(folder: RunFolder) -> dict[str, Any]:
    """Return what makes runs alike: everything but the section ``run``."""
    return {key: value for key, value in reproduce.flatten(folder.config).items() if not key.startswith("run.")}


def _name(folder: RunFolder, others: Iterable[RunFolder]) -> str:
    """Return the method, and the knobs in which it differs from others of the same method."""
    mine = _knobs(folder)
    rivals = [_knobs(other) for other in others if other.config["method"] == folder.config["method"]]
    telling = [key for key in mine if any(rival.get(key) != mine[key] for rival in rivals)]
    said = ", ".join(f"{key}={words(mine[key])}" for key in telling)
    return f"{folder.config['method']} ({said})" if said else folder.config["method"]


def tables(folders: Sequence[RunFolder], reach: float | None = None) -> list[Table | Text]:
    """Return the comparison for the terminal, tables and what one must know to read them; arguments as in `write`."""
    groups = grouped(folders)
    shown: list[Table | Text] = []
    for said, (head, rows) in zip((notes(groups), [moments.MEANING]), _tables(groups, reach), strict=False):
        shown.append(table := Table())
        for column in head:
            table.add_column(column, justify="left" if column == "method" else "right")
        for row in rows:
            table.add_row(*row)
        shown.append(Text("\n".join(said), style="dim"))
    return shown


def _tables(groups: Sequence[Group], reach: float | None) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Return head and rows of the comparison, and of its moments where there is more than one to tell."""
    if groups[0].searching:
        return [retrieval_tables.table({group.name: group.summaries for group in groups})]
    first = (HEAD, [group.cells() for group in groups])
    more = moments.table({group.name: group.series for group in groups}, reach)
    return [first, more] if more else [first]


def markdown(
    folders: Sequence[RunFolder], command: str = "", remarks: Sequence[str] = (), reach: float | None = None
) -> str:
    """Return the comparison as Markdown tables with what one must know to read them; arguments as in `write`."""
    groups = grouped(folders)
    parts = []
    for head, rows in _tables(groups, reach):
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        parts.append(
            "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
        )
        said = [*notes(groups), *remarks] if len(parts) == 1 else [moments.MEANING]
        parts.append("\n".join(f"* {note}" for note in said))
    return "\n\n".join([*parts, f"```\n{command or commands(groups)}\n```\n"])


def comma_separated(folders: Sequence[RunFolder]) -> str:
    """Return the comparison as CSV: shares (0 to 1), bytes and seconds, each with its deviation over seeds."""
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    groups = grouped(folders)
    columns = {**retrieval_tables.FIGURES, **retrieval_tables.COSTS} if groups[0].searching else FIGURES
    writer.writerow(["method", "seeds", *(name for column in columns for name in (column, f"{column}_std"))])
    for group in groups:
        figures = [value for path in columns.values() for value in group.figure(path)]
        writer.writerow([group.name, " ".join(map(str, group.seeds)), *figures])
    return file.getvalue()


def notes(groups: Sequence[Group]) -> list[str]:
    """Say what the figures are: units, seeds, data."""
    first = groups[0]
    kind = "retrieval" if first.searching else "accuracy"
    measured = {group.name: group.summaries[0][kind]["global"]["moment"] for group in groups}
    seeds = {group.name: words(group.seeds) for group in groups}
    data = {group.name: words(group.summaries[0]["data"]) for group in groups}
    several = any(len(group.folders) > 1 for group in groups)
    spread = "; ± is the sample standard deviation over seeds" if several else ""
    said = [
        f"Accuracies in %{spread}. Global: balanced test set. Personal: each client's own test part, mean over "
        "clients; worst 10 %: its mean over the worst tenth of the clients, at the end.",
    ]
    return [
        *(retrieval_tables.notes(several) if first.searching else said),
        "Final: after the last round. Selected: at the best validation round.",
        "MB (10^6 bytes) of encoded payloads and seconds: totals over all clients and rounds of a run"
        + (", mean over seeds." if several else "."),
        f"Global figures are measured: {_by_value(measured)}."
        if first.searching
        else f"Global accuracy is measured: {_by_value(measured)}.",
        f"Seeds: {_by_value(seeds)}.",
        f"Clients: {_by_value({g.name: str(g.summaries[0]['clients']) for g in groups})}. "
        f"Rounds: {_by_value({g.name: str(g.summaries[0]['rounds']) for g in groups})}.",
        f"Data: {data[first.name] if len(set(data.values())) == 1 else _by_value(data)}.",
    ]


def _by_value(values: Mapping[str, str | None]) -> str:
    """Return one value for all, or each with the names that it belongs to."""
    if len(set(values.values())) == 1:
        return words(next(iter(values.values())))
    return "; ".join(
        f"{words(value)} ({', '.join(name for name, other in values.items() if other == value)})"
        for value in dict.fromkeys(values.values())
    )


def commands(groups: Sequence[Group]) -> str:
    """Return the command line of every run."""
    return "\n".join(
        reproduce.command(folder.config, summary["engine"])
        for group in groups
        for folder, summary in zip(group.folders, group.summaries, strict=True)
    )


def pictures(groups: Sequence[Group]) -> dict[str, bytes]:
    """Return the plots by file name: accuracy per round and per megabyte."""
    if groups[0].searching:
        scopes = {"The server's retriever: own questions": "global", "Clients' retrievers: own questions": "personal"}
    else:
        scopes = {"Global accuracy: balanced test set": "global", "Personal accuracy: own test parts": "personal"}
    ylabel, scale = ("nDCG@10", 1) if groups[0].searching else ("accuracy, %", 100)
    rounds = {title: _bands(groups, scope, per_megabyte=False) for title, scope in scopes.items()}
    traffic = {title: _bands(groups, scope, per_megabyte=True) for title, scope in scopes.items()}
    label, names = "MB exchanged, up and down, all clients", [group.name for group in groups]
    drawn = {
        PER_ROUND: plots.png(plots.comparison(rounds, "round", names, ylabel, scale)),
        PER_MEGABYTE: plots.png(plots.comparison(traffic, label, names, ylabel, scale, log=True)),
    }
    told = [name for name in moments.SERIES if any(name in run for group in groups for run in group.series)]
    if moments.worth_telling(run for group in groups for run in group.series):
        panels = {moments.SERIES[name].capitalize(): _moment_bands(groups, name) for name in told}
        drawn[PER_MOMENT] = plots.png(plots.comparison(panels, "round", names))
    return drawn


def _bands(groups: Sequence[Group], scope: str, *, per_megabyte: bool) -> list[plots.Band]:
    """Return each group's line."""
    bands = []
    for group in groups:
        courses = [course[scope] for course in group.courses]
        places = [course.spent if per_megabyte else None for course in courses]
        bands += _band(group.name, [course.accuracy for course in courses], places)
    return bands


def _moment_bands(groups: Sequence[Group], name: str) -> list[plots.Band]:
    return [b for g in groups for b in _band(g.name, [run.get(name, {}) for run in g.series], [None] * len(g.series))]


def _band(name: str, tracks: Sequence[Track], places: Sequence[dict[When, float] | None]) -> list[plots.Band]:
    """Return a line through the points that every seed has, none where there is no such point.

    ``places`` says for each seed where its points stand; None: at their rounds.
    """
    points = sorted(set.intersection(*map(set, tracks)))
    if not points:
        return []
    values = [[track[when] for track in tracks] for when in points]
    spread = [stdev(column) if len(column) > 1 else 0.0 for column in values]
    x = [fmean(plots.place(when) if at is None else at[when] for at in places) for when in points]
    return [plots.Band(name, x, [fmean(column) for column in values], spread)]


def _courses(folder: RunFolder, summary: Mapping[str, Any]) -> dict[str, Course]:
    """Read how a run went: ``global`` and ``personal`` accuracy over time."""
    searching = retrieval.of_retrieval(summary)
    figures = summary["retrieval" if searching else "accuracy"]
    measured = {scope: figures[scope]["moment"] for scope in ("global", "personal")}
    lines = folder.lines()
    history = History.of(lines, measured)
    of_scope = {"global": history.shared.get("accuracy", {}), "personal": history.own.get("accuracy", {})}
    if searching:
        found = retrieval.tracks(lines, measured)
        of_scope = {scope: found[scope].get(f"own/{retrieval.HEADLINE}", {}) for scope in found}
    rounds = [line for line in lines if "client" not in line and not line.get("closing")]
    sent = {way: {line["round"]: sum(line["bytes"][way].values()) for line in rounds} for way in ("up", "down")}
    courses = {}
    for scope, tracks in of_scope.items():
        accuracy = curve(tracks, from_first=True)
        spent = {}
        for when in accuracy:
            round, closing = when
            # Who has only heard has not answered yet: this round's uploads are still to come.
            answered = round - (measured[scope] == "heard" and not closing)
            down = sum(count for number, count in sent["down"].items() if number <= round)
            spent[when] = (down + sum(count for number, count in sent["up"].items() if number <= answered)) / 1e6
        courses[scope] = Course(accuracy, spent)
    return courses


def sections(folders: Sequence[RunFolder]) -> list[Markup]:
    """Return the comparison as parts of a page."""
    groups = grouped(folders)
    return _sections(groups, pictures(groups), "", ())


def _sections(
    groups: Sequence[Group],
    drawn: Mapping[str, bytes],
    command: str,
    remarks: Sequence[str],
    reach: float | None = None,
) -> list[Markup]:
    figure = "nDCG@10" if groups[0].searching else "Accuracy"
    first, *more = (page.table(head, rows) for head, rows in _tables(groups, reach))
    moment = [picture(drawn[PER_MOMENT], "accuracy at every moment")] if PER_MOMENT in drawn else []
    return [
        first,
        *(element("p", note, "soft") for note in [*notes(groups), *remarks]),
        *(element("h2", "Moments") for _ in more),
        *more,
        *(element("p", moments.MEANING, "soft") for _ in more),
        *moment,
        element("h2", f"{figure} per round"),
        picture(drawn[PER_ROUND], f"{figure} per round, one line a method"),
        element("p", " ".join(_legend(groups)), "soft"),
        element("h2", f"{figure} per megabyte"),
        picture(drawn[PER_MEGABYTE], f"{figure} per megabyte exchanged, one line a method"),
        element("p", "A line from edge to edge is a method that exchanges nothing.", "soft"),
        element("h2", "To repeat this comparison"),
        element("pre", command or commands(groups)),
    ]


def _legend(groups: Sequence[Group]) -> list[str]:
    """Say what in the curves does not explain itself."""
    said = ["A point after the last round is the closing measurement: the last aggregate, heard."]
    if any(folder.config["server"]["fraction"] < 1 for group in groups for folder in group.folders):
        said.append("Rounds ask a share of the clients: early points are means over those that were asked by then.")
    return said


def write(
    folders: Sequence[RunFolder],
    out: str | Path,
    command: str = "",
    remarks: Sequence[str] = (),
    reach: float | None = None,
) -> Path:
    """Write ``compare.md``, ``compare.csv``, the plots and ``compare.html`` into ``out``; return the page.

    Parameters
    ----------
    folders : Sequence[RunFolder]
        Finished runs.
    out : str | Path
        A folder.
    command : str
        The command line that made all the runs; empty: each run's own is given.
    remarks : Sequence[str]
        What the runs themselves cannot say: which others are missing, and why.
    reach : float | None
        An accuracy (0 to 1): when each run first has it is told.

    Raises
    ------
    WrongInput
        Where a run is not finished, or there is none.
    """
    groups = grouped(folders)
    drawn = pictures(groups)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, png in drawn.items():
        replace_file(out / name, png)
    replace_file(out / "compare.md", markdown(folders, command, remarks, reach))
    replace_file(out / "compare.csv", comma_separated(folders))
    parts = [element("h1", "Comparison"), *_sections(groups, drawn, command, remarks, reach)]
    replace_file(out / "compare.html", page.page("Comparison · FD-Flower", parts))
    return out / "compare.html"
