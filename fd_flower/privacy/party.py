"""Who takes part in a secure sum, as its node says: where its secrets lie, whose keys it takes on trust."""

from typing import TYPE_CHECKING

from flwr.app import RecordDict

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import WrongInput
from fd_flower.privacy.ckks_client import CkksVeil
from fd_flower.privacy.client_protocol import Party, Veil
from fd_flower.privacy.mask_client import MaskVeil
from fd_flower.privacy.secret_store import Vault

if TYPE_CHECKING:
    from fd_flower.client.node import Node

VEILS: dict[str, type[Veil]] = {"none": Veil, "masks": MaskVeil, "ckks": CkksVeil}

SIMULATED = "ckks.key"
"""File of a simulation's key, beside its clients' memory."""


def veil(node: "Node", client: str, content: RecordDict) -> Veil:
    """Return a client's half of the run's sum, for one message."""
    config = node.settings.privacy
    vault = Vault(node.memory(client).folder)
    party = Party(client, str(node.header["run-key"]), config, vault, node.secret, node.peers)
    return VEILS[config.sum](party, content)


def check_promise(config: PrivacyConfig, *, secret: bool, peers: bool) -> None:
    """Refuse a run that would hide less than the device's own configuration asks for.

    Raises
    ------
    WrongInput
        Where the device has keys for another kind of sum than the run's, or none for the run's.
    """
    if secret and config.sum == "none":
        raise WrongInput("its node-config has secret-key, so it takes part in runs with privacy.sum alone")
    if peers and config.sum != "masks":
        raise WrongInput("its node-config has peer-keys, so it takes part in runs with privacy.sum=masks alone")
    if config.sum == "ckks" and not secret:
        raise WrongInput("privacy.sum=ckks needs secret-key in its node-config: the file of the clients' common key")
