"""A client's half of double masking (Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving ML").

To its numbers a client adds one mask that it makes alone and one with each other client, with opposite signs at
the two ends. The seeds of both kinds are shared out among the clients: whose reply comes has its own mask taken off,
whose reply does not come has its masks with the others taken off. The server must never learn both of a client's
secrets.

All keys are bound to run and round, and those between two clients to the transcript: what both were sent. Clients that
a server tells different things (so that all but one add zeros, say) have masks that do not cancel.
"""

import secrets
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from flwr.app import RecordDict
from torch import Tensor

from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import crypto, fixed, sharing
from fd_flower.privacy.budget import share_of_noise
from fd_flower.privacy.client_protocol import HidingClient, Party
from fd_flower.privacy.messages import SETUP, SHARE_KEYS, UNMASK, about
from fd_flower.privacy.transcript import begun, digest, extended
from fd_flower.wire import Bounds, Payload
from fd_flower.wire.sums import SIZE, Masked, SumCommitments, SumKeys, SumShares, SumUnmask, read, rows, table, text


@final
class MaskClient(HidingClient):
    """Keys, shares, a masked reply, and what takes the masks off the sum."""

    def __init__(self, party: Party, content: RecordDict) -> None:
        super().__init__(party, content)
        # As it came: the app's mods may change it.
        self._digest = b"" if self._spec is None else digest(content)

    @property
    def exchanges(self) -> dict[str, Callable[[], Payload | list[Payload]]]:
        """The exchanges around ``train``."""
        return {SETUP: self.setup, SHARE_KEYS: self.share_keys, UNMASK: self.unmask}

    def setup(self) -> SumKeys:
        """Make this round's keys; whatever an earlier try at the round left is gone.

        Raises
        ------
        InvalidInputError
            Where an earlier try came as far as unmasking: with other survivors it would open another sum of the same.
        """
        me, channel, seed = self.party, secrets.token_bytes(32), secrets.token_bytes(SIZE)
        self.store.need_unopened(self.spec.round)
        public = self._public(channel, seed)
        transcript = extended(begun(me.run_key, me.settings), SETUP, self._digest)
        content = self._signed_text(me.client, transcript, *public)
        signature = "" if me.secret is None else crypto.sign(me.secret, content).hex()
        self.store.put(self.spec.round, "setup", transcript=transcript.hex(), channel=channel.hex(), seed=seed.hex())
        return SumKeys(table(public[:1]), table(public[1:]), text([[me.client, signature]]))

    def share_keys(self) -> list[Payload]:
        """Share the seeds of both kinds of masks out among those whose keys have come."""
        kept = self.store.take(self.spec.round, "setup")
        roster = SumKeys.need(self.content)
        roster.check(Bounds())
        signatures = read(roster.about)
        ids, channels, pairs = [name for name, _ in signatures], rows(roster.channel), rows(roster.pair)
        channel, seed = bytes.fromhex(kept["channel"]), bytes.fromhex(kept["seed"])
        self._check(ids, channels, pairs, self._public(channel, seed))
        self._check_signatures(signatures, channels, pairs, bytes.fromhex(kept["transcript"]))
        transcript = extended(bytes.fromhex(kept["transcript"]), SHARE_KEYS, self._digest)
        mask, threshold = secrets.token_bytes(SIZE), self.spec.threshold
        dealt = list(zip(*(sharing.split(s, threshold, len(ids)) for s in (seed, mask)), strict=True))
        sealed = [
            crypto.seal(self._channel(channel, key, transcript), b"".join(pair), self._between(self.party.client, name))
            for name, key, pair in zip(ids, channels, dealt, strict=True)
        ]
        peers = {name: [c.hex(), p.hex()] for name, c, p in zip(ids, channels, pairs, strict=True)}
        known = {**{key: kept[key] for key in ("channel", "seed")}, "mask": mask.hex(), "transcript": transcript.hex()}
        self.store.put(self.spec.round, "share keys", **known, peers=peers, threshold=threshold)
        bound = table([sharing.commitment(share) for pair in dealt for share in pair]).view(len(ids), 2, -1)
        return [SumShares(table(sealed), text(ids)), SumCommitments(bound, table([sharing.commitment(mask)])[0])]

    def hidden(self, values: Tensor) -> Masked:
        """Return numbers under the own mask and the masks shared with each client that sent shares."""
        kept = self.store.take(self.spec.round, "share keys")
        members, held = self._opened(kept)
        config, spec = self.party.config, self.spec
        point = fixed.places(spec.clients, config.range, config.bits)
        whole = fixed.encode(values, point, config.range, config.bits)
        if config.dp != "none":
            whole += share_of_noise(self.party, spec, point, len(whole)).astype(whole.dtype)
        seeds = bytes.fromhex(kept["seed"]), bytes.fromhex(kept["mask"])
        pairs = {name: bytes.fromhex(kept["peers"][name][1]) for name in members}
        transcript = extended(bytes.fromhex(kept["transcript"]), "train", self._digest)
        private, scope = crypto.private_key(seeds[0], self._scope), bound(self._scope, transcript)
        whole += own_mask(seeds[1], self._scope, len(whole), config.bits)
        whole += pair_masks(self.party.client, private, pairs, members, scope, len(whole), config.bits)
        # From here on the client cannot make its masks again, and a second reply under them raises an error.
        self.store.put(spec.round, "masked input", members=members, held=held, threshold=kept["threshold"])
        signed = whole.view(np.int32 if config.bits == 32 else np.int64)
        return Masked(torch.from_numpy(signed), table([transcript])[0])

    def unmask(self) -> SumUnmask:
        """Give away one share of each client: of its own mask where it survived, else of its masks with others."""
        kept = self.store.take(self.spec.round, "masked input")
        asked = SumUnmask.need(self.content)
        survivors, members = set(read(asked.about)), kept["members"]
        if strangers := sorted(survivors - set(members)):
            raise InvalidInputError(f"the sum contains client {strangers[0]}, which shared no seeds with this client")
        if len(survivors) < kept["threshold"] or self.party.client not in survivors:
            least = kept["threshold"]
            raise InvalidInputError(f"the sum contains {len(survivors)} clients; expected {least}, including this one")
        shares, lacking = [], []
        for name in members:
            pair = bytes.fromhex(kept["held"].get(name, ""))
            shares.append((pair[SIZE:] if name in survivors else pair[:SIZE]) or bytes(SIZE))
            if not pair:
                lacking.append(name)
        # The shares are deleted before the answer is sent: a second request, for others, gets nothing.
        self.store.put(self.spec.round, "unmask", opened=True)
        return SumUnmask(text(lacking), table(shares))

    # --- keys

    @property
    def _scope(self) -> bytes:
        return about(self.party.run_key, self.spec.round)

    def _public(self, channel: bytes, seed: bytes) -> tuple[bytes, bytes]:
        return crypto.public_key(channel), crypto.public_key(crypto.private_key(seed, self._scope))

    def _channel(self, channel: bytes, peer: bytes, transcript: bytes) -> bytes:
        return crypto.agreed(channel, peer, "channel", bound(self._scope, transcript))

    def _signed_text(self, client: str, transcript: bytes, channel: bytes, pair: bytes) -> bytes:
        return about(self.party.run_key, self.spec.round, client, transcript.hex()) + channel + pair

    # --- what a client does not take on trust

    def _check(self, ids: Sequence[str], channels: list[bytes], pairs: list[bytes], own: tuple[bytes, bytes]) -> None:
        """Refuse a roster of which a server, or a client, could profit."""
        client, threshold = self.party.client, self.spec.threshold
        if len(set(ids)) < len(ids) or len(ids) != len(channels) or len(set(channels + pairs)) < 2 * len(ids):
            raise InvalidInputError("the clients' keys come with one id or one key twice")
        if client not in ids or (channels[ids.index(client)], pairs[ids.index(client)]) != own:
            raise InvalidInputError("the clients' keys come without this client's own")
        if len(ids) > self.spec.clients or not 2 <= threshold <= len(ids) < 2 * threshold:
            # With half of the shares, two groups of clients could be sent contradicting survivors.
            raise InvalidInputError(
                f"a threshold of {threshold} of {len(ids)} clients; expected 2 or more, over half of all"
            )

    def _check_signatures(self, signatures: Any, channels: list[bytes], pairs: list[bytes], transcript: bytes) -> None:
        """Refuse keys that those whom `peer-keys` names did not sign, or not after the same message."""
        peers = self.party.peers
        if peers is None:
            return
        for (name, signature), channel, pair in zip(signatures, channels, pairs, strict=True):
            content = self._signed_text(name, transcript, channel, pair)
            if name not in peers or not crypto.signed(peers[name], content, bytes.fromhex(signature)):
                raise InvalidInputError(
                    f"client {name}'s keys are not signed by a key that peer-keys has for it, or it was sent another "
                    "round than this client"
                )

    def _opened(self, kept: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
        """Return who is in the round, and the pairs of shares that came from them unharmed."""
        received = SumShares.need(self.content)
        received.check(Bounds())
        members, peers = list(read(received.about)), kept["peers"]
        if set(members) - set(peers) or len(set(members)) < len(members) or len(members) != len(received.sealed):
            raise InvalidInputError("shares have come from others than those whose keys have come")
        if self.party.client not in members or len(members) < kept["threshold"]:
            least = kept["threshold"]
            raise InvalidInputError(f"shares have come from {len(members)} clients; expected {least}, with this one")
        held, channel = {}, bytes.fromhex(kept["channel"])
        for name, sealed in zip(members, rows(received.sealed), strict=True):
            key = self._channel(channel, bytes.fromhex(peers[name][0]), bytes.fromhex(kept["transcript"]))
            pair = crypto.unseal(key, sealed, self._between(name, self.party.client))
            if pair is not None:
                held[name] = pair.hex()
        return members, held

    def _between(self, sender: str, receiver: str) -> bytes:
        return about(self.party.run_key, self.spec.round, sender, receiver)


def bound(scope: bytes, transcript: bytes) -> bytes:
    """Return the scope of what two clients agree on: where both were sent the same."""
    return scope + transcript


def own_mask(seed: bytes, scope: bytes, length: int, bits: int) -> np.ndarray:
    """Return the mask that a client makes alone: [length] numbers modulo 2^bits."""
    return crypto.stream(crypto.derived(seed, "own mask", scope), length, bits)


def pair_mask(private: bytes, peer: bytes, scope: bytes, length: int, bits: int) -> np.ndarray:
    """Return the mask that two clients agree on, without its sign: [length] numbers modulo 2^bits."""
    return crypto.stream(crypto.agreed(private, peer, "pair mask", scope), length, bits)


def pair_masks(
    client: str, private: bytes, pairs: dict[str, bytes], others: Sequence[str], scope: bytes, length: int, bits: int
) -> np.ndarray:
    """Return the sum of a client's masks with these others: of two, the one whose id is less adds and the other takes.

    Parameters
    ----------
    client : str
        Whose masks; where it is among the others it has none with itself.
    private : bytes
        Its private key of the round.
    pairs : dict[str, bytes]
        Client id -> public key of the round.
    scope : bytes
        Run, round and transcript: who has another one has other masks.
    """
    total = np.zeros(length, dtype=fixed.UNSIGNED[bits])
    for other in others:
        if other != client:
            mask = pair_mask(private, pairs[other], scope, length, bits)
            total = total + mask if client < other else total - mask
    return total
