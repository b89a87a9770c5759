"""MLflow: a SQLite store in the run's folder, or the one that ``MLFLOW_TRACKING_URI`` names."""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, final

from fd_flower.results.callback import Summary
from fd_flower.results.trackers.base import Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAMES = re.compile(r"[^\w\-. :/]")
"""What MLflow takes in no name."""
BATCH = 100
"""Parameters that a request may have."""

T = TypeVar("T")


@final
class MLflow(Tracker):
    """Logs to MLflow: ``mlflow.db`` and ``mlartifacts/`` in the run's folder, unless ``MLFLOW_TRACKING_URI`` is set.

    Parameters
    ----------
    experiment : str | None
        None: ``MLFLOW_EXPERIMENT_NAME``, or ``fd-flower``.
    """

    name = "mlflow"
    packages = ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, experiment: str | None = None) -> None:
        super().__init__()
        self._experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "fd-flower"

    def open(self, known: str | None) -> str:
        """Begin a run, or set the known one going again."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # a new store tells of its tables
        elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(elsewhere or f"sqlite:///{self.folder / 'mlflow.db'}")
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._run_id = known
            return known
        place = None if elsewhere else (self.folder / "mlartifacts").as_uri()
        run = self._client.create_run(
            _experiment(self._client, self._experiment, place),
            run_name=self.folder.name,
            tags={"method": self.run.method, "run_key": self.run.run_key, "folder": str(self.folder)},
        )
        self._run_id = run.info.run_id
        params = [Param(NAMES.sub("_", key), str(value)) for key, value in self.options.items()]
        for some in _batches(params):
            self._client.log_batch(self._run_id, params=some)
        return self._run_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(NAMES.sub("_", name), value, now, step) for name, value in metrics.items()]
        for some in _batches(entries):
            self._client.log_batch(self._run_id, metrics=some)

    def close(self, summary: Summary | None, finals: Mapping[str, float]) -> None:
        """Log the final figures and the report, and say how the run ended."""
        if summary is not None:
            self.log(finals, summary["rounds"])
            for path in self.artifacts:
                self._client.log_artifact(self._run_id, str(path))
        status = "FAILED" if summary is None else "KILLED" if "interrupted" in summary else "FINISHED"
        self._client.set_terminated(self._run_id, status)


def _experiment(client: "MlflowClient", name: str, place: str | None) -> str:
    """Return an experiment's id, after it has been made where there is none."""
    found = client.get_experiment_by_name(name)
    return client.create_experiment(name, place) if found is None else found.experiment_id


def _batches(entries: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(entries), BATCH):
        yield entries[start : start + BATCH]
