"""The sections of a run's options."""

from fd_flower.config.attack import AttackConfig
from fd_flower.config.client import ClientConfig
from fd_flower.config.data import DataConfig
from fd_flower.config.model import ModelConfig
from fd_flower.config.privacy import PrivacyConfig
from fd_flower.config.run import RunConfig
from fd_flower.config.server import ServerConfig
from fd_flower.config.wire import WireConfig

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "model": ModelConfig,
    "server": ServerConfig,
    "client": ClientConfig,
    "privacy": PrivacyConfig,
    "attack": AttackConfig,
    "wire": WireConfig,
    "run": RunConfig,
}
