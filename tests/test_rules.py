"""Accuracy by the rule that predicts: among own classes or all, by the nearest prototype or by the model's head."""

import csv
import json
import math

import pytest
import torch
from flwr.app import MetricRecord
from helpers import tiny
from helpers.replies import reply_of
from helpers.tasks import echoes
from helpers.tiny import STILL, TINY

from fd_flower.cli import main
from fd_flower.core.errors import InvalidInputError
from fd_flower.objectives.metrics import accuracy, restricted
from fd_flower.results import rules
from fd_flower.tasks.metric import checked
from fd_flower.wire import Prototypes
from fd_flower.wire.figures import check_figures


def test_classes_that_are_not_own_are_ruled_out():
    """(.5, .3, .2) among classes 1 and 2 is (0, .6, .4): the answer is 1, and 0 cannot be."""
    logprobs = torch.tensor([[0.5, 0.3, 0.2]]).log()
    among = restricted(logprobs, torch.tensor([False, True, True]))
    torch.testing.assert_close(among.exp(), torch.tensor([[0.0, 0.6, 0.4]]))
    assert accuracy(logprobs, torch.tensor([1])) == 0.0
    assert accuracy(among, torch.tensor([1])) == 1.0


def test_of_all_classes_nothing_is_ruled_out():
    logprobs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    torch.testing.assert_close(restricted(logprobs, torch.ones(3, dtype=torch.bool)), logprobs)


ROWS = {
    "0": [([3.0, 0.0, 4.0], 0), ([0.0, 3.0, 2.0], 1), ([1.0, 2.0, 0.0], 0)],
    "1": [([0.0, 0.0, 5.0], 2), ([0.0, 4.0, 1.0], 1)],
}
"""Client -> its samples: the logits, which are the features, too, and the class."""


def held():
    return echoes(ROWS)


def figures(method: str, changes: str = "") -> dict[tuple[int, str], dict[str, float]]:
    lines = tiny.run(method, f"{STILL} client.steps=null data.clients=2 server.rounds=2 {changes}", task=held)
    return {who: line["evaluations"]["trained"] for who, line in tiny.of_clients(lines).items()}


@pytest.mark.parametrize("method", ["local", "fedavg"])
def test_a_model_is_restricted_to_own_classes(method):
    """Client 0 has classes 0 and 1. Among all three it says 2, 1, 1: one of three right; among its own 0, 1, 1: two.

    Client 1 has classes 1 and 2, and says 2, 1 either way.
    """
    found = figures(method)
    for number in (1, 2):
        assert found[number, "0"]["accuracy"] == pytest.approx(1 / 3)
        assert found[number, "0"]["accuracy_own"] == pytest.approx(2 / 3)
        assert found[number, "0"]["validation_accuracy_own"] == pytest.approx(2 / 3)
        assert found[number, "1"]["accuracy"] == found[number, "1"]["accuracy_own"] == 1.0
        assert "accuracy_head" not in found[number, "0"]


@pytest.mark.parametrize("inference", ["all", "own", "head"])
def test_prototypes_and_head_predict_among_own_classes_and_all(inference):
    """Prototypes (by samples): class 0 (2, 1, 2), class 1 (0, 3.5, 1.5), class 2 (0, 0, 5).

    Client 0's samples are, squared distances to the three: (3, 0, 4): 6, 27.5, 10, so 0; (0, 3, 2): 8, .5, 18, so 1;
    (1, 2, 0): 6, 5.5, 30, so 1 and wrong. That is two of three, also among its own. Its head has one and two. Client
    1's sample (0, 0, 5) is nearest to 2, (0, 4, 1) to 1, as its head says.
    """
    found = figures("fedproto", f"client.inference={inference}")
    mine = found[2, "0"]
    assert mine["accuracy_all"] == mine["accuracy_own"] == pytest.approx(2 / 3)
    assert mine["accuracy_head"] == pytest.approx(1 / 3)
    assert mine["accuracy_head_own"] == pytest.approx(2 / 3)
    assert mine["accuracy"] == mine[f"accuracy_{inference}"]
    assert mine["validation"] == mine[f"validation_accuracy_{inference}"]


def far():
    """Client 0's first sample of class 0 is nearer to class 2's prototype, which only client 1 has."""
    return echoes({"0": [([0.0, 0.0, 4.0], 0), ([6.0, 0.0, 0.0], 0), ([0.0, 5.0, 0.0], 1)], "1": ROWS["1"]})


