"""FedKD: a mentor that stays, a mentee whose update travels, and mutual distillation that follows the labels."""

import math

import pytest
import torch
from fd_flower.client_apps.fedkd import Pair, objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tiny import TINY
from safetensors.torch import load_file
from torch import nn

from fd_flower import methods
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Holders, Knowledge, Private, Update, Weights
from fd_flower.wire.lowrank import applied


def changed(**changes):
    return methods.config("fedkd", "client", **changes)


# --- the loss


class Fixed(nn.Module):
    """A model with features of its own, the same for every input, and a head that does not learn."""

    def __init__(self, features: list[float], head: list[list[float]]) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.tensor(features))
        self.head = nn.Linear(len(features), len(head), bias=False).requires_grad_(False)
        self.head.weight.copy_(torch.tensor(head))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.own.expand(len(x), -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


EYE = [[1.0, 0.0], [0.0, 1.0]]


def couple() -> Pair:
    """A mentor with p = (3/4, 1/4), a mentee with q = (1/2, 1/2) and one feature, projected to (5, 5) and 0 for it."""
    projection = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.tensor([[5.0], [5.0]]))
    return Pair(Fixed([math.log(3), 0.0], EYE), Fixed([0.0], [[1.0], [-1.0]]), projection)


def objective_of(model: Pair, **changes):
    return objective(model, torch.zeros(4, 1), torch.zeros(4).long(), None, changed(**changes))


def test_objective_by_hand():
    """The label is 0: cross-entropies ln 4/3 and ln 2, of sum s = ln 8/3.

    KL(q || p) = 1/2 ln 4/3, KL(p || q) = 3/4 ln 3/2 + 1/4 ln 1/2, features (ln 3, 0) against (0, 0): (ln 3)^2 / 2.
    """
    kl = 0.5 * math.log(4 / 3) + 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    s, hidden = math.log(8 / 3), math.log(3) ** 2 / 2
    for weight, hidden_weight in ((1.0, 1.0), (2.0, 0.5), (1.0, 0.0)):
        found = objective_of(couple(), kd_weight=weight, hidden_weight=hidden_weight)
        assert found.item() == pytest.approx(s + weight * (kl + hidden_weight * hidden) / s)


def test_entries_divide_the_divergences_by_the_classes_and_not_the_distance_of_features():
    """As in ``test_objective_by_hand``, with 2 classes."""
    kl = 0.5 * math.log(4 / 3) + 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    s, hidden = math.log(8 / 3), math.log(3) ** 2 / 2
    assert objective_of(couple(), kd_mean="entries").item() == pytest.approx(s + (kl / 2 + hidden) / s)


def test_gradients_by_hand():
    """Of the mentor's features: (p - y) + ((p - q) + (f - 0)) / s: no teacher's gradient, and none of s.

    The mentee's one feature z has logits (z, -z): (q - y) (1, -1) + ((q - p) (1, -1) + (0 - f) (5, 5)) / s.
    """
    model = couple()
    objective_of(model).backward()
    s, ln3 = math.log(8 / 3), math.log(3)
    own = torch.tensor([-0.25 + (0.25 + ln3) / s, 0.25 + (-0.25 + 0.0) / s])
    torch.testing.assert_close(model.mentor.own.grad, own)
    mentee = torch.tensor([-1.0 + (-0.5 - 5 * ln3) / s])
    torch.testing.assert_close(model.mentee.own.grad, mentee)


def test_where_labels_are_learnt_the_divisor_stays_above_its_floor():
    """Clients of one class bring both cross-entropies to 0 exactly."""
    model = couple()
    with torch.no_grad():
        model.mentor.own.copy_(torch.tensor([300.0, 0.0]))
        model.mentee.own.fill_(300.0)
    loss = objective_of(model, hidden_weight=0.0)
    assert loss.item() == 0.0
    found = objective_of(model, ce_floor=0.5)
    assert found.item() == pytest.approx(((1500.0 - 300) ** 2 + 1500.0**2) / 2 / 0.5, rel=1e-5)


