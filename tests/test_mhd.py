"""MHD: heads that learn from heads one level lower, embeddings, and a server that relays along a graph."""

import logging
import math
from collections import Counter

import pytest
import torch
from fd_flower.client_apps import mhd
from fd_flower.client_apps.mhd import Headed, Teachers, aligned, objective
from flwr.app import Error
from helpers import tiny
from helpers.grids import Noted, Spoilt, hosts
from helpers.replies import reply_of, strategy
from helpers.resumed import again, assert_same
from helpers.tasks import INPUTS, Echo, Small, samples
from helpers.tiny import TINY, figures, start
from torch import nn

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data
from fd_flower.ensemble import mean_of_probabilities
from fd_flower.objectives.heads import embedding_distance, targets
from fd_flower.server import Strategy
from fd_flower.tasks.task import Task
from fd_flower.wire import Knowledge, PublicHeads
from fd_flower.wire.envelope import unfold

RNG = torch.Generator()
GONE = Error(2, "gone")


def changed(**changes):
    return methods.config("mhd", "client", **changes)


def log(*rows):
    """Return log-probabilities of rows that say how likely the first of two classes is, one a head."""
    return torch.tensor([[[p, 1 - p] for p in heads] for heads in rows]).log()


# --- what a head learns: samples x heads, teachers first


def first(chosen):
    """Return how likely the first of two classes is in targets: samples x auxiliary heads."""
    return chosen.exp()[..., 0].tolist()


def test_a_head_learns_from_the_surest_head_one_level_lower():
    """One sample, three heads. Head 1 has the main heads to choose from, head 2 the first auxiliary ones.

    Sureness is that of the likeliest class: 0.1 is as sure as 0.9.
    """
    own = log([0.7, 0.2, 0.5])
    teachers = torch.stack([log([0.6, 0.1, 0.5]), log([0.9, 0.5, 0.5])])
    both = torch.ones(2, 1, dtype=torch.bool)
    assert first(targets(own, teachers, both, RNG)) == [pytest.approx([0.9, 0.1])]
    one = torch.tensor([[True], [False]])
    assert first(targets(own, teachers, one, RNG)) == [pytest.approx([0.7, 0.1])]  # one's own main head is surer
    assert first(targets(own, teachers, one, RNG, include_self=False)) == [pytest.approx([0.6, 0.1])]


def test_the_surest_is_chosen_sample_by_sample():
    own, teachers = log([0.6, 0.5], [0.6, 0.5]), torch.stack([log([0.9, 0.5], [0.5, 0.5])])
    chosen = targets(own, teachers, torch.ones(1, 2, dtype=torch.bool), RNG)
    assert first(chosen) == [pytest.approx([0.9]), pytest.approx([0.6])]


def test_own_heads_are_given_as_logits_and_learn_nothing_by_teaching():
    own = (log([0.8, 0.5]) + 3.0).requires_grad_()
    chosen = targets(own, torch.stack([log([0.6, 0.5])]), torch.ones(1, 1, dtype=torch.bool), RNG)
    torch.testing.assert_close(chosen.exp(), torch.tensor([[[0.8, 0.2]]]))
    assert not chosen.requires_grad


def test_the_teachers_heads_of_the_same_level_can_be_candidates():
    own, teachers = log([0.6, 0.6, 0.6]), torch.stack([log([0.7, 0.9, 0.05])])
    speaks = torch.ones(1, 1, dtype=torch.bool)
    assert first(targets(own, teachers, speaks, RNG)) == [pytest.approx([0.7, 0.9])]
    assert first(targets(own, teachers, speaks, RNG, same_level=True)) == [pytest.approx([0.9, 0.05])]


def test_the_mean_is_of_the_probabilities_of_those_who_speak():
    own, teachers = log([0.9, 0.5]), torch.stack([log([0.3, 0.5]), log([0.1, 0.5])])
    for speaks, expected in (([True, True], 1.3 / 3), ([True, False], 0.6), ([False, True], 0.5)):
        mask = torch.tensor(speaks).unsqueeze(1)
        assert first(targets(own, teachers, mask, RNG, select="mean")) == [pytest.approx([expected])]


