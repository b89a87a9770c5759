"""The server's half of a sum under BFV: it adds up ciphertexts, and one client opens their sum."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, final

from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import bfv, fixed
from fd_flower.privacy.messages import DECRYPT
from fd_flower.privacy.server_protocol import AggregationError, Ask, Contents, SecureSum
from fd_flower.wire.replies import Reply
from fd_flower.wire.sums import Encrypted, Opened

TRIES = 3
"""How many clients, one after the other, are asked to open a sum."""


@final
class EncryptedSum(SecureSum):
    """Encrypted replies, then their sum, decrypted by one of the clients."""

    hidden_kind = Encrypted

    def _before(self, contents: Contents, ask: Ask) -> Contents:
        """Refuse a sum that is out of BFV's reach; nothing is exchanged."""
        bfv.check_length(self._spec.length)
        bfv.check_clients(self._spec.clients)
        self._point = fixed.places(self._spec.clients, self._config.range, bfv.BITS)
        return contents

    def _after(self, replies: Sequence[Reply], ask: Ask) -> tuple[Sequence[Reply], Tensor]:
        """Add up what has come and have it opened.

        Raises
        ------
        AggregationError
            Where too few replies have come under one key, or no client opens their sum.
        """
        fitting = self._of_one_key(self._fitting(replies, lambda r: int(Encrypted.need(r.content).length)))
        adder = bfv.Adder()
        loaded: dict[str, list[Any]] = {}
        for reply in fitting:
            self._load(adder, reply, loaded)
        survivors = [reply for reply in fitting if reply.client.id in loaded]
        self._enough(len(survivors), "encrypted replies under one key have come from")
        fingerprint = Encrypted.need(survivors[0].content).fingerprint.numpy().tobytes()
        total = bfv.packed(adder.add(list(loaded.values())), fingerprint, self._spec.length)
        # Another client each round, so that no client opens the sums of all rounds.
        first = self._spec.round % len(survivors)
        for reply in (survivors[first:] + survivors[:first])[:TRIES]:
            for answer in ask(DECRYPT, {reply.client: self._content(total)}, (Opened,)):
                whole, most = Opened.need(answer.content).values, fixed.most(bfv.BITS)
                if len(whole) == self._spec.length and bool(((-most <= whole) & (whole <= most)).all()):
                    return survivors, whole.double() / 2.0**self._point
                self.faults[reply.client.id] = (
                    f"{len(whole)} decrypted numbers, or some beyond the largest sum; the sum has {self._spec.length}"
                )
        raise AggregationError(f"none of {min(TRIES, len(survivors))} clients opened the encrypted sum")

    def _load(self, adder: bfv.Adder, reply: Reply, loaded: dict[str, list[Any]]) -> None:
        """Add one client's ciphertexts to the others'; what is none is left out and named."""
        try:
            loaded[reply.client.id] = adder.load(Encrypted.need(reply.content))
        except InvalidInputError as error:
            self.faults[reply.client.id] = str(error)

    def _of_one_key(self, replies: Sequence[Reply]) -> list[Reply]:
        """Return the replies under the key that most clients have; the others are left out and named."""
        prints = {r.client.id: Encrypted.need(r.content).fingerprint.numpy().tobytes() for r in replies}
        if not prints:
            return []
        common = Counter(prints.values()).most_common(1)[0][0]
        for name, found in prints.items():
            if found != common:
                self.faults[name] = f"its key is {found.hex()[:12]}, the others' {common.hex()[:12]}: give all one"
        return [r for r in replies if prints[r.client.id] == common]
