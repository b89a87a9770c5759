"""A client's half of a secure sum: what it answers beside its turn, and what its reply becomes on its way out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.messages import RECORD, RoundSpec
from fd_flower.privacy.secret_store import SecretStore
from fd_flower.privacy.vector import flat
from fd_flower.wire import Payload, pack, unpack
from fd_flower.wire.envelope import records, whole


@dataclass(frozen=True)
class Party:
    """Who takes part in a sum.

    Attributes
    ----------
    client : str
        The client's id.
    run_key : str
        The run's own key.
    config : PrivacyConfig
        The run's options.
    vault : Vault
        Where the client keeps secrets.
    secret : Path | None
        File of the client's own key (masks: it signs with it), or of all clients' common one (CKKS).
    peers : dict[str, bytes] | None
        Client id -> the public key (DER) with which it signs; None: nobody's is checked.
    """

    client: str
    run_key: str
    config: PrivacyConfig
    vault: SecretStore
    secret: Path | None = None
    peers: dict[str, bytes] | None = None


class ClientProtocol:
    """No sum: a reply leaves as it is."""

    def __init__(self, party: Party, content: RecordDict) -> None:
        self.party = party
        self.content = content

    @property
    def steps(self) -> dict[str, Callable[[], Payload | list[Payload]]]:
        """What is answered to messages that are not the method's, by message type."""
        return {}

    def answer(self, message_type: str) -> RecordDict | None:
        """Return the answer to a message that is the sum's business; None for the method's own messages."""
        if message_type not in self.steps:
            return None
        said = self.steps[message_type]()
        return pack(*(said if isinstance(said, list) else [said]))

    def over(self, message_type: str, said: RecordDict) -> RecordDict:
        """Return what leaves in place of a turn's reply."""
        return said


class HidingClient(ClientProtocol, ABC):
    """A reply's knowledge leaves hidden; its metrics leave as they are."""

    def __init__(self, party: Party, content: RecordDict) -> None:
        super().__init__(party, content)
        told = records(content, ConfigRecord).get(RECORD)
        self._told = None if told is None else RoundSpec.of(told)
        party.vault.forget(None if self._told is None else self._told.round)

    @property
    def told(self) -> RoundSpec:
        """What the server says about the round's sum."""
        if self._told is None:
            raise InvalidInputError(
                "the message says nothing about the round's sum; the client says nothing without one"
            )
        return self._told

    def over(self, message_type: str, said: RecordDict) -> RecordDict:
        """Hide a reply to ``train``; refuse to send knowledge in reply to anything else."""
        if message_type != "train":
            if open_kinds := list(records(said, ArrayRecord)):
                raise InvalidInputError(
                    f"{', '.join(open_kinds)} would be sent without being summed; only train's reply is"
                )
            return said
        metrics = next(iter(records(said, MetricRecord).values()), MetricRecord())
        share = self.told.share(whole(metrics, "num-examples", 0))
        if not 0 <= share <= 1:
            raise InvalidInputError(
                f"this client has {share:.3g} of all examples; it has more than it said at the handshake"
            )
        values = flat(unpack(said), share)
        if len(values) != self.told.length:
            raise InvalidInputError(f"the reply has {len(values)} numbers; the sum has {self.told.length}")
        hidden = pack(self.hidden(values))
        hidden["metrics"] = metrics
        return hidden

    @abstractmethod
    def hidden(self, values: Tensor) -> Payload:
        """Return numbers [L], float64, hidden."""
