"""Early stopping: when validation figures end a run before its last round, and where they cannot."""

from collections.abc import Callable, Collection, Sequence

from flwr.serverapp.strategy import Result

from fd_flower.config import ServerConfig
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.results.validation import Validation

ShouldStop = Callable[[int, Result], bool]
"""Whether a run ends after a round, given its number and what there is by then."""


def stalled(config: ServerConfig, validation: Validation) -> str:
    """Return why a run ends after the rounds so far, by ``server.patience``; "": it continues."""
    if not config.patience or validation.since_best(config.min_delta) < config.patience:
        return ""
    best = validation.best(config.min_delta)
    assert best is not None
    figure = f"{validation.points[best]:.4g} of round {best}"
    beyond = "above" if validation.kind.higher_is_better else "below"
    margin = f"more than {config.min_delta:g} {beyond}" if config.min_delta else "better than"
    rounds = "evaluated round" + "s" * (config.patience > 1)
    return (
        f"no {validation.kind.figure} on {validation.samples} {margin} the {figure} in {config.patience} {rounds} "
        "(server.patience)"
    )


def check_patience(
    config: ServerConfig,
    clients: Sequence[Client],
    points: Collection[str],
    *,
    served: bool,
    personal: str,
    plain: bool,
) -> None:
    """Refuse ``server.patience`` where nothing is measured on validation samples.

    Parameters
    ----------
    config : ServerConfig
        The method's options.
    clients : Sequence[Client]
        Who takes part.
    points : Collection[str]
        The evaluation points of the clients' models.
    served : bool
        Whether the server's model is evaluated on all clients' validation samples.
    personal : str
        The evaluation point of the clients' own figures.
    plain : bool
        Whether the clients' apps know nothing of FD-Flower.

    Raises
    ------
    InvalidInputError
        With what would work.
    """
    if not config.patience:
        return
    so = f"server.patience is {config.patience}, "
    if plain:
        raise InvalidInputError(
            f"{so}and ClientApps without FD-Flower's turn measure nothing on validation samples: leave it out and stop "
            "by should_stop"
        )
    if all(client.validation == 0 for client in clients):
        raise InvalidInputError(
            f"{so}and no client has validation samples: give them some (data.split's second share, a task's "
            "Data.validation), or leave it out"
        )
    if not served and personal not in points:
        raise InvalidInputError(
            f"{so}and server.evaluate='{config.evaluate}' leaves out '{personal}', by which it goes: add it, or leave "
            "server.patience out"
        )
