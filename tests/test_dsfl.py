"""DS-FL: the mean of the clients' probabilities, by any rule and weights, sharpened, and learned."""

import math

import pytest
import torch
from fd_flower.client_apps.dsfl import objective
from flwr.app import MetricRecord
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import TINY
from safetensors.torch import load_file

from fd_flower import methods
from fd_flower.client import steps
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.described import described
from fd_flower.tasks.world import World
from fd_flower.training import predict
from fd_flower.wire import Knowledge, PublicLogits, pack
from fd_flower.wire.replies import Reply

INDEX = torch.tensor([3, 8])


def received(*clients, index=INDEX):
    """Return replies that say these probabilities [N, C]."""
    return [reply_of(str(i), PublicLogits(index, torch.tensor(rows).log())) for i, rows in enumerate(clients)]


def teacher(replies, **changes):
    """Return the probabilities that the server makes of replies about INDEX."""
    (knowledge,) = strategy("dsfl", INDEX, **changes).aggregate(replies, Knowledge(), round=1)
    assert torch.equal(knowledge.index, INDEX)
    return knowledge.values.exp()


TWO = ([[0.6, 0.4], [0.3, 0.7]], [[0.8, 0.2], [0.7, 0.3]])
"""Two clients: means (.7, .3) and (.5, .5)."""


# --- the server


def test_the_mean_probability_goes_through_a_softmax_at_the_temperature():
    """Mean (.7, .3) at .1: odds of e^((.7 - .3) / .1) = e^4; a uniform mean stays uniform."""
    odds = math.exp(4)
    torch.testing.assert_close(teacher(received(*TWO)), torch.tensor([[odds / (1 + odds), 1 / (1 + odds)], [0.5, 0.5]]))


def test_without_a_temperature_the_mean_stays_as_it_is():
    torch.testing.assert_close(teacher(received(*TWO), temperature=None), torch.tensor([[0.7, 0.3], [0.5, 0.5]]))


def test_any_rule_by_name():
    """The median of .9 .8 .1 is .8, of .1 .2 .9 it is .2."""
    rows = [[[0.9, 0.1], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]], [[0.1, 0.9], [0.5, 0.5]]]
    assert teacher(received(*rows), rule="median", temperature=None)[0].tolist() == pytest.approx([0.8, 0.2])
    # of three votes and 0.1 at each end, the outer ones keep .7 of their width: (.7 * .9 + .8 + .7 * .1) / 2.4 = .625
    trimmed = teacher(received(*rows), rule="trimmed_mean", rule_args={"trim": 0.1}, temperature=None)
    assert trimmed[0].tolist() == pytest.approx([0.625, 0.375])


def replies(examples=(1, 1), counts=((1, 1), (1, 1)), accuracies=(None, None)):
    """Return TWO's replies with these numbers of samples, of samples by class, and told accuracies."""
    made = []
    for i, rows in enumerate(TWO):
        told = {} if accuracies[i] is None else {"validation_accuracy": accuracies[i]}
        client = Client(str(i), i, counts=counts[i])
        made.append(Reply(client, pack(PublicLogits(INDEX, torch.tensor(rows).log())), examples[i], MetricRecord(told)))
    return made


def share_of_the_first(made, **changes):
    """Return how much the first client counts: .6 and .8 make .8 - .2 * share."""
    return (0.8 - teacher(made, temperature=None, **changes)[0, 0].item()) / 0.2


def test_weights_by_name():
    assert share_of_the_first(replies(examples=(1, 1000))) == pytest.approx(0.5, abs=1e-5)
    assert share_of_the_first(replies(examples=(3, 1)), weighting="examples") == pytest.approx(0.75, abs=1e-5)
    assert share_of_the_first(replies(), weighting="confidence") == pytest.approx(0.6 / 1.4, abs=1e-5)
    # entropies of (.6, .4) and (.8, .2) in bits: .97095 and .72193
    missing = share_of_the_first(replies(), weighting="entropy")
    assert missing == pytest.approx(0.02905 / (0.02905 + 0.27807), abs=1e-4)


def test_weights_by_class():
    """Class 0: (3 * .6 + .8) / 4 = .65, class 1: (.4 + .2) / 2 = .3; over .95."""
    row = teacher(replies(counts=((3, 1), (1, 1))), weighting="label_count", temperature=None)[0]
    assert row.tolist() == pytest.approx([0.65 / 0.95, 0.3 / 0.95])


def test_a_committee_counts_by_what_it_says_of_its_accuracy():
    """90 and 85 % at temperature 5: e to 1; at 10: sqrt(e) to 1."""
    made, root = replies(accuracies=(0.9, 0.85)), math.sqrt(math.e)
    at_five = share_of_the_first(made, weighting="committee")
    at_ten = share_of_the_first(made, weighting="committee", committee_temperature=10.0)
    assert at_five == pytest.approx(math.e / (math.e + 1), abs=1e-5)
    assert at_ten == pytest.approx(root / (root + 1), abs=1e-5)


