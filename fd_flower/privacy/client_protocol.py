"""A client's half of a secure sum: the exchanges that it answers, and what its reply to ``train`` becomes."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.flower import log
from fd_flower.privacy.messages import RECORD, RoundSpec
from fd_flower.privacy.secret_store import SecretStore
from fd_flower.privacy.vector import bounded, flat
from fd_flower.wire import Payload, pack, unpack
from fd_flower.wire.envelope import records, whole


@dataclass(frozen=True)
class Party:
    """Who takes part in a sum.

    Attributes
    ----------
    client : str
        The client's id.
    folder : Path
        Where it keeps a round's secrets: its memory.
    run_key : str
        The run's own key.
    settings : str
        The run's settings as its server sends them.
    config : PrivacyConfig
        The run's options.
    secret : Path | None
        File of the client's own key (masks: it signs with it), or of all clients' common one (BFV).
    peers : dict[str, bytes] | None
        Client id -> the public key (DER) with which it signs; None: signatures are not checked.
    rounds, seed : int
        The run's, for the noise of differential privacy.
    """

    client: str
    folder: Path
    run_key: str
    settings: str
    config: PrivacyConfig
    secret: Path | None = None
    peers: dict[str, bytes] | None = None
    rounds: int = 1
    seed: int = 0


class ClientProtocol:
    """No sum: a reply is sent unchanged.

    Parameters
    ----------
    party : Party
        The client, as its node knows it.
    content : RecordDict
        The message's.
    """

    def __init__(self, party: Party, content: RecordDict) -> None:
        self.party = party
        self.content = content

    @property
    def exchanges(self) -> dict[str, Callable[[], Payload | list[Payload]]]:
        """What is answered to messages that are not the method's, by message type."""
        return {}

    def answer(self, message_type: str) -> RecordDict | None:
        """Return the answer to one of the sum's own exchanges; None for the method's messages."""
        if message_type not in self.exchanges:
            return None
        answer = self.exchanges[message_type]()
        return pack(*(answer if isinstance(answer, list) else [answer]))

    def outgoing(self, message_type: str, reply: RecordDict) -> RecordDict:
        """Return what leaves in place of a turn's reply."""
        return reply


class HidingClient(ClientProtocol, ABC):
    """A reply's knowledge is sent hidden; its metrics are sent unchanged."""

    def __init__(self, party: Party, content: RecordDict) -> None:
        super().__init__(party, content)
        record = records(content, ConfigRecord).get(RECORD)
        self._spec = None if record is None else RoundSpec.of(record)
        self.store = SecretStore(party.folder)
        self.store.forget(None if self._spec is None else self._spec.round)

    @property
    def spec(self) -> RoundSpec:
        """What the round's sum is about."""
        if self._spec is None:
            raise InvalidInputError("the message has no secure sum; this client sends replies to a secure sum alone")
        return self._spec

    def outgoing(self, message_type: str, reply: RecordDict) -> RecordDict:
        """Hide a reply to ``train``; refuse to send knowledge in reply to anything else."""
        if message_type != "train":
            if open_kinds := list(records(reply, ArrayRecord)):
                raise InvalidInputError(
                    f"{', '.join(open_kinds)} would be sent without being summed; only train's reply is"
                )
            return reply
        metrics = next(iter(records(reply, MetricRecord).values()), MetricRecord())
        share = self.spec.share(whole(metrics, "num-examples", 0))
        if not 0 <= share <= 1:
            raise InvalidInputError(
                f"this client has {share:.3g} of all examples; it has more than it reported at the handshake"
            )
        payloads = []
        for sent in unpack(reply):
            payloads.append(sent.normalized())
            if payloads[-1] is not sent:
                log(WARNING, "client %s: %s is now normalized by softmax", self.party.client, sent.name)
        values = self._values(payloads, share)
        if len(values) != self.spec.length:
            raise InvalidInputError(f"the reply has {len(values)} numbers; the sum has {self.spec.length}")
        hidden = pack(self.hidden(values))
        hidden["metrics"] = metrics
        return hidden

    def _values(self, payloads: list[Payload], share: float) -> Tensor:
        """Return what the client adds: float64 [L]."""
        config = self.party.config
        if config.dp == "none" or config.clip is None:
            return flat(payloads, share)
        return bounded(payloads, self.content, config.clip)

    @abstractmethod
    def hidden(self, values: Tensor) -> Payload:
        """Return numbers [L], float64, hidden."""
