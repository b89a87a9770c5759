"""The server's half that a run's options ask for, and whether its method can be summed."""

from collections.abc import Sequence
from pathlib import Path

from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import bfv
from fd_flower.privacy.bfv_server import EncryptedSum
from fd_flower.privacy.mask_server import MaskedSum
from fd_flower.privacy.party import SIMULATED
from fd_flower.privacy.server_protocol import ServerProtocol
from fd_flower.wire import Payload


def server_protocol(
    config: PrivacyConfig, summable: Sequence[type[Payload]], run_key: str, settings: str
) -> ServerProtocol:
    """Return the server's half of a run's sum, given the run's key and its settings as clients are sent them."""
    if config.sum == "none":
        return ServerProtocol()
    return {"masks": MaskedSum, "bfv": EncryptedSum}[config.sum](summable, config, run_key, settings)


def check_sum(
    method: str,
    config: PrivacyConfig,
    summable: Sequence[type[Payload]],
    exchanges: Sequence[str],
    clients: int,
    *,
    single_replies: bool,
    plain: bool,
) -> None:
    """Refuse a secure sum of what cannot be summed.

    Raises
    ------
    InvalidInputError
        With the reason.
    """
    if config.sum == "none":
        return
    asked = f"privacy.sum={config.sum}"
    if plain:
        raise InvalidInputError(f"{asked}: the nodes run an app without FD-Flower's turn, which hides nothing")
    if single_replies:
        raise InvalidInputError(
            f"{asked}: {method} needs individual replies (it selects, ranks or weighs them, or answers each client "
            "differently), and a sum hides them: take privacy.sum=none or a method whose page says that a sum will do"
        )
    if not summable:
        raise InvalidInputError(f"{asked}: {method}'s clients send nothing that can be summed; take privacy.sum=none")
    if tuple(exchanges) != ("train",):
        raise InvalidInputError(
            f"{asked}: {method} has more exchanges ({', '.join(exchanges)}), and only train's is summed"
        )
    if config.sum == "bfv":
        bfv.check_clients(min(clients, bfv.MOST_CLIENTS))  # a round may ask fewer; how many, it knows


def simulated_key(config: PrivacyConfig, state: str, run_key: str) -> None:
    """Make the key pair of a simulation's clients, where they need one: they and the server are one experimenter."""
    path = Path(state) / run_key / SIMULATED
    if config.sum == "bfv" and not path.exists():
        bfv.make_key(path)
