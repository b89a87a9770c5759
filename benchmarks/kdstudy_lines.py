"""The lines of the study of distillation (``kdstudy.py``): kept in a file, and made into tables."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

Line = dict[str, Any]

STARTS = ("random", "teacher", "average", "labels", "kd", "tuned-kd", "dml", "dp-kd")
TARGETS = (0.90, 0.95, 0.99)
"""Shares of what FedAvg from random weights has after its last round."""

NEVER = float("inf")


class Book:
    """The lines of results, each with a key; what is there is not computed again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.lines: list[Line] = [json.loads(line) for line in lines]

    def find(self, **key: Any) -> Line | None:
        """Return the line with these values, or None."""
        return next((line for line in self.lines if key.items() <= line.items()), None)

    def fill(self, compute: Callable[[], Mapping[str, Any]], **key: Any) -> Line:
        """Return the line of a key, computed and written with its CPU seconds where it is not there."""
        known = self.find(**key)
        if known is not None:
            return known
        begun = time.process_time()
        line = {**key, **compute(), "cpu": round(time.process_time() - begun, 2)}
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(" ".join(f"{k}={v}" for k, v in line.items() if not isinstance(v, list)), flush=True)
        return line


def tables(lines: Sequence[Line], fixed: tuple[float, float]) -> str:
    """Return every table as Markdown; ``fixed`` are temperature and weight of untuned KD."""
    found = dict.fromkeys(line["partition"] for line in lines)
    by_partition = {p: [line for line in lines if line["partition"] == p] for p in found}
    seeds = sorted({line["seed"] for line in lines})
    parts = [
        f"Seeds {', '.join(map(str, seeds))}. Accuracies and gains in points, mean ± sample standard deviation.",
        *_gains(by_partition, fixed),
        *_heat_maps(by_partition),
        *_rounds(by_partition),
        *_orders(by_partition),
        "## CPU seconds of a partition and seed (mean)",
        *(f"* {p}: {sum(line['cpu'] for line in own) / len(seeds):.0f}" for p, own in by_partition.items()),
    ]
    return "\n".join(parts)


def _gains(by_partition: Mapping[str, Sequence[Line]], fixed: tuple[float, float]) -> Iterator[str]:
    yield "\n## Gains: accuracy of the student after it has learned, less that of the teachers' average\n"
    yield _row("partition", "before", *TECHNIQUES, "chosen T, a")
    yield "| --- |" + " ---: |" * (1 + len(TECHNIQUES)) + " --- |"
    for partition, lines in by_partition.items():
        told = chosen(lines, fixed)
        pairs = " ".join(f"({line['heat']:g}, {line['weight']:g})" for line in told["tuned kd"])
        cells = [_points([line["gain"] for line in own]) for own in told.values()]
        yield _row(partition, _points([line["before"] for line in told["kd"]]), *cells, pairs)
    yield "\n## Tuned KD against the best untuned technique; classes of which a student gets 10 % or more right\n"
    yield _row("partition", "best untuned", "its gain", "tuned kd", "ratio of gains", "classes before", *STUDENTS)
    yield "| --- | --- |" + " ---: |" * (4 + len(STUDENTS))
    for partition, lines in by_partition.items():
        told = chosen(lines, fixed)
        means = {name: fmean(line["gain"] for line in told[name]) for name in UNTUNED if told[name]}
        if not means or not told["tuned kd"]:
            continue
        base, tuned = max(means, key=lambda name: means[name]), fmean(line["gain"] for line in told["tuned kd"])
        ratio = f"{100 * (tuned / means[base] - 1):+.0f} %" if means[base] > 0.01 else "base gain ≤ 1 point"
        before = [line for line in lines if line["kind"] == "start" and line["start"] == "average"]
        known = [f"{fmean(map(_known, own)):.1f}" if own else "" for own in (before, *(told[n] for n in STUDENTS))]
        yield _row(partition, base, f"{100 * means[base]:.1f}", f"{100 * tuned:.1f}", ratio, *known)


TECHNIQUES = ("labels alone", "kd", "tuned kd", "dml", "dp-kd label", "dp-kd confidence", "tuned dp-kd")
"""Of students, as ``chosen`` has them; the first is the control without a teacher."""
UNTUNED = ("kd", "dml", "dp-kd label", "dp-kd confidence")
STUDENTS = ("labels alone", "kd", "tuned kd", "dml", "dp-kd label", "dp-kd confidence")