def test_with_one_head_and_the_mean_it_learns_what_fedmd_digests():
    """The mean of everybody's main heads, own included, on every sample: FedMD's consensus (of probabilities)."""
    rows = torch.randn(4, 5, 2, 3, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    chosen = targets(rows[0], rows[1:], torch.ones(3, 5, dtype=torch.bool), RNG, select="mean")
    consensus, _ = mean_of_probabilities(rows[:, :, 0], torch.ones(4, 5, dtype=torch.bool))
    torch.testing.assert_close(chosen[:, 0], consensus)


def test_at_random_each_candidate_comes_equally_often():
    """10,000 samples, three candidates of which one is silent: a half each, with a standard deviation of 0.005."""
    own = log([0.6, 0.5]).expand(10_000, 2, 2)
    teachers = torch.stack([own * 2, own * 3]).log_softmax(-1)
    speaks = torch.tensor([[True], [False]]).expand(2, 10_000)
    chosen = targets(own, teachers, speaks, RNG.manual_seed(0), select="random")[:, 0, 0].exp()
    assert (chosen < 0.61).double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert sorted(set(chosen.tolist())) == pytest.approx([0.6, 0.36 / 0.52])


def test_embeddings_are_compared_without_their_lengths():
    """Own (3, 4) is (0.6, 0.8); to (1, 0) the squared distance is 0.16 + 0.64 = 0.8, to (0, 2) 0.36 + 0.04 = 0.4.

    The first teacher has both samples: (0.8 + 0) / 2; the second has the first alone: 0.4; the third has none.
    """
    own = torch.tensor([[3.0, 4.0], [0.0, 5.0]], requires_grad=True)
    teachers = torch.tensor([[[1.0, 0.0], [0.0, 0.1]], [[0.0, 2.0], [9.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]])
    speaks = torch.tensor([[True, True], [True, False], [False, False]])
    loss = embedding_distance(own, teachers, speaks)
    assert loss.item() == pytest.approx(0.4 + 0.4)
    loss.backward()
    assert torch.allclose((own * own.grad).sum(1), torch.zeros(2), atol=1e-6)  # its length does not matter


def test_an_empty_embedding_is_no_trouble():
    inputs = torch.tensor([[-1.0, -1.0]], requires_grad=True)
    embedding_distance(inputs.relu(), torch.ones(1, 1, 2), torch.ones(1, 1, dtype=torch.bool)).backward()
    assert torch.equal(inputs.grad, torch.zeros(1, 2))


# --- the objective


def headed(*weights):
    """Return two inputs that are their own features, a main head that repeats them, and an auxiliary head a weight."""
    auxiliary = nn.Linear(2, 2 * len(weights), bias=False)
    with torch.no_grad():
        auxiliary.weight.copy_(torch.cat([weight * torch.eye(2) for weight in weights]))
    return Headed(Echo(2), auxiliary)


def taught(x, heads, features, **changes):
    about = {"speaks": torch.ones(1, len(x)).bool(), "embeds": torch.ones(1, len(x)).bool(), "rng": RNG}
    return Teachers(x=x, heads=heads.unsqueeze(0), features=features.unsqueeze(0), **{**about, **changes})


def test_all_heads_see_the_same_features():
    logits = headed(2.0, -1.0).heads(torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(logits, torch.tensor([[[1.0, 3.0], [2.0, 6.0], [-1.0, -3.0]]]))


def test_objective_by_hand():
    """One private and one public sample, two auxiliary heads, weights nu_emb = 2 and nu_aux = 3.

    * Private: logits (0, 0), CE ln 2.
    * Embedding: (3, 4) against (1, 0): 0.8, twice.
    * Head 1 says softmax(0, 0) and learns the teacher's main head (0.9, 0.1), surer than one's own softmax(3, 4):
      KL = 0.9 ln 1.8 + 0.1 ln 0.2.
    * Head 2 says softmax(0, 0), too, and learns the teacher's head 1 (0.6, 0.4): 0.6 ln 1.2 + 0.4 ln 0.8.
    """
    x, y = torch.zeros(1, 2), torch.tensor([0])
    public = taught(torch.tensor([[3.0, 4.0]]), log([0.9, 0.6, 0.99]), torch.tensor([[1.0, 0.0]]))
    config = changed(heads=2, emb_weight=2.0, kd_weight=3.0)
    chain = 0.9 * math.log(1.8) + 0.1 * math.log(0.2) + 0.6 * math.log(1.2) + 0.4 * math.log(0.8)
    loss = objective(headed(0.0, 0.0), x, y, public, config)
    assert loss.item() == pytest.approx(math.log(2) + 2 * 0.8 + 3 * chain, rel=1e-6)
    assert objective(headed(0.0, 0.0), x, y, None, config).item() == pytest.approx(math.log(2))


def test_a_projection_is_compared_with_embeddings_of_another_size():
    """(3, 4) projected to (3, 4, 0) against (1, 0, 0): 0.8, twice, beside the 0.8 of the teacher of one's own size."""
    x, y = torch.zeros(1, 2), torch.tensor([0])
    wide = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.ones(1, 1).bool()
    public = taught(torch.tensor([[3.0, 4.0]]), log([0.9]), torch.tensor([[1.0, 0.0]]), others={3: wide})
    projection = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.eye(3, 2))
    model = Headed(Echo(2), nn.Linear(2, 2), {3: projection})
    loss = objective(model, x, y, public, changed(emb_weight=2.0, kd_weight=0.0))
    assert loss.item() == pytest.approx(math.log(2) + 2 * 0.8 + 2 * 0.8)
    loss.backward()
    assert projection.weight.grad.norm() > 0


def test_the_chain_moves_features_and_the_learning_heads_and_no_other():
    """The main head has the gradient of its cross-entropy alone, whatever it teaches head 1."""
    x, y, model = torch.ones(1, 2), torch.tensor([0]), headed(1.0, 1.0)
    seen = torch.tensor([[3.0, 4.0]], requires_grad=True)
    main = model.model.head.weight
    alone = torch.autograd.grad(objective(model, x, y, None, changed(heads=2)), main)[0]
    for sureness in (0.5, 0.99):  # of the teacher's main head: one's own is surer, or is not
        public = taught(seen, log([sureness, 0.6, 0.5]), torch.zeros(1, 2))
        loss = objective(model, x, y, public, changed(heads=2, emb_weight=0))
        of_main, of_auxiliary, of_features = torch.autograd.grad(loss, [main, model.auxiliary.weight, seen])
        torch.testing.assert_close(of_main, alone)
        assert of_features.any()
        learns = sureness == 0.99  # else head 1 says what it learns already
        assert bool(of_auxiliary[:2].abs().max() > 1e-3) == learns


def test_the_loss_of_the_chain_is_the_one_that_is_named():
    """Centerd logits (0, 0) against (ln 3, -ln 3) / 2: the mean absolute difference is ln(3) / 2."""
    x, y = torch.zeros(1, 2), torch.tensor([0])
    public = taught(torch.zeros(1, 2), log([0.75, 0.5]), torch.zeros(1, 2))
    config = changed(heads=1, emb_weight=0, kd_weight=1, objective="mae")
    assert objective(headed(0.0), x, y, public, config).item() == pytest.approx(math.log(2) + math.log(3) / 2)


def test_teachers_may_speak_of_different_samples():
    one = PublicHeads(torch.tensor([2, 5]), log([0.1, 0.2], [0.3, 0.4]), torch.tensor([[1.0], [2.0]]))
    other = PublicHeads(torch.tensor([5, 7]), log([0.5, 0.6], [0.7, 0.8]), torch.tensor([[3.0, 3.0], [4.0, 4.0]]))
    bare = PublicHeads(torch.tensor([7]), log([0.9, 0.9]))
    index, heads, speaks, features, embeds = aligned([one, other, bare], 1)
    assert index.tolist() == [2, 5, 7]
    assert speaks.tolist() == [[True, True, False], [False, True, True], [False, False, True]]
    assert torch.equal(heads[0, :2], one.values)
    assert torch.equal(heads[1, 1:], other.values)
    assert torch.equal(heads[2, 2:], bare.values)
    assert embeds.tolist() == [[True, True, False], [False] * 3, [False] * 3]  # others have another size, or none
    assert features.squeeze(2).tolist() == [[1.0, 2.0, 0.0], [0.0] * 3, [0.0] * 3]


# --- the server


def relay(clients=4, **changes):
    """Return the strategy with so many clients of two features, and one auxiliary head."""
    server = strategy("mhd", **changes)
    server.settings = settings("mhd", ["client.heads=1", *(f"server.{key}={value}" for key, value in changes.items())])
    server.clients = tuple(Client(str(i), i, features=2) for i in range(clients))
    return server


def heads(sureness=0.9, index=(0, 1), features=2):
    rows = log(*[[sureness, 0.5] for _ in index])
    return PublicHeads(torch.tensor(index), rows, torch.ones(len(index), features))


def bank(server, *rounds):
    """Return what the server knows after rounds of {client: what it says}."""
    knowledge = Knowledge()
    for number, replies in enumerate(rounds, 1):
        received = [reply_of(client, payload) for client, payload in sorted(replies.items())]
        knowledge = Knowledge(server.aggregate(received, knowledge, round=number))
        knowledge = Knowledge.of(knowledge.flat())  # as the checkpoint has it
    return knowledge


def kept(knowledge):
    return {entry.client: int(entry.round) for entry in PublicHeads.all(knowledge)}


def test_the_server_keeps_what_each_client_said_last_and_for_how_long():
    server = relay(max_age=3)
    rounds = [{"0": heads(0.6), "1": heads()}, {"0": heads(0.7)}, {"0": heads(0.8)}, {"0": heads(0.9)}]
    assert kept(bank(server, *rounds[:1])) == {"0": 1, "1": 1}
    assert kept(bank(server, *rounds[:3])) == {"0": 3, "1": 1}  # received in rounds two, three and four
    assert kept(bank(server, *rounds)) == {"0": 4}
    assert kept(bank(relay(max_age=1), *rounds[:2])) == {"0": 2}
    newest = PublicHeads.all(bank(server, *rounds))[0]
    assert torch.equal(newest.values, heads(0.9).values)


def test_what_is_kept_is_sent_to_neighbors_alone():
    knowledge = bank(relay(), {str(i): heads() for i in range(4)})
    assert not knowledge.public
    for graph, received in (("ring", "13"), ("islands:2", "1"), ("complete", "123"), ("islands:1", "")):
        server = relay(graph=graph, teachers=9)
        assert "".join(entry.client for entry in server.knowledge_for(server.clients[0], knowledge)) == received


def test_teachers_are_drawn_anew_for_every_client_and_round():
    server = relay(clients=8, teachers=2)
    everybody = {str(i): heads() for i in range(8)}

    def drawn(client, rounds):
        received = server.knowledge_for(server.clients[client], bank(server, *[everybody] * rounds))
        return [entry.client for entry in received]

    assert drawn(0, 1) == drawn(0, 1)
    assert len(drawn(0, 1)) == 2
    assert len({tuple(drawn(client, 1)) for client in range(8)}) > 1
    assert len({tuple(drawn(0, rounds)) for rounds in range(1, 6)}) > 1
    assert {source for rounds in range(1, 20) for source in drawn(0, rounds)} == set("1234567")


def test_a_group_is_chosen_for_each_client_by_what_its_classes_ask_for():
    """Clients 0 and 1 know class 0, 2 and 3 class 1, and all are wrong about the other: 0 and 1 learn from each other.

    Clients have the classes that they know, so that nobody who knows the other one is of any use.
    """
    asked = "client.heads=1 server.graph=greedy:4 server.teachers=9 run.device=cpu"
    server = Strategy.for_method(settings("mhd", TINY + asked))
    truth = server.world.public.labels
    index = torch.cat([(truth == c).nonzero()[:3, 0] for c in (0, 1)])
    classes = int(truth.max()) + 1
    own = {"0": 0, "1": 0, "2": 1, "3": 1}
    server.clients = tuple(
        Client(name, int(name), features=2, counts=tuple(10 * (c == known) for c in range(classes)))
        for name, known in own.items()
    )
    said = {}
    for name, known in own.items():
        right = torch.where(truth[index] == known, 0.9, 0.01)
        rows = ((1 - right) / (classes - 1)).unsqueeze(1).repeat(1, classes)
        rows[torch.arange(len(index)), truth[index]] = right
        said[name] = PublicHeads(index, rows.log().unsqueeze(1).repeat(1, 2, 1), torch.ones(len(index), 2))
    knowledge = bank(server, said)
    told = {c.id: [entry.client for entry in server.knowledge_for(c, knowledge)] for c in server.clients}
    assert told == {"0": ["1"], "1": ["0"], "2": ["3"], "3": ["2"]}


def test_a_group_of_one_is_local_training_and_hosts_agree(tmp_path):
    greedy = "data.clients=4 server.rounds=3 run.keep=last server.teachers=2 "
    for name, graph in (("alone", "greedy:1"), ("islands", "islands:1")):
        tiny.run("mhd", TINY + greedy + f"server.graph={graph}", out=tmp_path / name)
    tiny.assert_same_bits(tiny.models(tmp_path / "alone"), tiny.models(tmp_path / "islands"))
    asked = settings("mhd", TINY + greedy + "server.graph=greedy:3 server.fraction=0.75")
    (_, _, one), (_, _, two) = start(asked, hosts("mhd")), start(asked, hosts("mhd", 2))
    assert figures(one) == figures(two)
    assert 0 < max(line["diagnostics"].get("neighbors", 0) for line in tiny.rounds(one)) <= 2


def test_groups_are_the_same_after_a_resume(tmp_path):
    options = TINY + "server.graph=greedy:3 data.clients=4 run.keep=last client.schedule=constant "
    for name, count in (("whole", 4), ("cut", 2)):
        tiny.run("mhd", f"{options} server.rounds={count}", out=tmp_path / name)
    start(again("mhd", tmp_path / "cut", "server.rounds=4"), hosts("mhd"))
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_nobody_to_learn_from_is_nothing_to_hear():
    server = relay(graph="islands:2")
    assert server.knowledge_for(server.clients[0], Knowledge()) == []
    assert server.knowledge_for(server.clients[0], bank(server, {"0": heads(), "2": heads(), "3": heads()})) == []


def test_embeddings_go_to_clients_of_the_same_size():
    server = relay(teachers=3)
    knowledge = bank(server, {"1": heads(features=2), "2": heads(features=5)})
    told = {entry.client: entry.features for entry in server.knowledge_for(server.clients[0], knowledge)}
    assert told["1"].shape == (2, 2)
    assert told["2"] is None


def test_embeddings_of_another_size_go_to_clients_that_project_theirs():
    server = relay(teachers=3)
    server.settings = settings("mhd", "client.heads=1 server.teachers=3 client.projection=true")
    knowledge = bank(server, {"1": heads(features=2), "2": heads(features=5)})
    told = {entry.client: entry.features for entry in server.knowledge_for(server.clients[0], knowledge)}
    assert told["2"].shape == (2, 5)


@pytest.fixture
def logged(caplog):
    """Listen to Flower's logger, which hands nothing on."""
    logger = logging.getLogger("flwr")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_another_number_of_heads_is_not_received(logged):
    three = PublicHeads(torch.tensor([0]), log([0.5, 0.5, 0.5]), torch.ones(1, 2))
    assert kept(bank(relay(), {"0": heads(), "1": three})) == {"0": 1}
    assert "client 1 has 3 heads, expected 2" in logged.text


def test_a_collapse_is_flagged(logged):
    """Class one is all that any head says: the first client's main head is sure of it, its last one undecided."""
    server = relay()
    bank(server, {"0": heads(0.9), "1": heads(0.8)})
    assert server.diagnostics.figures[""]["collapsed"] == 1.0
    assert "every head says one class of all public samples" in logged.text
    logged.clear()
    lively = PublicHeads(torch.tensor([0, 1]), log([0.9, 0.6], [0.1, 0.7]), torch.ones(2, 2))
    bank(server, {"0": heads(0.9), "1": lively})
    assert (server.diagnostics.figures["1"]["collapsed"], server.diagnostics.figures[""]["collapsed"]) == (0.5, 0.75)
    assert not logged.text


def test_what_is_noted_by_hand():
    """Main heads: entropies of (0.9, 0.1) and, twice each, (0.2, 0.8); of two samples both agree on none.

    Last heads say (0.5, 0.5), the first class, all four times.
    """
    server = relay()
    bank(server, {"0": heads(0.9), "1": heads(0.2)})
    entropy = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.9, 0.2)]
    notes = server.diagnostics.figures[""]
    assert notes["main_entropy"] == pytest.approx(sum(entropy) / 2)
    assert notes["last_entropy"] == pytest.approx(math.log(2))
    assert (notes["main_agreement"], notes["last_agreement"]) == (0.0, 1.0)
    bank(server, {"0": heads(0.9)})
    assert server.diagnostics.figures[""]["main_agreement"] is None  # there is no pair


