"""KnFu: each client's own fusion of all predictions, everybody's mean at beta 0, local training at a large one."""

import math

import pytest
import torch
from fd_flower.client_apps.knfu import objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import TINY

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.ensemble.similarity import over_median
from fd_flower.wire import Knowledge, PublicLogits

INDEX = torch.tensor([3, 8])


def received(*clients, names=None):
    """Return replies that say these probabilities [N, C] of INDEX."""
    named = names or [str(i) for i in range(len(clients))]
    return [reply_of(i, PublicLogits(INDEX, torch.tensor(rows).log())) for i, rows in zip(named, clients, strict=True)]


def fused(replies, before=(), **changes):
    """Return client -> what is fused for it, as the client receives it; by plain distances at beta 10, unless told."""
    server = strategy("knfu", INDEX, **{"beta": 10.0, "scaled": False, **changes})
    knowledge = Knowledge(server.aggregate(replies, Knowledge(before), round=1))
    assert not knowledge.public  # nothing is for everybody
    told = {reply.client.id: server.knowledge_for(reply.client, knowledge) for reply in replies}
    assert all(payload.client == "" for payloads in told.values() for payload in payloads)
    return {client: payloads[0].values.exp() for client, payloads in told.items() if payloads}


TWO = ([[0.5, 0.5], [0.5, 0.5]], [[0.75, 0.25], [0.75, 0.25]])


# --- the server


def test_fusion_by_hand():
    """d[0, 1] = KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2, d[1, 0] = (3/4) ln(3/2) - (1/4) ln 2, at beta 10."""
    for receiver, other in (("0", math.log(4 / 3) / 2), ("1", 0.75 * math.log(1.5) - 0.25 * math.log(2))):
        weight = 1 / (1 + math.exp(-10 * other))  # on itself
        own, others = (0.5, 0.75) if receiver == "0" else (0.75, 0.5)
        row = fused(received(*TWO))[receiver]
        p = weight * own + (1 - weight) * others
        torch.testing.assert_close(row, torch.tensor([[p, 1 - p]] * 2))


def test_scaled_distances_by_hand():
    """d[0, 1] = .1438, d[1, 0] = .1308: their median is the mean of the two, and beta 1 counts e^-(d / median).

    With a third client that says what client 0 says, its distance of 0 to that one is no part of the median.
    """
    there, back = math.log(4 / 3) / 2, 0.75 * math.log(1.5) - 0.25 * math.log(2)
    median = (there + back) / 2
    weight = 1 / (1 + math.exp(-there / median))
    p = weight * 0.5 + (1 - weight) * 0.75
    torch.testing.assert_close(fused(received(*TWO), beta=1.0, scaled=True)["0"], torch.tensor([[p, 1 - p]] * 2))
    share = math.exp(-there / median) / (2 + math.exp(-there / median))  # d: two pairs of either kind
    p = (1 - share) * 0.5 + share * 0.75
    rows = fused(received(*TWO, TWO[0]), beta=1.0, scaled=True)
    torch.testing.assert_close(rows["0"], torch.tensor([[p, 1 - p]] * 2))


def test_scaled_distances_do_not_depend_on_how_far_apart_clients_are():
    near = torch.tensor([[0.0, 0.1, 0.3], [0.2, 0.0, math.inf], [0.4, 0.5, 0.0]], dtype=torch.float64)
    scaled = over_median(near)  # of .1 .2 .3 .4 .5
    assert scaled[0].tolist() == pytest.approx([0, 1 / 3, 1])
    torch.testing.assert_close(over_median(1000 * near), scaled)
    assert scaled[1, 2] == math.inf


@pytest.mark.parametrize("clients", [0, 1, 3])
def test_clients_that_all_say_the_same_have_nothing_to_scale(clients: int):
    assert torch.equal(over_median(torch.zeros(clients, clients)), torch.zeros(clients, clients))


def test_beta_zero_is_the_mean_for_everybody():
    rows = fused(received(*TWO), beta=0.0)
    torch.testing.assert_close(rows["0"], torch.tensor([[0.625, 0.375]] * 2))
    assert torch.equal(rows["0"], rows["1"])


def test_without_oneself_two_clients_swap():
    rows = fused(received(*TWO), include_self=False)
    torch.testing.assert_close(rows["0"], torch.tensor(TWO[1]))
    torch.testing.assert_close(rows["1"], torch.tensor(TWO[0]))


def test_the_distance_may_be_taken_sample_by_sample():
    """Both say each class of one sample: the same mix, so neighbors by distribution, and strangers by sample."""
    crossed = received([[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]])
    torch.testing.assert_close(fused(crossed)["0"], torch.full((2, 2), 0.5))
    assert fused(crossed, distance="sample") == {}  # d = .8 ln 9 = 1.76: weights of 1 - 2e-8 on themselves


