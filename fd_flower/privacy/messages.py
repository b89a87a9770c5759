"""What both sides call the exchanges of a secure sum, and what a round's sum is about."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flwr.app import ConfigRecord

SETUP, SHARE_KEYS, UNMASK = "query.fd_flower_setup", "query.fd_flower_share_keys", "query.fd_flower_unmask"
"""SecAgg's exchanges in addition to the masked input, which is the reply to ``train``."""

DECRYPT = "query.fd_flower_decrypt"

RECORD = "sum"
"""Name of the ConfigRecord that holds a round's ``RoundSpec``."""


@dataclass(frozen=True)
class RoundSpec:
    """What a round's sum is about, as the server sends it to each client.

    Attributes
    ----------
    round : int
        The round.
    clients : int
        How many were asked: so many numbers are added up at most.
    threshold : int
        How many of them must stay.
    examples : int
        Training samples of all that were asked.
    length : int
        How many numbers the sum has.
    """

    round: int
    clients: int
    threshold: int
    examples: int
    length: int

    def record(self) -> ConfigRecord:
        """Return it as a record of a message."""
        return ConfigRecord(asdict(self))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "RoundSpec":
        """Return what a record says."""
        return cls(**{key: int(record[key]) for key in cls.__dataclass_fields__})

    def share(self, examples: int) -> float:
        """Return so many examples as a share of all; where no client has any, all count the same."""
        return examples / self.examples if self.examples else 1 / self.clients


def about(*parts: str | int) -> bytes:
    """Return what a sealed share or a signature is about, so that it fits nothing else."""
    return json.dumps(["fd-flower", *parts]).encode()
