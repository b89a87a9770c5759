"""A callback that writes the figures of each round into a CSV file: ``run.track=curve:Curve``."""

import csv
from pathlib import Path
from typing import Any

from fd_flower import Callback
from fd_flower.results.callback import Round, Started

COLUMNS = ("round", "loss", "accuracy", "megabytes")
ACCURACIES = ("aggregated/accuracy", "trained/accuracy", "received/accuracy")
"""The server's model first; methods without one are measured on the clients' models."""


class Curve(Callback):
    """Writes ``curve.csv`` into the run's folder, with a row for each round."""

    def on_start(self, run: Started) -> None:
        """Begin the file; of a resumed run, begin it again with the rounds that are done."""
        if run.folder is None:
            raise ValueError("this run writes no folder: give it one with --out")
        self.path = Path(run.folder) / "curve.csv"
        self.megabytes = 0.0
        self._write("w", COLUMNS)
        for round in run.past:
            self.on_round(round)

    def on_round(self, round: Round) -> None:
        """Append a row; the evaluation after the last round trains nothing and has none."""
        if round.closing:
            return
        found = round.metrics
        self.megabytes += (found["bytes/up"] + found["bytes/down"]) / 1e6
        accuracy = next((found[name] for name in ACCURACIES if name in found), None)
        self._write("a", (round.number, found.get("loss"), accuracy, self.megabytes))

    def _write(self, mode: str, row: tuple[Any, ...]) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
