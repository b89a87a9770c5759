"""An architecture whose name came from a device, built on a server."""

from collections.abc import Callable

from torch.nn import Module

from fd_flower.core.errors import InvalidInputError
from fd_flower.wire.envelope import one_line


class ModelError(InvalidInputError):
    """A server cannot build an architecture that a device names."""


def built(build: Callable[[str], Module], name: str) -> Module:
    """Build an architecture whose name came from a device; ModelError for whatever the name makes ``build`` raise."""
    try:
        return build(name)
    except InvalidInputError as error:
        raise ModelError(str(error)) from error
    except Exception as error:  # a user's task
        raise ModelError(f"the task's model({name!r}) raises {type(error).__name__}: {one_line(error)}") from error
