"""Retrieval runs side by side: nDCG@10 by what is searched, beside what needs no training."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from fd_flower.results.page import NOTHING, megabytes, rounded
from fd_flower.results.retrieval import HEADLINE, SCOPES

FIGURES = {
    **{
        f"{who}_{scope}{'' if key == 'final' else '_selected'}": ("retrieval", who, scope, HEADLINE, key)
        for who in ("global", "personal")
        for scope in SCOPES
        for key in ("final", "selected")
        if key == "final" or scope == "own"
    },
    **{f"{who}_own_error": ("retrieval", who, "own", "se") for who in ("global", "personal")},
}
"""Column -> where the figure stands in summary.json."""
COSTS = {"bytes_up": ("bytes", "up"), "bytes_down": ("bytes", "down"), "seconds": ("seconds", "total")}
NAMES = {"bytes_up": "MB up", "bytes_down": "MB down"}

Summaries = Sequence[Mapping[str, Any]]


def table(groups: Mapping[str, Summaries]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the comparison: a group's summaries, one a seed, make a row.

    A column without any figure is left out. Rows of what needs no training come last; they are the first group's,
    since all have the same data.
    """
    rows = {name: {column: _figure(runs, path) for column, path in FIGURES.items()} for name, runs in groups.items()}
    first = next(iter(groups.values()))
    for name in first[0]["retrieval"]["references"]:
        paths = {f"global_{scope}": ("retrieval", "references", name, scope, HEADLINE) for scope in SCOPES}
        paths["global_own_error"] = ("retrieval", "references", name, "own", "se")
        rows[name] = {column: _figure(first, paths[column]) if column in paths else (None, None) for column in FIGURES}
    kept = [column for column in FIGURES if any(row[column][0] is not None for row in rows.values())]
    head = ["method", *(column.replace("_", " ").replace("own error", "SE") for column in kept)]
    cells = [[name, *(_cell(*row[column], column.endswith("error")) for column in kept)] for name, row in rows.items()]
    for name, line in zip(rows, cells, strict=True):
        up, down, seconds = (_figure(groups.get(name, ()), path)[0] for path in COSTS.values())
        line += [cell or NOTHING for cell in (megabytes(up), megabytes(down), rounded(seconds, 1))]
    return [*head, *(NAMES.get(column, column) for column in COSTS)], cells


def notes(several: bool) -> list[str]:
    """Say what the figures are."""
    spread = "; ± is the sample standard deviation over seeds" if several else ""
    return [
        f"nDCG@10, 0 to 1{spread}. Global: the server's retriever. Personal: each client's own, mean over clients. "
        "Own: questions about a client's own documents; "
        + "; ".join(f"{scope}: {SCOPES[scope]}" for scope in ("others", "unseen"))
        + ".",
        "SE: standard error of the figure on own questions, over the questions of one run (of personal ones its mean "
        "over clients). Where the questions are cross-validated, each seed is a fold of its own.",
        "BM25 counts words, zero-shot is the retriever before it has learned: neither is anybody's in particular.",
    ]


def at(tree: Mapping[str, Any], path: Sequence[str]) -> float | None:
    """Return what stands at a path of keys; None where the path ends early."""
    value: Any = tree
    for key in path:
        if value is None:
            return None
        value = value.get(key)
    return value


def _figure(runs: Summaries, path: Sequence[str]) -> tuple[float | None, float | None]:
    """Return a figure's mean over seeds and its sample standard deviation, None for a single seed."""
    known = [value for value in (at(summary, path) for summary in runs) if value is not None]
    return (fmean(known) if known else None), (stdev(known) if len(known) > 1 else None)


def _cell(mean: float | None, spread: float | None, plain: bool) -> str:
    if mean is None:
        return NOTHING
    return f"{mean:.3f}" if spread is None or plain else f"{mean:.3f} ± {spread:.3f}"
