"""What trackers have in common: a run's figures are sent to one once, however often the run is resumed."""

import json
from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.storage import replace_file
from fd_flower.results import kinds
from fd_flower.results.callback import Callback, Round, Started, Summary
from fd_flower.results.folder import CONFIG, CURVES, REPORT
from fd_flower.results.folder import SUMMARY as SUMMARY_FILE


class Tracker(Callback):
    """A callback that sends a run's figures to a tracker.

    What a tracker knows already is in ``tracking/<name>.json`` in the run's folder, so that a resumed run continues
    in the tracker's same run, at its next step, and sends what the tracker has missed.

    Raises
    ------
    InvalidInputError
        Where the tracker's packages are not installed.
    """

    name: ClassVar[str]
    """Its name for ``run.track``, and that of the extra that installs it."""
    packages: ClassVar[tuple[str, ...]]
    """What has to be importable."""

    def __init__(self) -> None:
        for package in self.packages:
            try:
                import_module(package)
            except ImportError as error:
                raise InvalidInputError(
                    f"run.track={self.name} needs {package} ({error}): pip install 'fd-flower[{self.name}]'"
                ) from None

    def on_start(self, run: Started) -> None:
        """Begin the tracker's run, or continue with it, and send what it has missed."""
        if run.folder is None:
            raise InvalidInputError(f"{self.name} writes into the run's folder, and this run has none: give run.out")
        self.run, self.folder = run, run.folder
        self._state = run.folder / "tracking" / f"{self.name}.json"
        known = json.loads(self._state.read_text(encoding="utf-8")) if self._state.is_file() else {}
        self._round = int(known.get("round", 0))
        self._id = self.open(known.get("id"))
        self._remember()
        for past in run.past:
            self.on_round(past)

    def on_round(self, round: Round) -> None:
        """Send a round's figures, unless the tracker has them."""
        if round.closing or round.number > self._round:
            self.log(round.metrics, round.number)
            self._round = round.number
            self._remember()

    def on_end(self, summary: Summary | None) -> None:
        """Send the final figures and the report, and end the tracker's run."""
        self.close(summary, _finals(summary) if summary else {})

    def _remember(self) -> None:
        self._state.parent.mkdir(exist_ok=True)
        replace_file(self._state, json.dumps({"id": self._id, "round": self._round}) + "\n")

    @property
    def artifacts(self) -> list[Path]:
        """The files of a finished run that people look at."""
        files = (self.folder / name for name in (REPORT, CURVES, SUMMARY_FILE, CONFIG))
        return [path for path in files if path.is_file()]

    @property
    def options(self) -> dict[str, Any]:
        """The run's hyperparameters: what is None is left out, a list is a text."""
        known = {key: value for key, value in self.run.options.items() if value is not None}
        return {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in known.items()
        }

    @abstractmethod
    def open(self, known: str | None) -> str:
        """Begin a run, or continue with the one that is ``known``; return its id."""

    @abstractmethod
    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send figures of a step, so that they are there if the process ends."""

    @abstractmethod
    def close(self, summary: Summary | None, finals: Mapping[str, float]) -> None:
        """Send final figures, ``summary/<name>``, and what there is of ``artifacts``; end the run."""


def _finals(summary: Summary) -> dict[str, float]:
    """Return the figures of a summary that are in a comparison's table."""
    kind = kinds.of(summary["task"])
    columns = [*kind.columns([summary]), *kind.metrics([summary])]
    found = {f"summary/{column.name}": column.of(summary) for column in columns}
    return {name: value for name, value in found.items() if value is not None}