# --- runs


def north() -> Task:
    return Task(lambda _: Small(), own, lambda: samples("public", 40, labels=False), samples("test", 30))


def own(client):
    return Data(*(samples(f"{client} {part}", 20) for part in ("train", "validation", "test")))


def other_first() -> Task:
    """Return `north` where client 0 has other samples."""
    return Task(north().model, lambda c: own("other" if c == "0" else c), north().public, north().test)


def remembered(folder, task, changes):
    """Return the memories of a run, by (client, file)."""
    base = TINY + "model.name=small client.steps=2 client.warmup=0 data.public_batch=12 run.keep=last "
    tiny.run("mhd", base + changes, out=folder / task.__name__, task=task)
    return tiny.memories(folder / task.__name__)


def differing(folder, changes):
    """Return (client, round) of the memories that are others where client 0 has other samples, in any bit."""
    one, two = (remembered(folder, task, changes) for task in (north, other_first))
    return {
        (client, int(file.partition("-")[0]))
        for (client, file), tensors in one.items()
        if any(not torch.equal(tensor, two[client, file][name]) for name, tensor in tensors.items())
    }


def test_islands_exchange_nothing_across(tmp_path):
    """Client 0 has other samples: the two memories that a client keeps differ on its island and in no bit beyond."""
    islands = "data.clients=4 server.rounds=4 server.graph=islands:2"
    assert differing(tmp_path, islands) == {(client, n) for client in "01" for n in (3, 4)}


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_a_ring_carries_knowledge_one_hop_a_round(tmp_path, rounds):
    """Six clients: after round t those fewer than t hops away from client 0 have felt that its samples are others."""
    ring = f"data.clients=6 server.rounds={rounds} server.graph=ring server.teachers=2"
    hops = {"0": 0, "1": 1, "5": 1, "2": 2, "4": 2, "3": 3}
    felt = {(client, n) for client, n in differing(tmp_path, ring) if n == rounds}
    assert felt == {(client, rounds) for client, far in hops.items() if far < rounds}


