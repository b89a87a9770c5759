"""Methods whose clients vote once: what is asked, what is kept, and which samples a round is about."""

from collections.abc import Callable

import pytest
import torch
from flwr.app import Error, RecordDict
from helpers import tiny
from helpers.grids import Noted, Spoilt
from helpers.replies import reply_of, strategy
from helpers.tasks import PUBLIC, corners, strangers
from helpers.tiny import start

from fd_flower import density, methods
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.tasks.task import Task
from fd_flower.wire import Bounds, Knowledge, Private, PublicIndex, PublicLogits, PublicVotes
from fd_flower.wire.envelope import unfold

BOTH = pytest.mark.parametrize("method", ["selectivefd", "edgefd"])

EVERYTHING = {"selectivefd": "client.quantile=0 client.width=3", "edgefd": "client.quantile=1 client.clusters=1"}
"""All held-out own samples pass."""

SETTINGS = tiny.STILL + "data.clients=3 data.public_batch=5 server.rounds=4 "


def play(method: str, changes: str = "", grid: InProcessGrid | None = None, *, task: Callable[[], Task] = corners):
    """Run on the corners; return the strategy and the lines."""
    words = f"{SETTINGS} {EVERYTHING[method]} {changes}"
    chosen = settings(method, words, task=f"{task.__module__}:{task.__name__}")
    strategy, _, lines = start(chosen, grid or InProcessGrid(methods.client_app(method), 1))
    return strategy, lines


@pytest.fixture
def announced(monkeypatch) -> dict[int, list[int]]:
    """Listen to what each round is about."""
    found: dict[int, list[int]] = {}
    for method in ("selectivefd", "edgefd"):
        cls = methods.strategy(method)
        real = cls.public_index

        def listen(self, round, real=real):
            index = real(self, round)
            found[round] = index.tolist()
            return index

        monkeypatch.setattr(cls, "public_index", listen)
    return found


@BOTH
def test_rounds_are_about_samples_that_somebody_claims(method, announced):
    """In round one nobody has voted yet; then 8 to 11, which are near nobody, do not come up."""
    _, lines = play(method, "server.rounds=9")
    assert all(len(index) == 5 and index == sorted(set(index)) for index in announced.values())
    later = [tuple(index) for number, index in announced.items() if number > 1]
    assert {i for index in later for i in index} == set(range(8))
    assert len(set(later)) > 5  # fresh subsets
    assert tiny.rounds(lines)[-1]["diagnostics"]["unclaimed"] == pytest.approx(4 / 12)


@BOTH
def test_votes_are_fitted_once_and_sent_once(method, monkeypatch):
    module = {"selectivefd": density.kulsif, "edgefd": density.kmeans}[method]
    fitted = []
    real = module.fit
    monkeypatch.setattr(module, "fit", lambda *about: fitted.append(1) or real(*about))
    grid = Noted(methods.client_app(method), 1)
    strategy, lines = play(method, grid=grid)
    assert len(fitted) == 2  # client 2 can hold nothing out
    rounds = tiny.rounds(lines)
    assert ["public-votes" in line["bytes"]["up"] for line in rounds] == [True, False, False, False]
    assert ["public-votes" in line["bytes"]["down"] for line in rounds] == [True, False, False, False]
    kept = {votes.client: votes.mask for votes in PublicVotes.all(strategy.knowledge)}
    assert kept["0"].tolist() == [True] * 4 + [False] * 8
    assert kept["1"].tolist() == [False] * 4 + [True] * 4 + [False] * 4
    assert kept["2"].tolist() == [False] * 12
    assert {votes.name for votes in strategy.knowledge.private} == {f"public-votes.{c}" for c in "012"}


@BOTH
def test_clients_say_something_of_the_samples_they_vote_for_alone(method):
    grid = Noted(methods.client_app(method), 1)
    play(method, grid=grid)
    asked, received = {}, []
    for message in grid.sent:
        for content in unfold(message.content).values():
            if message.metadata.message_type == "train":
                asked[int(content["config"]["server-round"])] = PublicIndex.need(content).index
    for number, message in enumerate([m for m in grid.replies if m.metadata.message_type == "train"], 1):
        for client, content in unfold(message.content).items():
            index = PublicLogits.need(content).index
            own = {"0": range(4), "1": range(4, 8), "2": []}[client]
            assert index.tolist() == [i for i in asked[number].tolist() if i in own]
            torch.testing.assert_close(PublicLogits.need(content).values, PUBLIC[index].log_softmax(1))
            received += index.tolist()
    assert set(received) == set(range(8))


@BOTH
def test_who_claims_nothing_still_hears(method, tmp_path):
    """Client 2 has one sample and votes for nothing; what the others say changes its model all the same."""
    learned = {}
    for weight in (0, 1):
        changes = f"{EVERYTHING[method]} server.rounds=2 client.lr=0.5 client.kd_weight={weight} run.keep=last"
        folder = tmp_path / str(weight)
        lines = tiny.run(method, f"{SETTINGS} {changes}", task=corners, out=folder)
        assert tiny.of_clients(lines)[2, "2"]["diagnostics"]["accepted"] == 0.0
        learned[weight] = tiny.models(folder)["2", "2-0"]["model/head.weight"]
    assert not torch.equal(learned[0], learned[1])


