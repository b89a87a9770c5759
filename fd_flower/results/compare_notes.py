"""What one must know to read a comparison: units, seeds, data, and the commands that made it."""

from collections.abc import Mapping, Sequence

from fd_flower.config.registry import short_name
from fd_flower.results import reproduce
from fd_flower.results.columns import LOCAL, STEPS
from fd_flower.results.groups import LABELS_ALONE, Group
from fd_flower.results.page import NOTHING, words

STATUS = (
    "Status: what a method's code follows. A reconstruction follows neither the authors' code nor their paper: its "
    "figures say nothing of the published method."
)
COUNTED = (
    "Steps: optimizer steps a round, counted while they are taken. Local and public: on a client's own and on public "
    "samples, mean over clients and rounds, of which the first has nothing to distill yet. Server: its own."
)
MARKED = "Bold: the best of a column; underlined: the second; figures that are printed alike share a place."


def notes(groups: Sequence[Group]) -> list[str]:
    """Return what the figures are: units, seeds, data."""
    first = groups[0]
    counted = any(column.over_seeds(group.summaries)[0] is not None for group in groups for column in STEPS)
    measured = {group.name: first.kind.evaluated(group.summaries[0])["global"] for group in groups}
    seeds = {group.name: words(group.seeds) for group in groups}
    data = {group.name: words(group.summaries[0]["data"]) for group in groups}
    several = any(len(group.folders) > 1 for group in groups)
    return [
        *first.kind.notes(several),
        *([MARKED] if len(groups) > 1 else []),
        STATUS,
        "Final: after the last round. Selected: at the best validation round.",
        "MB (10^6 bytes) of encoded payloads and seconds: totals over all clients and rounds of a run"
        + (", mean over seeds." if several else "."),
        *([COUNTED] if counted else []),
        *_unequal(groups),
        *_inference(groups),
        *_beside(groups),
        f"{first.kind.measured}: {_by_value(measured)}.",
        f"Seeds: {_by_value(seeds)}.",
        f"Clients: {_by_value({g.name: str(g.summaries[0]['clients']) for g in groups})}. "
        f"Rounds: {_by_value({g.name: str(g.summaries[0]['rounds']) for g in groups})}.",
        *_judges(groups),
        *_held_out(groups),
        f"Data: {data[first.name] if len(set(data.values())) == 1 else _by_value(data)}.",
    ]


def _judges(groups: Sequence[Group]) -> list[str]:
    """Return a line where only some of the clients are evaluated on all clients' samples."""
    few = {group.name: f"judges={count}" for group in groups if (count := group.summaries[0].get("judges"))}
    return [f"Global and pooled figures are means over some of the clients: {_by_value(few)}."] if few else []


def _held_out(groups: Sequence[Group]) -> list[str]:
    """Return which training rows some methods do without, though they use no public samples."""
    idle = {group.name: rows for group in groups if (rows := group.summaries[0].get("held_out_unused"))}
    if not idle:
        return []
    rows = f"{next(iter(idle.values())):,} training rows are held out as public samples for all methods alike"
    if len(idle) < len(groups):
        return [f"{rows}; {words(list(idle))} {'use' if len(idle) > 1 else 'uses'} none of them."]
    return [f"{rows}, and no method here uses them: data.public=none gives them to the clients."]


def _unequal(groups: Sequence[Group]) -> list[str]:
    """Return a line where clients' own training is not equally long, since figures then compare that, too."""
    (local,) = (column for column in STEPS if column.path[-1] == LOCAL)
    texts = {group.name: local.text(local.over_seeds(group.summaries)[0]) for group in groups}
    known = {name: text for name, text in texts.items() if text != NOTHING}
    if len(set(known.values())) < 2:
        return []
    return [f"Local steps differ: {_by_value(known)}; --same-loop gives all methods one private and one public loop."]


def _inference(groups: Sequence[Group]) -> list[str]:
    """Return a line where some methods predict by prototypes and others do not, which figures then also compare."""
    chosen = {group.name: group.folders[0].config["client"].get("inference", "head") for group in groups}
    by = [name for name, rule in chosen.items() if rule != "head"]
    if not by or len(by) == len(groups):
        return []
    verb = "predict" if len(by) > 1 else "predicts"
    return [f"{words(by)} {verb} by the nearest prototype, the others by their last layer: --rules shows both for all."]


def _beside(groups: Sequence[Group]) -> list[str]:
    """Return what rows are that others stand to be judged by."""
    lines = []
    for group in groups:
        if short_name(group.folders[0].config["method"]) == "fedavg" and len(groups) > 1:
            smallest = "; one model for all, the smallest of the others'" if " on " in group.name else ""
            lines.append(
                f"{group.name}: global figures are of the server's model, personal ones (trained) of that model after "
                f"a round's local steps, which is FedAvg fine-tuned{smallest}."
            )
        if group.name.startswith(LABELS_ALONE):
            lines.append(
                f"{group.name}: clients learn from the public samples' labels, then from their own, and exchange "
                "nothing; methods that use these labels are to be judged against it."
            )
    return lines


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


def legend(groups: Sequence[Group]) -> list[str]:
    """Return what in the curves does not explain itself."""
    notes = []
    if any(when[1] for group in groups for run in group.courses for course in run.values() for when in course.accuracy):
        notes.append("A point after the last round is the closing measurement: the last aggregate, received.")
    if any(folder.config["server"]["fraction"] < 1 for group in groups for folder in group.folders):
        notes.append("Rounds ask a share of the clients: early points are means over those that were asked by then.")
    return notes


def caption(groups: Sequence[Group]) -> str:
    """Return what stands above the table in a paper."""
    kind, several = groups[0].kind, any(len(group.folders) > 1 for group in groups)
    marked = [MARKED] if len(groups) > 1 else []
    return " ".join([*kind.notes(several), f"Evaluated: {_points(groups)}.", f"Seeds: {_seeds(groups)}.", *marked])


def origin(groups: Sequence[Group], command: str) -> list[str]:
    """Return where the figures of a file come from, a line each."""
    lines = [f"evaluated: {_points(groups)}", f"seeds: {_seeds(groups)}"]
    return [*lines, *(f"command: {line}" for line in (command or commands(groups)).splitlines())]


def _points(groups: Sequence[Group]) -> str:
    return _by_value({group.name: group.kind.point(group.summaries[0]) for group in groups})


def _seeds(groups: Sequence[Group]) -> str:
    return _by_value({group.name: words(group.seeds) for group in groups})
