"""Double masking: the sum of the survivors is exact to the bit, and nothing else comes out."""

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from helpers.secure_sums import Adding

from fd_flower.cli import keys
from fd_flower.config import PrivacyConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.keys import allowed
from fd_flower.privacy import crypto, fixed, sharing
from fd_flower.privacy.mask_client import MaskClient, pair_masks
from fd_flower.privacy.messages import RECORD, SETUP, SHARE_KEYS, UNMASK
from fd_flower.privacy.server_protocol import AggregationError, least
from fd_flower.wire import Weights, pack
from fd_flower.wire.sums import Masked, SumKeys, SumShares, SumUnmask, read, table, text

MASKS = PrivacyConfig("masks")
EXCHANGES = (SETUP, SHARE_KEYS, "train", UNMASK)


def rows(clients: int, length: int = 50) -> torch.Tensor:
    return torch.randn(clients, length, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return the sums that servers open, as whole numbers."""
    seen: list[np.ndarray] = []
    decode = fixed.decode
    monkeypatch.setattr(fixed, "decode", lambda whole, point: seen.append(whole.copy()) or decode(whole, point))
    return seen


# --- its parts


def test_threshold_shares_give_a_secret_back_and_one_fewer_do_not():
    secret = bytes(range(16))
    shares = dict(enumerate(sharing.split(secret, 3, 5)))
    for places in ((0, 1, 2), (4, 2, 0), (1, 3, 4)):
        assert sharing.combine({p: shares[p] for p in places}, 3) == secret
    assert sharing.combine({p: shares[p] for p in (0, 1)}, 3) != secret
    assert sharing.combine(shares, 3) == secret  # more than enough are not too many


def test_a_share_of_zero_and_of_ones_are_as_good():
    for secret in (bytes(16), b"\xff" * 16):
        assert sharing.combine(dict(enumerate(sharing.split(secret, 2, 2))), 2) == secret


@pytest.mark.parametrize(("threshold", "clients", "number"), [(2 / 3, 3, 2), (2 / 3, 20, 14), (0.6, 5, 3), (1.0, 7, 7)])
def test_the_threshold_is_rounded_up_and_thirds_are_exact(threshold: float, clients: int, number: int):
    assert least(threshold, clients) == number


@pytest.mark.parametrize("bits", [32, 64])
def test_numbers_come_back_and_the_largest_sum_does_not_wrap(bits: int):
    """Three clients at the end of the range, either end: the sum is 3 x 2 = 6, not -2."""
    point = fixed.places(3, 2.0, bits)
    for number in (2.0, -2.0, 0.0, 2**-8):
        one = fixed.encode(torch.tensor([number], dtype=torch.float64), point, 2.0, bits)
        assert fixed.decode(one + one + one, point).tolist() == [3 * number]


def test_places_by_hand():
    """32 bits hold up to 2^31 - 1; 4 clients of up to 8 add up to 2^5: 25 bits are left, less than 2^31."""
    assert fixed.places(4, 8.0, 32) == 25
    assert 4 * 8 * 2**25 < 2**31 <= 4 * 8 * 2**26
    with pytest.raises(
        InvalidInputError, match=r"1000 clients .* privacy.range=65536 leave 5 of 32 bits .* privacy.range=8388 or"
    ):
        fixed.places(1000, 65536.0, 32)
    assert fixed.places(1000, 8388, 32) == 8  # what the line says will do


@pytest.mark.parametrize("bits", [32, 45, 64])
@pytest.mark.parametrize(("clients", "largest"), [(2, 1.0), (16, 4096.0), (128, 65536.0), (3, 0.1), (7, 1e-6)])
def test_the_largest_sum_fits_and_twice_as_much_does_not(clients: int, largest: float, bits: int):
    """Also where clients x range is a power of two: 2 x 1.0 with 62 places is 2^63, which is -2^63 modulo 2^64."""
    if clients * largest * 2**fixed.LEAST >= fixed.most(bits):
        with pytest.raises(InvalidInputError, match="bits after the point"):
            fixed.places(clients, largest, bits)
        return
    point = fixed.places(clients, largest, bits)
    (most,) = fixed.whole(torch.tensor([largest], dtype=torch.float64), point, largest).tolist()
    assert clients * most < 2 ** (bits - 1) <= clients * 2 * (most + 1) or point == bits - 1


@pytest.mark.parametrize(("number", "words"), [(2.1, "beyond privacy.range=2"), (float("nan"), "not finite")])
def test_a_number_that_does_not_fit_is_refused_and_not_cut(number: float, words: str):
    with pytest.raises(InvalidInputError, match=words):
        fixed.encode(torch.tensor([0.0, number], dtype=torch.float64), 20, 2.0, 64)


def test_masks_of_two_clients_cancel():
    seeds = {name: crypto.private_key(name.encode() * 16, b"") for name in "abc"}
    public = {name: crypto.public_key(key) for name, key in seeds.items()}
    masks = [pair_masks(name, seeds[name], public, "abc", b"run", 10, 64) for name in "abc"]
    assert all(np.any(mask) for mask in masks)
    assert not np.any(masks[0] + masks[1] + masks[2])


def test_a_sealed_share_fits_its_sender_its_receiver_and_nobody_else():
    one, other = bytes(range(32)), bytes(range(1, 33))
    key = crypto.agreed(one, crypto.public_key(other), "x", b"")
    assert key == crypto.agreed(other, crypto.public_key(one), "x", b"")
    sealed = crypto.seal(key, b"share", b"one to other")
    assert crypto.unseal(key, sealed, b"one to other") == b"share"
    assert crypto.unseal(key, sealed, b"other to one") is None
    assert crypto.unseal(key, sealed[:-1] + bytes([sealed[-1] ^ 1]), b"one to other") is None
    assert crypto.seal(key, b"share", b"one to other") != sealed
    with pytest.raises(InvalidInputError, match="cannot be used"):
        crypto.agreed(one, bytes(32), "x", b"")


# --- the sum


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("bits", [32, 64])
def test_with_six_of_twenty_lost_at_an_exchange_the_sum_of_the_others_is_exact(
    exchange: str, bits: int, tmp_path: Path, opened: list[np.ndarray]
):
    """Who is lost while the masks are taken off has its reply in the sum already."""
    gone = ["1", "4", "5", "9", "16", "19"]
    adding = Adding(tmp_path, rows(20), PrivacyConfig("masks", bits=bits, range=64.0), {exchange: gone})
    received = adding.round()
    there = [c for c in adding.clients if exchange == UNMASK or c.id not in gone]
    assert np.array_equal(opened[0], adding.whole(there))
    assert list(received.clients) == there
    assert received.examples == len(there)
    mean = adding.rows[[int(c.id) for c in there]].mean(0)
    torch.testing.assert_close(
        Weights.need(received.content).values["w"], mean, atol=1e-5 if bits == 32 else 1e-7, rtol=0
    )


def test_some_may_be_lost_at_every_exchange(tmp_path: Path, opened: list[np.ndarray]):
    lost = {SETUP: ["0"], SHARE_KEYS: ["1", "2"], "train": ["3"], UNMASK: ["4", "5"]}
    adding = Adding(tmp_path, rows(20), MASKS, lost)
    received = adding.round()
    assert [c.id for c in received.clients] == [str(i) for i in range(4, 20)]
    assert np.array_equal(opened[0], adding.whole(received.clients))


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_below_the_threshold_a_round_is_lost(exchange: str, tmp_path: Path):
    adding = Adding(tmp_path, rows(20), MASKS, {exchange: [str(i) for i in range(7)]})
    with pytest.raises(AggregationError, match=r"from 13 of 20 clients; privacy.threshold=0.667 needs 14"):
        adding.round()


def test_two_clients_are_enough_and_one_is_not(tmp_path: Path):
    assert len(Adding(tmp_path, rows(2), MASKS).round().clients) == 2
    with pytest.raises(InvalidInputError, match="a round asks one client, whose reply a sum cannot hide"):
        Adding(tmp_path, rows(1), MASKS).open()


def test_rounds_follow_each_other_with_new_keys(tmp_path: Path):
    adding = Adding(tmp_path, rows(3), MASKS)
    seen = []
    for number in (1, 2, 3):
        adding.round(number)
        seen.append(adding.sent[SETUP]["0"]["sum-keys"]["pair"].data)  # type: ignore[index]
    assert len(set(seen)) == 3


def test_what_leaves_a_client_has_nothing_to_do_with_what_it_hides(tmp_path: Path):
    adding = Adding(tmp_path, rows(4, 147_456), MASKS)
    adding.round()
    for name, reply in adding.sent["train"].items():
        masked = Masked.need(reply).values.double()
        plain = adding.rows[int(name)].double()
        assert abs(float(torch.corrcoef(torch.stack([masked, plain]))[0, 1])) < 0.01
        assert set(reply) == {"masked", "metrics"}


# --- what goes wrong


def flipped(content: RecordDict, kind: type, field: str, place: Any) -> RecordDict:
    """Return an answer with one bit of one table turned."""
    payload = kind.need(content)
    tensors = {key: tensor.clone() for key, tensor in payload.tensors().items()}
    tensors[field][place] ^= 1
    return RecordDict({**content, payload.name: kind.of(payload.name, tensors).record})


def test_a_share_that_is_changed_on_its_way_is_named_and_the_sum_is_right(tmp_path: Path, opened: list[np.ndarray]):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        return flipped(reply, SumShares, "sealed", (1, 20)) if (exchange, name) == (SHARE_KEYS, "2") else reply

    adding = Adding(tmp_path, rows(5), MASKS, spoil=spoil)
    received = adding.round()
    assert adding.server.faults == {"2": "its sealed share for client 1 was tampered with"}
    assert np.array_equal(opened[0], adding.whole(received.clients))


def test_a_share_that_is_changed_by_who_gives_it_back_is_named_and_the_sum_is_right(
    tmp_path: Path, opened: list[np.ndarray]
):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        return flipped(reply, SumUnmask, "shares", (3, 0)) if (exchange, name) == (UNMASK, "0") else reply

    adding = Adding(tmp_path, rows(5), MASKS, spoil=spoil)
    received = adding.round()
    assert adding.server.faults == {"0": "its share of client 3 is not the one that was committed to"}
    assert np.array_equal(opened[0], adding.whole(received.clients))


def test_too_many_changed_shares_lose_the_round_and_do_not_make_a_wrong_sum(tmp_path: Path):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        return flipped(reply, SumUnmask, "shares", (3, 0)) if exchange == UNMASK and name in "01" else reply

    with pytest.raises(AggregationError, match="good shares of client 3 have come from 3 of 5 clients"):
        Adding(tmp_path, rows(5), MASKS, spoil=spoil).round()


def test_a_client_that_shared_out_another_secret_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    split, drawn = sharing.split, []

    def lying(secret: bytes, threshold: int, number: int) -> list[bytes]:
        drawn.append(secret)
        return split(bytes(16) if len(drawn) == 2 else secret, threshold, number)  # client 0's own mask

    monkeypatch.setattr(sharing, "split", lying)
    with pytest.raises(AggregationError, match="client 0 shared out another secret than it used"):
        Adding(tmp_path, rows(3), MASKS).round()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.zeros(49, dtype=torch.int64), "49 hidden numbers; the sum has 50"),
        (torch.zeros(50, dtype=torch.int32), "-1 hidden numbers; the sum has 50"),
    ],
)
def test_a_masked_reply_of_another_size_is_left_out_and_named(
    values: torch.Tensor, words: str, tmp_path: Path, opened: list[np.ndarray]
):
    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        if (exchange, name) != ("train", "3"):
            return reply
        return RecordDict({**reply, **pack(Masked(values, Masked.need(reply).transcript))})

    adding = Adding(tmp_path, rows(4), MASKS, spoil=spoil)
    received = adding.round()
    assert adding.server.faults == {"3": words}
    assert np.array_equal(opened[0], adding.whole(received.clients))


def test_a_reply_with_fewer_numbers_does_not_leave_the_client(tmp_path: Path):
    adding = Adding(tmp_path, rows(4), MASKS)
    contents = adding.open()
    protocol = adding.protocol("0", contents[adding.clients[0]])
    with pytest.raises(InvalidInputError, match="the reply has 49 numbers; the sum has 50"):
        protocol.outgoing("train", adding.train(adding.rows[0][:49]))


def test_knowledge_that_is_not_summed_does_not_leave_the_client(tmp_path: Path):
    adding = Adding(tmp_path, rows(3), MASKS)
    contents = adding.open()
    reply = adding.train(adding.rows[0])
    protocol = adding.protocol("0", contents[adding.clients[0]])
    with pytest.raises(InvalidInputError, match="arrays would be sent without being summed"):
        protocol.outgoing("evaluate", reply)
    reply.update(pack(SumKeys(table([bytes(32)]), table([bytes(32)]), text([]))))
    with pytest.raises(InvalidInputError, match="sum-keys cannot be summed, so it is not sent"):
        protocol.outgoing("train", reply)


# --- what a client refuses to a server that lies


def asked(adding: Adding, name: str, survivors: Sequence[str]) -> SumUnmask:
    content = RecordDict(dict(adding.received[UNMASK][name]))
    content.update(pack(SumUnmask(text(list(survivors)), torch.zeros(0, 16, dtype=torch.uint8))))
    return SumUnmask.need(adding.protocol(name, content).answer(UNMASK))  # type: ignore[arg-type]


def test_a_client_gives_one_secret_of_each_client_once_and_never_the_other(tmp_path: Path):
    """Whoever has both of a client's secrets has what it hides."""
    adding = Adding(tmp_path, rows(6), MASKS)
    adding.round()
    for survivors in (["0", "1", "2", "3"], [str(i) for i in range(6)]):
        with pytest.raises(InvalidInputError, match=r"is at 'unmask' of round 1 and sends nothing more"):
            asked(adding, "0", survivors)


@pytest.mark.parametrize(
    ("survivors", "words"),
    [
        (["0", "1", "2"], "the sum contains 3 clients; expected 4"),
        (["1", "2", "3", "4", "5"], "expected 4, including this one"),
        (["0", "1", "2", "3", "9"], "contains client 9, which shared no seeds"),
    ],
)
def test_a_client_opens_no_sum_of_too_few_nor_of_strangers(survivors: list[str], words: str, tmp_path: Path):
    adding = Adding(tmp_path, rows(6), MASKS, {UNMASK: ["0", "1", "2"]})
    with pytest.raises(AggregationError):
        adding.round()
    with pytest.raises(InvalidInputError, match=words):
        asked(adding, "0", survivors)


def test_a_client_masks_one_reply_a_round(tmp_path: Path):
    adding = Adding(tmp_path, rows(3), MASKS)
    contents = adding.open()
    protocol = adding.protocol("0", contents[adding.clients[0]])
    protocol.outgoing("train", adding.train(adding.rows[0]))
    with pytest.raises(
        InvalidInputError, match="a secure sum continues from 'share keys' of round 1; this client is at 'masked input'"
    ):
        protocol.outgoing("train", adding.train(adding.rows[0]))


def test_a_client_that_hears_of_no_sum_says_nothing(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="the message has no secure sum"):
        Adding(tmp_path, rows(3), MASKS).protocol("0", RecordDict()).outgoing("train", RecordDict())


def roster(adding: Adding, **change: Any) -> RecordDict:
    """Return what client 0 is sent about everybody's keys, with something changed."""
    content = adding.received[SHARE_KEYS]["0"]
    keys, spec = SumKeys.need(content), dict(content[RECORD])  # type: ignore[call-overload]
    spec |= {key: value for key, value in change.items() if key in spec}
    lies = {key: value(getattr(keys, key)) for key, value in change.items() if key not in spec}
    tensors = {"channel": keys.channel, "pair": keys.pair, "about": keys.about, **lies}
    return RecordDict({**pack(SumKeys(**tensors)), RECORD: type(content[RECORD])(spec)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threshold": 3}, "a threshold of 3 of 6 clients; expected 2 or more, over half of all"),
        ({"threshold": 7}, "a threshold of 7 of 6"),
        ({"channel": lambda keys: keys.flip(0)}, "without this client's own"),
        ({"pair": lambda keys: keys[[0, 1, 1, 3, 4, 5]]}, "one key twice"),
        ({"about": lambda _: text([[str(i % 5), ""] for i in range(6)])}, "one id or one key twice"),
    ],
)
def test_a_client_shares_no_secrets_on_terms_that_would_betray_it(change: Any, words: str, tmp_path: Path):
    adding = Adding(tmp_path, rows(6), MASKS, {SHARE_KEYS: ["0"]})
    adding.open()
    with pytest.raises(InvalidInputError, match=words):
        adding.protocol("0", roster(adding, **change)).answer(SHARE_KEYS)


def test_keys_are_checked_where_peers_are_pinned(tmp_path: Path):
    """The server puts a key of its own in place of client 1's: only who has pinned client 1's key notices."""
    keys.make(tmp_path / "keys", ["localhost"], ["0", "1"], 1)
    peers = allowed(str(tmp_path / "keys" / "allow.yaml"))
    adding = Adding(tmp_path, rows(2), MASKS)

    def party(name: str) -> Any:
        own = tmp_path / "keys" / "clients" / name / "client.key"
        return type(adding).party(adding, name, secret=own, peers=peers)

    adding.party = party  # type: ignore[method-assign]
    assert len(adding.round().clients) == 2

    def swap(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        if (exchange, name) != (SETUP, "1"):
            return reply
        theirs = SumKeys.need(reply)
        key = crypto.public_key(bytes(range(32)))
        return pack(SumKeys(theirs.channel, table([key]), theirs.about))

    adding.spoil = swap
    with pytest.raises(AggregationError):
        adding.round(2)
    assert adding.errors["0"].startswith("client 1's keys are not signed by a key that peer-keys has for it, or ")
    assert "without this client's own" in adding.errors["1"]


# --- where secrets lie


def test_secrets_are_the_owners_and_gone_with_the_round(tmp_path: Path):
    adding = Adding(tmp_path, rows(3), MASKS)
    path = tmp_path / "0" / "sum.json"
    kept = []

    def spoil(exchange: str, name: str, reply: RecordDict) -> RecordDict:
        if name == "0":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            kept.append(set(json.loads(path.read_text())) - {"round", "step", "threshold", "members"})
        return reply

    adding.spoil = spoil
    adding.round()
    keys = {"channel", "seed", "transcript"}
    assert kept == [keys, keys | {"mask", "peers"}, {"held"}, {"opened"}]
    assert [p.name for p in path.parent.iterdir()] == ["sum.json"]


def test_what_a_lost_client_kept_is_gone_when_it_hears_of_a_later_round(tmp_path: Path):
    adding = Adding(tmp_path, rows(3), MASKS, {"train": ["0"]})
    adding.round()
    path = tmp_path / "0" / "sum.json"
    assert "mask" in json.loads(path.read_text())
    adding.protocol("0", RecordDict({RECORD: adding.received[SETUP]["0"][RECORD]}))
    assert path.exists()
    later = ConfigRecord({**adding.received[SETUP]["0"][RECORD], "round": 2})  # type: ignore[dict-item]
    adding.protocol("0", RecordDict({RECORD: later}))
    assert not path.exists()


def test_nothing_is_kept_beyond_the_closing_message(tmp_path: Path):
    adding = Adding(tmp_path, rows(3), MASKS, {"train": ["0"]})
    adding.round()
    adding.protocol("0", RecordDict())
    assert not (tmp_path / "0" / "sum.json").exists()


def test_the_revealed_names_are_read_as_text():
    with pytest.raises(InvalidInputError, match="text on the wire cannot be read"):
        read(torch.tensor([1, 2], dtype=torch.uint8))


def test_a_client_protocol_answers_its_own_messages_alone(tmp_path: Path):
    protocol = MaskClient(Adding(tmp_path, rows(2), MASKS).party("0"), RecordDict())
    assert protocol.answer("train") is None
    assert protocol.answer("query.where") is None