def test_own_inference_asks_own_prototypes_alone():
    """Class 0's prototype is (3, 0, 2), class 2's (0, 0, 5): (0, 0, 4) is 13 from the one and 1 from the other."""
    expected = {"all": 2 / 3, "own": 1.0}
    for inference, right in expected.items():
        changes = f"{STILL} client.steps=null data.clients=2 server.rounds=2 client.inference={inference}"
        lines = tiny.run("fedproto", changes, task=far)
        mine = tiny.of_clients(lines)[2, "0"]["evaluations"]["trained"]
        assert mine["accuracy"] == pytest.approx(right)
        assert mine["accuracy_all"] == pytest.approx(2 / 3)
        assert mine["accuracy_own"] == 1.0


def test_before_there_are_prototypes_own_inference_restricts_the_head():
    first = figures("fedproto", "client.inference=own")[1, "0"]
    assert first["accuracy"] == first["accuracy_own"] == pytest.approx(2 / 3)
    assert first["accuracy_head"] == first["accuracy_all"] == pytest.approx(1 / 3)


def test_on_everybodys_samples_own_inference_asks_all_prototypes():
    seen = {}
    for inference in ("all", "own"):
        lines = tiny.run("fedproto", f"{TINY} client.inference={inference}")
        seen[inference] = {who: line["evaluations"]["trained"] for who, line in tiny.of_clients(lines).items()}
    for who, mine in seen["own"].items():
        assert mine["global"] == seen["all"][who]["global"]
        assert mine["pooled"] == seen["all"][who]["pooled"]
        assert mine["accuracy"] == seen["all"][who]["accuracy_own"]


def test_what_own_classes_rule_out_has_no_likelihood():
    """A test sample of a class that training lacks is -inf: its mean NLL is no number, and is left out."""
    logprobs = restricted(torch.zeros(1, 2).log_softmax(1), torch.tensor([True, False]))
    assert logprobs.tolist() == [[0.0, -math.inf]]


def test_a_summary_has_every_rule_of_every_method(tmp_path):
    for method in ("local", "fedproto"):
        tiny.run(method, TINY, out=tmp_path / method)
        summary = json.loads((tmp_path / method / "summary.json").read_text())
        found, accuracies = summary["rules"], summary["accuracy"]["personal"]
        assert list(found) == ["own", "all", "head", "head_own"]
        assert found["all"] == accuracies
        assert found["own"]["final"] >= found["all"]["final"]
        assert (found["head"] == found["all"]) == (method == "local")


def test_a_rule_that_is_not_measured_apart_is_what_accuracy_is():
    lines = [
        {"round": 1, "client": "0", "evaluations": {"trained": {"accuracy": 0.5, "accuracy_own": 0.75}}},
        {"round": 1, "client": "1", "evaluations": {"trained": {"accuracy": 0.25, "accuracy_own": 0.25}}},
    ]
    found = rules.summarize(lines, {"global": None, "personal": "trained"})
    finals = {rule: figures["final"] for rule, figures in found.items()}
    assert finals == {"own": 0.5, "all": 0.375, "head": 0.375, "head_own": 0.5}


def test_figures_of_a_rule_are_shares():
    reply = reply_of("0", Prototypes(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(InvalidInputError, match=r"'trained/accuracy_own' is 1\.5; expected a number from 0 to 1"):
        check_figures(reply.client, MetricRecord({"trained/accuracy_own": 1.5}), (), None)


def test_a_metric_of_ones_own_cannot_have_a_rules_name():
    with pytest.raises(InvalidInputError, match="a metric called 'accuracy_own'"):
        checked({"accuracy_own": lambda logprobs, labels: 0.0})


def test_compare_shows_rules_where_they_are_asked_for(capsys, tmp_path):
    def compared(folder, *more):
        assert main(["compare", "local", "fedproto", "--set", TINY, "--out", str(tmp_path / folder), *more]) == 0
        return " ".join(capsys.readouterr().out.split()), (tmp_path / folder / "compare.md").read_text()

    output, page = compared("with", "--rules")
    assert "head, own classes" in page
    assert "Own classes are known before a sample is seen" in output
    with (tmp_path / "with" / "compare.csv").open() as file:
        local, fedproto = csv.DictReader(file)
    assert local["rule_head"] == local["rule_all"] == local["personal_final"]
    assert fedproto["rule_head"] != fedproto["rule_all"]
    assert "head, own classes" not in compared("without")[1]