@pytest.mark.parametrize("include_self", [True, False])
def test_a_lone_client_is_told_nothing(include_self):
    assert fused(received(TWO[0]), include_self=include_self) == {}


def test_who_counts_to_itself_alone_is_told_nothing():
    rows = fused(received([[1.0, 0.0]] * 2, [[0.1, 0.9]] * 2, [[0.2, 0.8]] * 2))
    assert set(rows) == {"1", "2"}


def test_who_was_away_keeps_what_was_fused_for_it():
    """Client 2 took part before and is away now; client 0 has new knowledge in place of its old."""
    server = strategy("knfu", INDEX, beta=0.0)
    old = Knowledge(server.aggregate(received(TWO[0], TWO[1], names=["0", "2"]), Knowledge(), round=1))
    server.round_index = torch.tensor([1, 2])
    replies = [reply_of(i, PublicLogits(torch.tensor([1, 2]), torch.tensor(TWO[0]).log())) for i in ("0", "1")]
    new = Knowledge(server.aggregate(replies, old, round=2))
    about = {i: [p.index.tolist() for p in server.knowledge_for(Client(str(i), i), new)] for i in range(4)}
    assert about == {0: [[1, 2]], 1: [[1, 2]], 2: [[3, 8]], 3: []}


def test_who_is_alone_now_forgets_what_was_fused_for_it():
    server = strategy("knfu", INDEX, beta=10.0, scaled=False)
    old = Knowledge(server.aggregate(received(*TWO), Knowledge(), round=1))
    new = Knowledge(server.aggregate(received([[1.0, 0.0]] * 2, [[0.1, 0.9]] * 2), old, round=2))
    assert server.knowledge_for(Client("0", 0), old)
    assert not server.knowledge_for(Client("0", 0), new)


def test_a_sample_that_no_neighbor_voted_on_is_not_taught():
    """Without itself, client 0 has client 1's one row alone."""
    replies = [*received(TWO[0]), reply_of("1", PublicLogits(INDEX[:1], torch.tensor([[0.6, 0.4]]).log()))]
    rows = fused(replies, include_self=False)
    torch.testing.assert_close(rows["0"], torch.tensor([[0.6, 0.4]]))
    assert len(rows["1"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("server.beta=-1", "server.beta is -1.0; expected at least 0"),
        ("server.distance=samples", "server.distance is 'samples' .did you mean 'sample'"),
    ],
)
def test_wrong_options_are_refused_before_the_run(options, message):
    with pytest.raises(InvalidInputError, match=message):
        settings("knfu", options)


