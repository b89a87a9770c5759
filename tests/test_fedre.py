"""FedRE: a client's samples become one representation and one label, of which the server learns a head for all."""

import math

import pytest
import torch
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import echoes
from helpers.tiny import STILL, TINY
from safetensors.torch import load_file

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.generate.entangled import RULES, entangled
from fd_flower.tasks.task import Task
from fd_flower.training.optimizer import Optimizer
from fd_flower.wire import Head, Knowledge, Representation

# --- entanglement

FEATURES = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 8.0]])
LABELS = torch.tensor([2, 2, 0])
"""Prototypes: (2, 0) of class 2, (0, 8) of class 0; class 1 is not there."""


def mixed(rule: str, seed: int = 0, features=FEATURES, labels=LABELS):
    return entangled(rule, features, labels, 3, torch.Generator().manual_seed(seed))


def test_equal_weights_by_hand():
    """VAP: the mean of both prototypes. VAR: the mean of all samples, two thirds of them of class 2."""
    for rule, values, label in (("vap", [1.0, 4.0], [0.5, 0.0, 0.5]), ("var", [4 / 3, 8 / 3], [1 / 3, 0.0, 2 / 3])):
        found = mixed(rule)
        torch.testing.assert_close(found[0], torch.tensor(values))
        torch.testing.assert_close(found[1], torch.tensor(label))


@pytest.mark.parametrize("seed", range(5))
def test_rap_mixes_prototypes_and_labels_by_the_same_weights(seed):
    """With w the weight of class 2: (2 w, 8 (1 - w)) and (1 - w, 0, w)."""
    values, label = mixed("rap", seed)
    w = float(label[2])
    assert 0 < w < 1
    torch.testing.assert_close(label, torch.tensor([1 - w, 0.0, w]))
    torch.testing.assert_close(values, torch.tensor([2 * w, 8 * (1 - w)]))


@pytest.mark.parametrize("seed", range(5))
def test_rar_weighs_each_sample(seed):
    """The second entry gives the third sample's weight; that of the first two is what their classes have together."""
    values, label = mixed("rar", seed)
    third = float(values[1]) / 8
    torch.testing.assert_close(label, torch.tensor([third, 0.0, 1 - third]))
    assert 1 < float(values[0]) / (1 - third) < 3  # between the two


def test_rsr_draws_one_sample_a_class():
    drawn = set()
    for seed in range(20):
        values, label = mixed("rsr", seed)
        drawn.add(round(float(values[0] / label[2])))
        assert float(values[1]) == pytest.approx(8 * float(label[0]))
    assert drawn == {1, 3}


