"""How a strategy is run in somebody's own project."""

from dataclasses import dataclass, field, replace

from fd_flower.config import (
    ClientConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    Settings,
    registry,
)
from fd_flower.config import settings as merged


@dataclass(frozen=True)
class Run:
    """How a strategy is run in somebody's own project.

    Attributes
    ----------
    seed : int
        Every random number is a function of it.
    clients : int
        Number of hosted clients; devices all take part.
    client : ClientConfig | None
        The clients' options, sent with every message; None: the recipe's.
    out : str | None
        Folder of the run; None: nothing is written and there is no checkpoint.
    resume : str | None
        Folder of a run to resume.
    keep : str
        ``none``, ``last`` or ``best``, as ``run.keep``: which models stay in the run's folder.
    device, precision : str
        As ``run.device`` and ``run.precision``.
    privacy : PrivacyConfig
        Secure sums.
    """

    seed: int = 0
    clients: int = 10
    client: ClientConfig | None = None
    out: str | None = None
    resume: str | None = None
    keep: str = "last"
    device: str = "auto"
    precision: str = "fp32"
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)

    def settings(self, method: str, config: ServerConfig | None) -> Settings:
        """Return the settings of a run of a method; those of the resumed run where there is one."""
        if self.resume:
            base = merged(method, [f"run.resume={self.resume}", f"run.device={self.device}"])
            return replace(base, server=replace(base.server, rounds=config.rounds)) if config else base
        return Settings(
            method,
            DataConfig(clients=self.clients),
            ModelConfig(name=""),
            config or registry.config(method, "server"),
            self.client or registry.config(method, "client"),
            RunConfig(self.seed, self.out, None, self.keep, self.device, self.precision),
            privacy=self.privacy,
        )
