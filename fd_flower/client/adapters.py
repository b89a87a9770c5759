"""A model's weights as an adapter: what a client makes of the server's, and what it sends of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Message, RecordDict
from torch import Tensor
from torch.nn import Module

from fd_flower.client.amsgrad import moments
from fd_flower.client.steps import reply
from fd_flower.client.turn import Turn
from fd_flower.config import AveragingClientConfig, averages_moments, averaging, clustered_by_importances
from fd_flower.models.adapters import DOWN, INFORMED, UP, A, B, adapted, ranked, scaling_of, without_adapters
from fd_flower.training import importances, information
from fd_flower.wire import Adapter, Importances, Information, Payload, Weights
from fd_flower.wire.adapters import hashed


def received(turn: Turn[Any], content: RecordDict) -> Weights:
    """Return the weights that a message holds, or that its adapter makes of those every client starts from.

    Parameters
    ----------
    turn : Turn
        The client's.
    content : RecordDict
        The message's.

    Raises
    ------
    InvalidInputError
        For an adapter of another frozen body than the client's, and where there are neither.
    """
    adapter = Adapter.find(content)
    if adapter is None:
        return _of_drawn_rank(turn, Weights.need(content))
    architecture = adapter.model or turn.architecture
    adapter.need_base(turn.world.base(architecture))
    values = turn.world.initial(architecture)
    # What a server stacks is added to the frozen body; the client's own factors begin again.
    stacks = any(key.endswith(UP) for key in values)
    b, a = (UP, DOWN) if stacks else (B, A)
    factors = {f"{name}{b}": t for name, t in adapter.b.items()} | {f"{name}{a}": t for name, t in adapter.a.items()}
    return Weights({**values, **adapter.others, **factors}, adapter.model)


def _of_drawn_rank(turn: Turn[Any], weights: Weights) -> Weights:
    """Return weights under the name of an architecture of their rank, where the server draws one a round.

    The turn's own architecture is that one then, since its weights are the server's.
    """
    names = adapted(weights.values) if averaging(turn.server).ranks else []
    if not names:
        return weights
    name, rank = ranked(weights.model or turn.architecture)[0], len(weights.values[names[0] + A])
    if not weights.model:
        turn.architecture = turn.world.with_own_rank(name, 0, rank)
        return weights
    return replace(weights, model=turn.world.with_own_rank(name, 0, rank))


def to_send(turn: Turn[Any], content: RecordDict, values: Mapping[str, Tensor]) -> Payload:
    """Return a trained model's weights as the server sent its own: as an adapter or plain, under the same name.

    Parameters
    ----------
    turn : Turn
        The client's.
    content : RecordDict
        The message's that is answered.
    values : Mapping[str, Tensor]
        The model's state dict, or a part of it.
    """
    asked = Adapter.find(content)
    if asked is None:
        return Weights(values, Weights.need(content).model)
    names, own = adapted(values), asked.model or turn.architecture
    return Adapter(
        {name: values[name + B] for name in names},
        {name: values[name + A] for name in names},
        torch.tensor(len(values[names[0] + A])),
        torch.tensor(scaling_of(turn.world.module(own)), dtype=torch.float64),
        hashed(turn.world.base(own)),
        without_adapters(values),
        asked.model,
    )


def send_shared(message: Message, turn: Turn[Any], *, examples: int | None = None, **metrics: float) -> Message:
    """Send the trained model's weights, of a client that shares its whole model; ``send`` of such methods."""
    sent = to_send(turn, message.content, turn.model.state_dict())
    return reply(message, turn, *informed(turn, sent), examples=examples, **metrics)


def informed(turn: Turn[Any], sent: Payload, model: Module | None = None) -> list[Payload]:
    """Return what goes with weights, and they themselves, where the server asks for more than these.

    It is their Fisher information where the server merges by it, the importances of an input's numbers where it
    clusters by them, and what their optimizer keeps where it averages that, too.

    Parameters
    ----------
    turn : Turn
        The client's, after it has learned; its training samples are gone through once more.
    sent : Payload
        What ``to_send`` made of the model.
    model : Module | None
        The model; None: the turn's.
    """
    if averages_moments(turn.server) and isinstance(sent, Weights):
        return [sent, moments(turn, sent.model)]
    if clustered_by_importances(turn.server):
        return [sent, Importances(importances(turn.data.train))]
    if averaging(turn.server).adapters != INFORMED or not isinstance(sent, Weights):
        return [sent]
    config = turn.config
    most = config.fisher_batches if isinstance(config, AveragingClientConfig) else None
    found = information(model or turn.model, turn.data.train, plan=turn.plan, rng=turn.rng("fisher"), most=most)
    return [sent, Information({key: tensor for key, tensor in found.items() if key in sent.values}, sent.model)]
