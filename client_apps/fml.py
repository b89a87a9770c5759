"""FML (Shen et al. 2020, arXiv 2006.16765): a personal model and a shared one, the meme, distill each other."""

from dataclasses import dataclass
from typing import cast

from flwr.app import Context, Message
from torch import Tensor
from torch.nn import functional as F

from fd_flower.client import App, Turn, informed, private_training, received, reply, to_send
from fd_flower.config import AveragingClientConfig, one_of, option
from fd_flower.training import Pair

app = App()


@dataclass(frozen=True)
class Config(AveragingClientConfig):
    """FML's options; ``kd_weight`` multiplies 1 - alpha and 1 - beta, the shares of what is distilled."""

    alpha: float = option(0.5, least=0, most=1)
    """Weight of the labels in the personal model's loss; the meme's predictions have 1 - alpha."""
    beta: float = option(0.5, least=0, most=1)
    """Weight of the labels in the meme's loss; the personal model's predictions have 1 - beta."""
    kd_mean: str = one_of("samples", "entries", default="samples")
    """Mean of the distillation loss over `samples`, or over `entries` (also divided by the classes, as HtFLlib)."""


def objective(model: Pair, x: Tensor, y: Tensor, teacher: None, config: Config) -> Tensor:
    """Return the personal model's loss plus the meme's: each learns from labels and from the other's predictions.

    No gradient flows into the teaching model, so the sum's gradient in a model is that of its own loss.
    """
    own, meme = model.own(x), model.shared(x)
    return taught(own, meme, y, config.alpha, config) + taught(meme, own, y, config.beta, config)


def taught(student: Tensor, peer: Tensor, y: Tensor, share: float, config: Config) -> Tensor:
    """Return share * CE + (1 - share) * ``kd_weight`` * distillation from the peer: logits [B, C], labels [B]."""
    loss, weight = share * F.cross_entropy(student, y), (1 - share) * config.kd_weight
    weight /= student.shape[1] if config.kd_mean == "entries" else 1
    return loss + weight * config.distill(student, peer, y) if weight else loss


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the personal model and the meme as one pair, with a loss in which they teach each other."""
    turn: Turn[Config] = Turn.of(message, context)
    weights = received(turn, message.content)
    turn.model = Pair(turn.personal, turn.peer(weights.model, weights))

    def learn(model: Pair, x: Tensor, y: Tensor) -> Tensor:
        return objective(model, x, y, None, turn.config)

    turn.loss = learn
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the meme."""
    meme = cast("Pair", turn.model).shared
    sent = to_send(turn, message.content, meme.state_dict())
    return reply(message, turn, *informed(turn, sent, meme), examples=examples, **metrics)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the personal model, untrained, and the mean meme."""
    turn = receive(message, context)
    measure(turn, "received")
    return reply(message, turn)


def measure(turn: Turn[Config], point: str) -> None:
    """Evaluate the personal model, and the meme in addition."""
    pair = cast("Pair", turn.model)
    turn.evaluate(point, pair.own, others={"meme": pair.shared})


train = private_training(receive, send, measure)

app.train()(train)
