"""A client's half of a sum under BFV: it encrypts what it adds, and decrypts the sum when it is asked to."""

from collections.abc import Callable
from functools import cached_property
from typing import final

from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import bfv, fixed
from fd_flower.privacy.client_protocol import HidingClient
from fd_flower.privacy.messages import DECRYPT
from fd_flower.wire import Bounds, Payload
from fd_flower.wire.sums import Encrypted, Opened


@final
class BfvClient(HidingClient):
    """An encrypted reply, and the sum decrypted once a round."""

    @property
    def exchanges(self) -> dict[str, Callable[[], Payload | list[Payload]]]:
        """The exchange after ``train``."""
        return {DECRYPT: self.decrypt}

    @cached_property
    def _key(self) -> bfv.Key:
        if self.party.secret is None:
            raise InvalidInputError(
                "privacy.sum=bfv needs the clients' common key: name its file in node-config, secret-key=/path"
            )
        return bfv.Key(self.party.secret)

    def hidden(self, values: Tensor) -> Encrypted:
        """Return numbers encrypted."""
        bfv.check_length(len(values))
        largest = self.party.config.range
        point = fixed.places(self.spec.clients, largest, bfv.BITS)
        encrypted = self._key.encrypt(fixed.whole(values, point, largest))
        self.store.put(self.spec.round, "encrypted")
        return encrypted

    def decrypt(self) -> Opened:
        """Open the sum, for a round in which this client has a part."""
        self.store.take(self.spec.round, "encrypted")
        total = Encrypted.need(self.content)
        total.check(Bounds())
        opened = Opened(self._key.decrypt(total))
        self.store.put(self.spec.round, "decrypted")
        return opened