def absent(changes, *rounds):
    """Run two clients, of which client 1 is silent in some rounds; return who was told what, and the lines.

    The first is (round, receiver) -> {speaker: round of what it said}.
    """
    app = Spoilt(methods.client_app("mhd"), lambda c, number, content: GONE if (c, number) in away else content)
    away = {("1", number) for number in rounds}
    grid = Noted(app, 1)
    lines = start(settings("mhd", TINY + "data.clients=2 " + changes), grid)[2]
    told = {}
    for message in grid.sent:
        for client, content in unfold(message.content).items() if message.metadata.message_type == "train" else ():
            told[int(content["config"]["server-round"]), client] = kept(PublicHeads.all(content))
    return told, lines


def test_a_client_that_misses_two_rounds_is_learnt_from_and_comes_back():
    """What client 1 said in round one teaches until round four, in which it is back."""
    told, lines = absent("server.rounds=5 server.max_age=3", 2, 3)
    assert [told[number, "0"] for number in range(1, 6)] == [{}, {"1": 1}, {"1": 1}, {"1": 1}, {"1": 4}]
    assert [told[number, "1"] for number in range(1, 6)] == [{}, {"0": 1}, {"0": 2}, {"0": 3}, {"0": 4}]
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1"], ["0"], ["0"], ["0", "1"], ["0", "1"]]
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())


