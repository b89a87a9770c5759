"""Predictions relative to the last teacher: by hand, over lost replies and absent clients, resumed, on all engines."""

import math
from contextlib import suppress

import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from fd_flower.config import WireConfig
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.references import References, TeacherMessages
from fd_flower.wire import Bounds, PublicIndex, PublicLogits
from fd_flower.wire.codecs import ranges
from fd_flower.wire.codecs import reference as ref
from fd_flower.wire.codecs.reference import COARSE, ONE, STEPS, Reference
from fd_flower.wire.coding import Wire
from fd_flower.wire.referring import KEY, pack_reply, unpack_reply, unpack_teacher

REVISITED = "data.public_size=40 data.public_batch=30 server.rounds=4 "
DELTA = f"{REVISITED} wire.down=delta wire.up=delta"
PLAIN = Wire(WireConfig(), down=True)


def drawn(seed: int, rows: int = 6, classes: int = 4) -> torch.Tensor:
    values = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    return (3 * values).log_softmax(1)


def sent_to(references: References, teacher: PublicLogits, *names: str) -> dict[str, RecordDict]:
    teaching = TeacherMessages(references, PLAIN)
    return {name: teaching.content(Client(name, int(name)), [teacher]) for name in names}


# --- symbols


@pytest.mark.parametrize("sizes", [(1000, 0, 3), (1,), (0, 0), ()])
def test_symbols_come_out_as_they_went_in(sizes: tuple[int, ...]):
    rng = torch.Generator().manual_seed(1)
    groups = [torch.randint(7, (size,), generator=rng) for size in sizes]
    found = ranges.symbols_of(ranges.coded(groups, 9), sizes, 9)
    assert all(torch.equal(one, other) for one, other in zip(groups, found, strict=True))


def test_symbols_take_as_many_bits_as_they_tell():
    """-(.99 log2 .99 + .01 log2 .01) = 0.0808 bits each: 10,000 are 101 bytes, and 2 of counts."""
    symbols = torch.zeros(10_000, dtype=torch.int64)
    symbols[::100] = 1
    assert 101 <= len(ranges.coded([symbols], 2)) <= 101 + 2 + 8


@pytest.mark.parametrize("seed", range(40))
def test_any_bytes_are_symbols_or_one_error(seed: int):
    rng = torch.Generator().manual_seed(seed)
    data = bytes(torch.randint(256, (int(torch.randint(60, (1,), generator=rng)),), generator=rng).tolist())
    try:
        (found,) = ranges.symbols_of(data, [50], 9)
    except InvalidInputError:
        return
    assert found.shape == (50,)
    assert int(found.min()) >= 0
    assert int(found.max()) < 9


# --- a reference, by hand


def test_the_nearest_step_by_hand():
    """From .5: to .502 none, to .505 and .53 steps of .005 and .02, to .9, 0 and 1 one of .4, nearer than one of .8."""
    base = torch.full((1, 6), round(0.5 * ONE))
    target = (torch.tensor([[0.502, 0.505, 0.53, 0.9, 0.0, 1.0]]) * ONE).long()
    steps = ref.change(target, base)
    assert [round(float(STEPS[s]) / ONE, 3) for s in steps[0]] == [0.0, 0.005, 0.02, 0.4, -0.4, 0.4]
    assert ref.changed(base, steps).tolist()[0] == (base[0] + STEPS[steps[0]]).tolist()


def test_values_stay_between_0_and_1():
    base = torch.tensor([[ONE, 0]])
    assert ref.changed(base, torch.tensor([[len(STEPS) - 1, 0]])).tolist() == [[ONE, 0]]


def test_a_first_prediction_has_eight_bits():
    values = ref.fixed(torch.tensor([[0.7, 0.2, 0.1]]).log())
    assert (ref.coarse(values) * COARSE - values).abs().max() <= COARSE / 2


def test_a_teacher_that_stays_is_reached():
    """Repeated changes end within half the smallest step, of each class."""
    target = ref.fixed(drawn(3))
    value = ref.fixed(drawn(4)).long()
    for _ in range(12):
        value = ref.changed(value, ref.change(target, value))
    assert int((value - target).abs().max()) <= 0.0025 * ONE + 1


