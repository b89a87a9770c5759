"""What a run evaluates: at which points, after which rounds, whose models, and on how many samples."""

from typing import TYPE_CHECKING, Any, final

from fd_flower.config.registry import short_name
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.judging import Judges

if TYPE_CHECKING:
    from fd_flower.server.strategy import Strategy


@final
class Evaluation:
    """What a run's settings and its method come to.

    Parameters
    ----------
    strategy : Strategy
        Whose run it is; its clients are known.
    own_loops : bool
        Whether clients evaluate in their own loop, as their app does when the closing message comes.

    Attributes
    ----------
    last : int
        The last round: that of ``server.rounds``, or the one after which the run was stopped.
    point : str
        Where the run's accuracy is taken.

    Raises
    ------
    InvalidInputError
        Where nothing would be measured at any point that is asked for.
    """

    def __init__(self, strategy: "Strategy[Any]", *, own_loops: bool) -> None:
        self._strategy = strategy
        self._judges = Judges(strategy.settings, everybody=not strategy.world.kind.takes_judges)
        self.own_loops = own_loops
        self.last = strategy.settings.server.rounds
        point = strategy.evaluation_point(strategy.settings)
        self.point = self._headline("received" if own_loops and point == "trained" else point)

    def _headline(self, point: str) -> str:
        """Return the method's own point, or of those that are asked for the first that can be."""
        method, asked = self._strategy, self._strategy.config.evaluation_points
        if asked is None or point in asked:
            return point
        received = method.distills_public or self.own_loops
        able = [point, *(other for other in ("trained", *(("received",) * received)) if other != point)]
        found = [name for name in asked if name in able]
        if not found:
            raise InvalidInputError(
                f"server.evaluate is '{method.config.evaluate}', and {short_name(method.settings.method)} is evaluated "
                f"at {' and '.join(able)}: ask for one of these"
            )
        return point if point == "aggregated" else found[0]

    @property
    def judges(self) -> Judges:
        """Whose models are evaluated on all clients' samples."""
        return self._judges.among(self._strategy.clients)

    @property
    def asks_judges_first(self) -> bool:
        """Whether the first rounds that are evaluated ask judges before others."""
        return self.everybodys and bool(self.points) and self._strategy.world.kind.takes_judges

    @property
    def few(self) -> int:
        """How many judges there are where they are not all clients; 0: they are all clients."""
        return len(self.judges.ids) if self.everybodys and self.judges.last is not None else 0

    @property
    def servers(self) -> bool:
        """Whether the server's model is evaluated here."""
        config = self._strategy.config
        asked = config.evaluation_points or ("aggregated",)
        return self.point == "aggregated" and "aggregated" in asked and not config.personal_alone

    @property
    def everybodys(self) -> bool:
        """Whether clients' models are evaluated on all clients' samples, too, and on the test set."""
        some = self.point != "aggregated" or self._strategy.evaluates_clients
        return some and not self._strategy.config.personal_alone

    @property
    def own_point(self) -> str:
        """Where the clients' own models are evaluated."""
        if self.point != "aggregated":
            return self.point
        return "trained" if not self._asked or "trained" in self._asked else self._asked[0]

    @property
    def points(self) -> tuple[str, ...]:
        """The evaluation points of the clients' models."""
        if self._strategy.config.evaluation_points:
            return self._asked
        return (self.own_point, *(("received",) * self.own_loops))

    @property
    def _asked(self) -> tuple[str, ...]:
        """The evaluation points of the clients' models that ``server.evaluate`` asks for."""
        return tuple(point for point in self._strategy.config.evaluation_points or () if point != "aggregated")

    def due(self, number: int) -> bool:
        """Whether this round is evaluated."""
        every = self._strategy.config.evaluate_every
        return number >= self.last or bool(every and number % every == 0)

    def limit(self, number: int) -> int:
        """Return the test images to use, 0: all of them, as after the last round."""
        return 0 if number >= self.last else self._strategy.settings.data.test_limit or 0

    def samples(self, number: int) -> int:
        """Return the samples of the test set that a client predicts on, 0: all of them."""
        return self.limit(number) or (self.judges.limit if number < self.last else 0)