def test_one_that_is_away_for_too_long_is_not_learnt_from():
    told, _ = absent("server.rounds=4 server.max_age=2", 2, 3)
    assert [told[number, "0"] for number in range(1, 5)] == [{}, {"1": 1}, {"1": 1}, {}]


def test_without_weights_it_is_local_training(tmp_path):
    """Weights 0: the same model as `local`, bit for bit, at every client and in every round."""
    plain = "client.warmup=0 client.schedule=constant run.keep=last "
    tiny.run("mhd", TINY + plain + "client.kd_weight=0 client.emb_weight=0", out=tmp_path / "mhd")
    tiny.run("local", TINY + plain, out=tmp_path / "local")
    tiny.assert_same_bits(tiny.models(tmp_path / "mhd"), tiny.models(tmp_path / "local"))


def test_momentum_goes_on_where_it_is_kept(tmp_path):
    """One step on all samples in each of two rounds is two steps in one, if the momentum of the first is there."""
    plain = TINY + "client.warmup=0 client.schedule=constant client.kd_weight=0 client.emb_weight=0 run.keep=last "
    plain += "client.batch=2000 client.momentum=0.9 "
    for name, changes in {
        "whole": "server.rounds=1 client.steps=2",
        "kept": "server.rounds=2 client.steps=1 client.keep_momentum=true",
        "lost": "server.rounds=2 client.steps=1",
    }.items():
        tiny.run("mhd", plain + changes, out=tmp_path / name)
    whole = tiny.models(tmp_path / "whole")["0", "1-0"]
    kept, lost = (tiny.models(tmp_path / name)["0", "2-0"] for name in ("kept", "lost"))
    assert all(torch.allclose(whole[key], kept[key], atol=1e-6) for key in whole)
    assert not all(torch.allclose(whole[key], lost[key], atol=1e-4) for key in whole)


