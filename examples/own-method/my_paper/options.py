"""The options of Fancy; ``fd-flower describe fancy`` prints them with the text below each."""

from dataclasses import dataclass

from fd_flower.config import ClientConfig, ServerConfig
from fd_flower.core.errors import InvalidInputError


@dataclass(frozen=True)
class Server(ServerConfig):
    """Options of the server (section ``server``)."""

    sharpness: float = 2.0
    """The power to which the mean predictions are raised; 1 leaves them unchanged."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.sharpness < 1:
            raise InvalidInputError(f"server.sharpness is {self.sharpness}; expected at least 1")


@dataclass(frozen=True)
class Client(ClientConfig):
    """Options of the clients (section ``client``)."""

    pull: float = 1.0
    """Weight of the distance to the sharpened predictions; 0 is local training."""
