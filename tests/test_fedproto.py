"""FedProto: prototypes by samples of the class, features pulled to them, the nearest one predicts."""

import math

import pytest
import torch
from fd_flower.client_apps.fedproto import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import Echo, echoes
from helpers.tiny import STILL, TINY
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout

from fd_flower import methods
from fd_flower.client.prototypes import Nearest
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Samples
from fd_flower.tasks.task import Task
from fd_flower.training import predict
from fd_flower.wire import Knowledge, Prototypes


def protos(values: list[list[float]], counts: list[int]) -> Prototypes:
    return Prototypes(torch.tensor(values), torch.tensor(counts))


def changed(**changes):
    return methods.config("fedproto", "client", **changes)


# --- the server


HEARD = [
    reply_of("0", protos([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0]], [1, 4, 0]), examples=100),
    reply_of("1", protos([[5.0, 8.0], [0.0, 0.0], [0.0, 0.0]], [3, 0, 0]), examples=1),
]


@pytest.mark.parametrize(
    ("weighting", "first"),
    [
        ("examples", [4.0, 6.0]),  # (1 * (1, 0) + 3 * (5, 8)) / 4
        ("clients", [3.0, 4.0]),  # ((1, 0) + (5, 8)) / 2
    ],
)
def test_prototypes_by_hand(weighting, first):
    """By samples of the class, not of the client; a class of one client is that client's; one of nobody is none.

    The authors' code averages clients, and equation 6 as printed divides by the holders once more, which would make
    ``first`` half as long.
    """
    (mean,) = strategy("fedproto", weighting=weighting).aggregate(HEARD, Knowledge(), round=1)
    torch.testing.assert_close(mean.values, torch.tensor([first, [2.0, 2.0], [0.0, 0.0]]))
    assert mean.counts.tolist() == [4, 4, 0]


def test_the_recipe_weighs_by_samples():
    assert methods.config("fedproto", "server").weighting == "examples"


def test_a_round_replaces_prototypes_and_an_absent_class_keeps_its_own():
    """HtFL-OnDevice's default (old * 1 + new * 0) keeps round one's prototypes for ever."""
    before = Knowledge([protos([[9.0, 9.0], [9.0, 9.0], [7.0, 1.0]], [1, 1, 5])])
    (mean,) = strategy("fedproto").aggregate(HEARD, before, round=2)
    torch.testing.assert_close(mean.values, torch.tensor([[4.0, 6.0], [2.0, 2.0], [7.0, 1.0]]))
    assert mean.counts.tolist() == [4, 4, 5]


# --- the loss


def test_objective_by_hand():
    """Features are logits here. Three samples: (ln 3, 0) of class 0 whose prototype is (ln 3 + 1, 2), twice, and
    (0, 0) of class 1, which has none.

    Cross-entropy: (2 ln 4/3 + ln 2) / 3. Squared distance over two entries: (1 + 4) / 2, for two of three samples.
    Gradient of a feature with lambda 3: (p - y) / 3 + 3 * 2 (f - c) / (2 * 3) = (p - y) / 3 + (f - c).
    """
    ln3 = math.log(3)
    x = torch.tensor([[ln3, 0.0], [ln3, 0.0], [0.0, 0.0]], requires_grad=True)
    known = protos([[ln3 + 1, 2.0], [50.0, 50.0]], [2, 0])
    loss = objective(Echo(2), x, torch.tensor([0, 0, 1]), known, changed(kd_weight=3.0))
    loss.backward()
    assert loss.item() == pytest.approx((2 * math.log(4 / 3) + math.log(2)) / 3 + 3 * 2.5 * 2 / 3)
    pulled = [-1 / 12 - 1, 1 / 12 - 2]
    torch.testing.assert_close(x.grad, torch.tensor([pulled, pulled, [1 / 6, -1 / 6]]))


def test_the_distance_is_a_mean_over_entries():
    """The authors' MSE: twice the entries at the same gap are the same distance."""
    loss = {}
    for size in (2, 4):
        x = torch.zeros(1, size)
        known = protos([[1.0] * size] * size, [1] * size)
        args = Echo(size), x, torch.tensor([0])
        loss[size] = objective(*args, known, changed()) - objective(*args, None, changed())
    assert loss[2].item() == pytest.approx(1.0) == pytest.approx(loss[4].item())


def test_without_prototypes_it_is_cross_entropy():
    x, y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0])
    alone = objective(Echo(3), x, y, None, changed())
    assert torch.equal(alone, cross_entropy(x, y))
    nobodys = protos([[0.0] * 3] * 3, [0] * 3)
    assert torch.equal(alone, objective(Echo(3), x, y, nobodys, changed()))


