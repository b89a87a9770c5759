"""FML: two models teach each other on the same mini-batches, and the meme alone is shared."""

import math

import pytest
import torch
from fd_flower.client_apps.fml import Pair, objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import echoes
from helpers.tiny import STILL, TINY
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Knowledge, Weights


def changed(**changes):
    return methods.config("fml", "client", **changes)


# --- the server


def test_memes_are_averaged_by_examples():
    replies = [
        reply_of("0", Weights({"w": torch.tensor([1.0, 5.0])}, "cnn"), examples=3),
        reply_of("1", Weights({"w": torch.tensor([5.0, 1.0])}, "cnn"), examples=1),
    ]
    (mean,) = strategy("fml").aggregate(replies, Knowledge(), round=1)
    assert (mean.model, mean.values["w"].tolist()) == ("cnn", [2.0, 4.0])


# --- the loss


class Logits(nn.Module):
    """A model that says the same of everything."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.values.expand(len(x), -1)


def test_objective_and_its_gradients_by_hand():
    """Personal p = (3/4, 1/4), meme q = (1/2, 1/2); the label is 0; alpha 1/4, beta 1/2.

    Personal: CE = ln 4/3, KL(q || p) = 1/2 ln(2/3) + 1/2 ln 2 = 1/2 ln(4/3).
    Meme: CE = ln 2, KL(p || q) = 3/4 ln(3/2) + 1/4 ln(1/2).
    The gradient of a model's logits is share (p - y) + (1 - share) (p - teacher), nothing else: a peer that is not
    detached would add to it.
    """
    own, meme = Logits([math.log(3), 0.0]), Logits([0.0, 0.0])
    loss = objective(Pair(own, meme), torch.zeros(5, 1), torch.zeros(5).long(), None, changed(alpha=0.25))
    loss.backward()
    personal = 0.25 * math.log(4 / 3) + 0.75 * 0.5 * math.log(4 / 3)
    shared = 0.5 * math.log(2) + 0.5 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert loss.item() == pytest.approx(personal + shared)
    torch.testing.assert_close(own.values.grad, torch.tensor([0.25 * -0.25 + 0.75 * 0.25, 0.25 * 0.25 - 0.75 * 0.25]))
    torch.testing.assert_close(meme.values.grad, torch.tensor([0.5 * -0.5 + 0.5 * -0.25, 0.5 * 0.5 + 0.5 * 0.25]))


def test_entries_divide_what_is_distilled_by_the_classes():
    """As `torch.nn.KLDivLoss` does by default, and HtFLlib with it: labels keep their weight."""
    x, y = torch.zeros(5, 1), torch.zeros(5).long()
    own, meme = Logits([math.log(3), 0.0]), Logits([0.0, 0.0])
    found = {
        mean: objective(Pair(own, meme), x, y, None, changed(alpha=0.25, kd_mean=mean)).item()
        for mean in ("samples", "entries")
    }
    labels = 0.25 * math.log(4 / 3) + 0.5 * math.log(2)
    assert found["entries"] - labels == pytest.approx((found["samples"] - labels) / 2)
    kl = {0.75: (own, meme), 0.5: (meme, own)}
    default = sum(
        weight * nn.functional.kl_div(student(x).log_softmax(1), peer(x).softmax(1), reduction="none").mean().item()
        for weight, (student, peer) in kl.items()
    )
    assert found["entries"] == pytest.approx(labels + default)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_is_a_mean_over_the_batch_times_t_squared(temperature):
    """HtFLlib and PFLlib divide by the classes, too, and so teach C times less."""
    config = changed(alpha=0.0, beta=1.0, objective_args={"temperature": temperature})
    z, peer = [2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.0, 0.0]

    def soft(logits):
        total = sum(math.exp(v / temperature) for v in logits)
        return [math.exp(v / temperature) / total for v in logits]

    kl = sum(q * math.log(q / p) for q, p in zip(soft(peer), soft(z), strict=True))
    loss = objective(Pair(Logits(z), Logits(peer)), torch.zeros(3, 1), torch.ones(3).long(), None, config)
    labels = cross_entropy(torch.tensor([peer]), torch.tensor([1])).item()
    assert loss.item() == pytest.approx(temperature**2 * kl + labels, rel=1e-5)


@pytest.mark.parametrize(("key", "value"), [("alpha", 1.5), ("beta", -0.1)])
def test_shares_are_shares(key, value):
    with pytest.raises(InvalidInputError, match=f"client.{key} is {value}; expected a share from 0 to 1"):
        changed(**{key: value})


# --- whole runs


def test_without_the_memes_share_the_personal_model_is_local(tmp_path):
    """Alpha = 1: the same weights as `local`, bit for bit, and the same figures; the meme still learns."""
    lines = {
        method: tiny.run(method, f"{TINY} run.keep=last {changes}", out=tmp_path / method)
        for method, changes in {"fml": "client.alpha=1", "local": ""}.items()
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fml"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(lines[method]) for method in ("fml", "local"))
    for who, line in alone.items():
        measured = ours[who]["evaluations"]["trained"]
        assert {key: measured[key] for key in line["evaluations"]["trained"]} == line["evaluations"]["trained"]


def test_with_it_the_personal_model_is_not(tmp_path):
    for method in ("fml", "local"):
        tiny.run(method, f"{TINY} run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fml"), tiny.models(tmp_path / "local")
    assert not torch.equal(ours["0", "1-0"]["model/body.1.weight"], alone["0", "1-0"]["model/body.1.weight"])


def test_without_the_personal_models_share_the_meme_is_fedavgs(tmp_path):
    """Beta = 1: the meme learns from labels on the very mini-batches that FedAvg's model sees."""
    for method, changes in {"fml": "client.beta=1", "fedavg": ""}.items():
        tiny.run(method, f"{TINY} {changes}", out=tmp_path / method)
    own, theirs = (
        load_file(tmp_path / method / "checkpoint" / "knowledge.safetensors") for method in ("fml", "fedavg")
    )
    plain = {name.removeprefix("arrays.mlp/"): tensor for name, tensor in own.items()}
    tiny.assert_same_bits({"mean": plain}, {"mean": {k.removeprefix("arrays/"): t for k, t in theirs.items()}})


