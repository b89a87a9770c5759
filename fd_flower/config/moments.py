"""Options of a server that averages the state of clients' AMSGrad next to their weights."""

from dataclasses import dataclass
from typing import Any

from fd_flower.config.clustering import ClusteringConfig
from fd_flower.core.errors import InvalidInputError


@dataclass(frozen=True)
class MomentsConfig(ClusteringConfig):
    """A server that can average moments (section ``server``)."""

    moments: bool = False
    """Also average what `client.optimizer=amsgrad` keeps of each weight (FedLALR), in messages three times as large."""

    def __post_init__(self) -> None:
        """Check that the moments are those of one model's weights."""
        super().__post_init__()
        if not self.moments:
            return
        asked = {
            "adapters": self.adapters != "mean" and self.adapters,
            "ranks": self.ranks,
            "clusters": self.clusters > 1 and self.clusters,
        }
        for name, value in asked.items():
            if value:
                raise InvalidInputError(
                    f"server.{name} is {value}, and server.moments=true averages moments of one model's weights: leave "
                    "one of both out"
                )


def averages_moments(config: Any) -> bool:
    """Return whether a server's options ask for moments; those of other methods never do."""
    return isinstance(config, MomentsConfig) and config.moments
