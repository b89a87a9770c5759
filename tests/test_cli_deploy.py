"""`keys` writes what a server and its devices are started by; `doctor --node` looks at a device."""

import configparser
import shlex
import ssl
import threading
import time
import tomllib
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.deployment import partitions

from fd_flower.cli import device, federation, flower, keys, main
from fd_flower.cli import run as runs
from fd_flower.config import settings

TINY = "data.clients=3 data.public=noise data.limit=200"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Make a federation of two devices."""
    folder = tmp_path / "lab"
    words = ["--host", "lab-server", "--client", "0", "--client", "ward-7", "--port", "9443", "--venv", "/opt/venv"]
    assert main(["keys", str(folder), *words]) == 0
    return folder


def unit(path: Path) -> configparser.SectionProxy:
    """Return the [Service] of a unit, its continued lines joined."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(path.read_text().replace("\\\n", ""))
    return parser["Service"]


# --- what is written


def test_the_superlink_is_started_with_tls_authentication_and_a_database(made: Path):
    command = shlex.split(unit(made / "server" / "fd-flower-superlink.service")["ExecStart"])
    assert command[0] == "/opt/venv/bin/flower-superlink"
    options = dict(pairwise(command))
    assert options["--port"] == "9443"
    assert Path(options["--ssl-ca-certfile"]).is_file()
    assert Path(options["--ssl-certfile"]).is_file()
    assert Path(options["--ssl-keyfile"]).is_file()
    assert "--enable-supernode-auth" in command
    assert "--disable-runtime-dependency-installation" in command
    assert "--database" in command
    assert "--insecure" not in command


def test_a_supernode_is_started_with_its_key_and_again_until_the_superlink_takes_it(made: Path):
    own = made / "clients" / "ward-7"
    service = unit(own / "fd-flower-supernode.service")
    command = shlex.split(service["ExecStart"])
    assert command[:3] == ["/opt/venv/bin/flower-supernode", "--superlink", "lab-server:9443"]
    assert "/etc/fd-flower/client.key" in command
    assert "/etc/fd-flower/ca.crt" in command
    assert service["Restart"] == "always"
    assert 0 < int(service["RestartSec"]) < 60
    assert "StartLimitIntervalSec=0" in (own / "fd-flower-supernode.service").read_text()
    config = tomllib.loads((own / "node.toml").read_text())
    assert (config["client-id"], config["superlink"]) == ("ward-7", "lab-server:9443")


def test_nothing_is_left_to_fill_in(made: Path):
    for path in [p for p in made.rglob("*") if p.suffix in (".service", ".yaml", ".toml")]:
        assert "@" not in path.read_text(), path


def test_compose_files_say_what_the_units_say(made: Path):
    for folder, name in ((made, "superlink"), (made / "clients" / "0", "supernode")):
        service = yaml.safe_load((folder / "compose.yaml").read_text())["services"][name]
        assert service["restart"] == "always"
        assert service["command"][0] == f"flower-{name}"
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (folder / volume.split(":")[0]).exists()


def test_a_client_that_is_added_gets_the_same_services_and_no_edit_is_lost(made: Path):
    edited = made / "clients" / "0" / "node.toml"
    edited.write_text('client-id = "0"\n')
    assert main(["keys", str(made), "--client", "late"]) == 0
    assert edited.read_text() == 'client-id = "0"\n'
    assert "lab-server:9443" in (made / "clients" / "late" / "fd-flower-supernode.service").read_text()
    assert list(yaml.safe_load((made / "allow.yaml").read_text())) == ["0", "late", "ward-7"]


def test_registering_without_keys_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["register", str(tmp_path)]) == 2
    assert "holds no clients' keys; make them: fd-flower keys" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "said", "ends"),
    [
        (0, '{"success": true, "node-id": 17}', ["0: registered", "ward-7: registered"]),
        (
            0,
            '{"success": false, "error-message": "[code: 23] Public key already in use."}',
            ["0: was registered already", "ward-7: was registered already"],
        ),
    ],
)
def test_registering_twice_does_no_harm(
    status: int, said: str, ends: list[str], made: Path, monkeypatch: pytest.MonkeyPatch
):
    flwr = made / "flwr.sh"
    flwr.write_text(f"#!/bin/sh\necho '{said}'\nexit {status}\n")
    flwr.chmod(0o700)
    monkeypatch.setattr(federation, "program", lambda name: str(flwr))
    monkeypatch.setattr(federation, "_wait", lambda folder, limit=0.0: None)
    assert list(federation.register(made)) == ends


