"""Who may speak for a client: the allow-list, and what a reply may weigh."""

import re
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from helpers.grids import Spoilt, devices, hosts
from helpers.tiny import rounds, start_toy

from fd_flower import methods
from fd_flower.cli import keys
from fd_flower.cli.app import main
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.keys import allowed, refusal
from fd_flower.engine import InProcessGrid


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make keys of a federation of two."""
    folder = tmp_path_factory.mktemp("keys")
    keys.make(folder, ["lab-server", "10.0.0.5"], ["0", "ward-7"], days=30)
    return folder


def pem(folder: Path, client: str) -> bytes:
    """Return a client's public key as Flower shows it."""
    public = load_ssh_public_key((folder / "clients" / client / "client.pub").read_bytes())
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Keyed(InProcessGrid):
    """A grid that shows its nodes' keys."""

    def __init__(self, shown: dict[int, bytes], *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._shown = shown

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, public_key=key) for node, key in self._shown.items()]


def keyed(shown: dict[int, bytes], state: Path, *ids: str) -> Keyed:
    configs = [{"client-id": name, "data-path": "/toys", "state-dir": str(state)} for name in ids]
    return Keyed(shown, methods.client_app("fd"), run_config={"task": "helpers.tasks:task"}, node_configs=configs)


# --- keys