@pytest.mark.parametrize("known", [[True] * 6, [False] * 6, [True, False, True, False, True, True]])
@pytest.mark.parametrize("seed", range(5))
def test_votes_come_out_as_they_went_in(known: list[bool], seed: int):
    base, mask = ref.fixed(drawn(seed)), torch.tensor(known)
    votes = torch.randint(4, (6,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ref.unpack_votes(ref.pack_votes(votes, base, mask), base, mask), votes)


def test_votes_that_agree_with_the_teacher_take_no_room():
    base = ref.fixed(drawn(1, 5000, 10))
    known = torch.ones(5000, dtype=torch.bool)
    assert len(ref.pack_votes(base.argmax(1), base, known)) <= 4 * 10 + 8


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_truths_take_a_bit_each(count: int):
    mask = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
    assert torch.equal(ref.unpack_mask(ref.pack_mask(mask), count), mask)
    assert ref.pack_mask(torch.ones(count, dtype=torch.bool)) == b""


# --- a teacher


def test_a_client_that_was_there_gets_changes_and_one_that_was_not_all_it_lacks():
    """Three teachers; client 1 misses the second: it has what client 0 has after each, in a larger message."""
    own, held = References.blank(8, 4), {"0": Reference.blank(8, 4), "1": Reference.blank(8, 4)}
    sizes: dict[tuple[str, int], int] = {}
    for number, (index, names) in enumerate([([0, 1, 2, 5], "01"), ([1, 2, 3], "0"), ([0, 2, 6], "01")], 1):
        teacher = PublicLogits(torch.tensor(index), drawn(number, len(index)))
        for name, content in sent_to(own, teacher, *names).items():
            own.heard(name)
            sizes[name, number] = content["public-logits"].count_bytes()  # type: ignore[union-attr]
            decoded, held[name] = unpack_teacher(content, held[name])
            taught = PublicLogits.need(decoded)
            assert taught.index.tolist() == index
            taught.check(bounds_of(8))
        assert held["0"] == own.now
    assert held["1"] == own.now
    assert own.now.known.tolist() == [i in (0, 1, 2, 3, 5, 6) for i in range(8)]
    assert sizes["1", 3] > sizes["0", 3]


def bounds_of(public: int) -> Bounds:
    return Bounds(classes=4, public=public)


def test_a_teacher_is_near_what_was_taught():
    own = References.blank(6, 4)
    teacher = PublicLogits(torch.arange(6), drawn(7))
    decoded, _ = unpack_teacher(sent_to(own, teacher, "0")["0"], Reference.blank(6, 4))
    assert (PublicLogits.need(decoded).values.exp() - teacher.values.exp()).abs().max() < 0.01  # 8 bits


def test_a_client_whose_reply_was_lost_is_told_all_again():
    own = References.blank(6, 4)
    first, second = (PublicLogits(torch.arange(6), drawn(seed)) for seed in (1, 2))
    _, held = unpack_teacher(sent_to(own, first, "0")["0"], Reference.blank(6, 4))  # its reply does not come
    content = sent_to(own, second, "0")["0"]
    _, of_one_without_memory = unpack_teacher(content, Reference.blank(6, 4))
    _, of_one_with_it = unpack_teacher(content, held)
    assert of_one_without_memory == of_one_with_it == own.now


def test_a_client_that_has_something_else_says_so():
    own = References.blank(6, 4)
    sent_to(own, PublicLogits(torch.arange(6), drawn(1)), "0")
    own.heard("0")
    content = sent_to(own, PublicLogits(torch.arange(6), drawn(2)), "0")["0"]
    with pytest.raises(InvalidInputError, match="what this client has of earlier teachers is not what the server has"):
        unpack_teacher(content, Reference.blank(6, 4))


def test_the_same_teacher_again_is_not_sent_again():
    own = References.blank(6, 4)
    teacher = PublicLogits(torch.arange(6), drawn(1))
    content = sent_to(own, teacher, "0")["0"]
    own.heard("0")
    _, held = unpack_teacher(content, Reference.blank(6, 4))
    once_more = sent_to(own, PublicLogits(teacher.index, teacher.values.clone()), "0")["0"]
    decoded, now = unpack_teacher(once_more, held)
    assert now == held
    assert own.number == 1
    assert torch.equal(PublicLogits.need(decoded).values, ref.log_probabilities(held.values))
    assert once_more["public-logits"].count_bytes() < content["public-logits"].count_bytes()  # type: ignore[union-attr]


def test_clients_that_have_the_same_share_a_message():
    own = References.blank(6, 4)
    sent = sent_to(own, PublicLogits(torch.arange(6), drawn(1)), "0", "1", "2")
    assert len({id(content["public-logits"]) for content in sent.values()}) == 1


def test_two_teachers_at_once_are_refused():
    teaching = TeacherMessages(References.blank(6, 4), PLAIN)
    one, other = (PublicLogits(torch.arange(6), drawn(seed)) for seed in (1, 2))
    teaching.content(Client("0", 1), [one])
    with pytest.raises(InvalidInputError, match="for one teacher that all clients receive"):
        teaching.content(Client("1", 1), [other])


def test_references_are_kept_as_they_are():
    own = References.blank(6, 4)
    for seed in (1, 2):
        sent_to(own, PublicLogits(torch.arange(seed, 6), drawn(seed, 6 - seed)), "0", "1")
        own.heard("0")
    kept = References.of(own.tensors())
    assert kept.now == own.now
    assert (kept.number, kept.clients) == (2, {"0": 2, "1": 0})
    teacher = PublicLogits(torch.arange(6), drawn(3))
    assert sent_to(own, teacher, "0")["0"] == sent_to(kept, teacher, "0")["0"]


# --- only what changed


def test_16_bits_are_the_teacher_to_a_hundred_thousandth():
    own = References.blank(6, 4, exact=True)
    teacher = PublicLogits(torch.arange(6), drawn(7))
    decoded, _ = unpack_teacher(sent_to(own, teacher, "0")["0"], Reference.blank(6, 4))
    assert (PublicLogits.need(decoded).values.exp() - teacher.values.exp()).abs().max() < 4e-5


def test_a_client_gets_what_it_lacks_alone():
    """Client 1 misses a teacher: its next message has what it missed, that of client 0 one row."""
    own = References.blank(60, 4, exact=True)
    held = {"0": Reference.blank(60, 4), "1": Reference.blank(60, 4)}
    values = drawn(1, 60)
    sizes: dict[tuple[str, int], int] = {}
    for number, (rows, names) in enumerate([([], "01"), (list(range(50)), "0"), ([3], "01")], 1):
        values = values.clone()
        values[rows] = drawn(number + 1, len(rows))
        for name, content in sent_to(own, PublicLogits(torch.arange(60), values), *names).items():
            own.heard(name)
            sizes[name, number] = content["public-logits"].count_bytes()  # type: ignore[union-attr]
            decoded, held[name] = unpack_teacher(content, held[name])
            taught = PublicLogits.need(decoded)
            assert (taught.values.exp() - values.exp()).abs().max() < 4e-5
    assert held["0"] == held["1"] == own.now
    assert sizes["1", 3] > sizes["0", 3] + 49 * 4 * 2 * 0.8


# --- a reply


def reply(sent: PublicLogits, form: str, base: Reference, index: torch.Tensor) -> RecordDict:
    return RecordDict({"public-logits": pack_reply(sent, form, base, index)})


@pytest.mark.parametrize("form", ["delta", "argmax"])
@pytest.mark.parametrize("rows", [[2, 3, 5], [3], [2, 3, 4, 5, 7]])
def test_a_reply_comes_through(form: str, rows: list[int]):
    """Also about samples of which some had no teacher, and about fewer than were asked for."""
    index = torch.tensor([2, 3, 4, 5, 7])
    base = Reference.blank(8, 4).put(torch.tensor([2, 4, 7]), ref.fixed(drawn(1, 3)))
    sent = PublicLogits(torch.tensor(rows), drawn(2, len(rows)))
    found = PublicLogits.need(unpack_reply(reply(sent, form, base, index), base, index))
    assert found.index.tolist() == rows
    found.check(bounds_of(8))
    if form == "argmax":
        assert torch.equal(found.values.argmax(1), sent.values.argmax(1))
        assert float(found.values.exp().amax(1).min()) == pytest.approx(1 - 1e-6)
        assert float(found.values.logsumexp(1).abs().max()) < 1e-6
    else:
        assert (found.values.exp() - sent.values.exp()).abs().max() < 0.2
        without = [place for place, row in enumerate(rows) if row in (3, 5)]
        assert (found.values.exp() - sent.values.exp())[without].abs().max() < 0.01


def test_a_reply_that_is_the_teacher_comes_back_exactly():
    base = Reference.blank(6, 4).put(torch.arange(6), ref.fixed(drawn(1)))
    sent = PublicLogits(torch.arange(6), ref.log_probabilities(base.values))
    back = unpack_reply(reply(sent, "delta", base, torch.arange(6)), base, torch.arange(6))
    assert (PublicLogits.need(back).values - sent.values).abs().max() < 1e-3


def malformed() -> dict[str, RecordDict]:
    def of(array: torch.Tensor) -> RecordDict:
        return RecordDict({"public-logits": ArrayRecord({KEY: Array(array.numpy())})})

    base = Reference.blank(6, 4)
    good = reply(PublicLogits(torch.arange(6), drawn(1)), "argmax", base, torch.arange(6))
    whole = torch.from_numpy(good["public-logits"][KEY].numpy().copy())  # type: ignore[index, union-attr]
    head, mask, data, fresh = ref.split(whole, 4)
    other = Reference.blank(6, 4).put(torch.arange(6), ref.fixed(drawn(2)))
    return {
        "nothing": of(torch.zeros(0, dtype=torch.uint8)),
        "another type": of(torch.zeros(20)),
        "cut off": of(whole[:-1]),
        "another form": of(ref.join([b"\x07" + head[1:], mask, data, fresh])),
        "another reference": reply(PublicLogits(torch.arange(6), drawn(1)), "argmax", other, torch.arange(6)),
        "a broken mask": of(ref.join([head, b"abc", data, fresh])),
        "no symbols": of(ref.join([head, mask, b"", fresh])),
        "no first predictions": of(ref.join([b"\x00" + head[1:], mask, data, b""])),
    }


@pytest.mark.parametrize("content", malformed().values(), ids=malformed())
def test_a_malformed_reply_is_one_error(content: RecordDict):
    with pytest.raises(InvalidInputError) as caught:
        References.blank(6, 4).read(content, torch.arange(6))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_in_a_reply_are_one_error_or_predictions(seed: int):
    rng = torch.Generator().manual_seed(seed)
    base = Reference.blank(6, 4)
    good = reply(PublicLogits(torch.arange(6), drawn(1)), ("delta", "argmax")[seed % 2], base, torch.arange(6))
    array = torch.from_numpy(good["public-logits"][KEY].numpy().copy())  # type: ignore[index, union-attr]
    place = torch.randint(len(array), (3,), generator=rng)
    array[place] = torch.randint(256, (3,), generator=rng).to(torch.uint8)
    content = RecordDict({"public-logits": ArrayRecord({KEY: Array(array.numpy())})})
    with suppress(InvalidInputError):
        PublicLogits.need(References.blank(6, 4).read(content, torch.arange(6))).check(bounds_of(6))


def test_least_likely_classes_have_a_probability():
    assert float(ref.log_probabilities(torch.tensor([[ONE, 0]]))[0, 1]) == pytest.approx(
        math.log(1 / (ONE + 1)), abs=1e-3
    )


def test_an_index_alone_is_no_teacher():
    teaching = TeacherMessages(References.blank(6, 4), PLAIN)
    assert list(teaching.content(Client("0", 1), [PublicIndex(torch.arange(3))])) == ["public-index"]
