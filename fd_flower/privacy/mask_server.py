"""The server's half of double masking: it carries keys and shares, adds up, and takes off what is left of the masks."""

from collections import defaultdict
from collections.abc import Sequence
from typing import final

import numpy as np
from torch import Tensor

from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import crypto, fixed, sharing
from fd_flower.privacy.mask_client import bound, own_mask, pair_masks
from fd_flower.privacy.messages import SETUP, SHARE_KEYS, UNMASK, about
from fd_flower.privacy.server_protocol import AggregationError, Ask, Contents, SecureSum
from fd_flower.privacy.transcript import begun, digest, extended
from fd_flower.wire import Payload
from fd_flower.wire.replies import Reply
from fd_flower.wire.sums import SIZE, Masked, SumCommitments, SumKeys, SumShares, SumUnmask, read, rows, table, text


@final
class MaskedSum(SecureSum):
    """Keys, then shares, then masked replies, then what opens their sum.

    Who has sent keys is asked for shares, who has sent shares is asked to train, and whose masked reply has come is in
    the sum. Down to the threshold clients may be lost between any two exchanges.
    """

    hidden_kind = Masked

    def _before(self, contents: Contents, ask: Ask) -> Contents:
        """Carry public keys and sealed shares from each client to each."""
        self._point = fixed.places(self._spec.clients, self._config.range, self._config.bits)
        self._keys: dict[Client, tuple[bytes, bytes]] = {}
        self._scope = about(self._run_key, self._spec.round)
        self._transcript = begun(self._run_key, self._settings)
        signatures = {}
        for reply in self._exchange(SETUP, contents, ask, (SumKeys,)):
            keys, name = SumKeys.need(reply.content), reply.client.id
            if len(keys.channel) != 1:
                self.faults[name] = f"{len(keys.channel)} keys; expected one"
                continue
            self._keys[reply.client] = rows(keys.channel)[0], rows(keys.pair)[0]
            signatures[reply.client] = _signature(keys)
        self._enough(len(self._keys), "keys have come from")
        roster = SumKeys(
            table([channel for channel, _ in self._keys.values()]),
            table([pair for _, pair in self._keys.values()]),
            text([[client.id, signatures[client]] for client in self._keys]),
        )
        content = self._content(roster)  # one for all
        sealed: dict[Client, list[bytes]] = {}
        self._promised: dict[Client, SumCommitments] = {}
        for reply in self._exchange(SHARE_KEYS, dict.fromkeys(self._keys, content), ask, (SumShares, SumCommitments)):
            dealt, promised = SumShares.need(reply.content), SumCommitments.need(reply.content)
            if len(dealt.sealed) != len(self._keys) or len(promised.shares) != len(self._keys):
                self.faults[reply.client.id] = f"{len(dealt.sealed)} sealed shares; expected {len(self._keys)}"
                continue
            sealed[reply.client] = rows(dealt.sealed)
            self._promised[reply.client] = promised
        self._enough(len(sealed), "shares have come from")
        self._members = list(sealed)
        senders = text([client.id for client in self._members])
        places = {client: place for place, client in enumerate(self._keys)}
        return {
            client: self._content(SumShares(table([row[places[client]] for row in sealed.values()]), senders))
            for client in self._members
        }

    def sent(self, contents: Contents) -> None:
        """Take note of what all are sent, to which their masks are bound.

        Raises
        ------
        InvalidInputError
            Where they are not all sent the same: their masks would not cancel.
        """
        if contents:
            self._extend("train", contents)

    def _exchange(self, exchange: str, contents: Contents, ask: Ask, kinds: Sequence[type[Payload]]) -> list[Reply]:
        """Ask, and take note of what was sent (which ``ask`` completes)."""
        replies = ask(exchange, contents, kinds)
        self._extend(exchange, contents)
        return replies

    def _extend(self, exchange: str, contents: Contents) -> None:
        known: dict[tuple[str, int], bytes] = {}
        digests = {client.id: digest(content, known) for client, content in contents.items()}
        first = next(iter(digests))
        for name, found in digests.items():
            if found != digests[first]:
                raise InvalidInputError(
                    f"privacy.sum=masks: clients {first} and {name} would be sent different messages ('{exchange}'); "
                    "masks cancel where all are sent the same: take privacy.sum=none"
                )
        self._transcript = extended(self._transcript, exchange, digests[first])

    def _after(self, replies: Sequence[Reply], ask: Ask) -> tuple[Sequence[Reply], Tensor]:
        """Add up what has come and take the masks off.

        Raises
        ------
        AggregationError
            Where too few replies or shares have come, or a client's secret does not match its commitment.
        """
        survivors = self._fitting(self._of_one_transcript(replies), self._length)
        self._enough(len(survivors), "masked replies have come from")
        total = np.zeros(self._spec.length, dtype=fixed.UNSIGNED[self._config.bits])
        for reply in survivors:
            total += Masked.need(reply.content).values.numpy().view(total.dtype)
        here = [reply.client for reply in survivors]
        secrets = self._opened(here, ask)
        for client in self._members:
            total -= self._left(client, here, secrets[client])
        return survivors, fixed.decode(total, self._point)

    def _of_one_transcript(self, replies: Sequence[Reply]) -> list[Reply]:
        """Return the replies that are under this round's masks; the others are left out and named."""
        for reply in replies:
            theirs = Masked.need(reply.content).transcript.numpy().tobytes()
            if theirs != self._transcript:
                self.faults[reply.client.id] = (
                    f"what it was sent has the hash {theirs.hex()[:12]}, the others' {self._transcript.hex()[:12]}: "
                    "a message was changed on its way"
                )
        return [reply for reply in replies if reply.client.id not in self.faults]

    def _length(self, reply: Reply) -> int:
        values = Masked.need(reply.content).values
        return len(values) if values.dtype is fixed.SIGNED[self._config.bits] else -1

    def _opened(self, here: Sequence[Client], ask: Ask) -> dict[Client, bytes]:
        """Return one secret of each client: of a survivor its own mask's seed, else the pair key's."""
        content = self._content(SumUnmask(text([c.id for c in here]), table([bytes(SIZE)])[:0]))
        shares: dict[Client, dict[int, bytes]] = defaultdict(dict)
        answered = 0
        for reply in ask(UNMASK, dict.fromkeys(here, content), (SumUnmask,)):
            answered += self._sort(reply, set(here), shares)
        self._enough(answered, "shares that open the sum have come from")
        secrets = {}
        for client in self._members:
            self._enough(len(shares[client]), f"good shares of client {client.id} have come from")
            secret = sharing.combine(shares[client], self._spec.threshold)
            if client in here:
                good = sharing.fits(secret, self._promised[client].own.numpy().tobytes())
            else:
                good = crypto.public_key(crypto.private_key(secret, self._scope)) == self._keys[client][1]
            if not good:
                raise AggregationError(f"client {client.id} shared out another secret than it used")
            secrets[client] = secret
        return secrets

    def _sort(self, reply: Reply, here: set[Client], shares: dict[Client, dict[int, bytes]]) -> bool:
        """Add one client's shares to the others'; false ones are left out and named."""
        opened, giver = SumUnmask.need(reply.content), reply.client
        place = list(self._keys).index(giver)
        try:
            lacking = set(read(opened.about))
        except (InvalidInputError, TypeError):
            lacking = None
        if lacking is None or len(opened.shares) != len(self._members):
            self.faults[giver.id] = f"{len(opened.shares)} opened shares; expected {len(self._members)}"
            return False
        for client, share in zip(self._members, rows(opened.shares), strict=True):
            promised = self._promised[client].shares[place, int(client in here)].numpy().tobytes()
            if client.id in lacking:
                self.faults[client.id] = f"its sealed share for client {giver.id} was tampered with"
            elif not sharing.fits(share, promised):
                self.faults[giver.id] = f"its share of client {client.id} is not the one that was committed to"
            else:
                shares[client][place] = share
        return True

    def _left(self, client: Client, here: Sequence[Client], secret: bytes) -> np.ndarray:
        """Return what a client leaves in the sum: a survivor its own mask, a lost one its masks with survivors."""
        length, bits = self._spec.length, self._config.bits
        if client in here:
            return own_mask(secret, self._scope, length, bits)
        pairs = {other.id: self._keys[other][1] for other in here}
        # The survivors hold the other ends, with the opposite signs.
        private, scope = crypto.private_key(secret, self._scope), bound(self._scope, self._transcript)
        return -pair_masks(client.id, private, pairs, list(pairs), scope, length, bits)


def _signature(keys: SumKeys) -> str:
    """Return the signature that comes with a client's keys; its peers check it."""
    try:
        return str(read(keys.about)[0][1])
    except (InvalidInputError, LookupError, TypeError):
        return ""
