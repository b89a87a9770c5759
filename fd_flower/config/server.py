"""Options of the server (section ``server``)."""

from dataclasses import dataclass
from typing import Any

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import Options, one_of, option

EVALUATION_POINTS = ("received", "trained", "aggregated")
PERSONAL = "personal"  # in `server.evaluate`: own parts alone
ANNEALED = "annealed"  # the evaluation point of an annealed copy, which `server.anneal_every` asks for


@dataclass(frozen=True)
class ServerConfig(Options):
    """The round (section ``server``)."""

    section = "server"

    rounds: int = option(10, least=1)
    """Total number of rounds."""
    fraction: float = option(1.0, above=0, most=1)
    """Share of clients sampled in each round."""
    min_replies: int = option(1, least=1)
    """After this many replies, the round ends within `server.grace` seconds."""
    grace: float | None = option(None, least=0)
    """Seconds to wait for stragglers after `server.min_replies` replies. None: until `server.timeout`."""
    timeout: float = option(3600.0, above=0)
    """Seconds after which a round ends with the replies that have arrived."""
    evaluate_every: int = option(1, least=0)
    """Evaluate after every n-th round, and always after the last. 0: only after the last."""
    evaluate: str | None = None
    """Evaluation points, comma-separated: `received`, `trained`, `aggregated`. None: the method's own. With `personal`,
    alone or among them, clients' models are evaluated on their own samples only."""
    judges: int | None = option(None, least=1)
    """Clients whose models are evaluated on all clients' samples and on the test set. None: all, or 100 of more."""
    anneal_every: int = option(0, least=0)
    """After every n-th round, also evaluate an annealed copy of each client's model. 0: never."""
    nodes: int = option(1, least=1)
    """Start when this many nodes are connected."""
    wait: float = option(120.0, above=0)
    """Seconds to wait for `server.nodes` nodes before the run fails."""
    allow: str | None = None
    """YAML file client id -> public key: only the node with that key may use the id. None: the first node may."""
    max_reply_mb: float = option(512.0, above=0)
    """Maximum size of a client's reply, in MB. Larger replies are ignored."""
    max_entry: float = option(1e6, above=0)
    """Maximum absolute number in a reply or a result. Replies that exceed it are ignored, such rounds discarded."""
    patience: int = option(0, least=0)
    """Early stopping: evaluated rounds without a better validation figure before the run ends. 0: off."""
    min_delta: float = option(0.0, least=0)
    """Minimum improvement of the validation figure for `server.patience` (accuracy: 0 to 1)."""
    clock: str = one_of("rounds", "window", "count", default="rounds")
    """When a round ends: `rounds`, with all replies; `window`, after `server.window` virtual seconds; `count`, with
    `server.buffer` replies. Replies that come later are used in a later round."""
    window: float | None = option(None, above=0)
    """Virtual seconds per round with `server.clock=window` in simulation. On devices, `server.grace` is the window."""
    buffer: int | None = option(None, least=1)
    """Replies per round with `server.clock=count`."""
    staleness: str = one_of("none", "fedfix", "polynomial", default="none")
    """Weight of a reply that is s rounds late: `none`, 1; `fedfix`, 1 + s; `polynomial`, 1 / sqrt(1 + s)."""
    step_seconds: Any = option(1.0, above=0)
    """Virtual seconds of a local step: a number, or a list of one per client, repeated."""
    speed_spread: float = option(0.0, least=0)
    """Standard deviation of the logarithm of a client's seconds per step, which are drawn with `run.seed`."""

    def __post_init__(self) -> None:
        """Check the values, each evaluation point on its own."""
        super().__post_init__()
        for point in self.evaluation_points or ():
            if point not in EVALUATION_POINTS:
                known = (*EVALUATION_POINTS, PERSONAL)
                raise InvalidInputError(f"server.evaluate has '{point}'{nearest(point, known)}")
        if self.personal_alone and "aggregated" in (self.evaluation_points or ()):
            raise InvalidInputError(
                f"server.evaluate is '{self.evaluate}': personal leaves out the samples on which the server's "
                "model is evaluated: leave out one of the two"
            )
        if self.patience and not self.evaluate_every:
            raise InvalidInputError(
                f"server.patience is {self.patience}, and server.evaluate_every=0 evaluates the last round alone: "
                "evaluate every n-th round, or leave server.patience out"
            )
        if self.min_delta and not self.patience:
            raise InvalidInputError(
                f"server.min_delta is {self.min_delta:g}, and nothing stops early: give server.patience, too, or "
                "leave it out"
            )
        self._check_clock()

    def _check_clock(self) -> None:
        """Check what the clock needs, and that nothing is given that another clock takes."""
        if self.clock == "count" and self.buffer is None:
            raise InvalidInputError(
                "server.clock=count needs server.buffer, the number of replies after which a round ends, such as 3"
            )
        for name, clock in (("window", "window"), ("buffer", "count")):
            if (value := getattr(self, name)) is not None and self.clock != clock:
                raise InvalidInputError(
                    f"server.{name} is {value:g}, and server.clock={self.clock} takes none: give server.clock={clock}, "
                    f"or leave server.{name} out"
                )
        if self.staleness != "none" and self.clock == "rounds":
            raise InvalidInputError(
                f"server.staleness is '{self.staleness}', and no reply is late with server.clock=rounds: give "
                "server.clock=window or count, or leave server.staleness out"
            )
        if self.staleness == "fedfix" and self.clock == "count":
            raise InvalidInputError(
                "server.staleness=fedfix weighs by windows, and server.clock=count has none: take "
                "server.staleness=polynomial, or server.clock=window"
            )

    @property
    def timed(self) -> bool:
        """Whether simulated clients' turns take virtual seconds: another clock than rounds, or speeds, are given."""
        return self.clock != "rounds" or self.step_seconds != 1.0 or self.speed_spread > 0

    @property
    def evaluation_points(self) -> tuple[str, ...] | None:
        """`server.evaluate` as evaluation points; None: the method's own."""
        named = tuple(point for point in self._evaluated if point != PERSONAL)
        return None if self.evaluate is None or (self.personal_alone and not named) else named

    @property
    def personal_alone(self) -> bool:
        """Whether clients' models are evaluated on their own samples, and not on those of others."""
        return PERSONAL in self._evaluated

    @property
    def _evaluated(self) -> tuple[str, ...]:
        return tuple(m.strip() for m in (self.evaluate or "").split(",") if m.strip())
