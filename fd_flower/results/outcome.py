"""What a run came to, in the few lines that end it."""

from collections.abc import Mapping
from typing import Any

from fd_flower.config.registry import short_name
from fd_flower.results import kinds, reported
from fd_flower.results.folder import REPORT, RunFolder
from fd_flower.results.progress import clock


def outcome(summary: Mapping[str, Any]) -> str:
    """Return what a run came to, in one line."""
    words = [*kinds.of(summary["task"]).outcome(summary), *reported.outcome(summary)[0]]
    up, down = (summary["bytes"][way] / 1e6 for way in ("up", "down"))
    words += [f"{up:.2f} MB up, {down:.2f} MB down", clock(summary["seconds"]["total"])]
    return ", ".join(words) + (f"; stopped {summary['stopped']}" if "stopped" in summary else "")


def held_out(summary: Mapping[str, Any]) -> str:
    """Return, in a sentence, how many rows are held out as public samples that the method does not use; "": none."""
    if not (rows := summary.get("held_out_unused")):
        return ""
    return (
        f"{rows:,} training rows are held out as public samples, of which {short_name(summary['method'])} uses none: "
        "data.public=none gives them to the clients (compare holds them out for all methods alike)."
    )


def standing(folder: RunFolder) -> str:
    """Return how far a run came that did not end, and where it is."""
    done = max((line["round"] for line in folder.lines()), default=0)
    return f"{done} of {folder.config['server']['rounds']} rounds are in {folder.path}"


def ending(folder: RunFolder) -> list[str]:
    """Return the lines that end a finished run: what it came to, what these figures are, and where the report is."""
    summary = folder.summary
    kind = kinds.of(summary["task"])
    explained = [*([kind.explained] if kind.outcome(summary) else []), *reported.outcome(summary)[1]]
    explained += [idle] if (idle := held_out(summary)) else []
    report = folder.path / REPORT
    return [outcome(summary), *explained, *([f"report: {report}"] if report.is_file() else [])]