@pytest.mark.parametrize("accuracies", [(0.9, None), (None, None), (0.4, math.nan), (0.9, -3.0), (0.2, 5.0)])
def test_who_says_no_accuracy_has_the_others(accuracies):
    made = replies(accuracies=accuracies)
    assert share_of_the_first(made, weighting="committee") == pytest.approx(0.5, abs=1e-5)


def test_a_sample_that_nobody_voted_for_is_not_taught():
    lone = [reply_of("0", PublicLogits(INDEX[:1], torch.tensor([[0.6, 0.4]]).log()))]
    (knowledge,) = strategy("dsfl", INDEX).aggregate(lone, Knowledge(), round=1)
    assert knowledge.index.tolist() == [3]
    assert len(knowledge.values) == 1


def test_the_server_keeps_no_older_teacher():
    before = Knowledge([PublicLogits(torch.tensor([0, 1]), torch.zeros(2, 2))])
    after = strategy("dsfl", INDEX).aggregate(received(*TWO), before, round=2)
    assert [payload.index.tolist() for payload in after] == [[3, 8]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("server.rule=medain", "no rule 'medain' .did you mean 'median'"),
        ("server.rule=trimmed_mean server.rule_args.trim=0.7", "trim is 0.7"),
        ("server.rule_args.trim=0.1", "no key 'server.rule_args.trim'"),
        ("server.weighting=exmaples", "server.weighting is 'exmaples' .did you mean 'examples'"),
        ("server.weighting=label_count server.rule=median", "weights by class need mean_of_probabilities"),
        ("server.temperature=0", "server.temperature is 0.0; expected a number above 0"),
        ("server.committee_temperature=-1", "server.committee_temperature is -1.0"),
    ],
)
def test_wrong_options_are_refused_before_the_run(options, message):
    with pytest.raises(InvalidInputError, match=message):
        settings("dsfl", options)


# --- the clients


