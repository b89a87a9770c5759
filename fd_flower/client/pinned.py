"""The public samples that a device's configuration pins, so that a server cannot add candidates to them."""

import reprlib
import string
from pathlib import Path

from fd_flower.core.errors import InvalidInputError
from fd_flower.data.fingerprint import fingerprint
from fd_flower.tasks.world import World

DIGITS = 64


def check_pinned(expected: str, world: World) -> None:
    """Refuse a run with other public samples than the device's configuration pins; one without them passes.

    Parameters
    ----------
    expected : str
        The SHA-256 of a folder's files, as ``fd-flower public`` prints it, or of the samples themselves, as the
        handshake has it.
    world : World
        The run as the device sees it.

    Raises
    ------
    InvalidInputError
        For other samples, and for what is no SHA-256.
    """
    wanted = expected.lower()
    if len(wanted) != DIGITS or not set(wanted) <= set(string.hexdigits):
        raise InvalidInputError(
            f"the node's config has public-sha256={reprlib.repr(expected)}; expected {DIGITS} hexadecimal digits, "
            "as `fd-flower public DIR` prints them"
        )
    source = world.settings.data.public
    folder = Path(source)
    if folder.is_absolute() and folder.is_dir() and not world.named and fingerprint(folder)[0] == wanted:
        return
    if world.public is not None and world.public_checksum != wanted:
        raise InvalidInputError(
            f"the device has public-sha256={wanted}, and those of this run (data.public={source}) "
            f"have {world.public_checksum}: take the pinned ones, or change public-sha256 in the node's config"
        )
