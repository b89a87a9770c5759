"""Attacks in rows, rules in columns: what a method is worth under each, for every share of attackers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fd_flower.attacks import ABSENT, HONEST
from fd_flower.config.registry import short_name
from fd_flower.results import kinds
from fd_flower.results.columns import Column
from fd_flower.results.folder import RunFolder
from fd_flower.results.tables import Table

FILE = "attack.md"
LOCAL, WORST = "local", "worst attack"

MEANING = (
    "Figures are means over the honest clients (or the server's model) and seeds, with the deviation over seeds; all "
    "rows are over the same clients. none: no client attacks (attack.name=honest); absent: the attackers' replies are "
    "left out; local: no exchange; worst attack: the lowest mean of the attacks above, where higher is better."
)


@dataclass(frozen=True)
class Variant:
    """One cell of a table: runs that differ in nothing but the seed.

    Attributes
    ----------
    method : str
        The method; ``local`` is in every table of all methods.
    attack : str
        ``attack.name``.
    fraction : str
        ``attack.fraction`` as the user types it.
    rule : str
        ``server.rule``; "" for a method without one, or the method's own.
    """

    method: str
    attack: str
    fraction: str
    rule: str = ""

    @property
    def folder(self) -> str:
        """What the folder with its runs is called."""
        return "-".join(filter(None, (self.attack, self.fraction, self.rule)))


def tables(runs: Mapping[Variant, Sequence[RunFolder]], attacks: Sequence[str]) -> list[tuple[str, Table]]:
    """Return a title and a table for each method, share of attackers and scope that has figures.

    Parameters
    ----------
    runs : Mapping[Variant, Sequence[RunFolder]]
        The finished runs of each variant; a variant without one has a dash.
    attacks : Sequence[str]
        The attacks in the order of their rows.
    """
    found = []
    methods = dict.fromkeys(variant.method for variant in runs if variant.method != LOCAL)
    for method in methods or [LOCAL]:
        own = [variant for variant in runs if variant.method == method]
        for fraction in dict.fromkeys(variant.fraction for variant in own):
            for column in _columns([folder for variant in own for folder in runs[variant]]):
                rules = tuple(dict.fromkeys(variant.rule for variant in own))
                table = _table(runs, method, fraction, rules, attacks, column)
                found.append((f"{short_name(method)}, {fraction} of the clients attack: {column.title}", table))
    return found


def _columns(folders: Sequence[RunFolder]) -> list[Column]:
    """Return the final figures that these runs have: on all clients' samples, on clients' own."""
    summaries = [folder.summary for folder in folders]
    if not summaries:
        return []
    columns = kinds.of(summaries[0]["task"]).columns(summaries)
    finals = [column for column in columns if column.path[-1] == "final" and column.spread and column.better]
    return [column for column in finals if any(column.of(summary) is not None for summary in summaries)]


def _table(
    runs: Mapping[Variant, Sequence[RunFolder]],
    method: str,
    fraction: str,
    rules: Sequence[str],
    attacks: Sequence[str],
    column: Column,
) -> Table:
    """Return one table."""

    def figure(attack: str, rule: str) -> tuple[float | None, float | None]:
        return column.over_seeds(folder.summary for folder in runs.get(Variant(method, attack, fraction, rule), ()))

    controls = {"none": HONEST, ABSENT: ABSENT}
    rows = [
        [name, *(column.text(*figure(controls.get(name, name), rule)) for rule in rules)]
        for name in (*controls, *attacks)
    ]
    alone = column.over_seeds(folder.summary for folder in runs.get(Variant(LOCAL, HONEST, fraction), ()))
    rows.insert(len(controls), [LOCAL, *[column.text(*alone)] * len(rules)])
    if column.better == "higher":
        worst = [[mean for name in attacks if (mean := figure(name, rule)[0]) is not None] for rule in rules]
        rows.append([WORST, *(column.text(min(means, default=None)) for means in worst)])
    return Table.of(["attack", *(rule or "its own rule" for rule in rules)], rows)


def markdown(parts: Sequence[tuple[str, Table]], command: str, notes: Sequence[str]) -> str:
    """Return all tables as a page in Markdown, with the command and what is missing."""
    lines = ["# Attacks", "", f"`{command}`", "", MEANING, ""]
    for title, table in parts:
        lines += [f"## {title}", "", table.markdown(), ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes), ""])
