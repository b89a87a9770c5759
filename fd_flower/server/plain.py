"""Whether nodes run a ClientApp that knows nothing of FD-Flower, found out by looking at it.

Such an app answers no question of ours without an error, and a traceback where the node logs it.
"""

import sys
import tomllib
from logging import INFO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fd_flower.core.dotted import imported
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import fab_hash, log


@runtime_checkable
class KnowsItsApp(Protocol):
    """A grid whose nodes are in this process."""

    app: ClientApp


def seen_plain(grid: Grid) -> bool:
    """Return whether the nodes' app is seen here, and is plain; False means that they have to be asked.

    A grid in this process knows its app. Under Flower's engines it is the one that the run's FAB names.
    """
    if isinstance(grid, KnowsItsApp):
        return is_plain(grid.app)
    folder = _fab(fab_hash(grid))
    if folder is None:
        return False
    name = ""
    try:
        name = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]["components"][
            "clientapp"
        ]
        found = is_plain(imported(name, "clientapp"))
    except (OSError, ValueError, LookupError, TypeError, InvalidInputError, SystemExit) as error:
        log(INFO, "the nodes are asked what they run: %s", error)
        return False
    if found:
        log(INFO, "the nodes run %s, a ClientApp without FD-Flower's turn: weights alone are exchanged", name)
    return found


def is_plain(app: Any) -> bool:
    """Return whether an app handles messages as Flower's own class does, and so cannot know ours."""
    return isinstance(app, ClientApp) and type(app).__call__ is ClientApp.__call__


def _fab(hash: str) -> Path | None:
    """Return where Flower has unpacked the run's FAB, which it has put on ``sys.path``; None where there is none."""
    folders = (Path(entry) for entry in sys.path if hash and entry.endswith(f".{hash[:8]}"))
    return next((folder for folder in folders if (folder / "pyproject.toml").is_file()), None)
