"""FedGen (Zhu et al. 2021, arXiv 2105.10056): a generator of features, trained by the server, guides clients."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy

from fd_flower.client import App, Turn, private_training, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.generate.features import FeatureGenerator, noise
from fd_flower.models import FeatureModel
from fd_flower.training import climbing, supervised
from fd_flower.wire import Generator, LabelCounts, Weights

app = App()


@dataclass(frozen=True)
class Config(ClientConfig):
    """FedGen's options; ``kd_weight`` multiplies both ``alpha`` and ``beta``, so that 0 is FedAvg."""

    alpha: float = option(10.0, least=0)
    """Weight of the head's cross-entropy on generated features."""
    beta: float = option(10.0, least=0)
    """Weight of the distance to the head's predictions on features generated for the sample's class."""
    fade: float = option(0.98, above=0, most=1)
    """Factor per round of `client.alpha` and `client.beta`."""
    floor: float = option(0.0001, least=0)
    """Minimum of both weights after fading; a weight of 0 stays 0."""
    generated: int = option(32, least=1)
    """Generated features per mini-batch."""
    generated_classes: str = one_of("all", "own", default="all")
    """Classes of generated features: `all` that the generator has learned, or the client's `own` among them."""

    def at(self, round: int) -> "Config":
        """Return the options in effect in a round, counted from 1: both weights have decayed."""
        alpha, beta = (w and max(self.floor, w * self.fade ** (round - 1)) for w in (self.alpha, self.beta))
        faded = replace(self, alpha=self.kd_weight * alpha, beta=self.kd_weight * beta, kd_weight=1.0)
        return faded.bound(self.loss)


@dataclass(frozen=True)
class Generated:
    """What the generator makes for one mini-batch.

    Attributes
    ----------
    like : Tensor | None
        Features for the classes of the mini-batch's own samples [B, F]; None where no term asks for them.
    known : Tensor
        Whether the generator has been trained for these classes, bool [B].
    features : Tensor
        Features for other classes [G, F].
    y : Tensor
        Which these are [G].
    """

    like: Tensor | None
    known: Tensor
    features: Tensor
    y: Tensor


def objective(model: FeatureModel, x: Tensor, y: Tensor, teacher: Generated | None, config: Config) -> Tensor:
    """Cross-entropy, plus ``beta`` times the latent term, plus ``alpha`` G / ``batch`` times the teacher term.

    The latent term is the distance (``client.objective``: KL) from what the head says of features that were generated
    for the sample's class, without a gradient, to what the model says of the sample. The teacher term is the head's
    cross-entropy on generated features: it trains the head alone.
    """
    logits = model(x)
    loss = cross_entropy(logits, y)
    if teacher is None:
        return loss
    if config.beta and teacher.like is not None:
        with torch.no_grad():
            target = model.head(teacher.like)
        loss = loss + config.beta * config.distill(logits, target, y, teacher.known.to(logits.dtype))
    if config.alpha:
        taught = supervised(model.head, teacher.features, teacher.y)  # type: ignore[arg-type]
        loss = loss + config.alpha * len(teacher.y) / config.batch * taught
    return loss


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the server's model, and the generator's guidance into the loss, which counts labels (``turn.collected``)."""
    turn: Turn[Config] = Turn.of(message, context)
    received_model(message, turn)
    config = turn.config.at(turn.round)
    guide = guidance(turn, Generator.find(message.content), config)
    counts = torch.zeros(turn.classes, dtype=torch.int64, device=turn.world.device)

    def learn(model: FeatureModel, x: Tensor, y: Tensor) -> Tensor:
        if not climbing():
            counts.add_(torch.bincount(y, minlength=len(counts)))
        return objective(model, x, y, guide(y), config)

    turn.loss, turn.collected = learn, counts
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the weights and the counts of the labels seen."""
    sent = turn.model.state_dict()
    if shares_head(turn):
        sent = {key: tensor for key, tensor in sent.items() if key.startswith("head.")}
    received = Weights.need(message.content)
    payloads = Weights(sent, received.model), LabelCounts(turn.collected.cpu())
    return reply(message, turn, *payloads, examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the server's model, or the personal one with the server's head."""
    turn = Turn.of(message, context)
    received_model(message, turn)
    turn.evaluate("received")
    return reply(message, turn)


def shares_head(turn: Turn) -> bool:
    """Whether bodies are personal and the head alone is averaged (``server.share``)."""
    return turn.server.share == "head"


def received_model(message: Message, turn: Turn) -> Module:
    """Return the server's model, or the client's own with the server's head."""
    weights = Weights.need(message.content)
    if not shares_head(turn):
        return turn.shared(weights)
    model = turn.model
    with torch.no_grad():
        for key, own in model.state_dict().items():
            if key in weights.values:
                own.copy_(weights.values[key])
    return model


def guidance(turn: Turn, received: Generator | None, config: Config) -> Callable[[Tensor], Generated | None]:
    """Return what makes features for a mini-batch's classes [B]; it returns None where nothing guides.

    The generator is in evaluation mode: its features are a function of class and noise, whatever else is in the batch.
    """
    if received is None or not (config.alpha or config.beta):
        return lambda y: None
    place, rng = turn.world.device, turn.rng("generator")
    generator = FeatureGenerator.of(received.values, len(received.trained)).to(place).eval()
    known = received.trained.clone()
    if config.generated_classes == "own":
        known &= torch.bincount(turn.samples().labels.cpu(), minlength=len(known)) > 0
    trained, real = known.nonzero().flatten(), received.trained.to(place)

    def drawn(y: Tensor) -> Tensor:
        return noise(turn.server.noise, len(y), generator.noise, rng)

    @torch.no_grad()
    def make(y: Tensor, eps: Tensor) -> Tensor:
        return generator(y, eps.to(place))

    def guide(y: Tensor) -> Generated | None:
        if not len(trained):
            return None
        others = trained[torch.randint(len(trained), (config.generated,), generator=rng)].to(place)
        eps, of_others = drawn(y), drawn(others)  # both always: neither weight changes the other's draws
        like = make(y, eps) if config.beta else None
        return Generated(like, real[y], make(others, of_others), others)

    return guide