# --- the nearest prototype


@pytest.mark.parametrize(
    ("counts", "nearest"),
    [
        ([1, 1, 1], [0, 1, 2]),
        ([1, 0, 1], [0, 0, 2]),  # class 1 has no prototype: its samples go to the next one, however near it lies
    ],
)
def test_the_nearest_prototype_predicts(counts, nearest):
    model = Nearest(Echo(3), protos([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [8.0, 0.0, 0.0]], counts))
    samples = Samples(torch.tensor([[0.3, 0.0, 0.0], [1.9, 0.0, 0.0], [7.0, 9.0, 0.0]]))
    logprobs = predict(model, samples)
    assert logprobs.argmax(1).tolist() == nearest
    assert logprobs.isfinite().all()


def test_distances_are_squared_and_exact():
    """Far from the origin and with many samples, where the expansion of (a - b)^2 loses everything in float32."""
    model = Nearest(Echo(2), protos([[1000.25, 1000.0], [1003.25, 1004.0]], [1, 1]))
    logits = model(torch.tensor([[1000.25, 1000.0]]).expand(64, 2))
    torch.testing.assert_close(logits, torch.tensor([[0.0, -25.0]]).expand(64, 2), rtol=0, atol=1e-3)


# --- whole runs

ROWS = {
    "0": [([3.0, 0.0], 0), ([1.0, 0.0], 0), ([0.0, 1.0], 1)],
    "1": [([5.0, 3.0], 0)],
    "2": [([0.0, 7.0], 1), ([0.0, 3.0], 1)],
}
"""Client -> its samples: the feature, and its class. Client 1 alone knows no class 1, client 2 none of class 0."""


def still():
    return echoes(ROWS)


def expected_loss(client: str, known: dict[int, list[float]]) -> float:
    """Return the mean over the client's samples of CE + squared distance / 2, in plain Python."""
    total = 0.0
    for row, y in ROWS[client]:
        total += math.log(sum(math.exp(v - row[y]) for v in row))
        if y in known:
            total += sum((v - c) ** 2 for v, c in zip(row, known[y], strict=True)) / 2
    return total / len(ROWS[client])


@pytest.mark.parametrize("weighting", ["examples", "clients"])
def test_clients_hear_the_last_rounds_prototypes(weighting):
    """Two of three clients a round, so that prototypes change from round to round and a class can be absent.

    Prototypes that are frozen, weighed otherwise, or lost with their class give another loss in some round.
    """
    changes = f"{STILL} client.steps=null data.clients=3 server.rounds=6 server.fraction=0.67 client.kd_weight=1.0 "
    lines = tiny.run("fedproto", changes + f"server.weighting={weighting}", task=still)
    replied = {line["round"]: line["replied"] for line in tiny.rounds(lines)}
    assert len({tuple(who) for who in replied.values()}) > 1
    known: dict[int, list[float]] = {}
    for number in range(1, 7):
        for (round, client), line in tiny.of_clients(lines).items():
            if round == number:
                assert line["metrics"]["loss"] == pytest.approx(expected_loss(client, known), rel=1e-5)
        for y in (0, 1):
            votes = []  # (weight, row)
            for client in replied[number]:
                mine = [row for row, c in ROWS[client] if c == y]
                votes += [(1 / len(mine) if weighting == "clients" else 1.0, row) for row in mine]
            if votes:
                mass = sum(w for w, _ in votes)
                known[y] = [sum(w * row[i] for w, row in votes) / mass for i in (0, 1)]


class Dropping(Echo):
    """An Echo that drops half of what it sees while it is trained."""

    def features(self, x: Tensor) -> Tensor:
        return dropout(x, 0.5, self.training)


def dropping():
    still = echoes(ROWS)
    return Task(lambda _: Dropping(2), still.data)


def sent(words, task, monkeypatch):
    """Return what clients send in one round."""
    found = {}
    real = methods.strategy("fedproto").aggregate

    def listen(self, replies, knowledge, round):
        found.update({r.client.id: Prototypes.need(r.content) for r in replies})
        return real(self, replies, knowledge, round)

    monkeypatch.setattr(methods.strategy("fedproto"), "aggregate", listen)
    tiny.run("fedproto", f"{STILL} data.clients=3 server.rounds=1 {words}", task=task)
    return found


@pytest.mark.usefixtures("single_replies")
@pytest.mark.parametrize("length", ["client.epochs=3 client.steps=null", "client.steps=1 client.batch=1"])
def test_own_prototypes_are_means_over_all_own_samples(length, monkeypatch):
    """Equation 3: every sample once, whatever the training was like, as the model sees it when it predicts."""
    found = sent(length, dropping, monkeypatch)
    assert {client: own.counts.tolist() for client, own in found.items()} == {"0": [2, 1], "1": [1, 0], "2": [0, 2]}
    assert found["0"].values.tolist() == [[2.0, 0.0], [0.0, 1.0]]
    assert found["1"].values.tolist() == [[5.0, 3.0], [0.0, 0.0]]
    assert found["2"].values.tolist() == [[0.0, 0.0], [0.0, 5.0]]


