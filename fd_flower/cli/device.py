"""Whether a machine can be a device or a host: its configuration, data, state, key, and the way to its server."""

import math
import os
import secrets
import shutil
import socket
import ssl
import stat
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from cryptography import x509
from flwr.app import ConfigRecord, Context, RecordDict

from fd_flower.cli.finding import Finding
from fd_flower.client.node import DEVICE_KEYS, HOSTS, introduction
from fd_flower.config import settings
from fd_flower.core.client import answered

CONFIG, KEY, AUTHORITY = "node.toml", "client.key", "ca.crt"
PATIENCE = 10.0  # seconds to reach the server
AHEAD, BEHIND = 5, 300  # seconds by which a device's clock may differ: Flower's SuperLink refuses its messages beyond
ASKED = 3  # times that the server is asked for its time: the quickest answer says most
WHOLE, KEPT = 1.0, 1.0  # seconds: a date of HTTP has no fractions, and Flower's server makes one a second
ROOM = 2**30  # bytes of disk below which a device is warned
EXPIRES = 14  # days before a certificate's end at which to make another


def findings(folder: Path) -> Iterator[Finding]:
    """Look at everything that a device, or a host, needs.

    Parameters
    ----------
    folder : Path
        Holds ``node.toml``, ``client.key`` and ``ca.crt``, as ``fd-flower keys`` made them.
    """
    path, cure = folder / CONFIG, f"take {CONFIG} from what `fd-flower keys` made"
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = f"there is no file {path}" if folder.is_dir() else f"there is no folder {folder}"
        yield Finding(CONFIG, what, cure)
        return
    except OSError as error:
        yield Finding(CONFIG, f"{path} cannot be read ({error.strerror})", "run this as the SuperNode's user")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        yield Finding(CONFIG, f"{path} is no TOML: {' '.join(str(error).split())}", f"set it right, or {cure}")
        return
    yield from _client(config)
    yield _key(folder / KEY)
    yield from _server(str(config.get("superlink", "")), folder / AUTHORITY)


def _client(config: dict[str, Any]) -> Iterator[Finding]:
    """Answer the handshake as a run would receive it."""
    if HOSTS in config:
        yield from _host(config)
        return
    lacking = [key for key in DEVICE_KEYS if key not in config]
    if lacking:
        yield Finding(CONFIG, f"lacks {', '.join(lacking)}", f"give {', '.join(lacking)} in {CONFIG}")
        return
    answer = _introduction(config)
    if "refused" in answer:
        yield Finding("device", str(answer["refused"]), f"set it right in {CONFIG}")
        return
    client = answered(str(answer["id"]), answer)
    yield Finding("client", f"{client.id}: model {client.model}, {client.features} features")
    there = sum(n > 0 for n in client.counts)
    held = f"{client.examples} rows to train on, {there} of {client.classes} classes"
    yield Finding("data", f"{config['data-path']}: {held}")
    yield _state(config)


def _host(config: dict[str, Any]) -> Iterator[Finding]:
    """Answer the handshake for a share of the simulated clients; their data are the run's."""
    answer = _introduction(config)
    if "refused" in answer:
        yield Finding("host", str(answer["refused"]), f"set it right in {CONFIG}")
        return
    yield Finding("host", f"share {answer['share']!s} of the clients that a run simulates")
    yield _state(config)


def _introduction(config: dict[str, Any]) -> ConfigRecord:
    run = settings("local", "data.public=none privacy.sum=masks")
    shown = ConfigRecord({"settings": run.text, "state": "", "run-key": secrets.token_hex(8)})
    return introduction(shown, Context(0, 0, config, RecordDict(), {}))


def _state(config: dict[str, Any]) -> Finding:
    free = shutil.disk_usage(config["state-dir"]).free
    cure = "" if free > ROOM else "make room: every client keeps two copies of its model there"
    return Finding("state", f"{config['state-dir']}: {free / 2**30:.1f} GiB free", cure)


def _key(path: Path) -> Finding:
    if not path.is_file() or not os.access(path, os.R_OK):
        return Finding("key", f"{path} cannot be read", "run this as the SuperNode's user, who must own the key")
    open_to = stat.S_IMODE(path.stat().st_mode) & 0o077
    return Finding("key", f"{path}", f"others can read it: chmod 600 {path}" if open_to else "")


def _server(address: str, authority: Path) -> Iterator[Finding]:
    """Go to the server as a SuperNode does, and compare clocks."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        yield Finding("server", f"superlink is '{address}'", f'give superlink = "HOST:PORT" in {CONFIG}')
        return
    try:
        trust = ssl.create_default_context(cafile=str(authority))
        connection = HTTPSConnection(host, int(port), timeout=PATIENCE, context=trust)
        connection.connect()
        certificate = x509.load_der_x509_certificate(connection.sock.getpeercert(binary_form=True))  # type: ignore
        ahead = _ahead(connection)
        connection.close()
    except ssl.SSLCertVerificationError as error:
        cure = f"take ca.crt of this server's federation, or name {host} in `fd-flower keys DIR --host {host}`"
        yield Finding("server", f"{address}: {error.verify_message}", cure)
        return
    except (OSError, HTTPException) as error:
        reason = "no such host" if isinstance(error, socket.gaierror) else str(error) or type(error).__name__
        yield Finding("server", f"{address}: {reason}", "start the SuperLink, and let this machine through to its port")
        return
    days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
    cure = "" if days >= EXPIRES else f"make another on the server: fd-flower keys DIR --host {host}"
    yield Finding("server", f"{address}: its certificate is good for {days} days", cure)
    if ahead is not None:
        yield _clock(*ahead)


def _ahead(connection: HTTPSConnection) -> tuple[float, float] | None:
    """Return by how many seconds this clock is ahead of the server's: at least, at most; None where it has none.

    The server wrote its time between request and reply, in whole seconds, and may have kept it for another one: what
    all answers allow.
    """
    least, most = -math.inf, math.inf
    for _ in range(ASKED):
        sent = time.time()
        connection.request("GET", "/")
        response = connection.getresponse()
        came = time.time()
        response.read()
        date = response.getheader("Date")
        if date is None:
            return None
        told = parsedate_to_datetime(date).timestamp()
        least, most = max(least, sent - told - WHOLE - KEPT), min(most, came - told)
    return least, most


def _clock(least: float, most: float) -> Finding:
    """Judge by how many seconds this clock is ahead of the server's, beyond what cannot be measured."""
    cure = "set the clock (NTP): the SuperLink refuses what is signed in another time"
    if round(least) > 0:
        return Finding("clock", f"at least {least:.0f} s ahead of the server's", cure if least > AHEAD else "")
    if round(most) < 0:
        return Finding("clock", f"at least {-most:.0f} s behind the server's", cure if -most > BEHIND else "")
    return Finding("clock", f"as the server's, within {max(-least, most):.0f} s")