def test_objective_by_hand():
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2, at a weight of 3."""
    x, even = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, 0.0]]).log_softmax(1)
    loss = objective(lambda x: x, x, None, even, methods.config("dsfl", "client", kd_weight=3.0))
    assert loss.item() == pytest.approx(3 * math.log(4 / 3) / 2)


def test_clients_learn_from_the_server_then_from_their_own(monkeypatch):
    order = []
    real = steps.train

    def listen(model, objective, samples, teacher=None, **plan):
        order.append("private" if teacher is None else "public")
        return real(model, objective, samples, teacher, **plan)

    monkeypatch.setattr(steps, "train", listen)
    tiny.run("dsfl", TINY + "data.clients=1 server.evaluate=received,trained")
    # round one, round two, and the closing message
    assert order == ["private", "public", "private", "public"]


def test_learning_from_each_other_teaches_the_others_classes():
    split = TINY + "data.partition=classes data.classes=5 data.clients=2 client.steps=20 client.public_steps=60 "
    lines = tiny.run("dsfl", split + "server.evaluate=received,trained")
    trained = [line["evaluations"]["trained"]["global"] for line in tiny.of_clients(lines).values()]
    closing = [line["evaluations"]["received"]["global"] for line in tiny.of_clients(lines, closing=True).values()]
    assert min(closing) > max(trained)


def test_without_distilling_it_is_local_training(tmp_path):
    for method in ("dsfl", "local"):
        tiny.run(method, TINY + "client.kd_weight=0 run.keep=last", out=tmp_path / method)
    tiny.assert_same_bits(tiny.models(tmp_path / "dsfl"), tiny.models(tmp_path / "local"))


def test_with_the_mean_of_logits_and_no_temperature_it_is_fedmd(tmp_path):
    """The two differ in the rule and the sharpening alone: the same bits at every client."""
    tiny.run("fedmd", TINY + "client.objective=kl run.keep=last", out=tmp_path / "fedmd")
    geometric = "server.rule=mean_of_logits server.temperature=null client.objective=kl run.keep=last"
    tiny.run("dsfl", TINY + geometric, out=tmp_path / "dsfl")
    tiny.assert_same_bits(tiny.models(tmp_path / "dsfl"), tiny.models(tmp_path / "fedmd"))


def test_an_accuracy_is_told_only_where_the_server_weighs_by_it():
    for weighting, told in (("equal", False), ("committee", True)):
        lines = tiny.run("dsfl", TINY + f"server.weighting={weighting}")
        own = [line["metrics"] for line in tiny.of_clients(lines).values()]
        assert [("validation_accuracy" in metrics) for metrics in own] == [told] * len(own)
    assert all(0 <= metrics["validation_accuracy"] <= 1 for metrics in own)


# --- runs


def test_only_predictions_travel():
    """20 rows of 10 float32 values and an int64 number: 20 * 48 = 960 bytes a client, and names on top."""
    lines = tiny.rounds(tiny.run("dsfl", TINY))
    assert [set(line["bytes"]["up"]) for line in lines] == [{"public-logits"}] * 2
    assert [set(line["bytes"]["down"]) for line in lines] == [{"public-index"}, {"public-logits", "public-index"}]
    assert 0 <= lines[0]["bytes"]["up"]["public-logits"] / 3 - 960 < 400


def test_votes_and_robust_rules_are_described():
    for clients, few in ((2, 1.0), (3, 0.0)):
        line = tiny.rounds(tiny.run("dsfl", TINY + f"data.clients={clients} server.rule=median"))[-1]
        assert line["diagnostics"]["few_voters"] == few  # of two voters a median is the mean
        assert line["diagnostics"]["votes"] == clients
        assert 0 <= line["diagnostics"]["ensemble_accuracy"] <= 1


@pytest.mark.parametrize("weighting", ["examples", "confidence", "entropy", "label_count", "committee"])
def test_architectures_may_differ_under_any_weighting(weighting):
    lines = tiny.run("dsfl", TINY + f"model.name=[mlp,lenet] server.weighting={weighting}")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 2


def test_public_samples_are_needed():
    with pytest.raises(InvalidInputError, match="dsfl needs public samples"):
        tiny.run("dsfl", TINY + "data.public=none")


@pytest.mark.parametrize(
    "edge",
    [
        *tiny.DEGENERATE,
        "data.public=noise",
        "data.public_size=1 data.public_batch=1",
        "server.weighting=label_count server.temperature=null server.fraction=0.3 "
        "data.clients=10 data.partition=classes data.classes=1",
        "server.weighting=committee data.split=[0.8,0.0,0.2]",
    ],
)
def test_federations_at_the_edge(edge):
    lines = tiny.run("dsfl", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))


# --- the server's own model


def test_the_servers_model_learns_what_a_client_without_samples_learns(tmp_path):
    """One client that takes no private step: what it knows in round two the server knew after round one.

    All public samples are in one mini-batch, so that their order, which differs, changes the last bits alone.
    """
    alone = f"{TINY} data.clients=1 client.steps=0 client.public_batch=100 client.public_steps=3 server.model=mlp "
    for rounds in (1, 2):
        tiny.run("dsfl", alone + f"run.keep=last server.rounds={rounds}", out=tmp_path / str(rounds))
    server = load_file(tmp_path / "1" / "models" / "server.safetensors")
    client = tiny.models(tmp_path / "2")["0", "2-0"]
    chosen = settings("dsfl", alone)
    start = World(chosen, described(chosen)).initial("mlp")
    for key, tensor in server.items():
        torch.testing.assert_close(tensor, client[f"model/{key}"], atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(tensor, start[key]) for key, tensor in server.items())


def test_the_servers_model_changes_nothing_for_clients_and_stays_at_the_server(tmp_path):
    with_one, without = (tiny.run("dsfl", TINY + words) for words in ("server.model=lenet", ""))
    own = [[line["evaluations"]["trained"] for line in tiny.of_clients(of).values()] for of in (with_one, without)]
    assert own[0] == own[1]  # on the global test set, too
    sent = [[(line["bytes"]["up"], line["bytes"]["down"]) for line in tiny.rounds(of)] for of in (with_one, without)]
    assert sent[0] == sent[1]
    assert [line["global"]["evaluated"] for line in tiny.rounds(with_one)] == ["aggregated"] * 2
    assert [line["steps"]["server"] for line in tiny.rounds(with_one)] == [2, 2]
    assert tiny.rounds(without)[0]["global"] is None


def test_what_the_servers_model_predicts_is_taught(tmp_path):
    """The kept model's predictions are what clients learn from in place of the ensemble's."""
    words = f"{TINY} server.model=mlp run.keep=last server.rounds=1 "
    for teacher in ("ensemble", "model"):
        tiny.run("dsfl", f"{words} server.teacher={teacher}", out=tmp_path / teacher)
    taught = {
        name: PublicLogits.need(Checkpoint.read(tmp_path / name, "dsfl").knowledge) for name in ("ensemble", "model")
    }
    chosen = settings("dsfl", words)
    world = World(chosen, described(chosen))
    model = world.load("mlp", load_file(tmp_path / "model" / "models" / "server.safetensors"))
    own = taught["model"]
    torch.testing.assert_close(own.values, predict(model, world.public[own.index]), atol=1e-6, rtol=0)
    assert torch.equal(own.index, taught["ensemble"].index)
    assert not torch.allclose(own.values, taught["ensemble"].values)


def test_an_architecture_that_there_is_not_is_refused_before_round_one():
    with pytest.raises(InvalidInputError, match="lenett"):
        tiny.run("dsfl", TINY + "server.model=lenett")
