"""Steps of optimizers, counted where they are taken: a method's local and public work, and the server's."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from torch.optim.optimizer import register_optimizer_step_post_hook

LOCAL, PUBLIC, SERVER = "local", "public", "server"
"""Steps of a client on its own samples, on public ones, and those of the server."""

Steps = Counter[str]

_steps: ContextVar[tuple[Steps, str] | None] = ContextVar("steps", default=None)


@contextmanager
def counted(kind: str) -> Iterator[Steps]:
    """Count as ``kind`` every step that any optimizer of PyTorch's takes inside, a user's own loop included."""
    with _counting((Steps(), kind)) as steps:
        yield steps


@contextmanager
def counted_as(kind: str) -> Iterator[None]:
    """Count the steps inside as another kind, where they are counted."""
    now = _steps.get()
    with _counting(None if now is None else (now[0], kind)):
        yield


@contextmanager
def uncounted() -> Iterator[None]:
    """Count no step inside: what is trained there is for a measurement, or a tool, and no part of the method."""
    with _counting(None):
        yield


def count(kind: str) -> None:
    """Count the step under way as one of this kind, too: it learns from samples of both."""
    now = _steps.get()
    if now is not None:
        now[0][kind] += 1


def taken(kind: str) -> int:
    """Return how many steps of a kind were counted so far, where they are counted; 0 elsewhere."""
    now = _steps.get()
    return 0 if now is None else now[0][kind]


@contextmanager
def _counting(where: tuple[Steps, str] | None) -> Iterator[Steps]:
    _watch()
    token = _steps.set(where)
    try:
        yield Steps() if where is None else where[0]
    finally:
        _steps.reset(token)


@cache
def _watch() -> None:
    """Be called after every optimizer's step from now on."""
    register_optimizer_step_post_hook(stepped)


def stepped(*_: object) -> None:
    """Count a step that was taken just now; of PyTorch's optimizers it is called after each."""
    now = _steps.get()
    if now is not None:
        steps, kind = now
        steps[kind] += 1
