"""Options of servers that average weights within clusters of clients."""

from dataclasses import dataclass

from fd_flower.config.adapters import AveragingConfig
from fd_flower.config.server import ServerConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import one_of, option


@dataclass(frozen=True)
class ClusteringConfig(AveragingConfig):
    """A server that can average weights within clusters of clients (section ``server``)."""

    clusters: int = option(1, least=1)
    """Clusters of clients, each with weights of its own (FeSEM); 1: all clients have the same."""
    signature: str = one_of("weights", "labels", "importances", default="weights")
    """By what clients are clustered: their `weights` after training, their shares of `labels`, or the `importances` of
    the numbers of their inputs (PA-CFL)."""

    def __post_init__(self) -> None:
        """Check that each cluster's mean is one of plain weights."""
        super().__post_init__()
        if self.clusters == 1:
            if self.signature != "weights":
                raise InvalidInputError(
                    f"server.signature is '{self.signature}', and server.clusters is 1: give server.clusters=3, or "
                    "leave server.signature out"
                )
            return
        asked = {"adapters": self.adapters != "mean" and self.adapters, "ranks": self.ranks}
        for name, value in asked.items():
            if value:
                raise InvalidInputError(
                    f"server.{name} is {value}, and server.clusters={self.clusters} averages plain weights within each "
                    "cluster: leave one of both out"
                )


def clustered_by_importances(config: ServerConfig) -> bool:
    """Return whether a server clusters its clients by the importances that they send."""
    return isinstance(config, ClusteringConfig) and config.clusters > 1 and config.signature == "importances"


def clusters_of(config: ServerConfig) -> int:
    """Return how many clusters a server's options ask for: one, where there are no such options."""
    return config.clusters if isinstance(config, ClusteringConfig) else 1