def test_a_device_gets_its_key_and_the_authoritys_certificate_and_no_more(made: Path):
    assert sorted(p.name for p in (made / "clients" / "ward-7").iterdir()) == ["ca.crt", "client.key", "client.pub"]
    for secret in (made / "ca.key", made / "server" / "server.key", made / "clients" / "0" / "client.key"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_the_servers_certificate_is_signed_and_names_the_server(made: Path):
    server = x509.load_pem_x509_certificate((made / "server" / "server.crt").read_bytes())
    authority = x509.load_pem_x509_certificate((made / "ca.crt").read_bytes())
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lab-server"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days == 30


def test_flower_takes_the_keys(made: Path):
    key = load_ssh_public_key((made / "clients" / "0" / "client.pub").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"  # a NIST curve


def test_a_second_call_adds_clients_and_keeps_what_is_there(tmp_path: Path):
    keys.make(tmp_path, ["localhost"], ["a"], days=1)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "allow.yaml"}
    keys.make(tmp_path, [], ["b"], days=1)
    assert all(p.read_bytes() == content for p, content in before.items())
    assert list(allowed(str(tmp_path / "allow.yaml")) or ()) == ["a", "b"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "localhost", "--client", "../up"], "client id '../up' makes no folder's name"),
        (["--client", "a"], "a server certificate needs a name: give --host"),
    ],
)
def test_what_cannot_be_made_is_told(words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", str(tmp_path / "keys"), *words]) == 2
    assert told in capsys.readouterr().err


# --- the allow-list


def test_the_list_is_read_as_it_is_written(made: Path):
    found = allowed(str(made / "allow.yaml"))
    assert found is not None
    assert list(found) == ["0", "ward-7"]
    assert len(set(found.values())) == 2


def test_ids_are_text_and_keys_may_be_pem(made: Path, tmp_path: Path):
    lines = pem(made, "0").decode().replace("\n", "\n  ")
    (tmp_path / "allow.yaml").write_text(f"007: |\n  {lines}")
    assert allowed(str(tmp_path / "allow.yaml")) == {"007": (allowed(str(made / "allow.yaml")) or {})["0"]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no client"),
        ("- a\n", "holds no client"),
        ("a: nonsense\n", "has no public key for client 'a'"),
        ("a:\n  b: c\n", "has no public key for client 'a'"),
        ("a: [\n", "cannot be read"),
        ("a: {key}\nb: {key}\n", "gives the key of client 'b' to another client, too"),
    ],
)
def test_a_list_that_says_nothing_is_refused(text: str, told: str, made: Path, tmp_path: Path):
    key = (made / "clients" / "0" / "client.pub").read_text().strip()
    path = tmp_path / "allow.yaml"
    path.write_text(text.replace("{key}", key))
    with pytest.raises(InvalidInputError, match=told) as caught:
        allowed(str(path))
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there_or_has_a_relative_path_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="cannot be read"):
        allowed(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(InvalidInputError, match=r"is the relative path 'allow\.yaml'; give an absolute one"):
        allowed("allow.yaml")


def test_who_may_speak_for_whom():
    allow, shown = {"a": b"A", "b": b"B"}, {1: b"A", 2: b"B", 3: b"C"}
    assert refusal("a", 1, allow, shown) == ""
    assert refusal("c", 1, allow, shown) == "client id 'c' is not in server.allow"
    assert "this node has the key of 'b'" in refusal("a", 2, allow, shown)
    assert "this node has no key of server.allow" in refusal("a", 3, allow, shown)
    assert "this node has no key of server.allow" in refusal("a", 4, allow, shown)


def test_a_node_that_claims_anothers_id_is_refused_even_where_it_comes_first(made: Path, tmp_path: Path):
    """Node 1 has the key of ward-7 and calls itself 0; node 2 is client 0, node 3 nobody of the list."""
    shown = {1: pem(made, "ward-7"), 2: pem(made, "0"), 3: b"no key"}
    grid = keyed(shown, tmp_path, "0", "0", "ward-7")
    strategy, _, lines = start_toy("fd", f"server.allow={made}/allow.yaml", grid)
    assert [c.id for c in strategy.clients] == ["0"]
    assert rounds(lines)[0]["replied"] == ["0"]
    assert strategy.refused == {
        "node 1": "client id '0' belongs to another key; this node has the key of 'ward-7'",
        "node 3": "client id 'ward-7' belongs to another key; this node has no key of server.allow",
    }


def test_hosts_speak_for_nobody_where_there_is_a_list(made: Path, tmp_path: Path):
    grid = Keyed({1: pem(made, "0")}, methods.client_app("fd"), run_config={"task": "helpers.tasks:task"})
    with pytest.raises(RunError, match=r"node 1: it hosts no share of its own, and server\.allow names"):
        start_toy("fd", f"server.allow={made}/allow.yaml", grid)


def test_a_grid_without_keys_cannot_have_a_list(made: Path, tmp_path: Path):
    with pytest.raises(
        InvalidInputError, match=r"server\.allow needs nodes with keys, which InProcessGrid does not show"
    ):
        start_toy("fd", f"server.allow={made}/allow.yaml", devices("fd", str(tmp_path), "0"))


# --- replies


def test_a_reply_that_weighs_too_much_is_left_out_unread():
    """Client 1 sends 2 MB where 1 MB is the most."""

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        more = {"junk": content["metrics"].copy()} if round else {}
        if (client, round) == ("1", 1):
            more["junk"]["numbers"] = [0.5] * (2 * 2**17)
        return RecordDict({**content, **more}) if (client, round) == ("1", 1) else content

    grid = InProcessGrid(Spoilt(methods.client_app("fd"), spoil))
    _, _, lines = start_toy("fd", "server.max_reply_mb=1", grid)
    first, second = rounds(lines)
    assert first["replied"] == ["0", "2"]
    assert first["failed"]["1"] == "its reply has 2.0 MB; server.max_reply_mb is 1"
    assert second["replied"] == ["0", "1", "2"]


def test_a_reply_that_comes_twice_counts_once():
    class Stuttering(InProcessGrid):
        def pull_messages(self, message_ids: Any) -> list[Message]:
            replies = super().pull_messages(message_ids)
            return [*replies, *replies]

    _, _, lines = start_toy("fd", "", Stuttering(methods.client_app("fd"), 3))
    assert [line["replied"] for line in rounds(lines)] == [["0", "1", "2"]] * 2
    _, _, once = start_toy("fd", "", hosts("fd", 3))
    assert rounds(lines)[-1]["bytes"] == rounds(once)[-1]["bytes"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"counts": ["many"]}, "'many' for 'counts'; expected whole numbers"),
        ({"examples": float("inf")}, "inf for 'examples'; expected whole numbers"),
        ({"counts": [-1, 1]}, "-1 for 'counts'; expected whole numbers from 0"),
        ({"role": "king"}, "its answer to the handshake cannot be read"),
    ],
)
def test_an_answer_to_the_roll_call_that_is_none_costs_that_node_alone(
    change: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from fd_flower.client import app

    honest = app.introduction

    def introduction(*asked: Any) -> Any:
        answer = honest(*asked)
        if answer["id"] == "1":
            answer.update(change)
        return answer

    monkeypatch.setattr(app, "introduction", introduction)
    strategy, _, lines = start_toy("fd", "", devices("fd", str(tmp_path), "0", "1", "2"))
    assert rounds(lines)[0]["replied"] == ["0", "2"]
    (reason,) = strategy.refused.values()
    assert re.search(told, reason)
