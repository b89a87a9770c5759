"""Options of servers that average weights, and with them LoRA's factors."""

from dataclasses import dataclass

from fd_flower.config.server import ServerConfig
from fd_flower.core.schema import one_of
from fd_flower.models.adapters import RULES


@dataclass(frozen=True)
class AveragingConfig(ServerConfig):
    """A server that averages weights (section ``server``)."""

    adapters: str = one_of(*RULES, default="mean")
    """Average of LoRA factors (`client.trainable=lora`): `mean` of the factors, of their `product` (truncated to each
    client's rank), `stack` (the exact mean of products), or `freeze_a` (B alone learns and travels)."""
