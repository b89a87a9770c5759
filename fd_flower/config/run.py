"""Options of the run (section ``run``)."""

from dataclasses import dataclass

from fd_flower.core.dotted import is_dotted
from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import Options, one_of

DEVICES = ("auto", "cpu", "cuda")
TRACKERS = ("tensorboard", "wandb", "mlflow")


@dataclass(frozen=True)
class RunConfig(Options):
    """The run (section ``run``)."""

    section = "run"

    seed: int = 0
    """Seed of all random numbers."""
    out: str | None = None
    """Folder for the results."""
    resume: str | None = None
    """Folder of a run to resume."""
    keep: str = one_of("none", "last", "best", default="last")
    """Models to keep after the run: `last` (evaluated last), `best` (best validation figure) or `none`. A run can
    be continued after its end unless this is `none`, which also deletes the clients' memory."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`."""
    precision: str = one_of("fp32", "bf16", default="fp32")
    """Numeric precision: `fp32`, or `bf16` (autocast)."""
    report: bool = True
    """Whether to write `curves.png` and `report.html` at the end. `fd-flower report` can do it later."""
    track: str | None = None
    """Trackers, comma-separated: `tensorboard`, `wandb`, `mlflow`, or your own `Callback` (`package.module:Class`)."""

    def __post_init__(self) -> None:
        """Check the values; of a device what stands before its number."""
        super().__post_init__()
        if self.device.split(":")[0] not in DEVICES:
            raise InvalidInputError(f"run.device is '{self.device}'{nearest(self.device, DEVICES)}")
        for name in self.trackers:
            if name not in TRACKERS and not is_dotted(name):
                raise InvalidInputError(f"run.track has '{name}'{nearest(name, TRACKERS)}")

    @property
    def trackers(self) -> tuple[str, ...]:
        """`run.track` as names, each once."""
        return tuple(dict.fromkeys(name.strip() for name in (self.track or "").split(",") if name.strip()))
