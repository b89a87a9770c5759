"""TensorBoard: event files in the run's folder. ``tensorboard --logdir runs`` shows all runs below it."""

from collections.abc import Mapping
from typing import final

from fd_flower.results.callback import Summary
from fd_flower.results.trackers.base import Tracker


@final
class TensorBoard(Tracker):
    """Writes ``tensorboard/`` in the run's folder: each round's figures; options and final figures as hparams."""

    name = "tensorboard"
    packages = ("tensorboard", "torch.utils.tensorboard")

    def open(self, known: str | None) -> str:
        """Open a further file of events: TensorBoard reads all in a folder as one run."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self.folder / "tensorboard")
        if known is None:
            rows = "".join(f"| {key} | {value} |\n" for key, value in self.options.items())
            self._writer.add_text("options", f"| option | value |\n| --- | --- |\n{rows}")
        return self.run.run_key

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a scalar a figure."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, summary: Summary | None, finals: Mapping[str, float]) -> None:
        """Add the final figures, next to the options."""
        if summary is not None:
            self._writer.add_hparams(self.options, dict(finals), run_name=".", global_step=summary["rounds"])
        self._writer.close()
