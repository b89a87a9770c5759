"""Sums under BFV: exact, of one key, never of too many numbers, and closed to a server that computes."""

import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from helpers import curious_server
from helpers.secure_sums import Adding

from fd_flower.cli import main
from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.privacy import bfv, fixed
from fd_flower.privacy.messages import DECRYPT
from fd_flower.privacy.server_protocol import AggregationError
from fd_flower.wire import Weights, pack
from fd_flower.wire.sums import Encrypted, Opened

pytest.importorskip("tenseal", reason="needs the extra bfv: pip install 'fd-flower[bfv]'")

BFV = PrivacyConfig("bfv")
LENGTH = 9000  # two ciphertexts


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "bfv.key"
    bfv.make_key(path)
    return path


class Encrypting(Adding):
    """Clients with a common key; ``odd`` have another."""

    def __init__(self, folder: Path, key: Path, clients: int = 4, **more: Any) -> None:
        rows = more.pop("rows", torch.randn(clients, LENGTH, generator=torch.Generator().manual_seed(7)))
        self.odd: dict[str, Path | None] = more.pop("odd", {})
        self.key = key
        super().__init__(folder, rows, more.pop("config", BFV), **more)

    def party(self, name: str, **more: object) -> Any:
        return super().party(name, secret=self.odd.get(name, self.key))


def test_numbers_come_back_and_add_up_without_the_key(key: Path):
    """Exactly, to the last bit: 2^44 - 1 is the largest sum."""
    one, other = np.arange(LENGTH) - 4500, np.full(LENGTH, 2**43)
    other[0], other[1] = 2**44 - 1 + 4500, -(2**44 - 1) + 4499
    mine, adder = bfv.Key(key), bfv.Adder()
    encrypted = [mine.encrypt(whole) for whole in (one, other)]
    assert encrypted[0].sizes.tolist() == pytest.approx([bfv.CIPHERTEXT] * 2, rel=1e-3)
    total = bfv.packed(adder.add([adder.load(each) for each in encrypted]), mine.fingerprint, LENGTH)
    assert np.array_equal(mine.decrypt(total).numpy(), one + other)


@pytest.mark.parametrize("lost", [[], ["2"]])
def test_the_mean_of_the_survivors_is_opened_by_one_of_them(lost: list[str], tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key, lost={"train": lost})
    received = adding.round()
    there = [i for i in range(4) if str(i) not in lost]
    assert [c.id for c in received.clients] == [str(i) for i in there]
    point = fixed.places(4, 65536.0, bfv.BITS)
    whole = sum(fixed.whole(adding.rows[i].double() / 4, point, 65536.0) for i in there)
    (opened,) = (Opened.need(reply).values.numpy() for reply in adding.sent[DECRYPT].values())
    assert np.array_equal(opened, whole)
    found = Weights.need(received.content).values["w"]
    torch.testing.assert_close(found, adding.rows[there].mean(0), atol=1e-6, rtol=0)


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
    bfv.make_key(tmp_path / "other.key")
    adding = Encrypting(tmp_path, key, odd={"3": tmp_path / "other.key"})
    assert [c.id for c in adding.round().clients] == ["0", "1", "2"]
    assert "its key is" in adding.server.faults["3"]
    assert "give all one" in adding.server.faults["3"]


@pytest.mark.parametrize("length", [3, 8192])
def test_another_key_would_open_it_to_nonsense_and_nothing_of_it_is_sent(length: int, tmp_path: Path, key: Path):
    bfv.make_key(tmp_path / "other.key")
    mine, other = bfv.Key(key), bfv.Key(tmp_path / "other.key")
    encrypted = mine.encrypt(np.ones(length))
    with pytest.raises(InvalidInputError, match="give all clients one secret-key"):
        other.decrypt(encrypted)
    forged = Encrypted(encrypted.chunks, encrypted.sizes, bfv.table([other.fingerprint])[0], encrypted.length)
    with pytest.raises(InvalidInputError, match="decrypts to nonsense; nothing of it is sent"):
        other.decrypt(forged)


