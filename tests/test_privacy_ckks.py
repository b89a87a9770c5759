"""Sums under CKKS: near enough, of one key, and never of too many numbers."""

import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import RecordDict
from helpers.secure_sums import Adding

from fd_flower.cli import main
from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import ckks
from fd_flower.privacy.messages import DECRYPT
from fd_flower.privacy.server_protocol import AggregationError
from fd_flower.wire import Weights, pack
from fd_flower.wire.sums import Encrypted

pytest.importorskip("tenseal", reason="needs the extra ckks: pip install 'fd-flower[ckks]'")

CKKS = PrivacyConfig("ckks")
LENGTH = 5000  # two ciphertexts


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "ckks.key"
    ckks.make_key(path)
    return path


class Encrypting(Adding):
    """Clients with a common key; ``odd`` have another."""

    def __init__(self, folder: Path, key: Path, clients: int = 4, **more: Any) -> None:
        rows = torch.randn(clients, LENGTH, generator=torch.Generator().manual_seed(7))
        self.odd: dict[str, Path | None] = more.pop("odd", {})
        self.key = key
        super().__init__(folder, rows, more.pop("config", CKKS), **more)

    def party(self, name: str, **more: object) -> Any:
        return super().party(name, secret=self.odd.get(name, self.key))


def test_numbers_come_back_and_add_up_without_the_key(key: Path):
    one, other = torch.linspace(-3, 3, LENGTH).double(), torch.full((LENGTH,), 0.5).double()
    mine = ckks.Key(key)
    encrypted = [mine.encrypt(values, 36) for values in (one, other)]
    assert len(encrypted[0].sizes) == 2
    torch.testing.assert_close(mine.decrypt(ckks.Adder().add(encrypted)), one + other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("lost", [[], ["2"]])
def test_the_mean_of_the_survivors_is_opened_by_one_of_them(lost: list[str], tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key, lost={"train": lost})
    received = adding.round()
    there = [i for i in range(4) if str(i) not in lost]
    assert [c.id for c in received.clients] == [str(i) for i in there]
    found = Weights.need(received.content).values["w"]
    torch.testing.assert_close(found, adding.rows[there].mean(0), atol=1e-5, rtol=0)
    assert len(adding.received[DECRYPT]) == 1


def test_another_client_opens_it_where_one_does_not(tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key, lost={DECRYPT: ["1"]})  # round 1 begins with client 1
    assert len(adding.round().clients) == 4
    assert list(adding.received[DECRYPT]) == ["1", "2"]


def test_where_nobody_opens_it_the_round_is_lost(tmp_path: Path, key: Path):
    with pytest.raises(AggregationError, match="none of 3 clients opened the encrypted sum"):
        Encrypting(tmp_path, key, lost={DECRYPT: ["0", "1", "2", "3"]}).round()


def test_below_the_threshold_a_round_is_lost(tmp_path: Path, key: Path):
    with pytest.raises(AggregationError, match=r"2 of 4 clients; privacy.threshold=0.667 needs 3"):
        Encrypting(tmp_path, key, lost={"train": ["0", "1"]}).round()


def test_a_reply_under_another_key_is_left_out_and_named(tmp_path: Path, key: Path):
    ckks.make_key(tmp_path / "other.key")
    adding = Encrypting(tmp_path, key, odd={"3": tmp_path / "other.key"})
    assert [c.id for c in adding.round().clients] == ["0", "1", "2"]
    assert "its key is" in adding.server.faults["3"]
    assert "give all one" in adding.server.faults["3"]


def test_another_key_would_open_it_to_garbage_and_is_refused(tmp_path: Path, key: Path):
    ckks.make_key(tmp_path / "other.key")
    mine, other = ckks.Key(key), ckks.Key(tmp_path / "other.key")
    encrypted = mine.encrypt(torch.ones(3).double(), 36)
    with pytest.raises(InvalidInputError, match="give all clients one secret-key"):
        other.decrypt(encrypted)
    forged = ckks.packed(ckks.parts_of(encrypted), other.fingerprint, 3)
    assert float(other.decrypt(forged)[:3].abs().max()) > 1000


def test_what_is_no_ciphertext_loses_the_round_in_words(tmp_path: Path, key: Path):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        if (exchange, name) != ("train", "0"):
            return reply
        theirs = Encrypted.need(reply)
        zeros = Encrypted(theirs.chunks * 0, theirs.sizes, theirs.fingerprint, theirs.length)
        return RecordDict({**reply, **pack(zeros)})

    with pytest.raises(AggregationError, match="the encrypted replies do not add up"):
        Encrypting(tmp_path, key, spoil=spoil).round()


def test_a_client_opens_one_sum_a_round(tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key)
    adding.round()
    with pytest.raises(InvalidInputError, match="is at 'decrypted' of round 1"):
        adding.protocol("1", adding.received[DECRYPT]["1"]).answer(DECRYPT)


def test_more_than_two_million_numbers_are_refused_with_the_arithmetic():
    ckks.check_length(2_000_000)
    with pytest.raises(
        InvalidInputError, match=r"110,000,000 numbers are 26,856 ciphertexts of 131 kB, 3524 MB a client"
    ):
        ckks.check_length(110_000_000)


def test_what_would_wrap_is_refused():
    """Four clients of up to 8: 2^5, of 2^59 that leaves more than the 40 bits that are used."""
    assert ckks.point(4, 8.0) == 40
    assert ckks.point(100, 65536.0) == 36
    with pytest.raises(InvalidInputError, match=r"leave 10 bits after the point under CKKS"):
        ckks.point(1024, 2.0**39)


def test_a_key_is_its_owners_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", str(tmp_path / "k"), "--ckks"]) == 0
    made = tmp_path / "k" / "ckks.key"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert main(["keys", str(tmp_path / "k"), "--ckks"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_file_without_a_key_says_so(tmp_path: Path, key: Path):
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(InvalidInputError, match=f"secret-key {path} cannot be read"):
            ckks.Key(path)
    import tenseal

    context = tenseal.context_from(key.read_bytes())
    context.make_context_public()
    (tmp_path / "public").write_bytes(context.serialize())
    with pytest.raises(InvalidInputError, match="holds no secret key"):
        ckks.Key(tmp_path / "public")


def test_without_tenseal_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'fd-flower\[ckks\]'"):
        ckks.tenseal()


def test_a_client_without_a_key_says_where_it_is_named(tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key, odd={"3": None})
    adding.round()
    assert "name its file in node-config, secret-key=/path" in adding.errors["3"]
