"""Weights & Biases. Its own environment variables hold: ``WANDB_MODE=offline``, ``WANDB_PROJECT``, ``WANDB_DIR``..."""

import os
from collections.abc import Mapping
from typing import final

from fd_flower.core.errors import InvalidInputError
from fd_flower.results.callback import Summary
from fd_flower.results.trackers.base import Tracker


@final
class WandB(Tracker):
    """Logs to Weights & Biases, with its files in ``wandb/`` of the run's folder; the run's id there is its run key.

    Parameters
    ----------
    project : str | None
        None: ``WANDB_PROJECT``, or ``fd-flower``.
    """

    name = "wandb"
    packages = ("wandb",)

    def __init__(self, project: str | None = None) -> None:
        super().__init__()
        self._project = project or os.environ.get("WANDB_PROJECT") or "fd-flower"

    def open(self, known: str | None) -> str:
        """Begin a run, or continue with it: offline as a further folder of the same id."""
        import wandb

        try:
            self._run = wandb.init(
                project=self._project,
                id=self.run.run_key,
                name=os.environ.get("WANDB_NAME") or self.folder.name,
                dir=os.environ.get("WANDB_DIR") or self.folder,
                resume="allow",
                settings=wandb.Settings(console="off", quiet=True),
            )
        except wandb.errors.UsageError as error:
            raise InvalidInputError(f"wandb cannot start: {error} Or keep the run here by WANDB_MODE=offline") from None
        self._run.config.update(self.options, allow_val_change=True)
        return self.run.run_key

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log a step, and let it be written now rather than with the next one."""
        self._run.log(dict(metrics), step=step, commit=True)

    def close(self, summary: Summary | None, finals: Mapping[str, float]) -> None:
        """Put the final figures into the run's summary, and the report into an artifact."""
        import wandb

        if summary is not None:
            self._run.summary.update(dict(finals))
            artifact = wandb.Artifact(f"run-{self.run.run_key}", type="report")
            for path in self.artifacts:
                artifact.add_file(str(path))
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if summary is not None and "interrupted" not in summary else 1)