def spoiled(theirs: Encrypted, how: str) -> Encrypted:
    """Return a reply that holds no sum's ciphertexts."""
    chunks, sizes = theirs.chunks, theirs.sizes
    if how == "zeros":
        return Encrypted(chunks * 0, sizes, theirs.fingerprint, theirs.length)
    if how == "one less":
        return Encrypted(chunks[: int(sizes[0])], sizes[:1], theirs.fingerprint, theirs.length)
    if how == "cut":
        return Encrypted(chunks[:200], torch.tensor([100, 100]), theirs.fingerprint, theirs.length)
    import tenseal

    few = tenseal.bfv_vector(bfv._context(tenseal), [1, 2, 3]).serialize()  # under a key of its own
    return bfv.packed([few, few], theirs.fingerprint.numpy().tobytes(), LENGTH)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("zeros", "a ciphertext cannot be read"),
        ("cut", "a ciphertext cannot be read"),
        ("one less", "1 ciphertexts of 8192 numbers for 9000"),
        ("few", "a ciphertext has 3 numbers; expected 8192"),
    ],
)
def test_what_is_no_ciphertext_costs_its_client_alone(how: str, words: str, tmp_path: Path, key: Path):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        if (exchange, name) != ("train", "0"):
            return reply
        return RecordDict({**reply, **pack(spoiled(Encrypted.need(reply), how))})

    adding = Encrypting(tmp_path, key, spoil=spoil)
    assert [c.id for c in adding.round().clients] == ["1", "2", "3"]
    assert words in adding.server.faults["0"]


@pytest.mark.parametrize("values", [torch.zeros(3, dtype=torch.int64), torch.full((LENGTH,), -(2**63))])
def test_a_sum_that_is_none_is_opened_by_another(values: torch.Tensor, tmp_path: Path, key: Path):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        return pack(Opened(values)) if (exchange, name) == (DECRYPT, "1") else reply

    adding = Encrypting(tmp_path, key, spoil=spoil)
    torch.testing.assert_close(Weights.need(adding.round().content).values["w"], adding.rows.mean(0), atol=1e-5, rtol=0)
    assert "decrypted numbers, or some beyond the largest sum" in adding.server.faults["1"]


def test_a_client_opens_one_sum_a_round(tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key)
    adding.round()
    with pytest.raises(InvalidInputError, match="is at 'decrypted' of round 1"):
        adding.protocol("1", adding.received[DECRYPT]["1"]).answer(DECRYPT)


def test_more_than_two_million_numbers_are_refused_with_the_arithmetic():
    bfv.check_length(2_000_000)
    with pytest.raises(
        InvalidInputError, match=r"110,000,000 numbers are 13,428 ciphertexts of 131 kB, 1762 MB a client"
    ):
        bfv.check_length(110_000_000)


def test_what_would_wrap_is_refused():
    """Four clients of up to 8 add up to 2^5; with 38 bits more that is 2^43, with 39 it is beyond 2^44 - 1."""
    assert fixed.places(4, 8.0, bfv.BITS) == 38
    assert fixed.places(100, 65536.0, bfv.BITS) == 21
    with pytest.raises(InvalidInputError, match=r"leave 4 of 45 bits after the point; .* privacy.range=67108863 or"):
        fixed.places(1024, 2.0**30 - 1, bfv.BITS)


@pytest.mark.parametrize("clients", [2, 100])
def test_the_largest_sum_is_right(clients: int):
    bfv.check_clients.__wrapped__(clients)


@pytest.mark.parametrize(("modulus", "clients"), [(288_230_376_150_876_161, 2), (1_125_899_906_826_241, 100)])
def test_a_modulus_that_is_too_large_is_found_out_at_the_start(
    modulus: int, clients: int, monkeypatch: pytest.MonkeyPatch
):
    """58 bits: one ciphertext's noise is beyond q / 2t = 2; 50 bits: the noise of 100 is; TenSEAL says nothing."""
    monkeypatch.setattr(bfv, "MODULUS", modulus)
    with pytest.raises(InvalidInputError, match=f"largest sum of {clients} clients decrypts to nonsense with this Ten"):
        bfv.check_clients.__wrapped__(clients)


def test_more_clients_than_the_noise_has_room_for_are_refused():
    with pytest.raises(InvalidInputError, match="adds up 2,000 clients at most, a round would ask 2,001"):
        bfv.check_clients(2001)


# --- what a curious server makes of what it has seen


