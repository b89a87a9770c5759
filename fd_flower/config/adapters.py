"""Options of methods that average weights, and with them LoRA's factors."""

from dataclasses import dataclass

from fd_flower.config.client import ClientConfig
from fd_flower.config.server import ServerConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.schema import counts, one_of, option
from fd_flower.models.adapters import RULES


@dataclass(frozen=True)
class AveragingConfig(ServerConfig):
    """A server that averages weights (section ``server``)."""

    adapters: str = one_of(*RULES, default="mean")
    """Average of LoRA factors (`client.trainable=lora`): `mean` of the factors, of their `product` (truncated to each
    client's rank), `stack` (the exact mean of products), or `freeze_a` (B alone learns and travels). `fisher` averages
    whatever learns, each number by its Fisher information."""
    ranks: list[int] | None = counts(None)
    """Ranks of which each round draws one for all clients, under `mean`: only the first so many directions of LoRA are
    sent and learn. None: all of `client.rank`."""

    def __post_init__(self) -> None:
        """Check that ranks are drawn where factors have an order that a mean keeps."""
        super().__post_init__()
        if self.ranks and self.adapters != "mean":
            raise InvalidInputError(
                f"server.ranks is {self.ranks} under server.adapters={self.adapters}; ranks are drawn under "
                "server.adapters=mean alone: leave one of both out"
            )


@dataclass(frozen=True)
class AveragingClientConfig(ClientConfig):
    """A client of a server that averages weights (section ``client``)."""

    fisher_batches: int | None = option(None, least=1)
    """Mini-batches for the Fisher information (`server.adapters=fisher`). None: one pass over the training samples."""


def averaging(config: ServerConfig) -> AveragingConfig:
    """Return a server's options of averaging: the defaults, where its method has none or its user gave none."""
    return config if isinstance(config, AveragingConfig) else AveragingConfig()
