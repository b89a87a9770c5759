"""Which teachers clients have: what the next messages in both directions refer to (``wire.down=delta|changed``)."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self, final

import torch
from flwr.app import RecordDict
from torch import Tensor

from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Payload, PublicLogits, pack
from fd_flower.wire.codecs.reference import Reference
from fd_flower.wire.coding import Wire
from fd_flower.wire.referring import TeacherUpdate, teacher_record, unpack_reply


@dataclass
class References:
    """The newest teacher of each public sample, and how much of it each client is known to have.

    A teacher is one of the server's messages: its number counts them. A row is sent in full to a client
    that lacks it, or lacks what it refers to.

    Attributes
    ----------
    now : Reference
        What a client has that received every teacher.
    newest, before : Tensor
        [P] int64: the last two teachers that had each sample, 0: none.
    exact : bool
        Whether teachers are kept in 16 bits (``changed``), not as steps from the one before (``delta``).
    number : int
        How many teachers there were.
    clients : dict[str, int]
        Client -> the newest teacher that it is known to have.
    """

    now: Reference
    newest: Tensor
    before: Tensor
    exact: bool = False
    number: int = 0
    clients: dict[str, int] = field(default_factory=dict)
    _checksum: int = 0
    _asked: set[str] = field(default_factory=set)

    @classmethod
    def blank(cls, samples: int, classes: int, *, exact: bool = False) -> Self:
        """Return those of a run before its first teacher, about P samples and C classes."""
        nothing = torch.zeros(samples, dtype=torch.int64)
        return cls(Reference.blank(samples, classes), nothing, nothing, exact)

    def copy(self) -> "References":
        """Return references that can take in a teacher while these stay unchanged."""
        return replace(self, clients=dict(self.clients), _asked=set())

    def ask(self, client: str) -> int:
        """Return the newest teacher that a client has; it counts as one that has none until it answers."""
        has, self.clients[client] = self.clients.get(client, 0), 0
        self._asked.add(client)
        return has

    def take(self, teacher: PublicLogits) -> TeacherUpdate:
        """Take in a teacher, unless it is the last one again, and return it as clients get it."""
        index, values = teacher.index.cpu(), teacher.values.cpu()
        checksum = zlib.crc32(values.contiguous().numpy().tobytes(), zlib.crc32(index.numpy().tobytes()))
        if self.number and checksum == self._checksum:
            return TeacherUpdate.again(self.now, index)
        made = TeacherUpdate.exact if self.exact else TeacherUpdate.made
        update = made(self.now, index, values)
        self.number, self._checksum, self.now = self.number + 1, checksum, update.after
        self.before = torch.where(update.new, self.newest, self.before)
        self.newest = self.newest.masked_fill(update.new, self.number)
        return update

    def record(self, update: TeacherUpdate, has: int) -> RecordDict:
        """Return the record of a teacher for clients that have the one with the number ``has``, 0: none."""
        lacks = self.newest > has
        based = (self.before > 0) & (self.before <= has) if update.steps is not None else torch.zeros_like(lacks)
        first = self.before == 0 if not self.exact else torch.zeros_like(lacks)
        return teacher_record(update, lacks=lacks, based=based, first=first, whole=not has)

    def heard(self, client: str) -> None:
        """Take note that a client has answered, so that it has what it was sent."""
        if client in self._asked:
            self.clients[client] = self.number
            self._asked.discard(client)

    def read(self, content: RecordDict, index: Tensor) -> RecordDict:
        """Return a reply's content with its predictions decoded.

        Parameters
        ----------
        content : RecordDict
            What came.
        index : Tensor
            The public samples that the round is about, int64 [N].
        """
        return unpack_reply(content, self.now, index)

    # --- in a checkpoint

    def tensors(self) -> dict[str, Tensor]:
        """Return what ``of`` makes them of."""
        about = json.dumps([self.number, self._checksum, self.clients]).encode()
        return {
            "values": self.now.values,
            "newest": self.newest,
            "before": self.before,
            "about": torch.frombuffer(bytearray(about), dtype=torch.uint8),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, exact: bool = False) -> Self:
        """Return the references with these tensors."""
        number, checksum, clients = json.loads(tensors["about"].numpy().tobytes())
        newest = tensors["newest"]
        now = Reference(tensors["values"], newest > 0)
        return cls(now, newest, tensors["before"], exact, number, clients, checksum)


@final
class TeacherMessages:
    """One exchange's messages, of which those to clients that have the same are made once.

    Parameters
    ----------
    references : References | None
        They change: they know the teacher, and that the clients were sent it. None: messages refer to none.
    wire : Wire
        What becomes of all else.
    """

    def __init__(self, references: References | None, wire: Wire) -> None:
        self._references = references
        self._wire = wire
        self._teacher: PublicLogits | None = None
        self._update: TeacherUpdate | None = None
        self._made: dict[int, RecordDict] = {}

    def content(self, client: Client, payloads: Sequence[Payload]) -> RecordDict:
        """Return a client's message.

        Raises
        ------
        InvalidInputError
            Where another client received another teacher.
        """
        found = [p for p in payloads if isinstance(p, PublicLogits)] if self._references else []
        rest = self._wire.outgoing(pack(*(p for p in payloads if p not in found)))
        if not found or self._references is None:
            return rest
        if len(found) > 1 or (self._teacher is not None and found[0] is not self._teacher):
            raise InvalidInputError(
                f"wire.down={'changed' if self._references.exact else 'delta'} is for one teacher that all clients "
                "receive, and these receive different ones: leave it out"
            )
        if self._update is None:
            self._teacher, self._update = found[0], self._references.take(found[0])
        has = self._references.ask(client.id)
        if has not in self._made:
            self._made[has] = self._references.record(self._update, has)
        return RecordDict({**self._made[has], **rest})
