"""The ClientApp that gives each client of a node its turn."""

import json
from collections.abc import Callable, Iterator, Mapping

from flwr.app import ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fd_flower.client.node import Node, introduction
from fd_flower.client.pool import described
from fd_flower.client.referring import outgoing
from fd_flower.client.summing import Summing
from fd_flower.core.errors import StateError
from fd_flower.core.flower import lifespan, with_content
from fd_flower.core.rng import seed_of, seeded
from fd_flower.privacy.party import client_protocol
from fd_flower.training import LOCAL, PUBLIC, counted, one_thread
from fd_flower.wire.envelope import HANDSHAKE, HEADER, REMEMBERED, STATE, fold, records, unfold
from fd_flower.wire.pool import SHARE
from fd_flower.wire.replies import STEPS

RAISED = 2
"""Flower's error code for a client that raised."""

FEDERATED: dict[str, str | bool] = {"evaluate": "received", "closing": True, "federated": True}
"""What federated evaluation asks for: how good what is received is on the client's own test part; nothing is kept."""

Lifespan = Callable[[Context], Iterator[None]]


class App(ClientApp):
    """A ClientApp that answers the handshake and gives each client that a message names its turn.

    One node may host many clients: each has its turn after the other on resident models and data, within mods and with
    a context of its own. A client that raises costs its own reply alone. The lifespan is the message's, as in Flower.
    A message of another strategy's, Flower's FedAvg say, is handled as by any ClientApp.

    Parameters
    ----------
    mods : list[Mod] | None
        Flower's, around each client's turn.
    """

    def __init__(self, mods: list[Mod] | None = None) -> None:
        super().__init__(mods=mods)
        self._node = ClientApp()

    def lifespan(self) -> Callable[[Lifespan], Lifespan]:
        """Return a decorator that registers what begins and ends with a message, however many clients it names."""
        return self._node.lifespan()

    def __call__(self, message: Message, context: Context) -> Message:
        """Run every client that the message names, and answer for all of them in one message."""
        header = records(message.content, ConfigRecord).get(HEADER)
        if header is None:
            with lifespan(self._node, context):
                return super().__call__(message, context)
        with lifespan(self._node, context), one_thread():
            contents = unfold(message.content)
            if message.metadata.message_type == HANDSHAKE and not contents:
                if SHARE in header:
                    return Message(described(header, context), reply_to=message)
                return Message(RecordDict({HEADER: introduction(header, context)}), reply_to=message)
            try:
                node = Node(header, context)
            except StateError as error:
                return Message(fold(dict.fromkeys(contents, Error(STATE, str(error))), {}), reply_to=message)
            total, answers = Summing(node), {}
            for client, content in contents.items():
                answer = total.take(client, content, self._answer(client, content, node, message))
                if answer is not None:
                    answers[client] = answer
            kept = {REMEMBERED: json.dumps(node.kept)} if node.kept else {}
            reply = fold(answers, kept, bundle=node.share is not None)
            reply.update(total.content)
            return Message(reply, reply_to=message)

    def _answer(self, client: str, content: RecordDict | Error, node: Node, message: Message) -> RecordDict | Error:
        """Run one client's turn and return its reply, or its error."""
        kind = message.metadata.message_type
        try:
            if isinstance(content, Error):
                return content
            protocol = client_protocol(node.party(client), content)
            if (answer := protocol.answer(kind)) is not None:
                return answer
            if kind.partition(".")[0] == MessageType.EVALUATE:
                content = asked(content)
            turn = node.turn(client, content)
            inner = with_content(message, turn.decode())
            turn.check()
            own = node.context_of(turn)
            # Global random numbers (dropout) are a function of the turn.
            seed = seed_of(turn.world.settings.run.seed, "turn", client, turn.round)
            with seeded(seed, turn.world.device), counted(LOCAL) as steps:
                reply = super().__call__(inner, own)
            if reply.has_error():
                return reply.error
            sent = outgoing(turn, inner.content, reply.content if turn.closing else with_steps(reply.content, steps))
            if (position := turn.close()) is not None and turn.world.hosted:
                node.kept[client] = position
            node.keep(own)
            return protocol.outgoing(kind, sent)
        except StateError as error:
            return Error(STATE, str(error))
        except Exception as error:
            # A client's failure concerns that client alone; the server names it and continues.
            return Error(RAISED, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def asked(content: RecordDict) -> RecordDict:
    """Return what a message to evaluate asks for: a strategy of Flower's own does not say at which point."""
    config = records(content, ConfigRecord).get("config", ConfigRecord())
    if "evaluate" in config:
        return content
    return RecordDict({**content, "config": ConfigRecord({**config, **FEDERATED})})


def with_steps(content: RecordDict, steps: Mapping[str, int]) -> RecordDict:
    """Return a reply whose metrics say how many optimizer steps the client took: ``steps/local``, ``steps/public``."""
    found = {f"{STEPS}/{kind}": steps.get(kind, 0) for kind in (LOCAL, PUBLIC)}
    first = next(iter(records(content, MetricRecord).items()), None)
    return content if first is None else RecordDict({**content, first[0]: MetricRecord({**first[1], **found})})
