"""``fd-flower reproduce``: what a paper claims of its method, run and judged by a rule that was there before."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid  # of prose, in which words may break anywhere
from rich.text import Text

from fd_flower.claims import Entry, entry, ledger, names
from fd_flower.claims.picture import picture
from fd_flower.claims.verdict import difference, verdict
from fd_flower.cli import paths
from fd_flower.cli.order import Order
from fd_flower.cli.plan import Plan, place
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.storage import replace_file
from fd_flower.core.versions import arithmetic, sources, versions
from fd_flower.results.columns import at
from fd_flower.results.folder import RunFolder

RESULT = "result.json"


def ordered(name: str, data: Path | None, out: Path | None, *, quick: bool) -> tuple[Entry, Plan]:
    """Return an entry, or its small form, and its runs: every row of every variant with every seed.

    Raises
    ------
    InvalidInputError
        For an unknown entry, or one whose data sets or small form are not there.
    """
    chosen = entry(name).small if quick else entry(name)
    if not chosen.rows:
        raise InvalidInputError(f"claim {name} is not testable here: {chosen.reason}")
    path = place((), out, f"reproduce-{name}")
    folder = None if data is None else paths.absolute(data, Path.cwd())
    for missing in (name for name in chosen.sets if folder is not None and not (folder / name).is_dir()):
        raise InvalidInputError(f"claim {name} needs {missing}, and there is no folder {folder}/{missing}")
    plan = Plan(path, {})
    for variant in chosen.variants:
        for row, arm in chosen.arms.items():
            words = chosen.words(row, variant, folder)
            for seed in chosen.numbers:
                own = path / _name(variant, row, seed)
                more = (f"run.seed={seed}", paths.path_word("run.out", own))
                plan.orders[own.name] = Order(arm.method, ("run.keep=none", "run.report=false", *words, *more), own)
    return chosen, plan


def _name(variant: str, row: str, seed: int) -> str:
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()) for part in (variant, row, f"seed{seed}") if part)


def write(chosen: Entry, plan: Plan, command: str, *, quick: bool) -> dict[str, Any]:
    """Judge a finished entry, write ``result.json`` and its plot, and return the contents of the former.

    Raises
    ------
    RunError
        Where a run is missing: nothing is judged on a part of the seeds.
    """
    if plan.failures:
        raise RunError(f"claim {chosen.name} is not judged: {'; '.join(plan.notes)}")
    variants = {}
    for variant in chosen.variants:
        runs = {row: [plan.folders[_name(variant, row, seed)] for seed in chosen.numbers] for row in chosen.arms}
        figures = {row: [_figure(folder, chosen.figure) for folder in folders] for row, folders in runs.items()}
        published = chosen.published.get(variant, {})
        variants[variant] = {
            "orders": [_order(chosen, row, than, figures, published) for row, than in chosen.orders],
            "figures": figures,
            "selected": {
                row: [_beside(folder, chosen.figure, "selected") for folder in of] for row, of in runs.items()
            },
            "evaluated": {row: _beside(folders[0], chosen.figure, "evaluated") for row, folders in runs.items()},
            "published": published,
        }
    folders = list(plan.folders.values())
    result = {
        "name": chosen.name,
        "claim": chosen.claim,
        "command": command,
        "quick": quick,
        "figure": chosen.figure,
        "seeds": list(chosen.numbers),
        "variants": variants,
        "data": sorted({str(folder.summary["data"].get("copy", "")) for folder in folders}),
        "sources": sources()[:12],
        "versions": versions(),
        "arithmetic": arithmetic(),
        "hours": sum(folder.summary["seconds"]["total"] for folder in folders) / 3600,
    }
    replace_file(plan.path / RESULT, json.dumps(result, indent=2) + "\n")
    picture(chosen, result).write(plan.path)
    return result


def _order(
    chosen: Entry,
    row: str,
    than: str,
    figures: Mapping[str, Sequence[float]],
    published: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    found = difference(figures[row], figures[than], chosen.measure)
    word = verdict(figures, found, published, chosen)
    return {"better": row, "than": than, "verdict": word, "mean": found.mean, "interval": list(found.interval)}


def _figure(folder: RunFolder, key: str) -> float:
    value = at(folder.summary, key.split("."))
    if not isinstance(value, float):
        raise RunError(f"{folder.path} has no figure '{key}' in its summary.json")
    return value


def _beside(folder: RunFolder, key: str, name: str) -> Any:
    """Return an entry next to a figure in the summary, or of what it is part of: ``selected``, ``evaluated``."""
    parts = key.split(".")[:-1]
    found = (at(folder.summary, [*parts[:depth], name]) for depth in range(len(parts), 0, -1))
    return next((entry for entry in found if entry is not None), None)


def show(chosen: Entry, result: Mapping[str, Any], console: Console) -> None:
    """Print a verdict and a table for each variant."""
    console.print(f"{chosen.claim}\n[{chosen.origin.where}; {chosen.origin.read}]", markup=False, highlight=False)
    for variant, found in result["variants"].items():
        console.print(*filter(None, [variant]), ledger.table(chosen, found), sep="\n")
        for order in found["orders"]:
            console.print(ledger.sentence(chosen, order, len(result["seeds"])), markup=False, highlight=False)
    if chosen.reason:
        console.print(Text(chosen.reason, style="dim"))
    if kept := ledger.kept(chosen.name, quick=result["quick"]):
        console.print("\n".join(ledger.against(result, kept)), markup=False, highlight=False)


def listed() -> Grid:
    """Return all entries: the claim, where it was read, and the verdict of our own runs."""
    table, kept = Grid(), ledger.results()
    for head in ("name", "claim", "read in", "our verdict"):
        table.add_column(head)
    for name in names():
        each = entry(name)
        table.add_row(name, each.claim, each.origin.read, "\n".join(ledger.words(each, kept.get(name))))
    return table


def command(name: str, data: Path | None, *, quick: bool) -> str:
    """Return the command that repeats an entry, without the places of one machine."""
    words = ["fd-flower", "reproduce", name, *(["--data", "DATA"] if data else []), *(["--quick"] if quick else [])]
    return shlex.join(words)