def test_memory_keeps_the_heads(tmp_path):
    tiny.run("mhd", TINY + "run.keep=last client.heads=2", out=tmp_path / "run")
    memories = tiny.memories(tmp_path / "run")
    first, second = memories["0", "1-0"], memories["0", "2-0"]
    assert {name for name in first if name.startswith("heads/")} == {"heads/weight", "heads/bias"}
    assert first["heads/weight"].shape == (2 * 10, 128)
    assert torch.equal(
        first["heads/weight"], memories["1", "1-0"]["heads/weight"]
    )  # nothing received: as they were made
    assert not torch.equal(first["heads/weight"], second["heads/weight"])


def test_the_main_head_is_personal_and_the_last_one_global(monkeypatch):
    """Own figures are the main head's, everybody's are the last one's, and each sample set is predicted once."""
    predicted = []
    real = mhd.predict

    def listen(turn, model, samples):
        predicted.append((turn.client, turn.round))
        return real(turn, model, samples)

    monkeypatch.setattr(mhd, "predict", listen)
    lines = tiny.run("mhd", TINY + "client.heads=2 client.steps=20")
    for line in tiny.of_clients(lines).values():
        seen = line["evaluations"]["trained"]
        assert seen["accuracy"] == seen["main/accuracy"]
        for figure in ("global", "pooled"):
            assert seen[figure] == seen[f"aux2/{figure}"]
        assert {f"aux1/{figure}" for figure in ("accuracy", "global")} <= seen.keys()
    # own and pooled validation, own and pooled test, the test set, the round's public samples
    assert Counter(predicted) == {(client, number): 6 for client in "012" for number in (1, 2)}


