"""FedKD (Wu et al. 2022, arXiv 2108.13323): a local mentor teaches a shared mentee, which travels in low rank."""

from dataclasses import dataclass
from typing import cast

from flwr.app import Context, Message
from torch import Tensor, nn, tensor
from torch.nn import functional as F

from fd_flower.client import App, Turn, private_training, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.models import FeatureModel, feature_model
from fd_flower.training import Together, supervised
from fd_flower.wire import Update, Weights
from fd_flower.wire.lowrank import applied, difference

app = App()


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedKD's options; ``kd_weight`` is the weight of all that is distilled."""

    hidden_weight: float = option(1.0, least=0)
    """Weight of the distance between the two models' features within the distillation loss."""
    ce_floor: float = option(0.1, above=0)
    """Minimum of the sum of both cross-entropies, by which the distillation loss is divided."""
    kd_mean: str = one_of("samples", "entries", default="samples")
    """Mean of the divergence over `samples`, or over `entries` (also divided by the number of classes, as HtFLlib)."""


class Pair(Together):
    """A mentor, a mentee, and the projection of the mentee's features to the mentor's size.

    One optimizer steps them, parameter by parameter, as optimizers of their own would.
    """

    def __init__(self, mentor: FeatureModel, mentee: FeatureModel, projection: nn.Module) -> None:
        super().__init__()
        self.mentor = mentor
        self.mentee = mentee
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        """Return the mentor's logits [B, C]."""
        return self.mentor(x)


def objective(model: Pair, x: Tensor, y: Tensor, teacher: None, config: Config) -> Tensor:
    """Return both cross-entropies, plus what the models teach each other divided by the sum of the two.

    Each learns from the other's predictions, which are detached; the distance of features moves both. Where labels are
    not learned yet, little is distilled: the sum is a number, no gradient flows into it.
    """
    if not config.kd_weight:
        return supervised(model.mentor, x, y) + supervised(model.mentee, x, y)
    seen, hidden = model.mentor.features(x), model.mentee.features(x)
    mentor, mentee = model.mentor.head(seen), model.mentee.head(hidden)
    labels = F.cross_entropy(mentor, y) + F.cross_entropy(mentee, y)
    distilled = config.distill(mentor, mentee, y) + config.distill(mentee, mentor, y)
    if config.kd_mean == "entries":
        distilled = distilled / mentor.shape[1]
    if config.hidden_weight:
        distilled = distilled + config.hidden_weight * F.mse_loss(model.projection(hidden).float(), seen.float())
    return labels + config.kd_weight * distilled / labels.detach().clamp_min(config.ce_floor)


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the mentor and the mentee that came (``turn.collected``) as one pair, with a loss in which they teach."""
    turn: Turn[Config] = Turn.of(message, context)
    received = received_mentee(message, turn)
    turn.model, turn.collected = pair(turn, received), received

    def learn(model: Pair, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, None, turn.config)

    turn.loss = learn
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send what the mentee has learned, compressed."""
    received, mentee = turn.collected, cast("Pair", turn.model).mentee
    update = difference(mentee.state_dict(), received.values, turn.server.energy(turn.round))
    return reply(message, turn, Update(update, received.model), examples=examples, **metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the mentor, untrained, and the last mentee."""
    turn: Turn[Config] = Turn.of(message, context)
    received = received_mentee(message, turn)
    turn.evaluate("received", turn.model, others={"mentee": turn.peer(received.model, received)})
    return reply(message, turn)


def received_mentee(message: Message, turn: Turn[Config]) -> Weights:
    """Return the mentee that the server means, and remember it: the next message may only say how it changes.

    Raises
    ------
    InvalidInputError
        For an update of a mentee that the client does not remember; it will be sent the whole one.
    """
    now = turn.round if turn.closing else turn.round - 1
    whole = Weights.find(message.content)
    if whole is None:
        update = Update.need(message.content)
        known = turn.recall("mentee-round")
        if known is None or int(known) != now - 1:
            held = "none" if known is None else f"that of round {int(known)}"
            raise InvalidInputError(f"the update is of the mentee of round {now - 1}; this client remembers {held}")
        before = {key: kept for key in update.values if (kept := turn.recall(f"mentee/{key}")) is not None}
        whole = Weights(applied(before, update.values), update.model)
    turn.remember("mentee-round", tensor(now))
    for key, value in whole.values.items():
        turn.remember(f"mentee/{key}", value)
    return whole


def pair(turn: Turn[Config], received: Weights) -> Pair:
    """Return the client's mentor, the mentee that it received, and its own projection between them."""
    mentee = turn.peer(received.model, received)
    inner, outer = turn.world.features(received.model), turn.world.features(turn.architecture)
    if not inner:
        raise InvalidInputError(
            f"server.mentee is '{received.model}', without features(x) and a linear head; expected both"
        )
    projection = turn.module("projection", lambda: nn.Linear(inner, outer, bias=False))
    return Pair(feature_model(turn.personal), feature_model(mentee), projection)


def measure(turn: Turn[Config], point: str) -> None:
    """Evaluate the mentor, and the mentee in addition."""
    model = cast("Pair", turn.model)
    turn.evaluate(point, model.mentor, others={"mentee": model.mentee})


train = private_training(receive, send, measure)

app.train()(train)
