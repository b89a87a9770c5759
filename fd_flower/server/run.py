"""How a strategy is run in somebody's own project."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fd_flower.config import (
    ClientConfig,
    DataConfig,
    ModelConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    Settings,
    WireConfig,
    registry,
)
from fd_flower.config import settings as merged
from fd_flower.results.callback import Callback


@dataclass(frozen=True)
class Run:
    """How a strategy is run in somebody's own project.

    Attributes
    ----------
    seed : int
        Every random number is a function of it.
    clients : int | None
        Number of hosted clients. Devices all take part. None: ``data.clients``, or one a node where the task has no
        data, because the clients' app has a loop of its own.
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
    callbacks : Sequence[Callback]
        What the run calls as it goes.
    data : DataConfig | None
        How the rows of ``Task.from_dataset`` are distributed; None: the defaults.
    model : ModelConfig | None
        Their model, where the task makes none; None: one that suits their shape.
    plain : bool
        The nodes run a ClientApp that knows nothing of FD-Flower. Needed only where that cannot be seen (outside of
        ``flwr run`` and of this process): nodes that are asked log the question as an error.
    wire : WireConfig
        Codecs of what travels.
    """

    seed: int = 0
    clients: int | None = None
    client: ClientConfig | None = None
    out: str | None = None
    resume: str | None = None
    keep: str = "last"
    device: str = "auto"
    precision: str = "fp32"
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    callbacks: Sequence[Callback] = ()
    data: DataConfig | None = None
    model: ModelConfig | None = None
    plain: bool = False
    wire: WireConfig = field(default_factory=WireConfig)

    def settings(self, method: str, config: ServerConfig | None) -> Settings:
        """Return the settings of a run of a method; those of the resumed run where there is one."""
        if self.resume:
            base = merged(method, [f"run.resume={self.resume}", f"run.device={self.device}"])
            return replace(base, server=replace(base.server, rounds=config.rounds)) if config else base
        data = self.data or DataConfig()
        return Settings(
            method,
            data if self.clients is None else replace(data, clients=self.clients),
            self.model or ModelConfig(name=""),
            config or registry.config(method, "server"),
            self.client or registry.config(method, "client"),
            RunConfig(self.seed, self.out, None, self.keep, self.device, self.precision),
            privacy=self.privacy,
            wire=self.wire,
        )