def test_auxiliary_heads_learn_the_others_classes():
    """Two clients with five classes each: the last head comes to know more classes than the main head has seen."""
    split = TINY + "data.partition=classes data.classes=5 data.clients=2 data.public_size=400 data.public_batch=400 "
    lines = tiny.run("mhd", split + "client.heads=1 client.steps=60 client.public_batch=64 server.rounds=4")
    for line in tiny.of_clients(lines).values():
        seen = line["evaluations"]["trained"]
        if line["round"] == 4:
            assert seen["aux1/global"] > seen["main/global"] + 0.1
            assert seen["main/accuracy"] > 0.8


def test_only_predictions_and_embeddings_travel():
    """20 samples: an int64 number, 5 heads of 10 classes and 128 features a sample, float32."""
    lines = tiny.rounds(tiny.run("mhd", TINY))
    assert [list(line["bytes"]["up"]) for line in lines] == [["public-heads"]] * 2
    assert [sorted(line["bytes"]["down"]) for line in lines] == [["public-index"], ["public-heads", "public-index"]]
    assert 0 <= lines[0]["bytes"]["up"]["public-heads"] / 3 - 20 * (8 + 4 * (5 * 10 + 128)) < 500
    bare = tiny.rounds(tiny.run("mhd", TINY + "client.emb_weight=0"))
    assert 0 <= bare[0]["bytes"]["up"]["public-heads"] / 3 - 20 * (8 + 4 * 5 * 10) < 400


