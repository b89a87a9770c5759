"""FedMD: the softmax of the clients' mean logits, digested before the private data are revisited."""

import math

import pytest
import torch
from fd_flower.client_apps.fedmd import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import echoes
from helpers.tiny import TINY

from fd_flower import methods
from fd_flower.client import distillation, steps
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World
from fd_flower.wire import Knowledge, PublicLogits

INDEX = torch.tensor([3, 8])


def changed(**changes):
    return methods.config("fedmd", "client", **changes)


# --- the server


def test_the_consensus_is_the_softmax_of_the_mean_logits():
    """Logits (2, 0) and (0, 4) have the mean (1, 2): its softmax is 1 / (1 + e) and e / (1 + e).

    The mean of the two softmaxes would be (0.449, 0.551).
    """
    first, second = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    received = [reply_of(str(i), PublicLogits(INDEX, z.log_softmax(1))) for i, z in enumerate((first, second))]
    (consensus,) = strategy("fedmd", INDEX).aggregate(received, Knowledge(), round=1)
    assert torch.equal(consensus.index, INDEX)
    e = math.e
    torch.testing.assert_close(consensus.values.exp(), torch.tensor([[1 / (1 + e), e / (1 + e)], [0.5, 0.5]]))


def test_every_client_counts_the_same_whatever_its_examples():
    rows = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    few, many = (
        strategy("fedmd", INDEX).aggregate(
            [reply_of("0", PublicLogits(INDEX, rows[0]), examples=n), reply_of("1", PublicLogits(INDEX, rows[1]))],
            Knowledge(),
            round=1,
        )[0]
        for n in (1, 1000)
    )
    assert torch.equal(few.values, many.values)
    torch.testing.assert_close(few.values, rows.mean(0).log_softmax(1))


def test_one_client_is_its_own_consensus():
    rows = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    (consensus,) = strategy("fedmd", INDEX).aggregate([reply_of("0", PublicLogits(INDEX, rows))], Knowledge(), round=1)
    torch.testing.assert_close(consensus.values, rows)


def test_the_server_keeps_no_older_consensus():
    """FL-bench appends every round's public batch to one list, so that clients digest round one's for ever."""
    rows = torch.zeros(2, 2).log_softmax(1)
    before = Knowledge([PublicLogits(torch.tensor([0, 1]), rows)])
    after = strategy("fedmd", INDEX).aggregate([reply_of("0", PublicLogits(INDEX, rows))], before, round=2)
    assert [type(p) for p in after] == [PublicLogits]
    assert torch.equal(after[0].index, INDEX)


# --- digesting


def test_objective_by_hand():
    """Student logits (3, 1) are (1, -1) about their mean; a teacher of (1/2, 1/2) is (0, 0).

    Mean absolute difference 1, each logit's gradient (sign - mean of signs) / 2 = (1/2, -1/2), halved by the batch;
    the second sample agrees with its teacher ((2, 0) and (e^2, 1) / (1 + e^2)): 0. So 1/2 in all.
    """
    x = torch.tensor([[3.0, 1.0], [2.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0], [7.0, 5.0]]).log_softmax(1)
    loss = objective(lambda x: x, x, None, teacher, changed())
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    torch.testing.assert_close(x.grad[0], torch.tensor([0.25, -0.25]))