def chosen(lines: Sequence[Line], fixed: tuple[float, float]) -> dict[str, list[Line]]:
    """Return the lines of each technique's student, one a seed; tuned ones are those of the best validation figure."""
    at_once = [line for line in lines if line["kind"] == "student" and not line["sequential"]]
    grid = [line for line in at_once if line["technique"] == "kd" and line["weight"]]
    partitioned = [line for line in at_once if line["technique"] == "dp-kd"]
    return {
        "labels alone": [line for line in at_once if line["technique"] == "kd" and not line["weight"]],
        "kd": [line for line in grid if (line["heat"], line["weight"]) == fixed],
        "tuned kd": _best(grid),
        "dml": [line for line in at_once if line["technique"] == "dml"],
        "dp-kd label": [x for x in partitioned if x["criterion"] == "label" and x["heat"] == fixed[0]],
        "dp-kd confidence": [x for x in partitioned if x["criterion"] == "confidence" and x["heat"] == fixed[0]],
        "tuned dp-kd": _best(partitioned),
    }


def _best(lines: Sequence[Line]) -> list[Line]:
    seeds = sorted({line["seed"] for line in lines})
    return [max((x for x in lines if x["seed"] == seed), key=lambda line: line["validation"]) for seed in seeds]


def _known(line: Line) -> int:
    return sum(1 for share in line["by_class"] if share is not None and share >= 0.1)


def _heat_maps(by_partition: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    for partition, lines in by_partition.items():
        at_once = [x for x in lines if x["kind"] == "student" and not x["sequential"]]
        grid = [x for x in at_once if x["technique"] == "kd" and x["weight"]]
        weights = sorted({line["weight"] for line in grid})
        yield f"\n## Gain of KD by temperature (rows) and weight (columns): {partition}\n"
        yield _row("T", *(f"{weight:g}" for weight in weights))
        yield "| ---: |" + " ---: |" * len(weights)
        for heat in sorted({line["heat"] for line in grid}):
            cells = [[x["gain"] for x in grid if (x["heat"], x["weight"]) == (heat, weight)] for weight in weights]
            yield _row(f"{heat:g}", *(f"{100 * fmean(cell):.1f}" if cell else "" for cell in cells))


def reached(line: Line, level: float) -> float:
    """Return in which round a run first has an accuracy, phase A's rounds counted; infinity where it never has."""
    return next((line["phase"] + r for r, accuracy in enumerate(line["accuracy"]) if accuracy >= level), NEVER)


def _rounds(by_partition: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    yield "\n## Rounds to a share of what FedAvg from random weights ends with, phase A's rounds counted\n"
    yield "Each seed's: the median; `> n`: never in its n rounds. In brackets: how many fewer than from random."
    for partition, lines in by_partition.items():
        runs = [line for line in lines if line["kind"] == "fedavg"]
        final = {line["seed"]: line["accuracy"][-1] for line in runs if line["start"] == "random"}
        yield f"\n{partition} (ends with {_points(list(final.values()))}):\n"
        yield _row("start", "after phase A", "at the end", *(f"{100 * share:g} %" for share in TARGETS))
        yield "| --- | ---: | ---: |" + " --- |" * len(TARGETS)
        medians: dict[float, float] = {}
        for start in STARTS:
            own = sorted((x for x in runs if x["start"] == start and x["seed"] in final), key=lambda x: x["seed"])
            if not own:
                continue
            cells = []
            for share in TARGETS:
                found = [reached(line, share * final[line["seed"]]) for line in own]
                last = max(line["phase"] + len(line["accuracy"]) - 1 for line in own)
                middle = median(found)
                base = medians.setdefault(share, middle)  # the first is random
                saved = f" ({100 * (1 - middle / base):+.0f} %)" if base > 0 and max(middle, base) < NEVER else ""
                said = [f"> {last}" if n == NEVER else f"{n:g}" for n in (*found, middle)]
                cells.append(f"{', '.join(said[:-1])}: **{said[-1]}**{saved}")
            yield _row(start, *(_points([line["accuracy"][i] for line in own]) for i in (0, -1)), *cells)


def _orders(by_partition: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    told = {p: [x for x in lines if x["kind"] == "chain"] for p, lines in by_partition.items()}
    for partition, chains in told.items():
        if not chains:
            continue
        after = [x for x in by_partition[partition] if x["kind"] == "student" and x["sequential"]]
        yield f"\n## One teacher after another: {partition}\n"
        yield _row("technique", "at the server", "chain, the arriving model learns", "chain, the own model learns")
        yield "| --- |" + " ---: |" * 3
        for technique in dict.fromkeys(line["technique"] for line in chains):
            own = [[x["gain"] for x in after if x["technique"] == technique]]
            for learner in ("arriving", "own"):
                own.append([x["gain"] for x in chains if (x["technique"], x["learner"]) == (technique, learner)])
            yield _row(technique, *map(_points, own))


def _points(values: Sequence[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{spread}" if values else ""


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
