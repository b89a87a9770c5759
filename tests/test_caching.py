"""server.cache: a teacher is used again for some rounds, and clients are not asked about its samples (SCARLET)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grids import hosts
from helpers.replies import reply_of, strategy
from helpers.resumed import again, assert_same, started
from helpers.tiny import figures, rounds, start, start_toy

from fd_flower import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble import enhanced_entropy_reduction
from fd_flower.wire import Bounds, CachedTeacher, Knowledge, PublicLogits

ALL = "data.public_size=40 data.public_batch=40 server.rounds=6 "
SOME = "data.public_size=40 data.public_batch=20 server.rounds=6 "
METHODS = ["fedmd", "dsfl", "edgefd", "selectivefd"]


def asked(lines: list[dict[str, Any]]) -> list[int]:
    """Return the bytes of predictions that clients sent, of each round."""
    return [line["bytes"]["up"].get("public-logits", 0) for line in rounds(lines)]


# --- enhanced entropy reduction


def test_a_power_by_hand():
    """(.8, .2) squared is .64 to .04; a class that is ruled out stays so, and 1 changes nothing."""
    logprobs = torch.tensor([[0.8, 0.2], [1.0, 0.0]]).log()
    torch.testing.assert_close(
        enhanced_entropy_reduction(logprobs, 2.0).exp(), torch.tensor([[0.64 / 0.68, 0.04 / 0.68], [1.0, 0.0]])
    )
    torch.testing.assert_close(enhanced_entropy_reduction(logprobs, 1.0), logprobs)


# --- a cache, by hand


def teaching(index: list[int], **changes: Any) -> Any:
    """Return dsfl without sharpening, in a round that asks about these samples and draws 2, 4 and 6."""
    made = strategy("dsfl", torch.tensor(index), temperature=None, **changes)
    made.drawn_index = lambda round: torch.tensor([2, 4, 6])
    return made


def said(index: list[int], *probabilities: list[float]) -> Any:
    return reply_of("0", PublicLogits(torch.tensor(index), torch.tensor(probabilities).log()))


def test_what_is_kept_is_taught_again_for_as_many_rounds():
    first = teaching([2, 6], cache=2)
    taught, kept = first.aggregate([said([2, 6], [0.9, 0.1], [0.3, 0.7])], Knowledge(), round=1)
    assert taught.index.tolist() == [2, 6]
    assert kept.payload.rounds.tolist() == [1, 1]
    known = Knowledge([kept])

    second = teaching([4], cache=2)
    second.knowledge = known
    assert second.public_index(2).tolist() == second.public_index(3).tolist() == [4]
    assert second.public_index(4).tolist() == [2, 4, 6]  # made in round 1, and 3 rounds old by now
    taught, kept = second.aggregate([said([4], [0.5, 0.5])], known, round=2)
    assert taught.index.tolist() == [2, 4, 6]
    torch.testing.assert_close(taught.values.exp()[:, 0], torch.tensor([0.9, 0.5, 0.3]))
    assert kept.payload.rounds.tolist() == [1, 2, 1]

    third = teaching([2, 6], cache=2)
    taught, kept = third.aggregate([said([2, 6], [0.2, 0.8], [0.6, 0.4])], Knowledge([kept]), round=4)
    torch.testing.assert_close(taught.values.exp()[:, 0], torch.tensor([0.2, 0.5, 0.6]))
    assert kept.payload.rounds.tolist() == [4, 2, 4]


def test_without_a_cache_nothing_is_kept():
    assert len(teaching([2, 6]).aggregate([said([2, 6], [0.9, 0.1], [0.3, 0.7])], Knowledge(), round=1)) == 1


def test_a_cache_has_one_row_and_one_round_a_sample():
    index = torch.tensor([1, 3])
    with pytest.raises(InvalidInputError, match=r"has 'rounds' of shape \[3\]"):
        CachedTeacher(index, torch.zeros(2, 4), torch.zeros(3, dtype=torch.int64)).check(Bounds(classes=4))


# --- runs


@pytest.mark.parametrize("method", METHODS)
def test_clients_are_asked_again_when_a_teacher_is_too_old(method: str):
    """All samples are drawn in each round: with two rounds of use, rounds 1 and 4 ask about them."""
    _, _, lines = start_toy(method, ALL + "server.cache=2")
    sizes = asked(lines)
    assert sizes[0] == sizes[3] > sizes[1] == sizes[2] == sizes[4]
    assert not any(line["failed"] for line in rounds(lines))
    reused = [line["diagnostics"]["reused"] for line in rounds(lines)]
    assert [round(share, 6) for share in reused] == [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wire", ["", "wire.down=changed ", "wire.down=delta wire.up=argmax "])
def test_hosts_and_one_process_have_the_same_figures(method: str, wire: str):
    words = SOME + wire + "server.cache=3 server.fraction=0.7"
    _, _, one = start_toy(method, words)
    _, _, two = start_toy(method, words, hosts(method, 2))
    assert figures(one) == figures(two)
    assert not any(line["failed"] for line in rounds(one))


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_goes_on_with_what_it_kept(tmp_path: Path, after: int):
    options = SOME.replace("server.rounds=6", "") + "server.cache=3 wire.down=changed server.fraction=0.7 run.keep=last"
    start(started("dsfl", tmp_path / "whole", 5, options), hosts("dsfl"))
    start(started("dsfl", tmp_path / "cut", after, options), hosts("dsfl"))
    start(again("dsfl", tmp_path / "cut", "server.rounds=5"), hosts("dsfl", 2))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_what_did_not_change_is_not_sent_again():
    """With a cache that lasts, the server's messages have the index alone from the third round on."""
    _, _, plain = start_toy("dsfl", ALL + "server.cache=9")
    _, _, changed = start_toy("dsfl", ALL + "server.cache=9 wire.down=changed")
    down = [[line["bytes"]["down"].get("public-logits", 0) for line in rounds(lines)] for lines in (plain, changed)]
    assert down[0][2] == down[0][5] > 3 * down[1][5]
    assert down[1][1] > 2 * down[1][2]


def test_late_replies_are_refused():
    with pytest.raises(InvalidInputError, match=r"server\.cache is 2, and under server\.clock=count late replies are"):
        start_toy("fedmd", ALL + "server.cache=2 server.clock=count server.buffer=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("server.power=2", r"server\.power is 2\.0 and server\.temperature 0\.1, and both sharpen"),
        ("server.teacher=model", r"server\.teacher is 'model', and server\.model names none"),
    ],
)
def test_options_that_do_not_go_together(words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings("dsfl", words)


def test_the_recipes_differ_from_their_parent():
    scarlet, cfd = settings("dsfl", recipe="scarlet"), settings("dsfl", recipe="cfd")
    assert (scarlet.server.cache, scarlet.server.power, scarlet.wire.down) == (50, 1.0, "changed")
    assert (cfd.server.teacher, cfd.wire.up, cfd.wire.down, cfd.server.temperature) == (
        "model",
        "argmax",
        "delta",
        None,
    )
    assert settings("dsfl").server.cache == 0
    assert settings("fd", recipe="fedhe").server.clock == "count"