def test_the_meme_changes_from_round_to_round_and_predicts():
    lines = tiny.run("fml", f"{TINY} server.rounds=6 client.steps=20")
    memes = [line["evaluations"]["trained"]["meme/global"] for line in tiny.of_clients(lines).values()]
    assert sum(memes[-3:]) / 3 > sum(memes[:3]) / 3 + 0.1


def test_only_the_meme_travels_and_it_may_be_smaller_than_the_models():
    """Half the width of an mlp: 64 inputs, 64 hidden, 10 classes, up and down, whatever the personal models are."""
    lines = tiny.run("fml", f"{TINY} model.name=[mlp,cnn] server.peer=mlp:0.5")
    numbers = 64 * 64 + 64 + 64 * 10 + 10
    for line in tiny.rounds(lines):
        for way in ("up", "down"):
            (size,) = line["bytes"][way].values()
            assert 0 <= size / 3 - 4 * numbers < 800
    assert tiny.rounds(lines)[-1]["replied"] == ["0", "1", "2"]


def test_the_meme_is_the_first_clients_architecture_unless_told(tmp_path):
    tiny.run("fml", f"{TINY} model.name=[mlp,cnn]", out=tmp_path / "run")
    kept = load_file(tmp_path / "run" / "checkpoint" / "knowledge.safetensors")
    assert {name.partition("/")[0] for name in kept} == {"arrays.mlp"}
    with pytest.raises(InvalidInputError, match="no architecture or group 'mpl'"):
        tiny.run("fml", f"{TINY} server.peer=mpl")


def test_a_meme_of_the_clients_own_architecture_is_not_the_personal_model(tmp_path):
    """One resident module for both would train them as one."""
    tiny.run("fml", f"{TINY} run.keep=last client.beta=1", out=tmp_path / "run")
    own = tiny.models(tmp_path / "run")["0", "2-0"]
    meme = load_file(tmp_path / "run" / "checkpoint" / "knowledge.safetensors")
    assert not torch.equal(own["model/head.weight"], meme["arrays.mlp/head.weight"])


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fml", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_still_models_stay_and_both_losses_count():
    """Both models start alike, so the distances are 0 in round one and the loss is (alpha + beta) times one CE."""
    rows = {"0": [([3.0, 0.0], 0), ([1.0, 0.0], 0)], "1": [([0.0, 2.0], 1)]}
    lines = tiny.run("fml", f"{STILL} client.steps=null data.clients=2 server.rounds=1", task=pair)
    for (_, client), line in tiny.of_clients(lines).items():
        mean = sum(math.log(sum(map(math.exp, x)) / math.exp(x[y])) for x, y in rows[client]) / len(rows[client])
        assert line["metrics"]["loss"] == pytest.approx(mean, rel=1e-5)


def pair():
    return echoes({"0": [([3.0, 0.0], 0), ([1.0, 0.0], 0)], "1": [([0.0, 2.0], 1)]})