def test_architectures_may_differ():
    """An mlp has 128 features, a lenet 84: they teach each other's heads, and no embeddings travel between them."""
    lines = tiny.run("mhd", TINY + "data.clients=2 model.name=[mlp,lenet]")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1"]] * 2
    down = tiny.rounds(lines)[1]["bytes"]["down"]["public-heads"]
    assert 0 <= down / 2 - 20 * (8 + 4 * 5 * 10) < 500


def test_architectures_that_differ_can_compare_embeddings_by_projections(tmp_path):
    """Each sends its own embeddings and learns a projection to the other's size, which is kept."""
    chosen = TINY + "data.clients=2 model.name=[mlp,lenet] client.projection=true client.keep_momentum=true "
    lines = tiny.run("mhd", chosen + "server.rounds=3 run.keep=last client.momentum=0.5", out=tmp_path)
    assert not any(line["failed"] for line in tiny.rounds(lines))
    down = tiny.rounds(lines)[1]["bytes"]["down"]["public-heads"]
    assert down / 2 > 20 * (8 + 4 * 5 * 10 + 4 * 84)
    memories = tiny.memories(tmp_path)
    for client, (own, other) in {"0": (128, 84), "1": (84, 128)}.items():
        second, third = (memories[client, f"{number}-0"][f"projection{other}/weight"] for number in (2, 3))
        assert second.shape == (other, own)
        assert not torch.equal(second, third)


def headless() -> Task:
    return Task(lambda _: nn.Linear(INPUTS, 3), own, north().public, north().test)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(
        InvalidInputError,
        match=r"mhd needs models with features\(x\) and a linear head.*Linear has no features and no head",
    ):
        tiny.run("mhd", TINY + "model.name=plain", task=headless)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("client.heads=0", "client.heads is 0; expected at least 1"),
        ("client.emb_weight=-1", "client.emb_weight is -1.0; expected at least 0"),
        ("client.select=confident", "client.select is 'confident' .did you mean 'confidence'"),
        ("server.teachers=0", "server.teachers is 0; expected at least 1"),
        ("server.max_age=0", "server.max_age is 0; expected at least 1"),
        ("server.graph=star", "server.graph is 'star'"),
        ("server.graph=greedy:0", "server.graph is 'greedy:0'; expected greedy:N"),
        ("server.graph=greedy:2 data.public=noise", "mhd needs labeled public samples.*server.graph=complete does"),
        ("data.public=none", "mhd needs public samples"),
        ("server.graph=random:3", "'random:3' among 3 clients; take at most 2"),
    ],
)
def test_what_cannot_be_is_refused_before_round_one(change, words):
    with pytest.raises(InvalidInputError, match=words):
        tiny.run("mhd", TINY + change)


@pytest.mark.parametrize(
    "edge",
    [
        *tiny.DEGENERATE,
        "data.public=noise",
        "data.public_size=1 data.public_batch=1",
        "client.select=random client.same_level=true server.teachers=2",
        "client.select=mean client.include_self=false",
        "server.graph=islands:1",
        "data.clients=1",
    ],
)
def test_federations_at_the_edge(edge):
    lines = tiny.run("mhd", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