# --- a device's doctor


class Server(BaseHTTPRequestHandler):
    """What answers on the server's port, with a clock of its own."""

    late = 0.0

    def do_GET(self) -> None:
        self.send_response_only(404)
        self.send_header("Date", formatdate(time.time() + self.late, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *about: Any) -> None:
        return


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """Serve with a federation's certificate on loopback; return the federation's folder and the port."""
    folder = tmp_path_factory.mktemp("lab")
    keys.make(folder, ["127.0.0.1"], ["0"], days=30)
    server = HTTPServer(("127.0.0.1", 0), Server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server" / "server.crt", folder / "server" / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return partitions(tmp_path_factory.mktemp("data"), settings("local", TINY))["0"]


@pytest.fixture
def node(lab: tuple[Path, int], rows: Path, tmp_path: Path) -> Path:
    """Return a device's folder in which everything is right."""
    folder, port = lab
    for name in ("client.key", "ca.crt"):
        (tmp_path / name).write_bytes((folder / "clients" / "0" / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    configure(tmp_path, rows, port)
    return tmp_path


def configure(node: Path, rows: Path, port: int, **change: str) -> None:
    config = {
        "client-id": "0",
        "data-path": str(rows),
        "state-dir": f"{node}/state",
        "superlink": f"127.0.0.1:{port}",
        "model": "mlp",
        **change,
    }
    (node / "node.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in config.items() if value))


def broken(node: Path) -> dict[str, str]:
    """Return what is found broken, with its cure."""
    return {finding.what: f"{finding.found}; {finding.cure}" for finding in device.findings(node) if finding.cure}


def test_a_device_in_order_is_found_so(node: Path, capsys: pytest.CaptureFixture[str]):
    found = {finding.what: finding.found for finding in device.findings(node)}
    assert broken(node) == {}
    assert list(found) == ["client", "data", "state", "key", "server", "clock"]
    assert found["client"].startswith("0: model mlp")
    assert "of 10 classes" in found["data"]
    assert "good for 29 days" in found["server"]
    status = main(["doctor", "--node", str(node)])
    said = capsys.readouterr().out
    assert status == 0, said
    assert "federation-config" not in said


@pytest.mark.parametrize(
    ("change", "what", "told"),
    [
        ({"data-path": "/nowhere"}, "device", "there is no folder /nowhere"),
        ({"model": "resnet9"}, "device", "resnet9"),
        ({"state-dir": "/dev/null/state"}, "device", "cannot be written"),
        ({"client-id": ""}, "node.toml", "lacks client-id"),
        ({"superlink": "lab"}, "server", "superlink is 'lab'"),
        ({"superlink": "127.0.0.1:1"}, "server", "start the SuperLink"),
    ],
)
def test_what_is_wrong_with_a_device_is_named_with_its_cure(
    change: dict[str, str], what: str, told: str, node: Path, rows: Path, lab: tuple[Path, int]
):
    configure(node, rows, lab[1], **change)
    found = broken(node)
    assert list(found) == [what]
    assert told in found[what]


def test_a_key_that_others_can_read_is_named(node: Path):
    (node / "client.key").chmod(0o644)
    assert "chmod 600" in broken(node)["key"]


def test_another_federations_server_is_named(node: Path, tmp_path: Path):
    keys.make(tmp_path / "other", ["127.0.0.1"], [], days=1)
    (node / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    assert "take ca.crt of this server's federation" in broken(node)["server"]


@pytest.mark.parametrize(("late", "fits"), [(-60.0, False), (60.0, True), (400.0, False)])
def test_clocks_may_differ_as_much_as_flower_lets_them(
    late: float, fits: bool, node: Path, monkeypatch: pytest.MonkeyPatch
):
    """A device may be 5 s ahead of the SuperLink, and 300 s behind."""
    monkeypatch.setattr(Server, "late", late)
    assert ("clock" not in broken(node)) == fits


@pytest.mark.parametrize(
    ("least", "most", "told", "fits"),
    [
        (-1.9, 0.1, "as the server's, within 2 s", True),
        (-31.0, 29.0, "as the server's, within 31 s", True),  # the answer took half a minute
        (3.0, 5.0, "at least 3 s ahead of the server's", True),
        (6.0, 8.0, "at least 6 s ahead of the server's", False),
        (-290.0, -280.0, "at least 280 s behind the server's", True),
        (-312.0, -310.0, "at least 310 s behind the server's", False),
    ],
)
def test_a_clock_is_judged_beyond_what_the_round_trip_hides(least: float, most: float, told: str, fits: bool):
    found = device._clock(least, most)
    assert (found.found, not found.cure) == (told, fits)


class Slow:
    """A connection of seconds: the server answers in this many, by its date of a moment ago."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: list[float], ahead: float) -> None:
        self.now, self.seconds, self.ahead = 1_000_000.4, seconds, ahead
        monkeypatch.setattr(device.time, "time", lambda: self.now)

    def request(self, *about: str) -> None:
        self.date = formatdate(self.now - self.ahead, usegmt=True)

    def getresponse(self) -> "Slow":
        self.now += self.seconds.pop(0)
        return self

    def read(self) -> None:
        return

    def getheader(self, name: str) -> str:
        return self.date


@pytest.mark.parametrize(("ahead", "expected"), [(0.0, (-1.5, 0.5)), (100.0, (98.5, 100.5))])
def test_the_quickest_of_some_answers_says_how_far_a_clock_is_ahead(
    ahead: float, expected: tuple[float, float], monkeypatch: pytest.MonkeyPatch
):
    """The second answer comes after 0.1 s, at .5; the third is asked then, and its date may be of a second before."""
    connection: Any = Slow(monkeypatch, [20.0, 0.1, 7.0], ahead)
    assert device._ahead(connection) == pytest.approx(expected)


def test_a_certificate_at_its_end_is_named(node: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device, "EXPIRES", 31)
    assert "make another on the server" in broken(node)["server"]


def test_a_device_without_a_configuration_is_told_where_to_get_it(tmp_path: Path):
    found = broken(tmp_path)["node.toml"]
    assert found == f"there is no file {tmp_path / 'node.toml'}; take node.toml from what `fd-flower keys` made"
    assert broken(tmp_path / "gone")["node.toml"].startswith(f"there is no folder {tmp_path / 'gone'}; take")
    (tmp_path / "node.toml").write_text("client-id = ward-7")
    assert f"{tmp_path / 'node.toml'} is no TOML: Invalid value" in broken(tmp_path)["node.toml"]


# --- a run on devices


def test_a_run_on_devices_has_their_allow_list_and_their_superlink(made: Path, tmp_path: Path):
    order = runs.order("fd", [], None, "local", tmp_path / "run", "", made)
    assert order.engine == "flower"
    assert order.settings.server.allow == str(made / "allow.yaml")
    assert order.to_go_on.endswith(f"--on {made}")
    own = runs.order("fd", ["server.allow=/mine.yaml"], None, "local", tmp_path / "run", "", made)
    assert own.settings.server.allow == "/mine.yaml"


def test_a_run_on_devices_that_nobody_made_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "fd", "--on", str(tmp_path)]) == 2
    assert f"{tmp_path} holds no federation; make one: fd-flower keys {tmp_path}" in capsys.readouterr().err


def test_the_runs_number_is_what_flower_said(tmp_path: Path):
    log = tmp_path / "flower.log"
    log.write_text("🎊 Successfully started run 1234567890123456789\nINFO: ...\n", encoding="utf-8")
    assert flower._number(log) == "1234567890123456789"
    log.write_text("Error: no connection\n")
    assert flower._number(log) is None