@pytest.mark.parametrize(("side", "key", "value"), [
    ("client", "hidden_weight", -1.0), ("client", "ce_floor", 0.0),
    ("server", "energy_start", 0.0), ("server", "energy_end", 1.5),
])  # fmt: skip
def test_options_out_of_range_are_refused(side, key, value):
    with pytest.raises(InvalidInputError, match=f"{side}.{key} is {value}; expected"):
        methods.config("fedkd", side, **{key: value})


# --- the server


def test_energy_rises_to_its_end_in_the_last_round():
    """0.95 + r / 3 * 0.03, r counted from 1: the authors' (1 + r) / R with r from 0."""
    config = methods.config("fedkd", "server", rounds=3)
    assert [config.energy(r) for r in (1, 2, 3)] == pytest.approx([0.96, 0.97, 0.98])


def column(*values: float) -> torch.Tensor:
    """Return a matrix [20, 30] of rank 1 with these numbers in each row."""
    return torch.ones(20, 1) @ torch.tensor([values + (0.0,) * (30 - len(values))])


BEFORE = {"w": torch.eye(20, 30), "b": torch.tensor([1.0, 0.0])}


def update(w: torch.Tensor, b: list[float]) -> Update:
    return Update({"w": w, "b": torch.tensor(b)}, "cnn")


def test_updates_are_restored_averaged_by_examples_and_compressed_anew():
    """Three parts of client 0 and one of client 1; the server goes on from what clients will have."""
    low = torch.cat([torch.tensor([[20**0.5 * 8.0]]), torch.full((1, 20), 20**-0.5), torch.eye(1, 30)], 1)
    replies = [
        reply_of("0", update(low, [4.0, 0.0]), examples=3),  # 8 in the first column
        reply_of("1", update(column(0.0, 4.0), [0.0, 4.0]), examples=1),
    ]
    made = strategy("fedkd", rounds=2, energy_start=0.5, energy_end=0.6)
    new, sent, holders = made.aggregate(replies, Knowledge([Weights(BEFORE, "cnn")]), round=1)
    mean = column(6.0, 1.0)  # of rank 1, which one value holds
    torch.testing.assert_close(new.values["w"], BEFORE["w"] + mean)
    assert new.values["b"].tolist() == [4.0, 1.0]
    assert sent.payload.values["w"].shape == (1, 51)
    after = applied(BEFORE, sent.payload.values)
    assert all(torch.equal(after[key], new.values[key]) for key in after)
    assert sorted(holders.payload.rounds) == ["0", "1"]


def test_who_missed_the_last_round_is_sent_the_whole_mentee():
    weights, change = Weights(BEFORE, "cnn"), update(column(1.0), [0.0, 0.0])
    made = strategy("fedkd")
    assert made.knowledge_for(Client("0", 0), Knowledge([weights])) == [weights]
    known = Knowledge([weights, Private(change), Private(Holders({"0": torch.tensor(4)}))])
    assert made.knowledge_for(Client("0", 0), known) == [change]
    assert made.knowledge_for(Client("1", 1), known) == [weights]
    assert list(known.shown()) == ["w", "b"]


# --- whole runs


def knowledge_of(folder):
    kept = load_file(folder / "checkpoint" / "knowledge.safetensors")
    return {name.removeprefix("arrays.mlp/"): t for name, t in kept.items() if name.startswith("arrays.")}


