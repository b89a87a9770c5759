"""Who takes part in a secure sum, as its node says: where its secrets lie, whose keys it takes on trust."""

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.ckks_client import CkksClient
from fd_flower.privacy.client_protocol import ClientProtocol, Party
from fd_flower.privacy.mask_client import MaskClient
from fd_flower.privacy.secret_store import SecretStore

if TYPE_CHECKING:
    from fd_flower.client.node import Node

CLIENT_PROTOCOLS: dict[str, type[ClientProtocol]] = {"none": ClientProtocol, "masks": MaskClient, "ckks": CkksClient}

SIMULATED = "ckks.key"
"""File of a simulation's key, beside its clients' memory."""


def veil(node: "Node", client: str, content: RecordDict) -> ClientProtocol:
    """Return a client's half of the run's sum, for one message."""
    config = node.settings.privacy
    vault = SecretStore(node.memory(client).folder)
    party = Party(client, str(node.header["run-key"]), config, vault, node.secret, node.peers)
    return CLIENT_PROTOCOLS[config.sum](party, content)


def check_promise(config: PrivacyConfig, *, secret: bool, peers: bool) -> None:
    """Refuse a run that would hide less than the device's own configuration asks for.

    Raises
    ------
    InvalidInputError
        Where the device has keys for another kind of sum than the run's, or none for the run's.
    """
    if secret and config.sum == "none":
        raise InvalidInputError("its node-config has secret-key, so it takes part in runs with privacy.sum alone")
    if peers and config.sum != "masks":
        raise InvalidInputError("its node-config has peer-keys, so it takes part in runs with privacy.sum=masks alone")
    if config.sum == "ckks" and not secret:
        raise InvalidInputError(
            "privacy.sum=ckks needs secret-key in its node-config: the file of the clients' common key"
        )
