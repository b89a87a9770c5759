"""What a client does in its turn: it trains, and it replies."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from flwr.app import Context, Message, MetricRecord
from torch import Tensor
from torch.nn import Module

from fd_flower.client.turn import Turn
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.training import LOCAL, PUBLIC, Optimizer, counted_as, length, plan_of, supervised, train
from fd_flower.training.loop import Objective
from fd_flower.wire import Payload, pack

Receive = Callable[[Message, Context], Turn[Any]]
Send = Callable[..., Message]


def private_training(
    receive: Receive, send: Send, measure: Callable[[Turn[Any], str], None] = Turn.evaluate
) -> Callable[[Message, Context], Message]:
    """Return a client's answer to ``train``: receive, learn from private data, be evaluated, and send.

    Parameters
    ----------
    receive : Callable[[Message, Context], Turn]
        The method's: returns the turn with its model and loss.
    send : Callable[..., Message]
        The method's: makes the reply of the message, the turn with its trained model, and metrics by name.
    measure : Callable[[Turn, str], None]
        Evaluates the turn at an evaluation point, where that is not its model.
    """

    def train(message: Message, context: Context) -> Message:
        turn = receive(message, context)
        loss = fit(turn, turn.loss, turn.data.train)
        measure(turn, "trained")
        return send(message, turn, loss=loss)

    return train


def fit(
    turn: Turn,
    objective: Objective,
    samples: Samples,
    teacher: Tensor | None = None,
    *,
    model: Module | None = None,
    private: bool | None = None,
    optimizer: Optimizer | None = None,
) -> float:
    """Train a model (None: the turn's) by the client's options and return the mean loss.

    Without a teacher these are the options of private training (``client.epochs``, ``client.batch``, ...); with one,
    a row a sample [N, ...], those of the distillation loop (``client.public_epochs``, ``client.public_batch``, ...),
    unless it is a teacher of ``private`` samples. A new client's first private training begins with ``client.warmup``
    steps on its labels alone. An ``optimizer`` that is given steps the model; None: in private training the turn's,
    else a new one.
    """
    model = model or turn.model
    teacher = None if teacher is None else teacher.to(samples.x.device)
    public = not (teacher is None if private is None else private)
    plan = plan_of(turn.config, turn.lr, turn.precision, public=public)
    if not public and turn.config.warmup and turn.newcomer:
        train(model, supervised, samples, plan=replace(plan, steps=turn.config.warmup), rng=turn.rng("warmup"))
    rng = turn.rng("public" if public else "private")
    watch = None if turn.scheduled is None else turn.scheduled.over(length(len(samples), plan))
    optimizer = optimizer or (None if public or model is not turn.model else turn.optimizer)
    with counted_as(PUBLIC if public else LOCAL):
        return train(model, objective, samples, teacher, plan=plan, rng=rng, watch=watch, optimizer=optimizer)


def reply(message: Message, turn: Turn, *payloads: Payload, examples: int | None = None, **metrics: float) -> Message:
    """Return a client's reply: its payloads, its example count, its metrics and its evaluations.

    Parameters
    ----------
    message : Message
        What is answered.
    turn : Turn
        The client's.
    *payloads : Payload
        What the method sends.
    examples : int | None
        How many samples the app trained on; None: the task's training samples (of texts for language models their
        tokens), in federated evaluation those that were evaluated on. A metric ``num-examples`` says it, too, as in
        Flower.
    **metrics : float
        Further metrics, by name.

    Raises
    ------
    InvalidInputError
        Where neither the app nor the task says how many samples there are.
    """
    turn.anneal()
    content = pack(*payloads)
    if examples is None and "num-examples" not in metrics:
        if not turn.world.has_data:
            raise InvalidInputError(
                f"the task has no data, so the number of samples of client {turn.client} is unknown: pass it with "
                "reply(..., examples=n)"
            )
        here = turn.world
        examples = len(turn.data.test) if turn.federated else here.kind.examples(here, turn.client, turn.architecture)
    counted = {} if examples is None else {"num-examples": examples}
    content["metrics"] = MetricRecord({**counted, **{k: float(v) for k, v in metrics.items()}, **turn.evaluations})
    return Message(content, reply_to=message)