def test_the_loss_is_the_one_that_is_named():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2, at a weight of 3."""
    x = torch.tensor([[math.log(3), 0.0]])
    teacher = torch.tensor([[0.0, 0.0]]).log_softmax(1)
    loss = objective(lambda x: x, x, None, teacher, changed(objective="kl", kd_weight=3.0))
    assert loss.item() == pytest.approx(3 * math.log(4 / 3) / 2)


@pytest.fixture
def fits(monkeypatch):
    """Listen to what clients learn from: (client, round, closing, "digest" or "revisit", rows learned from)."""
    received = []
    real = distillation.fit

    def listen(turn, objective, samples, teacher=None, *, model=None):
        what = "revisit" if teacher is None else "digest"
        received.append((turn.client, turn.round, turn.closing, what, samples))
        return real(turn, objective, samples, teacher, model=model)

    for module in (distillation, steps):  # what a turn's digest and its revisit call
        monkeypatch.setattr(module, "fit", listen)
    return received


def test_digest_comes_before_revisit_and_nothing_is_received_in_round_one(fits):
    tiny.run("fedmd", TINY + "server.evaluate=received,trained")
    for client in "012":
        order = [(number, closing, what) for who, number, closing, what, _ in fits if who == client]
        assert order == [
            (1, False, "revisit"),
            (2, False, "digest"),
            (2, False, "revisit"),
            (2, True, "digest"),  # the closing message: the last consensus is used, no private training
        ]


def test_a_round_digests_the_last_rounds_samples_alone(fits):
    """Each round is about a fresh subset of ``data.public_batch`` samples, and older ones do not pile up."""
    changes = TINY + "server.rounds=4 server.evaluate=received,trained"
    tiny.run("fedmd", changes)
    chosen = settings("fedmd", changes)
    world = World(chosen, described(chosen))
    public_distillation = {(n, closing): s for who, n, closing, what, s in fits if what == "digest" and who == "0"}
    assert public_distillation.keys() == {(2, False), (3, False), (4, False), (4, True)}
    subsets = []
    for (number, closing), samples in public_distillation.items():
        about = world.public_index(number if closing else number - 1)
        assert len(samples) == 20
        assert torch.equal(samples.index, world.public[about].index)
        subsets.append(about.tolist())
    assert len({tuple(s) for s in subsets}) == 4


def still():
    """Return clients that say (3/4, 1/4) of their own sample, and public samples of known logits."""
    public = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    row = ([math.log(3), 0.0], 0)
    return echoes({"0": [row], "1": [row]}, public)


def test_clients_say_log_probabilities_of_the_rounds_samples(monkeypatch):
    """Echoes say log-softmax of the public samples themselves, and so their mean is that, too."""
    consensus = {}
    real = methods.strategy("fedmd").aggregate

    def listen(self, replies, knowledge, round):
        consensus[round] = real(self, replies, knowledge, round)[0]
        return [consensus[round]]

    monkeypatch.setattr(methods.strategy("fedmd"), "aggregate", listen)
    changes = tiny.STILL + "data.clients=2 data.public_batch=4 server.rounds=3"
    lines = tiny.run("fedmd", changes, task=still)
    public = still().public().x
    for number in (1, 2, 3):
        about = torch.randperm(6, generator=torch_rng(0, "public", number))[:4].sort().values
        assert torch.equal(consensus[number].index, about)
        torch.testing.assert_close(consensus[number].values, public[about].log_softmax(1))
    for line in tiny.of_clients(lines).values():
        assert line["metrics"]["loss"] == pytest.approx(math.log(4 / 3))  # the loss that is told is the private one


def test_digesting_teaches_the_others_classes():
    """Two clients with five classes each: after digesting, either knows something of the other's five."""
    split = TINY + "data.partition=classes data.classes=5 data.clients=2 client.steps=20 client.public_steps=60 "
    both = "server.evaluate=received,trained client.objective=kl"
    lines = tiny.run("fedmd", split + both)
    trained = [line["evaluations"]["trained"]["global"] for line in tiny.of_clients(lines).values()]
    closing = [line["evaluations"]["received"]["global"] for line in tiny.of_clients(lines, closing=True).values()]
    assert min(closing) > max(trained)


def test_without_digesting_it_is_local_training(tmp_path):
    """Weight 0: the same weights as `local`, bit for bit, at every client and in every round."""
    for method in ("fedmd", "local"):
        tiny.run(method, TINY + "client.kd_weight=0 run.keep=last", out=tmp_path / method)
    tiny.assert_same_bits(tiny.models(tmp_path / "fedmd"), tiny.models(tmp_path / "local"))


def test_with_digesting_it_is_not(tmp_path):
    for method in ("fedmd", "local"):
        tiny.run(method, TINY + "run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fedmd"), tiny.models(tmp_path / "local")
    first = [who for who in ours if who[1] == "1-0"]
    tiny.assert_same_bits({who: ours[who] for who in first}, {who: alone[who] for who in first})
    assert not torch.equal(ours["0", "2-0"]["model/head.weight"], alone["0", "2-0"]["model/head.weight"])


def test_only_predictions_travel():
    """20 rows of 10 float32 values and an int64 number: 20 * 48 = 960 bytes a client, and names on top."""
    lines = tiny.rounds(tiny.run("fedmd", TINY))
    assert [list(line["bytes"]["up"]) for line in lines] == [["public-logits"]] * 2
    assert [list(line["bytes"]["down"]) for line in lines] == [["public-index"], ["public-logits", "public-index"]]
    assert 0 <= lines[0]["bytes"]["up"]["public-logits"] / 3 - 960 < 400


def test_architectures_may_differ():
    lines = tiny.run("fedmd", TINY + "model.name=[mlp,lenet]")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


def test_public_samples_are_needed():
    with pytest.raises(InvalidInputError, match="fedmd needs public samples"):
        tiny.run("fedmd", TINY + "data.public=none")


@pytest.mark.parametrize("edge", [*tiny.DEGENERATE, "data.public=noise", "data.public_size=1 data.public_batch=1"])
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedmd", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