def test_objective_by_hand():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2, at a weight of 3."""
    x, even = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]]).log_softmax(1)
    loss = objective(lambda x: x, x, None, even, methods.config("knfu", "client", kd_weight=3.0))
    assert loss.item() == pytest.approx(3 * math.log(4 / 3) / 2)


# --- the two limits


def test_beta_zero_is_uniform_averaging_bit_for_bit(tmp_path):
    """As dsfl without its entropy reduction: the same models at every client in every round, with seven clients too."""
    for clients in (3, 7):
        options = TINY + f"data.clients={clients} client.objective=kl run.keep=last "
        tiny.run("knfu", options + "server.beta=0", out=tmp_path / f"knfu{clients}")
        tiny.run("dsfl", options + "server.temperature=null", out=tmp_path / f"dsfl{clients}")
        tiny.assert_same_bits(tiny.models(tmp_path / f"knfu{clients}"), tiny.models(tmp_path / f"dsfl{clients}"))


@pytest.mark.parametrize("distance", ["distribution", "sample"])
def test_a_large_beta_is_local_training_bit_for_bit(tmp_path, distance):
    """Under Adam, too, which would make a step of ordinary size of the rounding noise in Q = P."""
    options = TINY + "client.optimizer=adam client.lr=0.001 run.keep=last "
    tiny.run("knfu", options + f"server.beta=1e9 server.distance={distance}", out=tmp_path / "knfu")
    tiny.run("local", options, out=tmp_path / "local")
    tiny.assert_same_bits(tiny.models(tmp_path / "knfu"), tiny.models(tmp_path / "local"))


def test_clients_of_one_class_are_local_by_the_formula(tmp_path):
    """Once each predicts its own class alone, d is large, every weight on itself 1, and nothing comes down."""
    options = TINY + "data.partition=classes data.classes=1 data.clients=10 client.warmup=50 run.keep=last "
    lines = tiny.run("knfu", options + "server.beta=10 server.scaled=false", out=tmp_path / "knfu")
    tiny.run("local", options, out=tmp_path / "local")
    tiny.assert_same_bits(tiny.models(tmp_path / "knfu"), tiny.models(tmp_path / "local"))
    for line in tiny.rounds(lines):
        assert line["diagnostics"]["self_weight"] == pytest.approx(1, abs=1e-6)
        assert line["diagnostics"]["neighbors"] == pytest.approx(1, abs=1e-4)
        assert "public-logits" not in line["bytes"]["down"]


def test_clients_of_one_class_have_neighbors_by_default():
    """Divided by their median, distances of many nats leave everybody some of the others."""
    options = TINY + "data.partition=classes data.classes=1 data.clients=10 client.warmup=50"
    for line in tiny.rounds(tiny.run("knfu", options)):
        assert line["diagnostics"]["neighbors"] > 2
        assert line["diagnostics"]["self_weight"] < 0.9


def test_groups_are_those_of_fedmd_and_a_group_of_one_is_local_training(tmp_path):
    """Bit for bit."""
    same = TINY + "run.keep=last data.clients=4 client.public_batch=32 client.steps=3 "
    greedy = "client.objective=kl client.label_epochs=0 server.rule=mean_of_probabilities server.receivers=greedy "
    runs = {"fedmd": greedy + "server.receivers_args.budget=2", "local": "", "knfu": "server.group=1"}
    for method, words in runs.items():
        tiny.run(method, same + words, out=tmp_path / method)
    tiny.run("knfu", same + "server.group=2", out=tmp_path / "two")
    tiny.assert_same_bits(tiny.models(tmp_path / "knfu"), tiny.models(tmp_path / "local"))
    tiny.assert_same_bits(tiny.models(tmp_path / "two"), tiny.models(tmp_path / "fedmd"))


def test_groups_need_labels():
    with pytest.raises(InvalidInputError, match=r"knfu needs labeled public samples.*server\.group=null does without"):
        tiny.run("knfu", TINY + "server.group=2 data.public=noise")


def test_between_the_limits_it_is_neither(tmp_path):
    for method in ("knfu", "dsfl", "local"):
        tiny.run(method, TINY + "client.objective=kl run.keep=last", out=tmp_path / method)
    models = {method: tiny.models(tmp_path / method)["0", "2-0"] for method in ("knfu", "dsfl", "local")}
    for other in ("dsfl", "local"):
        assert not torch.equal(models["knfu"]["model/head.weight"], models[other]["model/head.weight"])


# --- runs


def test_a_run_that_is_resumed_goes_on_with_everybodys_own_fusion(tmp_path):
    """What is fused for a client is the server's alone, and in its checkpoint."""
    options = TINY + "server.beta=1 run.keep=last "
    tiny.run("knfu", options + "server.rounds=3", out=tmp_path / "whole")
    tiny.run("knfu", options + "server.rounds=2", out=tmp_path / "parts")
    tiny.run("knfu", f"server.rounds=3 run.resume={tmp_path / 'parts'}")
    whole, parts = tiny.models(tmp_path / "whole"), tiny.models(tmp_path / "parts")
    last = {who: state for who, state in whole.items() if who[1] == "3-0"}
    tiny.assert_same_bits(last, {who: parts[who] for who in last})


def test_each_client_hears_its_own_fusion_and_says_predictions():
    lines = tiny.rounds(tiny.run("knfu", TINY + "server.beta=1"))
    assert [set(line["bytes"]["up"]) for line in lines] == [{"public-logits"}] * 2
    assert [set(line["bytes"]["down"]) for line in lines] == [{"public-index"}, {"public-logits", "public-index"}]
    assert 0 <= lines[1]["bytes"]["down"]["public-logits"] / 3 - 960 < 400


def test_neighbors_are_noted_for_each_client_and_on_average():
    lines = tiny.run("knfu", TINY + "server.beta=1")
    for line in tiny.rounds(lines):
        own = [tiny.of_clients(lines)[line["round"], client]["diagnostics"] for client in line["replied"]]
        for name in ("self_weight", "neighbors"):
            assert line["diagnostics"][name] == pytest.approx(sum(notes[name] for notes in own) / len(own))
        assert all(1 / 3 <= notes["self_weight"] <= 1 and 1 <= notes["neighbors"] <= 3 for notes in own)


def test_architectures_may_differ():
    lines = tiny.run("knfu", TINY + "model.name=[mlp,lenet]")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


def test_public_samples_are_needed():
    with pytest.raises(InvalidInputError, match="knfu needs public samples"):
        tiny.run("knfu", TINY + "data.public=none")


@pytest.mark.parametrize(
    "edge",
    [
        *tiny.DEGENERATE,
        "data.public=noise",
        "data.public_size=1 data.public_batch=1",
        "server.include_self=false data.clients=1",
        "server.include_self=false data.clients=10 data.partition=classes data.classes=1",
        "server.fraction=0.5 server.rounds=4 data.clients=4",
    ],
)
def test_federations_at_the_edge(edge):
    lines = tiny.run("knfu", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