@BOTH
def test_nothing_claimed_means_nothing_to_learn(method, announced, caplog):
    """Public samples far from everybody: every later round is about none, and clients train alone."""
    _, lines = play(method, "data.public_batch=4", task=strangers)
    assert caplog.text.count("so clients receive nothing") == 4
    assert [len(announced[number]) for number in (1, 2, 3, 4)] == [4, 0, 0, 0]
    assert not any(line["failed"] for line in tiny.rounds(lines))
    assert tiny.rounds(lines)[-1]["diagnostics"]["valid"] is None
    assert tiny.rounds(lines)[-1]["diagnostics"]["unclaimed"] == 1.0


@BOTH
def test_a_lost_answer_is_asked_for_again(method):
    """Client 1's first answer never arrives; it votes again when it is asked again, without fitting anew."""

    def lose(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, "lost") if (client, round) == ("1", 1) else content

    strategy, lines = play(method, grid=InProcessGrid(Spoilt(methods.client_app(method), lose)))
    rounds = tiny.rounds(lines)
    assert ["public-votes" in line["bytes"]["up"] for line in rounds] == [True, True, False, False]
    assert {votes.client for votes in PublicVotes.all(strategy.knowledge)} == {"0", "1", "2"}


@BOTH
def test_a_newcomer_is_asked(method):
    """One of three clients a round: whoever comes for the first time votes."""
    _, lines = play(method, "server.fraction=0.3 server.rounds=12")
    known: set[str] = set()
    for line in tiny.rounds(lines):
        (client,) = line["replied"]
        assert ("public-votes" in line["bytes"]["up"]) == (client not in known)
        known.add(client)
    assert known == {"0", "1", "2"}


@BOTH
def test_the_server_asks_only_those_whose_votes_it_lacks(method):
    known = Knowledge([Private(PublicVotes(torch.tensor([True, False]), "1"))])
    made = strategy(method)
    assert [len(p.mask) for p in made.knowledge_for(Client("0", 0), known)] == [0]
    assert made.knowledge_for(Client("1", 1), known) == []


@BOTH
def test_a_sample_that_nobody_claims_is_never_averaged(method):
    """Of three samples the clients say something of the first and the last: the middle one does not travel."""
    index = torch.tensor([2, 5, 9])
    rows = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    replies = [reply_of("0", PublicLogits(index[[0, 2]], rows)), reply_of("1", PublicLogits(index[2:], rows[:1]))]
    teacher = strategy(method, index).aggregate(replies, Knowledge(), round=2)[0]
    assert teacher.index.tolist() == [2, 9]
    torch.testing.assert_close(teacher.values[0].exp(), torch.tensor([0.9, 0.1]))


@BOTH
def test_votes_survive_a_resume(method, tmp_path, announced):
    """The checkpoint has everybody's votes: nobody is asked again, and rounds go on as if nothing had happened."""
    words = f"{SETTINGS} {EVERYTHING[method]}"
    tiny.run(method, words, task=corners, out=tmp_path / "whole")
    whole = dict(announced)
    tiny.run(method, f"{words} server.rounds=2 run.keep=last", task=corners, out=tmp_path / "cut")
    announced.clear()
    lines = tiny.run(method, f"run.resume={tmp_path / 'cut'} server.rounds=4", out=tmp_path / "cut")
    assert announced == {number: index for number, index in whole.items() if number > 2}
    assert not any("public-votes" in line["bytes"]["up"] for line in tiny.rounds(lines))


@BOTH
def test_without_learning_from_others_it_is_local_training(method, tmp_path):
    """Weight 0: the same weights as `local`, bit for bit, at every client and in every round."""
    for name in (method, "local"):
        tiny.run(name, tiny.TINY + "client.schedule=constant client.kd_weight=0 run.keep=last", out=tmp_path / name)
    tiny.assert_same_bits(tiny.models(tmp_path / method), tiny.models(tmp_path / "local"))


@BOTH
def test_votes_beat_everybody_in_strong_skew(method):
    """Digits, one class each: who votes knows better than all together do, by true class."""
    words = "data.partition=classes data.classes=1 data.public_size=400 server.rounds=2 run.device=cpu model.name=mlp"
    figures = tiny.rounds(tiny.run(method, words))[-1]["diagnostics"]
    assert figures["precision"] > 0.5  # everybody's votes: 0.1
    assert figures["purity"] > 0.5


def test_a_world_without_public_samples_is_refused():
    for method in ("selectivefd", "edgefd"):
        with pytest.raises(InvalidInputError, match="needs public samples"):
            tiny.run(method, tiny.TINY + "data.public=none")


@BOTH
def test_an_encoder_that_cannot_be_had_is_refused_before_round_one(method):
    lines: list[tiny.Line] = []
    with pytest.raises(InvalidInputError, match="private labels"):
        tiny.run(method, tiny.TINY + "data.encoder=train:digits", on_line=lines.append)
    assert not lines


def test_public_votes_of_another_number_are_refused():
    """A reply that votes on other public samples than the server's is left out, and named."""
    from fd_flower.core.errors import InvalidInputError

    with pytest.raises(InvalidInputError, match=r"'mask' of shape \[3\]; expected \[4\]"):
        PublicVotes(torch.ones(3, dtype=torch.bool)).check(Bounds(public=4))
