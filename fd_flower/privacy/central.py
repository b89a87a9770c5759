"""Differential privacy by a trusted server: it clips each reply, adds them up and adds noise once."""

from collections.abc import Sequence
from typing import final

import numpy as np

from fd_flower.config import PrivacyConfig
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import fixed
from fd_flower.privacy.budget import central_point, central_variance, clip_of
from fd_flower.privacy.noise import discrete_gaussian, source
from fd_flower.privacy.server_protocol import Ask, Contents, ServerProtocol
from fd_flower.privacy.vector import bounded, length_of, released
from fd_flower.wire import Bounds, Payload, pack, unpack
from fd_flower.wire.replies import Reply
from fd_flower.wire.summable import summables


@final
class NoisySum(ServerProtocol):
    """The method gets one reply: the noisy mean of clipped replies, in which every client counts the same.

    Parameters
    ----------
    summable : Sequence[type[Payload]]
        What the method declares summable.
    config : PrivacyConfig
        The run's options.
    rounds, seed : int
        The run's.
    """

    def __init__(self, summable: Sequence[type[Payload]], config: PrivacyConfig, rounds: int, seed: int) -> None:
        super().__init__()
        self._kinds = summables(summable)
        self._config, self._rounds, self._seed = config, rounds, seed

    @property
    def secure(self) -> bool:
        """Whether replies are hidden: from the method they are."""
        return True

    def open(self, round: int, asked: Sequence[Client], bounds: Bounds, ask: Ask) -> Contents:
        """Work out what the round's sum is about."""
        self.faults = {}
        self._round, self._blanks = round, [kind.blank(bounds) for kind in self._kinds]
        self._length = length_of(self._blanks)
        self._point = central_point(self._config, len(asked), self._rounds)
        self.figures = {"kind": self._config.dp, "clients": 0}
        return super().open(round, asked, bounds, ask)

    def close(self, replies: Sequence[Reply], ask: Ask) -> Sequence[Reply]:
        """Return the noisy mean as one reply; a reply of another length is left out and its client is named."""
        total, members = np.zeros(self._length, dtype=np.int64), []
        for reply in replies:
            try:
                total += self._whole(reply)
                members.append(reply.client)
            except InvalidInputError as error:
                self.faults[reply.client.id] = str(error)
        if not members:
            return []
        spread = central_variance(self._config, self._point, self._length, self._rounds)
        total += discrete_gaussian(spread, self._length, source(self._config, self._seed, "server", self._round))
        self.figures["clients"] = len(members)
        payloads = released(self._blanks, fixed.decode(total.view(np.uint64), self._point), len(members))
        return [Reply.of_sum(members, pack(*payloads), len(members))]

    def _whole(self, reply: Reply) -> np.ndarray:
        """Return a reply's clipped numbers as integers, int64 [L]."""
        clip = clip_of(self._config)
        values = bounded(unpack(reply.content), self._blanks, clip)
        if len(values) != self._length:
            raise InvalidInputError(f"the reply has {len(values)} numbers; the sum has {self._length}")
        return fixed.whole(values, self._point, 2 * clip)
