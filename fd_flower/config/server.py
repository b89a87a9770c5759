"""Options of the server (section ``server``)."""

from dataclasses import dataclass

from fd_flower.core.errors import InvalidInputError, nearest
from fd_flower.core.schema import need

EVALUATION_POINTS = ("received", "trained", "aggregated")
ANNEALED = "annealed"  # the evaluation point of an annealed copy, which `server.anneal_every` asks for


@dataclass(frozen=True)
class ServerConfig:
    """The round (section ``server``)."""

    rounds: int = 10
    """Rounds in all."""
    fraction: float = 1.0
    """Share of the clients that a round asks."""
    min_replies: int = 1
    """With this many replies the round goes on after `server.grace` seconds."""
    grace: float | None = None
    """Seconds to wait for stragglers once `server.min_replies` have come; None: until `server.timeout`."""
    timeout: float = 3600.0
    """Seconds after which a round resumes the replies that have come."""
    evaluate_every: int = 1
    """Measure after every n-th round, and always after the last; 0: after the last alone."""
    evaluate: str | None = None
    """Evaluation points, of `received`, `trained`, `aggregated`, with commas between; None: the method's own."""
    anneal_every: int = 0
    """After every n-th round also measure a copy of each client's model, trained on as the rate falls; 0: never."""
    nodes: int = 1
    """Start once this many nodes are there."""
    wait: float = 120.0
    """Give up when the nodes are not there after this many seconds."""
    allow: str | None = None
    """YAML file client id -> public key: only that key's node speaks for the client. None: first come, while there."""
    max_reply_mb: float = 512.0
    """A client's reply of more than this is left out."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        need(self.rounds >= 1, "server.rounds", self.rounds, "at least 1")
        need(0 < self.fraction <= 1, "server.fraction", self.fraction, "a share above 0 and at most 1")
        need(self.min_replies >= 1, "server.min_replies", self.min_replies, "at least 1")
        need(self.grace is None or self.grace >= 0, "server.grace", self.grace, "seconds, 0 or more")
        need(self.timeout > 0, "server.timeout", self.timeout, "seconds above 0")
        need(self.evaluate_every >= 0, "server.evaluate_every", self.evaluate_every, "0 or more")
        need(self.anneal_every >= 0, "server.anneal_every", self.anneal_every, "0 or more")
        need(self.nodes >= 1, "server.nodes", self.nodes, "at least 1")
        need(self.wait > 0, "server.wait", self.wait, "seconds above 0")
        need(self.max_reply_mb > 0, "server.max_reply_mb", self.max_reply_mb, "MB (of 2^20 bytes) above 0")
        for point in self.evaluation_points or ():
            if point not in EVALUATION_POINTS:
                raise InvalidInputError(f"server.evaluate has '{point}'{nearest(point, EVALUATION_POINTS)}")

    @property
    def evaluation_points(self) -> tuple[str, ...] | None:
        """`server.evaluate` as evaluation points; None: the method's own."""
        return None if self.evaluate is None else tuple(m.strip() for m in self.evaluate.split(",") if m.strip())
