"""Options of the run (section ``run``)."""

from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError, nearest

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class RunConfig:
    """The run (section ``run``)."""

    seed: int = 0
    """Every random number is a function of it."""
    out: str | None = None
    """The folder that the run leaves behind."""
    resume: str | None = None
    """The folder of a run to resume."""
    keep: bool = False
    """Keep the hosted clients' memory after the end."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`."""
    precision: str = "fp32"
    """`fp32`, or `bf16` (autocast)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.device.split(":")[0] not in DEVICES:
            raise InvalidInputError(f"run.device is '{self.device}'{nearest(self.device, DEVICES)}")
        if self.precision not in PRECISIONS:
            raise InvalidInputError(f"run.precision is '{self.precision}'{nearest(self.precision, PRECISIONS)}")
