"""What follows a run round by round: its callbacks, and the validation figure that may stop it."""

from collections.abc import Mapping, Sequence
from logging import WARNING
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Result

from fd_flower.config.registry import short_name
from fd_flower.core.client import Client
from fd_flower.core.clients import ids
from fd_flower.core.flower import log
from fd_flower.results import kinds, trackers
from fd_flower.results.callback import Callbacks, Started, rounds_of
from fd_flower.results.history import evaluated_at
from fd_flower.results.reproduce import HERE_ALONE, flatten
from fd_flower.results.validation import Validation
from fd_flower.server.record import Record
from fd_flower.server.stopping import ShouldStop, stalled

if TYPE_CHECKING:
    from fd_flower.server.strategy import Strategy


class Progress:
    """Follows a run.

    Parameters
    ----------
    strategy : Strategy
        Whose run it is.

    Attributes
    ----------
    validation : Validation
        The figures so far; set by ``watch``, once it is known what is evaluated.

    Raises
    ------
    InvalidInputError
        Where a callback is none, or a tracker's package is missing.
    """

    validation: Validation

    def __init__(self, strategy: "Strategy[Any]") -> None:
        self._strategy = strategy
        self._warned = False
        self._callbacks = Callbacks.of(strategy.callbacks, trackers.named(strategy.settings.run.trackers))

    def watch(self, point: str) -> None:
        """Begin to follow the figures of a method with this evaluation point."""
        self.validation = Validation(kinds.of(self._strategy.world.kind.name), evaluated_at(point))

    def start(self, record: Record, clients: Sequence[Client]) -> None:
        """Tell callbacks of the start; a new run that one of them refuses leaves no run behind."""
        folder = record.folder
        if self._callbacks.names and folder is None:
            record.kept = []
        tree = record.settings.tree() if folder is None else folder.config
        started = Started(
            short_name(record.settings.method),
            record.settings,
            {key: value for key, value in flatten(tree).items() if key not in HERE_ALONE},
            record.run_key,
            None if folder is None else folder.path,
            tuple(ids(clients)),
            record.past,
        )
        try:
            self._callbacks.start(started)
        except BaseException:
            record.discard()
            raise

    def written(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Tell callbacks of lines that have been written."""
        for round in rounds_of(lines, self.validation.add):
            self._callbacks.round(round)
        evaluated = any(line.get("global") or line.get("evaluations") for line in lines)
        if evaluated and self._strategy.config.patience and not self.validation.points and not self._warned:
            self._warned = True
            log(
                WARNING,
                "round %s has no figure on validation samples: without any, server.patience does not stop the run",
                lines[0]["round"],
            )

    def end(self, summary: Mapping[str, Any] | None) -> None:
        """Tell callbacks of the end."""
        self._callbacks.end(summary)

    @property
    def stalled(self) -> str:
        """Why the run ends after the rounds so far, by ``server.patience``; "": it continues."""
        return stalled(self._strategy.config, self.validation)

    def stops(self, number: int, result: Result, should_stop: ShouldStop | None) -> str:
        """Return why the run ends after this round, "": it continues; ``should_stop`` is what ``start`` was given."""
        asked = [hook(number, result) for hook in (should_stop, self._strategy.should_stop) if hook is not None]
        return self.stalled or ("by should_stop" if any(asked) else "")