def test_without_distillation_the_mentor_is_local_and_the_mentee_fedavgs(tmp_path):
    """The mentor bit for bit, with its figures; the mentee but for rounding, since differences are added."""
    lines = {
        method: tiny.run(method, f"{TINY} run.keep=last {changes}", out=tmp_path / method)
        for method, changes in {
            "fedkd": "client.kd_weight=0 server.energy_start=1 server.energy_end=1",
            "local": "",
            "fedavg": "",
        }.items()
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedkd"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(lines[method]) for method in ("fedkd", "local"))
    for who, line in alone.items():
        measured = ours[who]["evaluations"]["trained"]
        assert {key: measured[key] for key in line["evaluations"]["trained"]} == line["evaluations"]["trained"]
    theirs = load_file(tmp_path / "fedavg" / "checkpoint" / "knowledge.safetensors")
    for name, tensor in knowledge_of(tmp_path / "fedkd").items():
        torch.testing.assert_close(tensor, theirs[f"arrays/{name}"], atol=1e-6, rtol=1e-5)


def test_with_distillation_it_is_not(tmp_path):
    for method in ("fedkd", "local"):
        tiny.run(method, f"{TINY} run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fedkd"), tiny.models(tmp_path / "local")
    assert not torch.equal(ours["0", "1-0"]["model/body.1.weight"], alone["0", "1-0"]["model/body.1.weight"])


@pytest.mark.parametrize("fraction", [1.0, 0.67])
def test_clients_have_the_servers_mentee_bit_for_bit(fraction, tmp_path):
    """After rounds of updates alone, and where some are sent the whole mentee: round 5 begins with round 4's."""
    changes = f"{TINY} run.keep=last server.fraction={fraction} server.energy_start=0.9 server.energy_end=0.9 "
    lines = tiny.rounds(tiny.run("fedkd", f"{changes} server.rounds=5", out=tmp_path / "5"))
    tiny.run("fedkd", f"{changes} server.rounds=4", out=tmp_path / "4")
    down = [set(line["bytes"]["down"]) for line in lines]
    assert down[0] == {"arrays"}
    assert down[1:] == [{"update"}] * 4 if fraction == 1 else set.union(*down[1:]) == {"arrays", "update"}
    received = {
        who: {k.removeprefix("mentee/"): t for k, t in kept.items() if k.startswith("mentee/")}
        for who, kept in tiny.memories(tmp_path / "5").items()
        if who[1] == "5-0"
    }
    assert [who[0] for who in received] == lines[-1]["replied"]
    tiny.assert_same_bits(received, dict.fromkeys(received, knowledge_of(tmp_path / "4")))


def test_a_client_that_forgot_says_so_and_is_sent_the_whole_mentee(tmp_path, monkeypatch):
    """Its memory is lost after round one: it fails in round two and takes part in round three."""
    monkeypatch.setattr("fd_flower.client.node.remembered", lambda _: {})  # as of a device, whose memory nobody counts
    lines = []

    def forget(line):
        lines.append(line)
        if line["round"] == 1 and "client" not in line:
            for file in tmp_path.glob("run/clients/*/1/*.safetensors"):
                file.unlink()

    tiny.run("fedkd", f"{TINY} server.rounds=3", out=tmp_path / "run", on_line=forget)
    told = tiny.rounds(lines)
    assert [line["replied"] for line in told] == [["0", "1", "2"], ["0", "2"], ["0", "1", "2"]]
    assert "this client remembers none" in told[1]["failed"]["1"]


def test_updates_cost_less_than_the_mentee_and_never_more():
    """An mlp of 9,610 numbers: less than the whole in every round after the first, in both directions."""
    lines = tiny.rounds(tiny.run("fedkd", f"{TINY} server.rounds=3 client.steps=10"))
    whole = 3 * 4 * (64 * 128 + 128 + 128 * 10 + 10)
    for number, line in enumerate(lines, 1):
        (up,), (down,) = line["bytes"]["up"].values(), line["bytes"]["down"].values()
        assert up < 0.9 * whole
        assert down < 0.9 * whole if number > 1 else whole <= down < whole + 3 * 800


def test_the_mentee_may_have_another_size_of_features():
    lines = tiny.run("fedkd", f"{TINY} model.name=[mlp,cnn] server.mentee=mlp:0.5 server.rounds=3")
    assert [line["replied"] for line in tiny.rounds(lines)] == [["0", "1", "2"]] * 3
    assert all("mentee/global" in line["evaluations"]["trained"] for line in tiny.of_clients(lines).values())


def test_an_unknown_mentee_is_refused():
    with pytest.raises(InvalidInputError, match="no architecture or group 'mpl'"):
        tiny.run("fedkd", f"{TINY} server.mentee=mpl")


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedkd", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
