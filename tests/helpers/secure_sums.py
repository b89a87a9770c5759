"""A federation that only adds up: clients' halves of a secure sum against the server's, without any training."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from flwr.app import MetricRecord, RecordDict

from fd_flower.config import PrivacyConfig
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import fixed
from fd_flower.privacy.client_protocol import ClientProtocol, Party
from fd_flower.privacy.party import client_protocol
from fd_flower.privacy.server_protocol import Contents
from fd_flower.privacy.sums import server_protocol
from fd_flower.wire import Bounds, Payload, Weights, pack
from fd_flower.wire.replies import Reply

from .replies import client

Spoil = Callable[[str, str, RecordDict], RecordDict]


class Adding:
    """Clients with a row of numbers each, as weights, and one training sample.

    Parameters
    ----------
    folder : Path
        Where clients keep their secrets.
    rows : torch.Tensor
        [clients, L].
    lost : Mapping[str, Sequence[str]]
        Exchange -> the clients that are lost there: what they answer does not come.
    spoil : Spoil
        What comes in place of an answer, given exchange and client.
    """

    def __init__(
        self,
        folder: Path,
        rows: torch.Tensor,
        config: PrivacyConfig,
        lost: Mapping[str, Sequence[str]] | None = None,
        spoil: Spoil = lambda exchange, name, reply: reply,
    ) -> None:
        self.folder, self.rows, self.config = folder, rows, config
        self.lost, self.spoil = lost or {}, spoil
        self.clients = [client(str(i), examples=1) for i in range(len(rows))]
        self.server = server_protocol(config, (Weights,), "run", "settings")
        self.errors: dict[str, str] = {}
        self.received: dict[str, dict[str, RecordDict]] = {}
        self.sent: dict[str, dict[str, RecordDict]] = {}

    def party(self, name: str, **more: object) -> Party:
        return Party(name, self.folder / name, "run", "settings", self.config, **more)  # type: ignore[arg-type]

    def protocol(self, name: str, content: RecordDict) -> ClientProtocol:
        return client_protocol(self.party(name), copy.deepcopy(content))

    def train(self, row: torch.Tensor) -> RecordDict:
        content = pack(Weights({"w": row}))
        content["metrics"] = MetricRecord({"num-examples": 1})
        return content

    def ask(self, exchange: str, contents: Contents, kinds: Sequence[type[Payload]]) -> list[Reply]:
        replies = []
        for who, content in contents.items():
            self.received.setdefault(exchange, {})[who.id] = content
            if who.id in self.lost.get(exchange, ()):
                continue
            try:
                client = self.protocol(who.id, content)
                reply = client.answer(exchange) or client.outgoing(exchange, self.train(self.rows[int(who.id)]))
                reply = copy.deepcopy(self.spoil(exchange, who.id, reply))
                for kind in kinds:
                    kind.need(reply).check(Bounds())
                self.sent.setdefault(exchange, {})[who.id] = reply
                replies.append(Reply(who, reply, 1))
            except InvalidInputError as error:
                self.errors[who.id] = str(error)
        return replies

    def open(self, round: int = 1) -> Contents:
        bounds = Bounds(weights={"": {"w": self.rows[0]}})
        return self.server.open(round, self.clients, bounds, self.ask)

    def round(self, number: int = 1) -> Reply:
        """Play a round; return what the server receives."""
        contents = self.open(number)
        self.server.sent(contents)
        replies = self.ask("train", contents, self.server.kinds((Weights,)))
        (received,) = self.server.close(replies, self.ask)
        return received

    def whole(self, survivors: Sequence[Client]) -> np.ndarray:
        """Return the survivors' numbers, as integers modulo 2^bits, added up without any mask."""
        config, clients = self.config, len(self.clients)
        point = fixed.places(clients, config.range, config.bits)
        rows = [self.rows[int(c.id)].double() / clients for c in survivors]
        total = np.zeros(self.rows.shape[1], dtype=fixed.UNSIGNED[config.bits])
        for row in rows:
            total += fixed.encode(row, point, config.range, config.bits)
        return total
