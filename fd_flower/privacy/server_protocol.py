"""The server's half of a secure sum: exchanges around the one in which clients train."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.app import RecordDict
from torch import Tensor

from fd_flower.config import PrivacyConfig
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.messages import RECORD, RoundSpec
from fd_flower.privacy.vector import length_of, released
from fd_flower.wire import Bounds, Payload, pack
from fd_flower.wire.replies import Reply
from fd_flower.wire.summable import ordered, restored, summables

Contents = Mapping[Client, RecordDict]
Ask = Callable[[str, Contents, Sequence[type[Payload]]], list[Reply]]
"""Sends one exchange, a content a client, and returns the replies that hold these kinds and can be used."""


class AggregationError(Exception):
    """A round's sum cannot be opened: the round is lost, the server's previous state stays, and the run continues."""


class ServerProtocol:
    """No sum: every reply is seen.

    Attributes
    ----------
    faults : dict[str, str]
        Client id -> what was wrong with its messages other than the reply, in this round.
    figures : dict[str, Any]
        What a round's line says about its sum; empty without one.
    """

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        self.figures: dict[str, Any] = {}

    @property
    def secure(self) -> bool:
        """Whether replies are hidden."""
        return False

    def open(self, round: int, asked: Sequence[Client], bounds: Bounds, ask: Ask) -> Contents:
        """Run the exchanges before ``train``; return which clients to ask and what each receives in addition."""
        return {client: RecordDict() for client in asked}

    def sent(self, contents: Contents) -> None:
        """Take note of what ``train``'s messages say, before they are sent."""

    def kinds(self, expected: Sequence[type[Payload]]) -> Sequence[type[Payload]]:
        """Return the kinds without which a reply cannot be used, given those without which a method's cannot."""
        return expected

    def take(self, reply: Reply) -> Reply:
        """Take what can be taken of a usable reply when it comes; return what is to be kept for ``close``."""
        return reply

    def close(self, replies: Sequence[Reply], ask: Ask) -> Sequence[Reply]:
        """Play the exchanges after ``train``; return what the method receives."""
        return replies


class SecureSum(ServerProtocol, ABC):
    """A sum that the server learns without its summands.

    Parameters
    ----------
    summable : Sequence[type[Payload]]
        What the method declares summable.
    config : PrivacyConfig
        The run's options.
    run_key : str
        The run's own key.
    settings : str
        The run's settings as clients are sent them.
    """

    hidden_kind: type[Payload]
    """The kind that replies have in place of their own."""

    def __init__(self, summable: Sequence[type[Payload]], config: PrivacyConfig, run_key: str, settings: str) -> None:
        super().__init__()
        self._run_key, self._settings = run_key, settings
        self._kinds = summables(summable)
        self._config = config

    @property
    def secure(self) -> bool:
        """Whether replies are hidden: they are."""
        return True

    def open(self, round: int, asked: Sequence[Client], bounds: Bounds, ask: Ask) -> Contents:
        """Send clients what the round's sum is about; clients are not asked to train where too few answer.

        Raises
        ------
        InvalidInputError
            Where no sum of these clients would hide them, or one could wrap.
        """
        self.faults, self._lost = {}, ""
        self._prepare(round, asked, bounds)
        try:
            return self._before({client: self._content() for client in asked}, ask)
        except AggregationError as reason:
            self._lost = str(reason)
            return {}

    def close(self, replies: Sequence[Reply], ask: Ask) -> Sequence[Reply]:
        """Open the sum of what has come.

        Raises
        ------
        AggregationError
            Where it stays closed.
        """
        if self._lost:
            raise AggregationError(self._lost)
        survivors, total = self._after(replies, ask)
        share = sum(self._spec.share(r.examples) for r in survivors)
        if share == 0:
            raise AggregationError(f"the {len(survivors)} clients in the sum have no training samples")
        if self._config.dp == "none":
            payloads = restored(self._blanks, total, share, len(survivors))
        else:
            payloads = released(self._blanks, total, len(survivors))
        self.figures["clients"] = len(survivors)
        return [Reply.of_sum([r.client for r in survivors], pack(*payloads), sum(r.examples for r in survivors))]

    @abstractmethod
    def _before(self, contents: Contents, ask: Ask) -> Contents:
        """Run the exchanges before ``train``, given what all clients are sent."""

    @abstractmethod
    def _after(self, replies: Sequence[Reply], ask: Ask) -> tuple[Sequence[Reply], Tensor]:
        """Return the replies that are in the sum, and the sum: float64 [L]."""

    def _prepare(self, round: int, asked: Sequence[Client], bounds: Bounds) -> None:
        """Work out what the round's sum is about."""
        threshold = least(self._config.threshold, len(asked))
        if threshold < 2:
            raise InvalidInputError(
                "privacy.sum: a round asks one client, whose reply a sum cannot hide; ask two or more "
                "(data.clients, server.fraction), or set privacy.sum=none"
            )
        self._blanks = ordered([kind.blank(bounds) for kind in self._kinds])
        if self._config.dp == "none":
            length = sum(p.summand(1.0).numel() for p in self._blanks)
        else:
            length = length_of(self._blanks)
        self._spec = RoundSpec(round, len(asked), threshold, sum(c.examples for c in asked), length)
        self.figures = {"kind": self._config.sum, "threshold": threshold, "clients": 0}

    def kinds(self, expected: Sequence[type[Payload]]) -> Sequence[type[Payload]]:
        """Return the kind that hides the method's own."""
        return (self.hidden_kind,)

    def _content(self, *payloads: Payload) -> RecordDict:
        content = pack(*payloads)
        content[RECORD] = self._spec.record()
        return content

    def _enough(self, count: int, what: str) -> None:
        """Give the round up where fewer clients than its threshold are left."""
        if count < self._spec.threshold:
            raise AggregationError(
                f"{what} {count} of {self._spec.clients} clients; privacy.threshold={self._config.threshold:.3g} needs "
                f"{self._spec.threshold}"
            )

    def _fitting(self, replies: Sequence[Reply], length: Callable[[Reply], int]) -> list[Reply]:
        """Return the replies with as many numbers as the sum has; the others are left out and named."""
        for reply in replies:
            if length(reply) != self._spec.length:
                self.faults[reply.client.id] = f"{length(reply)} hidden numbers; the sum has {self._spec.length}"
        return [r for r in replies if r.client.id not in self.faults]


def least(threshold: float, clients: int) -> int:
    """Return how many of so many clients a share of them is, rounded up."""
    return math.ceil(threshold * clients - 1e-9)
