"""What a technician does next, with the federation's own names: the lines that `keys` prints."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from fd_flower.cli.deploy import SETTLED
from fd_flower.cli.deploy import clients as held
from fd_flower.core.share import Share


def after_keys(folder: Path, clients: Sequence[str], *, hosts: bool, first: bool) -> Iterator[str]:
    """Yield the lines of what is left to do once keys were made.

    Parameters
    ----------
    folder : Path
        What ``keys`` made.
    clients : Sequence[str]
        The clients, or the names of shares, that this call was about.
    hosts : bool
        Whether the server's certificate is new.
    first : bool
        Whether the folder is new, so that the server does not run yet.
    """
    settled = json.loads((folder / SETTLED).read_text(encoding="utf-8"))
    server, port, command = settled["SERVER"], settled["PORT"], f"{settled['VENV']}/bin/fd-flower"
    yield "On the server, as root:"
    yield f"  chown -R fd-flower: {folder}"
    if first:
        yield f"  cp {folder}/server/fd-flower-superlink.service /etc/systemd/system/"
        yield "  systemctl daemon-reload && systemctl enable --now fd-flower-superlink"
    elif hosts:
        yield "  systemctl restart fd-flower-superlink    # the certificate is new"
    if clients:
        yield f"  sudo -u fd-flower {command} register {folder}"
        yield ""
        yield f"Firewall of the server, port {port} (TCP): allow the devices and those who start runs, and no one else."
        yield f"  ufw allow proto tcp from ADDRESS to any port {port}    # Debian, Ubuntu"
        rule = f"rule family=ipv4 source address=ADDRESS port port={port} protocol=tcp accept"
        yield f"  firewall-cmd --permanent --add-rich-rule='{rule}' && firewall-cmd --reload    # Fedora, RHEL"
        yield "Devices need no open port: they call the server."
        yield ""
        others = f" (on {', '.join(clients[1:])} the same, each with its own id)" if clients[1:] else ""
        share = Share.of_name(clients[0])
        yield f"On {f'the host of {clients[0]}' if share else clients[0]}, as root{others}:"
        yield f"  scp -r {server}:{folder}/clients/{clients[0]} /etc/fd-flower && chown -R fd-flower: /etc/fd-flower"
        what = "device: its GPU" if share else "data-path: where its images lie"
        yield f"  editor /etc/fd-flower/node.toml    # {what}"
        yield f"  sudo -u fd-flower {command} doctor --node /etc/fd-flower"
        yield "  cp /etc/fd-flower/fd-flower-supernode.service /etc/systemd/system/"
        yield "  systemctl daemon-reload && systemctl enable --now fd-flower-supernode"
        yield ""
        yield from _runs_of_hosts(folder, command) if share else _runs_of_devices(folder, command)
    yield ""
    yield "Secret: ca.key and server/server.key, which stay on the server, and clients/ID/client.key, which goes to"
    yield "that device alone. Anyone with ca.key can impersonate the server. All other files are public."
    yield ""


def _runs_of_devices(folder: Path, command: str) -> Iterator[str]:
    yield "Public samples, for methods that need them (fedmd, feddf, ...): a folder, at one path on every machine."
    yield f"  {command} public /srv/public    # prints the lines that bring it to devices"
    yield ""
    yield "A run, on the server:"
    yield f"  cd /var/lib/fd-flower && sudo -H -u fd-flower {command} run fedmd --on {folder} \\"
    yield f"      --set 'server.nodes={len(held(folder))} data.public=/srv/public'"


def _runs_of_hosts(folder: Path, command: str) -> Iterator[str]:
    yield "Data: data.source names a dataset, or a folder at one path on the server and every host."
    yield "A run, on the server:"
    yield f"  cd /var/lib/fd-flower && sudo -H -u fd-flower {command} run fedmd --on {folder} \\"
    yield "      --set 'data.clients=1000 data.source=/srv/data'"
