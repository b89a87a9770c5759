"""Which node may use the id of which client, or host which share: the allow-list (``server.allow``)."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.serverapp import Grid

from fd_flower.core.errors import InvalidInputError


def allowed(path: str | None, option: str = "server.allow") -> dict[str, bytes] | None:
    """Read an allow-list; None where there is none.

    Parameters
    ----------
    path : str | None
        A YAML file that maps client ids to public keys, as OpenSSH or PEM writes them.
    option : str
        What names the file, for errors.

    Returns
    -------
    dict[str, bytes] | None
        Client id, or name of a share (``share-2-of-4``) -> public key (DER).

    Raises
    ------
    InvalidInputError
        For a file that cannot be read, a key that is none, and one key under two ids.
    """
    if path is None:
        return None
    if not Path(path).is_absolute():
        raise InvalidInputError(f"{option} is the relative path '{path}'; give an absolute one")
    try:
        # As text throughout: YAML would make the number 7 of the client id 007.
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{option}: {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not tree:
        raise InvalidInputError(
            f"{option}: {path} holds no client; expected lines like 'ward-7: ecdsa-sha2-nistp384 ...'"
        )
    keys: dict[str, bytes] = {}
    for client, text in tree.items():
        key = _der(text.encode() if isinstance(text, str) else b"")
        if key is None:
            raise InvalidInputError(
                f"{option}: {path} has no public key for client '{client}', in OpenSSH's form or PEM"
            )
        if key in keys.values():
            raise InvalidInputError(f"{option}: {path} gives the key of client '{client}' to another client, too")
        keys[client] = key
    return keys


def keys_of(grid: Grid) -> dict[int, bytes]:
    """Return node id -> public key (DER) of the nodes that a grid shows.

    Raises
    ------
    InvalidInputError
        For a grid that shows no keys, as those of simulations.
    """
    found = {node.node_id: _der(node.public_key) for node in grid.get_nodes()}
    if found and not any(found.values()):
        raise InvalidInputError(
            f"server.allow needs nodes with keys, which {type(grid).__name__} does not show; leave it out"
        )
    return {node: key for node, key in found.items() if key is not None}


def refusal(
    name: str, node: int, allow: Mapping[str, bytes], keys: Mapping[int, bytes], what: str = "client id"
) -> str:
    """Return why a node may not use a name of the allow-list, a client's id or a share's; "" where it may."""
    if name not in allow:
        return f"{what} '{name}' is not in server.allow"
    if keys.get(node) != allow[name]:
        owner = next((other for other, key in allow.items() if key == keys.get(node)), None)
        whose = "no key of server.allow" if owner is None else f"the key of '{owner}'"
        return f"{what} '{name}' belongs to another key; this node has {whose}"
    return ""


def _der(text: bytes) -> bytes | None:
    """Return a public key in the one form in which keys can be compared; None for what is none."""
    load = load_pem_public_key if text.lstrip().startswith(b"-----BEGIN") else load_ssh_public_key
    try:
        return load(text).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return None
