"""Which half of a secure sum a client plays, and what its node promises of it."""

from flwr.app import RecordDict

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy.bfv_client import BfvClient
from fd_flower.privacy.client_protocol import ClientProtocol, Party
from fd_flower.privacy.mask_client import MaskClient

CLIENT_PROTOCOLS: dict[str, type[ClientProtocol]] = {"none": ClientProtocol, "masks": MaskClient, "bfv": BfvClient}

SIMULATED = "bfv.key"
"""File of a simulation's key, next to its clients' memory."""


def client_protocol(party: Party, content: RecordDict) -> ClientProtocol:
    """Return a client's half of the run's sum, for one message."""
    return CLIENT_PROTOCOLS[party.config.sum](party, content)


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
    if config.dp == "distributed" and config.noise == "seeded":
        raise InvalidInputError("privacy.noise=seeded: a device draws its noise in secret: take privacy.noise=secure")
    if config.sum == "bfv" and not secret:
        raise InvalidInputError(
            "privacy.sum=bfv needs secret-key in its node-config: the file of the clients' common key"
        )
