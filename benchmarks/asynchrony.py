"""Accuracy against virtual time: rounds that wait for all, windows, and buffers, with clients of lognormal speeds.

    python benchmarks/asynchrony.py --data FOLDER --out RESULTS [--seeds 3] [--plot docs/images/asynchrony.png]

FOLDER holds MNIST as Parquet files. Ten clients share 4,000 rows (Dirichlet 0.3) and take ten local steps a turn. A
step takes a client a lognormal number of virtual seconds with median 1. The figure is the test accuracy of the server's
model for fedavg, and for the other methods that of each client's model on the client's own test rows, the mean over
clients at their newest figures, from the time at which every client has one. Runs that are in RESULTS already are not
repeated.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.engine import InProcessGrid
from fd_flower.results.history import History, curve, evaluated_at
from fd_flower.server import Strategy

METHODS = ("fedavg", "fd", "fedproto", "fedmd")

CLOCKS = {
    "rounds": "",
    "window, fedfix": "server.clock=window server.window=10 server.staleness=fedfix",
    "window, polynomial": "server.clock=window server.window=10 server.staleness=polynomial",
    "count, polynomial": "server.clock=count server.buffer=3 server.staleness=polynomial",
}
PLAYED = [(m, c) for m in METHODS for c in CLOCKS if m == "fedavg" or "fedfix" not in c]
"""FedFix's weights are about models."""

COMMON = (
    "data.clients=10 data.partition=dirichlet data.alpha=0.3 data.limit=4000 data.public_size=1000 "
    "data.public_batch=200 model.name=mlp client.steps=10 client.batch=32 client.lr=0.1 client.optimizer=sgd "
    "client.momentum=0.0 client.schedule=constant client.public_steps=10 server.rounds=10000 server.speed_spread=1.0"
)
ACCURACY = 0.7
"""The accuracy whose time is in the table."""
TIMES = (100.0, 200.0, 300.0)
"""Virtual seconds whose accuracy is in the table; the last one ends a run."""

Curve = list[tuple[float, float]]


def played(method: str, clock: str, seed: int, data: Path) -> Curve:
    """Run until the last of ``TIMES``; return (virtual seconds, accuracy) after each round."""
    served = method == "fedavg"
    evaluate = "aggregated" if served else "personal"
    options = settings(
        method, f"data.source={data} {COMMON} {CLOCKS[clock]} run.seed={seed} server.evaluate={evaluate}"
    )
    strategy = Strategy.for_method(replace(options, run=replace(options.run, device="cpu")))
    lines: list[dict[str, Any]] = []
    strategy.on_line = lines.append
    ended = lambda *_: ends(lines)[max(ends(lines))] >= TIMES[-1]  # noqa: E731
    strategy.start(InProcessGrid(methods.client_app(method)), should_stop=ended)
    history = History.of([line for line in lines if not line.get("closing")], evaluated_at(strategy.evaluated))
    track = curve((history.shared if served else history.own)["accuracy"])
    return [(ends(lines)[number], figure) for (number, _), figure in track.items()]


def ends(lines: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Return the virtual time at which each round ended."""
    return {line["round"]: line["virtual_seconds"] for line in lines if "virtual_seconds" in line}


def at(curve: Curve, time: float) -> float | None:
    """Return the accuracy of the last round that has ended by then."""
    known = [figure for end, figure in curve if end <= time]
    return known[-1] if known else None


def reached(curve: Curve, accuracy: float) -> float | None:
    """Return when a run first was so accurate."""
    return next((end for end, figure in curve if figure >= accuracy), None)


def cell(values: Sequence[float | None], form: str, missing: str) -> str:
    """Return mean and standard deviation over seeds, or, where some have no value, how many have one."""
    found = [value for value in values if value is not None]
    if len(found) < len(values):
        return f"{missing} ({len(found)} of {len(values)} seeds)"
    spread = stdev(found) if len(found) > 1 else 0.0
    return f"{fmean(found):{form}} ± {spread:{form}}"


def table(curves: dict[str, Curve], seeds: int) -> str:
    """Return the Markdown table."""
    lines = [
        f"| method | clock | {' | '.join(f'at {time:g} s' for time in TIMES)} | s to {ACCURACY:.0%} |",
        f"| --- | --- |{' ---: |' * (len(TIMES) + 1)}",
    ]
    for method, clock in PLAYED:
        own = [curves[f"{method} {clock} {seed}"] for seed in range(seeds)]
        figures = [
            cell([None if (a := at(one, time)) is None else 100 * a for one in own], ".1f", "none yet")
            for time in TIMES
        ]
        when = cell([reached(one, ACCURACY) for one in own], ".0f", "not reached")
        lines.append(f"| `{method}` | {clock} | {' | '.join(figures)} | {when} |")
    return "\n".join(lines)


def draw(curves: dict[str, Curve], seeds: int, path: Path) -> None:
    """Plot the mean over seeds of each method and clock."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(METHODS), figsize=(12, 3), sharex=True, layout="constrained")
    times = [float(second) for second in range(int(TIMES[-1]) + 1)]
    for axis, method in zip(axes, METHODS, strict=True):
        for clock in (clock for played, clock in PLAYED if played == method):
            means = []
            for time in times:
                found = [at(curves[f"{method} {clock} {seed}"], time) for seed in range(seeds)]
                known = [value for value in found if value is not None]
                means.append(100 * fmean(known) if len(known) == seeds else float("nan"))
            axis.plot(times, means, label=clock, color=f"C{[*CLOCKS].index(clock)}")
        axis.set(title=method, xlabel="virtual seconds")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy (%)")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Play what is missing, print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    curves: dict[str, Curve] = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {}
    for seed in range(chosen.seeds):
        for method, clock in PLAYED:
            name = f"{method} {clock} {seed}"
            if name not in curves:
                curves[name] = played(method, clock, seed, chosen.data.resolve())
                chosen.out.write_text(json.dumps(curves))
    print(table(curves, chosen.seeds))
    if chosen.plot:
        draw(curves, chosen.seeds, chosen.plot)


if __name__ == "__main__":
    main()
