"""Which GPU each of several runs at a time has: ``--devices``."""

import os
from collections.abc import Callable, Iterable, Sequence

from fd_flower.cli import machine
from fd_flower.core.errors import InvalidInputError

VISIBLE = "CUDA_VISIBLE_DEVICES"
Place = str | None
"""What ``CUDA_VISIBLE_DEVICES`` is for a run; None: the value of this process."""


def places(
    devices: str | None,
    jobs: int | None,
    asked: Iterable[str] = (),
    *,
    count: Callable[[], int] = machine.gpu_count,
    visible: str | None = None,
) -> list[Place]:
    """Return a place for each of the runs that are under way at a time: the devices in turn.

    A run sees its device alone and finds it as ``cuda``, so that its settings are those of a run on any other.

    Parameters
    ----------
    devices : str | None
        GPUs by the numbers that torch gives them here, with commas; None: runs choose for themselves.
    jobs : int | None
        Runs at a time; None: one a device.
    asked : Iterable[str]
        The ``run.device`` of every run.
    count : Callable[[], int]
        How many GPUs there are.
    visible : str | None
        The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them, in the order of their numbers; None:
        what the variable says here.

    Raises
    ------
    InvalidInputError
        For what is no list of numbers, a GPU that is not there, or runs that are to be elsewhere.
    """
    if devices is None:
        return [None] * (jobs or 1)
    numbers = _numbers(devices)
    there = count()
    if not there:
        raise InvalidInputError(f"--devices {devices}: torch sees no GPU here; leave it out, and runs use the CPU")
    for number in numbers:
        if number >= there:
            seen = f"{there} GPUs, 0 to {there - 1}" if there > 1 else "one GPU, 0"
            raise InvalidInputError(f"--devices {devices}: there is no GPU {number}; torch sees {seen}")
    for device in asked:
        if device not in ("auto", "cuda"):
            raise InvalidInputError(
                f"run.device={device} and --devices {devices} both say where runs are: leave one of them out"
            )
    allowed = os.environ.get(VISIBLE) if visible is None else visible
    names = [name.strip() for name in allowed.split(",")] if allowed else [str(number) for number in range(there)]
    return [names[numbers[place % len(numbers)]] for place in range(jobs or len(numbers))]


def _numbers(devices: str) -> list[int]:
    words = [word.strip() for word in devices.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise InvalidInputError(f"--devices '{devices}' is no list of GPUs: expected each number once, like 0,1,2,3")
    return [int(word) for word in words]


def remark(found: Sequence[Place], asked: Iterable[str], *, count: Callable[[], int] = machine.gpu_count) -> str:
    """Say where runs at a time would share the first of several GPUs; empty where they do not."""
    if len(found) == 1 or found[0] is not None or set(asked) == {"cpu"} or (there := count()) < 2:
        return ""
    every = ",".join(map(str, range(there)))
    return f"all runs use the first of {there} GPUs; to have each on its own: --devices {every}"