def test_random_weights_are_uniform_before_they_are_normalized():
    """Of two classes, w1 / (w1 + w2) has the mean 1/2 and the mean square 1 - ln 2; normal weights would have others.

    E[(u / (u + v))^2] = 1 - ln 2: on u < v the ratio r = u / v is uniform, on u > v so is v / u, and the integral of
    r^2 / (1 + r)^2 plus that of 1 / (1 + r)^2 over [0, 1], halved, is 1 - ln 2.
    """
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([float(entangled("rap", FEATURES, LABELS, 3, rng)[1][2]) for _ in range(4000)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.015)
    assert float(shares.square().mean()) == pytest.approx(1 - math.log(2), abs=0.012)


@pytest.mark.parametrize("rule", RULES)
def test_one_class_is_its_own_mixture(rule):
    """Its label is one-hot, and all weights of one prototype are 1."""
    values, label = mixed(rule, features=FEATURES[:2], labels=LABELS[:2])
    assert label.tolist() == [0.0, 0.0, 1.0]
    if rule in ("rap", "vap", "var"):
        assert values.tolist() == [2.0, 0.0]
    assert 1 <= float(values[0]) <= 3


def test_means_of_large_features_do_not_overflow_or_lose_digits():
    """Sums in half precision overflow at 65,504; in float32 a mean of a million samples loses three digits."""
    features = torch.full((200_000, 1), 1000.1)
    values, _ = entangled("vap", features, torch.zeros(200_000).long(), 1, torch.Generator())
    assert float(values) == float(features[0])


@pytest.mark.parametrize(("key", "value"), [("entangle", "rsp"), ("entangle", "rpa")])
def test_unknown_rules_are_refused(key, value):
    with pytest.raises(InvalidInputError, match=f"client.{key} is '{value}'"):
        methods.config("fedre", "client", **{key: value})


# --- the server

ZERO = Head(torch.zeros(2, 2), torch.zeros(2))


class World:
    """All of the server's world that the strategy looks at."""

    device = torch.device("cpu")


def aggregated(replies, head=ZERO, **changes):
    made = strategy("fedre", **changes)
    made.__dict__["world"] = World()
    (found,) = made.aggregate(replies, Knowledge([head]), round=1)
    return found


HEARD = [
    reply_of("0", Representation(torch.tensor([1.0, 2.0]), torch.tensor([0.25, 0.75]))),
    reply_of("1", Representation(torch.tensor([4.0, 0.0]), torch.tensor([1.0, 0.0]))),
]


def test_a_round_is_one_step_on_the_sum_of_soft_cross_entropies():
    """From zero both classes have p = 1/2: gradients (p - label) x, summed over clients, times the rate 0.01.

    Class 0: 1/4 (1, 2) - 1/2 (4, 0) = (-7/4, 1/2), of its bias 1/4 - 1/2. Class 1: the negative. A mean would halve it.
    """
    head = aggregated(HEARD)
    torch.testing.assert_close(head.weight, torch.tensor([[0.0175, -0.005], [-0.0175, 0.005]]))
    torch.testing.assert_close(head.bias, torch.tensor([0.0025, -0.0025]))


@pytest.mark.parametrize(("clients", "batch", "steps"), [(10, 32, 1), (10, 5, 2), (33, 16, 2)])
def test_ten_clients_are_one_step_at_the_defaults(clients, batch, steps, monkeypatch):
    """A last mini-batch of one is left out, as everywhere (33 = 2 x 16 + 1)."""
    taken = []
    step = Optimizer.step
    monkeypatch.setattr(Optimizer, "step", lambda self: (taken.append(1), step(self))[1])
    aggregated(HEARD * (clients // 2) + HEARD[: clients % 2], batch=batch)
    assert len(taken) == steps


def test_who_says_nothing_is_left_out_and_a_silent_round_keeps_the_head():
    silent = reply_of("2")
    assert torch.equal(aggregated([*HEARD, silent]).weight, aggregated(HEARD).weight)
    assert aggregated([silent]) is ZERO


def test_the_first_head_is_a_copy():
    """In the authors' code it is client 0's head itself, which that client's training then moves."""
    before = ZERO.weight.clone()
    aggregated(HEARD)
    assert torch.equal(ZERO.weight, before)


@pytest.mark.parametrize(("key", "value"), [("epochs", -1), ("batch", 0), ("lr", 0.0)])
def test_options_out_of_range_are_refused(key, value):
    with pytest.raises(InvalidInputError, match=f"server.{key} is {value}; expected"):
        methods.config("fedre", "server", **{key: value})


# --- whole runs


def heads_of(folder):
    kept = load_file(folder / "checkpoint" / "knowledge.safetensors")
    return Head(kept["head/weight"], kept["head/bias"])


def test_without_head_sharing_it_is_local(tmp_path):
    """The same weights bit for bit, and the same figures."""
    lines = {
        method: tiny.run(method, f"{TINY} run.keep=last {changes}", out=tmp_path / method)
        for method, changes in {"fedre": "client.take_head=false", "local": ""}.items()
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedre"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(lines[method]) for method in ("fedre", "local"))
    assert all(ours[who]["evaluations"] == alone[who]["evaluations"] for who in alone)


def test_clients_train_on_from_the_servers_head(tmp_path):
    """A learning rate of nothing: every client's head is the server's of the round before, not its own."""
    still = f"{TINY} {STILL} client.steps=null run.keep=last server.lr=0.5 "
    for number in (1, 2, 3):
        tiny.run("fedre", f"{still} server.rounds={number}", out=tmp_path / str(number))
    for number in (1, 2):
        head = heads_of(tmp_path / str(number))
        own = tiny.models(tmp_path / "3")
        for client in "012":
            assert torch.equal(own[client, f"{number + 1}-0"]["model/head.weight"], head.weight)
            assert torch.equal(own[client, f"{number + 1}-0"]["model/head.bias"], head.bias)
    assert not torch.equal(heads_of(tmp_path / "1").weight, heads_of(tmp_path / "2").weight)


def received_by_the_server(monkeypatch):
    """Return the list that every round's replies go into."""
    received = []
    real = methods.strategy("fedre").aggregate

    def listen(self, replies, knowledge, round):
        received.append({r.client.id: Representation.find(r.content) for r in replies})
        return real(self, replies, knowledge, round)

    monkeypatch.setattr(methods.strategy("fedre"), "aggregate", listen)
    return received


def test_weights_are_fresh_for_each_round_and_client(monkeypatch):
    """With one seed for all, as in the authors' client base class, clients with the same classes would say the same."""
    received = received_by_the_server(monkeypatch)
    tiny.run("fedre", f"{TINY} data.partition=iid")
    labels = [tuple(said.label.tolist()) for round in received for said in round.values()]
    assert len(labels) == len(set(labels)) == 6
    assert all(min(label) > 0 and sum(label) == pytest.approx(1) for label in labels)


ROWS = {"0": [([3.0, 0.0], 0), ([1.0, 2.0], 1)], "1": [([5.0, 1.0], 0)]}


def still():
    return echoes(ROWS)


def test_what_a_client_says_is_of_its_own_samples(monkeypatch):
    """One class: its prototype, one-hot. Two classes of a sample each: both, by the turn's own weights."""
    received = received_by_the_server(monkeypatch)
    tiny.run("fedre", f"{STILL} data.clients=2 server.rounds=1 client.steps=null", task=still)
    assert (received[0]["1"].values.tolist(), received[0]["1"].label.tolist()) == ([5.0, 1.0], [1.0, 0.0])
    values, label = entangled(
        "rap", torch.tensor([[3.0, 0.0], [1.0, 2.0]]), torch.tensor([0, 1]), 2, torch_rng(0, "entangle", "0", 1)
    )
    assert (received[0]["0"].values.tolist(), received[0]["0"].label.tolist()) == (values.tolist(), label.tolist())


def empty():
    whole = echoes(ROWS)
    nothing = Samples(torch.zeros(0, 2), torch.zeros(0).long())
    return Task(whole.model, lambda client: whole.data(client) if client != "2" else Data(nothing, nothing, nothing))


def test_a_client_without_samples_takes_the_head_and_says_nothing(monkeypatch):
    received = received_by_the_server(monkeypatch)
    lines = tiny.run("fedre", f"{STILL} data.clients=3 server.rounds=2 client.steps=null", task=empty)
    assert [sorted(round) for round in received] == [["0", "1", "2"]] * 2
    assert [round["2"] for round in received] == [None, None]
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_scalars_are_the_papers(monkeypatch):
    """K (d + C) up and K (C d + C) down: with its 10 clients, d = 512 and C = 100 these are 6,120 (5,120 without the
    labels, which it does not count) and 513,000.
    """
    said = Representation(torch.zeros(512), torch.eye(100)[0]), Head(torch.zeros(100, 512), torch.zeros(100))
    numbers = [sum(tensor.numel() for tensor in payload.tensors().values()) for payload in said]
    assert [10 * n for n in numbers] == [6_120, 513_000]
    received = received_by_the_server(monkeypatch)
    lines = tiny.rounds(tiny.run("fedre", TINY))
    up = sum(t.numel() for said in received[0].values() for t in said.tensors().values())
    assert up == 3 * (128 + 10)
    for line in lines:  # float32, and names on top
        assert 0 <= line["bytes"]["up"]["representation"] - 4 * up < 3 * 400
        assert 0 <= line["bytes"]["down"]["head"] - 4 * 3 * (10 * 128 + 10) < 3 * 400


def test_feature_sizes_must_be_equal():
    with pytest.raises(InvalidInputError, match="fedre needs one feature size for all models; got lenet 84, mlp 128"):
        tiny.run("fedre", TINY + "model.name=[mlp,lenet]")
    lines = tiny.run("fedre", TINY + "model.name=[mlp,lenet] model.features=16")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge, rule):
    lines = tiny.run("fedre", f"{TINY} {edge} client.entangle={rule}")
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
