"""KD study (Alballa, Canini 2024, arXiv 2402.14922): trained models are distilled into FedAvg's initial model."""

from dataclasses import dataclass, replace

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_shared, fit, reply
from fd_flower.config import ClientConfig, one_of, option
from fd_flower.core.errors import InvalidInputError
from fd_flower.training import plan_of, supervised
from fd_flower.training.consolidation import Lesson, converge, mutual, teach, weighed
from fd_flower.wire import Candidates, Chain, Scores, Weights

app = App()

TEACHER = "teacher/"
"""What the tensors of a client's own teacher are called in its memory."""


@dataclass(frozen=True)
class Config(ClientConfig):
    """The study's options of training to convergence and of distilling, at the server too."""

    kd_weight: float = option(1.0, least=0, most=1)
    """Weight a in (1 - a) CE + a KD of `kd`; `dml` and `dp-kd` have no such weight."""
    convergence: int = option(10, least=1)
    """Maximum number of epochs of the first round, in which a client trains its teacher."""
    patience: int = option(3, least=1)
    """Epochs without a lower validation cross-entropy after which the first round's training ends."""
    distill_lr: float = option(0.05, above=0)
    """Learning rate of distillation; its loop is `client.public_epochs`, `client.public_batch`, ..."""
    learner: str = one_of("arriving", "own", default="arriving")
    """Along a chain: does the `arriving` model learn from the client's `own`, or the own from the arriving one?"""


def objective(model: Module, x: Tensor, y: Tensor | None, teacher: Tensor, config: ClientConfig) -> Tensor:
    """(1 - a) cross-entropy on labels [B], where there are any, + a times the loss to log-probabilities [B, C]."""
    return weighed(model(x), teacher, y, config)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do what the message is about: score candidates, train a teacher, be a link of the chain, or a round of FedAvg."""
    turn: Turn[Config] = Turn.of(message, context)
    if candidates := Candidates.find(message.content):
        return reply(message, turn, scores(turn, candidates))
    received = Weights.need(message.content)
    if Chain.find(message.content):
        learner = linked(turn, received)
        turn.evaluate("trained", learner)
        return reply(message, turn, Weights(learner.state_dict()))
    model = turn.shared(received)
    figures = {}
    if turn.round == 1 and turn.server.consolidates:
        loss, figures["epochs"] = converged(turn, model, keep=turn.server.place == "chain")
        figures |= validated(turn, model)
    else:
        loss = fit(turn, supervised, turn.data.train)
    turn.evaluate("trained")
    return reply(message, turn, Weights(model.state_dict()), examples=None, loss=loss, **figures)


def converged(turn: Turn[Config], model: Module, *, keep: bool) -> tuple[float, float]:
    """Train the client's teacher; remember it where it is wanted again. Return its loss and its epochs."""
    config = turn.config
    plan = replace(plan_of(config, config.lr, turn.precision), epochs=config.convergence, steps=None)
    own = turn.data
    figures = converge(model, own.train, own.validation, plan=plan, patience=config.patience, rng=turn.rng("converge"))
    for key, tensor in model.state_dict().items() if keep else ():
        turn.remember(TEACHER + key, tensor)
    return figures


def validated(turn: Turn, model: Module) -> dict[str, float]:
    """Return the model's accuracy on the own validation part, where there is one."""
    own = turn.data.validation
    if not len(own):
        return {}
    return {"validation": float((turn.predict(own, model).argmax(1) == own.labels.cpu()).double().mean())}


def linked(turn: Turn[Config], received: Weights) -> Module:
    """Distill between the arriving model and the client's teacher, on its own labeled samples; return who learned."""
    config, server = turn.config, turn.server
    kept = {key: turn.recall(TEACHER + key) for key in received.values}
    if any(tensor is None for tensor in kept.values()):
        raise InvalidInputError("the client has no teacher: its memory of the first round is gone")
    own = turn.peer(turn.architecture, Weights({key: tensor for key, tensor in kept.items() if tensor is not None}))
    arriving = turn.shared(received)
    learner, teacher = (arriving, own) if config.learner == "arriving" else (own, arriving)
    lesson = Lesson(server.technique, server.criterion, config, config.distill_lr, precision=turn.precision)
    samples, rng = turn.data.train, turn.rng("distil")
    if server.technique == "dml":
        mutual(learner, [teacher], samples, lesson, rng)
    else:
        teach(learner, turn.predict(samples, teacher)[None], samples, lesson, rng)
    return learner


def scores(turn: Turn, candidates: Candidates) -> Scores:
    """Return how many of the own validation samples each candidate gets right."""
    own = turn.data.validation
    labels = own.labels.cpu()
    right = [
        int((turn.predict(own, turn.shared(Weights(candidates[place]))).argmax(1) == labels).sum()) if len(own) else 0
        for place in range(len(candidates))
    ]
    return Scores(torch.tensor(right), torch.tensor(len(own)))


app.evaluate()(evaluate_shared)
