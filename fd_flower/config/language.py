"""Options of methods whose clients learn from public texts, and from other models' predictions."""

from dataclasses import dataclass
from typing import cast

from fd_flower import objectives
from fd_flower.config.client import ClientConfig
from fd_flower.config.server import ServerConfig
from fd_flower.core.schema import option


@dataclass(frozen=True)
class PublicTextsConfig(ClientConfig):
    """A client that learns from public texts and from other models' predictions of them (section ``client``)."""

    objective: str = "alm"
    """Name of the loss on tokens: `alm`, or `token_kl` for one tokenizer; see docs/objectives.md."""
    kd_weight: float = option(0.5, least=0)
    """Weight of the distance to the teacher. 0 is the control: public texts alone, as long as with a teacher."""
    public_weight: float = option(1.0, least=0)
    """Weight of the next-token loss on public texts. 0: the teacher alone."""

    def _named(self) -> objectives.DistillationLoss:
        return objectives.token_named(self.objective, **self.objective_args)

    @property
    def token_loss(self) -> objectives.TokenObjective:
        """The loss on tokens that `client.objective` names."""
        return cast("objectives.TokenObjective", self.loss)


@dataclass(frozen=True)
class PublicTeacherConfig(ServerConfig):
    """A server with a model of its own that teaches by public texts (section ``server``)."""

    model: str | None = None
    """Language model on the server, which teaches next to the clients and does not learn. None: none."""
