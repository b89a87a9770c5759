"""FD, federated distillation (Jeong et al. 2018, arXiv 1811.11479): clients exchange their mean logits per class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from flwr.app import Context, Message
from torch import Tensor
from torch.nn import Module

from fd_flower.client import App, Turn, evaluate_personal, private_training, reply
from fd_flower.config import ClientConfig, one_of
from fd_flower.training import climbing, supervised
from fd_flower.wire import ClassLogits

app = App()

ROUNDING = 1e-6
"""Counts with weights of at most this size are 0 but for rounding."""


@dataclass(frozen=True)
class Config(ClientConfig):
    """FD's options."""

    output: str = one_of("probabilities", "logits", default="probabilities")
    """What is averaged: `probabilities` (the paper's softmax outputs) or `logits`."""
    weighting: str = one_of("examples", "clients", default="examples")
    """Weights of a class's mean: by `examples`, or equal for all `clients` (the paper)."""


def objective(
    model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, teacher: Tensor | None, config: ClientConfig
) -> Tensor:
    """Cross-entropy, plus ``kd_weight`` times the distance to the other clients' mean output for the sample's class.

    Parameters
    ----------
    teacher : Tensor | None
        [C, C]: row c is the others' log-probabilities for class c, NaN where none of them has that class: a sample
        of it adds nothing to the second term.
    """
    return loss(model(x), y, None if teacher is None else Others.of(teacher), config)


class Others(NamedTuple):
    """What a teacher [C, C] says: its rows, numbers throughout, and which of them are known, 1.0 or 0.0 [C]."""

    rows: Tensor
    known: Tensor

    @classmethod
    def of(cls, teacher: Tensor) -> Self:
        """Return it of log-probabilities with NaN in unknown rows."""
        return cls(teacher.nan_to_num(), (~teacher.isnan().any(dim=1)).float())


def loss(logits: Tensor, y: Tensor, others: Others | None, config: ClientConfig) -> Tensor:
    """Return ``objective`` of logits [B, C] and labels [B]."""
    own = supervised(lambda _: logits, logits, y)
    if others is None or config.kd_weight == 0:
        return own
    weight = others.known[y].to(logits.dtype)
    distance = config.distill(logits, others.rows[y], y, weight)
    return own + config.kd_weight * weight.mean() * distance


def receive(message: Message, context: Context) -> Turn[Config]:
    """Take the others' table into the loss, which also fills the client's own (``turn.collected``)."""
    turn: Turn[Config] = Turn.of(message, context)
    table = Table(turn.classes, turn.config.output)
    received = ClassLogits.find(message.content)
    others = None
    if received is not None:
        others = Others.of(teacher_of(without_own(received, turn), turn.config.output).to(turn.world.device))

    def learn(model: Module, x: Tensor, y: Tensor) -> Tensor:
        logits = model(x)
        if not climbing():
            table.add(logits.detach(), y)
        return loss(logits, y, others, turn.config)

    turn.loss, turn.collected = learn, table
    return turn


def send(message: Message, turn: Turn[Config], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the table of what came out while learning."""
    sent = turn.collected.payload(turn.config.weighting)
    for name, tensor in (("sums", sent.sums), ("counts", sent.counts), ("sent", torch.tensor(turn.round))):
        turn.remember(name, tensor)
    return reply(message, turn, sent, examples=examples, **metrics)


train = private_training(receive, send)

app.train()(train)
app.evaluate()(evaluate_personal)


class Table:
    """Sums of a model's outputs by true class, in float64."""

    def __init__(self, classes: int, output: str) -> None:
        self.sums = torch.zeros(classes, classes, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self._output = output

    def add(self, logits: Tensor, y: Tensor) -> None:
        """Add the outputs of a mini-batch: logits [B, C], classes [B]."""
        if self.sums.device != logits.device:
            self.sums, self.counts = self.sums.to(logits.device), self.counts.to(logits.device)
        values = logits.double() if self._output == "logits" else logits.double().softmax(dim=1)
        self.sums.index_add_(0, y, values)
        self.counts.index_add_(0, y, torch.ones_like(y, dtype=torch.float64))

    def payload(self, weighting: str) -> ClassLogits:
        """Return what goes up: sums over samples, or one mean a class where clients count the same."""
        sums, counts = self.sums.cpu(), self.counts.cpu()
        if weighting == "examples":
            return ClassLogits(sums, counts)
        return ClassLogits(sums / counts.clamp_min(1.0).unsqueeze(1), (counts > 0).double())


def without_own(received: ClassLogits, turn: Turn) -> ClassLogits:
    """Take the client's own part out of the sums (leave-one-out), where it is in them."""
    sums, counts = turn.recall("sums"), turn.recall("counts")
    round = received.rounds.get(turn.client) if received.round is None else int(received.round)
    if round is None or sums is None or counts is None or turn.recall("sent") != round:
        return received
    weight = 1.0 if received.weight is None else float(received.weight)
    return ClassLogits(received.sums - weight * sums, received.counts - weight * counts)


def teacher_of(received: ClassLogits, output: str) -> Tensor:
    """Return the mean outputs as log-probabilities [C, C] float32; NaN in the rows of classes that no client has.

    A sum that is empty but for rounding is empty: counts are whole numbers, unless replies have weights.
    """
    found, whole = received.counts, received.counts.round()
    weighted = bool(((found - whole).abs() > ROUNDING).any())
    counts = (found.where(found > ROUNDING, 0.0) if weighted else whole).unsqueeze(1)
    mean = received.sums / counts.where(counts > 0, 1.0)
    logprobs = mean.log_softmax(dim=1) if output == "logits" else mean.clamp_min(1e-12).log().log_softmax(dim=1)
    return logprobs.where(counts > 0, torch.nan).float()
