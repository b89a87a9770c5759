"""Whether nodes run a ClientApp that knows nothing of FD-Flower, found out by looking at it.

Such an app answers each query of FD-Flower with an error, and its node logs a traceback.
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
from fd_flower.core.flower import fab_hash, log, simulated


@runtime_checkable
class KnowsItsApp(Protocol):
    """A grid whose nodes are in this process."""

    app: ClientApp


def seen_plain(grid: Grid) -> bool:
    """Return whether the nodes' app is seen here, and is plain; False means that they have to be asked.

    A grid in this process knows its app. Under Flower's engines it is the one that the run's FAB names.

    Raises
    ------
    InvalidInputError
        Where a simulation's nodes import another app than that of the FAB.
    """
    if isinstance(grid, KnowsItsApp):
        return is_plain(grid.app)
    folder = _fab(fab_hash(grid))
    if folder is None:
        return False
    name = ""
    try:
        components = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]["components"]
        name = components["clientapp"]
        found = is_plain(imported(name, "clientapp"))
        other = other_source(folder, name, components["serverapp"]) if simulated(grid) else None
    except (OSError, ValueError, LookupError, TypeError, InvalidInputError, SystemExit) as error:
        log(INFO, "the nodes are asked what they run: %s", error)
        return False
    if other is not None:
        raise InvalidInputError(
            f"the nodes of this simulation import from {Path.cwd()} first, where its SuperLink was started, and there "
            f"{other} is not what was submitted ({folder}): end that SuperLink, "
            "`kill $(pgrep -f local-superlink/state.db)`, and run again"
        )
    if found:
        log(INFO, "the nodes run %s, a ClientApp without FD-Flower's turn: weights alone are exchanged", name)
    return found


def is_plain(app: Any) -> bool:
    """Return whether an app handles messages as Flower's own class does, and so does not handle FD-Flower's queries."""
    return isinstance(app, ClientApp) and type(app).__call__ is ClientApp.__call__


def other_source(folder: Path, clientapp: str, serverapp: str) -> Path | None:
    """Return a file that Ray's workers import in place of one of the FAB's, with other content; None: there is none.

    Flower pickles the nodes' app by its name, and the workers look in the directory of this process, the SuperLink's,
    before they look in the FAB's. Only the package of the ``clientapp`` counts, without the module of the
    ``serverapp``, which no node imports.

    Parameters
    ----------
    folder : Path
        The FAB's.
    clientapp, serverapp : str
        ``package.module:name``.
    """
    here = Path.cwd()
    client, server = (Path(*name.partition(":")[0].split(".")).with_suffix(".py") for name in (clientapp, serverapp))
    top = client.with_suffix("").parts[0]
    if not (here / top).is_dir() and not (here / f"{top}.py").is_file():
        return None
    for path in (client, *(file.relative_to(folder) for file in sorted((folder / top).rglob("*.py")))):
        ours, theirs = folder / path, here / path
        if path == server or not ours.is_file():
            continue
        if not theirs.is_file() or theirs.read_bytes() != ours.read_bytes():
            return theirs
    return None


def _fab(hash: str) -> Path | None:
    """Return where Flower has unpacked the run's FAB, which it has put on ``sys.path``; None where there is none."""
    folders = (Path(entry) for entry in sys.path if hash and entry.endswith(f".{hash[:8]}"))
    return next((folder for folder in folders if (folder / "pyproject.toml").is_file()), None)
