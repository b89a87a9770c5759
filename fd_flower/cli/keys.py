"""``fd-flower keys``: a certificate authority, a server certificate and a key for each client, in one folder."""

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fd_flower.core.errors import InvalidInputError
from fd_flower.core.share import Share
from fd_flower.core.storage import replace_file

CURVE = ec.SECP384R1()  # Flower takes NIST curves alone
AUTHORITY_DAYS = 3650
CLIENT_ID = re.compile(r"\w[\w.-]*")
ALLOW = "allow.yaml"


def make(folder: Path, hosts: Sequence[str], clients: Sequence[str], days: int, shares: Sequence[Share] = ()) -> None:
    """Make what is not there yet; the server's certificate is made again where ``hosts`` are named.

    The folder then holds ``ca.crt`` and ``ca.key``, ``server`` (certificate and key), ``clients/<id>`` (its key and
    ``ca.crt``: all that a device gets) and ``allow.yaml``, which maps client ids to public keys. A share of simulated
    clients has a key as a client has, under its own name.

    Parameters
    ----------
    folder : Path
        May hold keys of an earlier call: these are kept.
    hosts : Sequence[str]
        Names and addresses under which devices reach the server.
    clients : Sequence[str]
        Client ids.
    days : int
        How long the server's certificate is good.
    shares : Sequence[Share]
        Shares of simulated clients that machines host.

    Raises
    ------
    InvalidInputError
        For a client id that makes no folder's name or is that of a share, and for a new folder without hosts.
    """
    for client in clients:
        if share := Share.of_name(client):
            raise InvalidInputError(f"client id {client!r} is the name of a share: give --host-share {share}")
        if not CLIENT_ID.fullmatch(client):
            raise InvalidInputError(
                f"client id {client!r} makes no folder's name: use letters, digits, '.', '_' and '-'"
            )
    authority = folder / "ca.crt"
    if not hosts and not authority.exists():
        raise InvalidInputError("a server certificate needs a name: give --host NAME, as devices call the server")
    folder.mkdir(parents=True, exist_ok=True)
    if not authority.exists():
        _authority(folder)
    if hosts:
        _server(folder, hosts, days)
    for name in (*clients, *(share.name for share in shares)):
        _client(folder, name)
    write_allow_list(folder)


def write_allow_list(folder: Path) -> None:
    """Write which client has which key, by what lies in ``clients``."""
    allowed = {path.parent.name: path.read_text().strip() for path in sorted(folder.glob("clients/*/client.pub"))}
    replace_file(folder / ALLOW, yaml.safe_dump(allowed, sort_keys=False, width=1000))


def _authority(folder: Path) -> None:
    key = ec.generate_private_key(CURVE)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FD-Flower federation")])
    about = _certificate(name, name, key.public_key(), AUTHORITY_DAYS)
    about = about.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    about = about.add_extension(_usage(signs_certificates=True), critical=True)
    _secret(folder / "ca.key", _pem(key))
    (folder / "ca.crt").write_bytes(about.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))


def _server(folder: Path, hosts: Sequence[str], days: int) -> None:
    signer = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    authority = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(CURVE)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    about = _certificate(name, authority.subject, key.public_key(), days)
    about = about.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    about = about.add_extension(_usage(signs_certificates=False), critical=True)
    about = about.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    about = about.add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    about = about.add_extension(issuer, critical=False)
    server = folder / "server"
    server.mkdir(exist_ok=True)
    _secret(server / "server.key", _pem(key))
    (server / "server.crt").write_bytes(about.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM))


def _client(folder: Path, client: str) -> None:
    """Make a client's key, in OpenSSH's format as Flower reads it, unless it has one."""
    own = folder / "clients" / client
    own.mkdir(parents=True, exist_ok=True)
    (own / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
    path = own / "client.key"
    if not path.exists():
        made = ec.generate_private_key(CURVE)
        _secret(path, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = load_ssh_private_key(path.read_bytes(), None).public_key()
    (own / "client.pub").write_bytes(public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(hours=1)  # clocks of devices may be a little behind
    about = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    about = about.serial_number(x509.random_serial_number())
    about = about.not_valid_before(begin).not_valid_after(begin + timedelta(days=days))
    return about.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