def test_a_curious_server_cannot_read_one_client(tmp_path: Path, key: Path):
    """It knows c0 + c1 s = q m / t + e, and m of the sum exactly, but nothing of e: solving without e gives no key."""
    adding = Encrypting(tmp_path, key, rows=0.05 * torch.randn(4, 8192, generator=torch.Generator().manual_seed(3)))
    adding.round()
    (total,), (opened,) = (list(each[DECRYPT].values()) for each in (adding.received, adding.sent))
    (vector,) = bfv.Adder().load(Encrypted.need(total))
    ring = curious_server.Ring(curious_server.PRIME)
    secret = curious_server.bfv_secret(ring, vector, Opened.need(opened).values.numpy(), bfv.MODULUS)
    assert len(set(secret.tolist())) > 8000  # a key's are -1, 0 and 1
    (theirs,) = bfv.Adder().load(Encrypted.need(adding.sent["train"]["2"]))
    read = curious_server.bfv_read(ring, secret, theirs, bfv.MODULUS) / 2.0 ** fixed.places(4, 65536.0, bfv.BITS)
    hidden = adding.rows[2].double().numpy() / 4
    assert abs(read - hidden).max() > 1000
    assert abs(np.corrcoef(read, hidden)[0, 1]) < 0.05


def test_with_the_noise_the_same_server_would_read_a_client(tmp_path: Path, key: Path):
    """What is missing to the attack above is the noise alone: with the true key it reads what it read wrong there."""
    import tenseal

    context = tenseal.context_from(key.read_bytes().removeprefix(bfv.HEAD))
    numbers = np.arange(8192) - 4096
    vector = tenseal.bfv_vector(context, numbers.tolist())
    ring = curious_server.Ring(curious_server.PRIME)
    secret = curious_server.secret_of(ring, context)
    assert set(secret.tolist()) == {-1, 0, 1}
    assert np.array_equal(curious_server.bfv_read(ring, secret, vector, bfv.MODULUS), numbers)


def test_under_an_approximate_scheme_the_same_server_reads_a_client():
    """Two ciphertexts' worth of the decrypted sum give CKKS's secret key."""
    import tenseal

    context, scale = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 60]), 2.0**36
    rows = 0.05 * np.random.default_rng(0).standard_normal((3, 2, curious_server.SLOTS))
    clients = [[tenseal.ckks_vector(context, half.tolist(), scale) for half in row] for row in rows]
    sums = [one + other + third for one, other, third in zip(*clients, strict=True)]
    seen = [(vector, np.array(vector.decrypt())) for vector in sums]
    ring = curious_server.Ring(curious_server.PRIME)
    secret = curious_server.ckks_secret(ring, seen, scale)
    assert set(secret.tolist()) == {-1, 0, 1}
    read = [curious_server.ckks_read(ring, secret, vector, scale) for vector in clients[2]]
    assert abs(np.array(read) - rows[2]).max() < 1e-6


def test_a_key_is_its_owners_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["keys", str(tmp_path / "k"), "--bfv"]) == 0
    made = tmp_path / "k" / "bfv.key"
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert main(["keys", str(tmp_path / "k"), "--bfv"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_file_without_a_key_says_so(tmp_path: Path, key: Path):
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(InvalidInputError, match=f"secret-key {path} cannot be read"):
            bfv.Key(path)
    import tenseal

    context = tenseal.context_from(key.read_bytes().removeprefix(bfv.HEAD))
    context.make_context_public()
    (tmp_path / "public").write_bytes(bfv.HEAD + context.serialize())
    with pytest.raises(InvalidInputError, match="holds no secret key"):
        bfv.Key(tmp_path / "public")
    (tmp_path / "foreign").write_bytes(tenseal.context(tenseal.SCHEME_TYPE.BFV, 4096, 1032193).serialize())
    with pytest.raises(InvalidInputError, match="is no key of these parameters; make one by `fd-flower keys"):
        bfv.Key(tmp_path / "foreign")


def test_without_tenseal_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'fd-flower\[bfv\]'"):
        bfv.tenseal()


def test_a_client_without_a_key_says_where_it_is_named(tmp_path: Path, key: Path):
    adding = Encrypting(tmp_path, key, odd={"3": None})
    adding.round()
    assert "name its file in node-config, secret-key=/path" in adding.errors["3"]
