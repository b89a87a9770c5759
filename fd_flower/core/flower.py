"""Every touch of Flower's private parts, each with what is done where another version of Flower has it no more."""

import copy
from contextlib import AbstractContextManager
from importlib.metadata import version
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import Grid

from fd_flower.core.errors import RunError

__all__ = ["fab_hash", "identify", "lifespan", "log", "name_message", "simulated", "with_content"]


def identify() -> None:
    """Give this process the identity that Flower's messages ask for, where it has none.

    Raises
    ------
    RunError
        Where Flower keeps it elsewhere.
    """
    try:
        from flwr.supercore.task_identity import TaskIdentity

        for name in ("_task_id", "_run_id", "_node_id"):
            if vars(TaskIdentity)[name] is None:
                setattr(TaskIdentity, name, 1)
    except (ImportError, KeyError) as error:
        raise RunError(
            f"the in-process engine does not know Flower {version('flwr')} ({error}): run it by --engine flower, or "
            "install a newer FD-Flower"
        ) from None


def name_message(message: Message) -> str:
    """Give a message an id, as Flower's own grids do on its way out (the constructor leaves it open), and return it."""
    message.metadata.__dict__["_message_id"] = str(uuid4())
    return message.metadata.message_id


def with_content(message: Message, content: RecordDict) -> Message:
    """Return the same message with another content.

    Within a simulation's actor no ``Message`` can be constructed but a reply, so this one is a copy.
    """
    inner = copy.copy(message)
    inner.__dict__ = dict(message.__dict__)
    inner.content = content
    return inner


def lifespan(app: ClientApp, context: Context) -> AbstractContextManager[None]:
    """Return what an app does around a message, by its ``@app.lifespan``."""
    return app._lifespan(context)


def fab_hash(grid: Grid) -> str:
    """Return the hash of the FAB that a grid's run comes from; "" where it comes from none."""
    return str(getattr(grid.run, "fab_hash", ""))


def simulated(grid: Grid) -> bool:
    """Return whether a grid's nodes are Ray's, on this machine."""
    return type(grid).__name__ == "InMemoryGrid"