class Shifted(Echo):
    """An Echo whose features are one larger while it is trained."""

    def features(self, x: Tensor) -> Tensor:
        return x + float(self.training)


def shifted():
    return Task(lambda _: Shifted(2), echoes(ROWS).data)


@pytest.mark.usefixtures("single_replies")
@pytest.mark.parametrize(
    "length",
    [
        "client.epochs=3 client.steps=null client.batch=1",
        "client.steps=5 client.batch=3",
        "client.steps=1 client.batch=3 client.warmup=4",
    ],
)
def test_prototypes_during_training_are_of_the_last_epoch_and_of_the_model_in_training(length, monkeypatch):
    """Client 0 has two samples of class 0, whose mean is (2, 0), and one of class 1, (0, 1): each counts once."""
    found = sent(f"client.prototypes=during {length}", shifted, monkeypatch)
    assert found["0"].counts.tolist() == [2, 1]
    assert found["0"].values.tolist() == [[3.0, 1.0], [1.0, 2.0]]


@pytest.mark.usefixtures("single_replies")
def test_a_class_that_did_not_go_by_during_training_has_no_prototype(monkeypatch):
    found = sent("client.prototypes=during client.steps=1 client.batch=1", shifted, monkeypatch)
    assert [int(own.counts.sum()) for own in found.values()] == [1, 1, 1]


def test_what_predicts_is_chosen(tmp_path):
    """Weights stand still, so the head stays where it is; prototypes predict from round two on, when they come."""
    seen = {}
    for inference in ("all", "head"):
        lines = tiny.run("fedproto", TINY + f"client.lr=1e-30 client.inference={inference}")
        own = tiny.of_clients(lines)
        seen[inference] = [own[number, "0"]["evaluations"]["trained"]["global"] for number in (1, 2)]
    assert seen["head"][0] == seen["head"][1] == seen["all"][0]
    assert seen["all"][1] > seen["head"][1] + 0.2


def test_without_its_second_term_it_is_local_training(tmp_path):
    """Lambda = 0: the same weights as `local`, bit for bit, at every client; and with the head the same figures."""
    lines = {
        "fedproto": tiny.run(
            "fedproto", TINY + "client.kd_weight=0 client.inference=head run.keep=last", out=tmp_path / "fedproto"
        ),
        "local": tiny.run("local", TINY + "run.keep=last", out=tmp_path / "local"),
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedproto"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(lines[method]) for method in ("fedproto", "local"))
    assert ours.keys() == alone.keys()
    assert all(tiny.by_head(ours[who]) == alone[who]["evaluations"] for who in ours)


def test_with_its_second_term_it_is_not(tmp_path):
    for method in ("fedproto", "local"):
        tiny.run(method, TINY + "run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fedproto"), tiny.models(tmp_path / "local")
    first = [who for who in ours if who[1] == "1-0"]
    tiny.assert_same_bits({who: ours[who] for who in first}, {who: alone[who] for who in first})
    assert not torch.equal(ours["0", "2-0"]["model/body.1.weight"], alone["0", "2-0"]["model/body.1.weight"])


def test_only_prototypes_travel():
    """10 prototypes of 128 float32 values and 10 int64 counts: 5,200 bytes a client, and names on top."""
    lines = tiny.rounds(tiny.run("fedproto", TINY))
    assert [list(line["bytes"]["up"]) for line in lines] == [["prototypes"]] * 2
    assert [list(line["bytes"]["down"]) for line in lines] == [[], ["prototypes"]]
    assert 0 <= lines[0]["bytes"]["up"]["prototypes"] / 3 - 5200 < 400


def test_feature_sizes_must_be_equal():
    with pytest.raises(
        InvalidInputError, match="fedproto needs one feature size for all models; got lenet 84, mlp 128"
    ):
        tiny.run("fedproto", TINY + "model.name=[mlp,lenet]")
    lines = tiny.run("fedproto", TINY + "model.name=[mlp,lenet] model.features=16")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


@pytest.mark.parametrize(("section", "key"), [("server", "weighting"), ("client", "inference")])
def test_unknown_words_are_refused(section, key):
    with pytest.raises(InvalidInputError, match=f"{section}.{key} is 'exmples'"):
        methods.config("fedproto", section, **{key: "exmples"})


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedproto", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
