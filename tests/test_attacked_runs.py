"""Runs under attack: the same in every engine, refused where they cannot be, and worse for the mean than the median."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.grids import Noted, devices, hosts
from helpers.tiny import figures, of_clients, play, rounds, run, start_toy, tiny_settings, toy_settings
from torch import Tensor

from fd_flower import methods
from fd_flower.attacks import KNOWLEDGE, PREDICTIONS, mark, names
from fd_flower.cli import main
from fd_flower.cli.describe import replies
from fd_flower.core.client import Client, natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder
from fd_flower.server import HostGrid, Strategy
from fd_flower.server.attacked import claiming, rows_of, with_rows
from fd_flower.tasks.world import world
from fd_flower.wire import Bounds, ClassLogits, Payload, Prototypes, PublicHeads, PublicLabels, PublicLogits, Weights

THIRD = "data.clients=6 attack.fraction=0.3"
DIGITS = (
    "data.source=digits data.clients=10 data.alpha=1.0 data.public_size=100 data.public_batch=100 model.name=mlp "
    "server.rounds=2 client.steps=15 client.batch=16 client.public_steps=10 client.lr=0.05 client.optimizer=sgd "
    "run.device=cpu attack.fraction=0.3"
)


def knowledge(strategy: Strategy[Any]) -> dict[str, Tensor]:
    return strategy.knowledge.flat()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- engines


@pytest.mark.parametrize("method", ["fedmd", "fedavg"])
def test_none_is_a_run_without_the_section(method: str):
    assert figures(start_toy(method, f"{THIRD} attack.name=none")[2]) == figures(start_toy(method, "data.clients=6")[2])


@pytest.mark.parametrize(
    ("method", "attack"),
    [("fedmd", "lma"), ("fedavg", "lie"), ("fd", "opposite"), ("fedproto", "copycat"), ("edgefd", "claim_every")],
)
def test_one_host_and_two_give_the_same_bits(method: str, attack: str):
    changes = f"{THIRD} attack.name={attack}"
    one, _, lines = start_toy(method, changes)
    two, _, others = start_toy(method, changes, Noted(methods.client_app(method), 2))
    assert figures(lines) == figures(others)
    assert same(knowledge(one), knowledge(two))
    quiet = start_toy(method, "data.clients=6")[0]
    assert not same(knowledge(one), knowledge(quiet)), "the attack changes nothing"


@pytest.mark.parametrize("method", ["fedavg", "fd", "fedproto"])
def test_an_attack_that_has_not_begun_leaves_every_bit_of_the_hosts_sum(method: str):
    later, _, lines = start_toy(method, f"{THIRD} attack.name=noise attack.since=9")
    never = start_toy(method, "data.clients=6")[0]
    assert same(knowledge(later), knowledge(never))
    assert not same(knowledge(start_toy(method, f"{THIRD} attack.name=noise attack.since=2")[0]), knowledge(never))
    assert len(rounds(lines)[0]["attackers"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["lma", "label_flip"])
def test_flowers_simulation_gives_the_figures_of_one_process(attack: str, tmp_path: Path):
    words = f"{DIGITS} attack.name={attack}"
    run("fedmd", words, out=tmp_path / "process")
    assert main(["run", "fedmd", "--engine", "flower", "--set", words, "--out", str(tmp_path / "f"), "--quiet"]) == 0
    process, flower = (RunFolder.open(tmp_path / name) for name in ("process", "f"))
    assert figures(flower.lines()) == figures(process.lines())
    assert process.summary["attack"] == flower.summary["attack"]


# --- what is written down


def test_figures_are_of_honest_clients_and_the_lines_name_the_others(tmp_path: Path):
    lines = run("fedmd", f"{DIGITS} attack.name=lma", out=tmp_path / "run")
    who = tiny_settings("fedmd", f"{DIGITS} attack.name=lma").attackers
    assert len(who) == 3
    for line in rounds(lines):
        assert line["attackers"] == sorted(who, key=natural)
    evaluated = {client for (_, client), line in of_clients(lines).items() if line["evaluations"]}
    assert evaluated == set(map(str, range(10))) - who
    summary = RunFolder.open(tmp_path / "run").summary
    assert summary["attack"]["attackers"] == sorted(who, key=natural)
    assert (summary["attack"]["name"], summary["attack"]["knowledge"]) == ("lma", "omniscient")


def test_absent_attackers_are_out_of_the_ensemble():
    strategy, _, lines = start_toy("fedmd", f"{THIRD} attack.name=absent")
    for line in rounds(lines):
        assert set(line["failed"]) == set(line["attackers"]) == strategy.settings.attackers
        assert len(line["replied"]) == 4
        assert line["diagnostics"]["votes"] == 4.0


def test_describe_says_that_hosts_add_up_nothing():
    assert replies("fedavg", tiny_settings("fedavg")) == "one sum of each host's clients"
    assert "attack.name=lie rewrites" in replies("fedavg", tiny_settings("fedavg", "attack.name=lie"))
    assert replies("fedavg", tiny_settings("fedavg", "attack.name=label_flip")) == "one sum of each host's clients"


# --- labels


@pytest.mark.parametrize("method", ["fd", "fedproto"])
def test_flipped_labels_are_the_attackers_alone_in_training_alone(method: str):
    chosen = tiny_settings(method, f"{DIGITS} attack.name=label_flip")
    plain, flipped = (world(tiny_settings(method, DIGITS).text), world(chosen.text))
    for client in map(str, range(10)):
        before, after = plain.data(client), flipped.data(client)
        new = 9 - before.train.labels if client in chosen.attackers else before.train.labels
        assert torch.equal(after.train.labels, new)
        assert torch.equal(after.test.labels, before.test.labels)
        assert torch.equal(after.validation.labels, before.validation.labels)
        assert flipped.counts is not None
        assert flipped.counts.train[int(client)].tolist() == torch.bincount(new, minlength=10).tolist()
    lines = play(chosen)  # counts by class are those of the handshake, or these replies would be rejected
    assert all(line["failed"] == {} and len(line["replied"]) == 10 for line in rounds(lines))


@pytest.mark.parametrize(("method", "words"), [("fd", "privacy.sum=masks"), ("local", "")])
def test_labels_are_flipped_where_no_reply_could_be_rewritten(method: str, words: str):
    few = f"{DIGITS} data.clients=4 server.rounds=1 client.steps=2 attack.name=label_flip {words}"
    (line,) = rounds(play(tiny_settings(method, few)))
    assert (line["failed"], line.get("lost"), len(line["replied"]), len(line["attackers"])) == ({}, None, 4, 1)


# --- votes


def test_claiming_every_sample_of_the_round():
    own = PublicLogits(torch.tensor([3, 7]), torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log())
    found = claiming(own, torch.tensor([1, 3, 7]))
    torch.testing.assert_close(found.values.exp(), torch.tensor([[0.6, 0.4], [0.8, 0.2], [0.4, 0.6]]))
    assert len(claiming(own, torch.empty(0, dtype=torch.int64)).values) == 0
    nothing = PublicLogits(torch.empty(0, dtype=torch.int64), torch.empty(0, 2))
    torch.testing.assert_close(claiming(nothing, torch.tensor([5])).values.exp(), torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize(("attack", "unclaimed"), [("claim_every", 0.0), ("claim_none", 1.0)])
@pytest.mark.parametrize("method", ["edgefd", "selectivefd"])
def test_claims_reach_the_servers_votes(method: str, attack: str, unclaimed: float):
    strategy, _, lines = start_toy(method, f"data.clients=3 attack.fraction=0.3 attack.name={attack}")
    (who,) = strategy.settings.attackers
    votes = {key.split("/")[1].partition(".")[2]: mask for key, mask in knowledge(strategy).items() if "votes" in key}
    assert float(votes[who].double().mean()) == 1.0 - unclaimed
    last = of_clients(lines)[(2, who)]
    assert last["diagnostics"]["accepted"] == 1.0 - unclaimed
    if attack == "claim_every":
        assert rounds(lines)[-1]["diagnostics"]["unclaimed"] == 0.0


# --- payloads

PAYLOADS: list[Payload] = [
    PublicLogits(torch.tensor([1, 4]), torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()),
    PublicLabels(torch.tensor([1, 4]), torch.tensor([0, 1], dtype=torch.int16), torch.tensor(2)),
    PublicHeads(torch.tensor([1, 4]), torch.tensor([[[0.8, 0.2], [0.4, 0.6]]] * 2).log()),
    Prototypes(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([3, 0])),
    ClassLogits(torch.tensor([[6.0, 2.0], [0.0, 0.0]]).double(), torch.tensor([2.0, 0.0]).double()),
    Weights({"a": torch.tensor([[1.0, 2.0]]), "n.running_var": torch.ones(1), "n.batches": torch.tensor(3)}),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.kind)
def test_rows_come_back_as_the_payload_they_were(payload: Payload):
    again = with_rows(payload, rows_of(payload).values)
    for key, tensor in payload.tensors().items():
        torch.testing.assert_close(again.tensors()[key], tensor)


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.kind)
def test_attacked_payloads_are_well_formed(payload: Payload):
    rows = rows_of(payload)
    certain = torch.full_like(rows.values, -torch.inf) if "public" in payload.kind else rows.values * 7
    if "public" in payload.kind:
        certain[:, 1] = 0.0
    found = with_rows(payload, certain)
    found.check(Bounds(classes=2, index=torch.arange(5), client=Client("0", 0, classes=2, examples=3, counts=(3, 0))))
    assert found.normalized() is found
    torch.testing.assert_close(rows_of(found).values.exp().clamp(max=1e9), certain.exp().clamp(max=1e9))


def test_only_rows_of_held_classes_and_numbers_that_learn_change():
    prototypes, table, weights = PAYLOADS[3:]
    found = with_rows(prototypes, torch.tensor([[5.0, 6.0]]).double())
    assert found.tensors()["values"].tolist() == [[5.0, 6.0], [0.0, 0.0]]
    assert rows_of(table).values.tolist() == [[3.0, 1.0]]
    found = with_rows(table, torch.tensor([[1.0, 2.0]]).double())
    assert found.tensors()["sums"].tolist() == [[2.0, 4.0], [0.0, 0.0]]
    found = with_rows(weights, torch.tensor([[8.0, 9.0]]).double())
    assert [t.tolist() for t in found.tensors().values()] == [[[8.0, 9.0]], [1.0], 3]


# --- refusals


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("fedavg", "attack.name=lma", "rewrites predictions on public samples, and fedavg has none.*sign_flip"),
        ("fedmd", "attack.name=claim_every", "rewrites votes for public samples, and fedmd has none"),
        ("fedmd", "attack.name=swapped_classes", "rewrites one row a class"),
        ("local", "attack.name=noise", "local has none in its replies"),
        ("local", "attack.name=absent", "those of local have nothing in them"),
        ("fedkd", "attack.name=noise", "fedkd has none in its replies"),
        ("fedmd", "attack.name=lma attack.fraction=0.9", "attack.fraction=0.9 of 3 clients are all of them"),
        ("fedmd", "attack.name=constant_class attack.args.target=3", "expected a class from 0 to 2"),
        ("fedmd", "attack.name=pcfdla attack.args.peak=1.0", "attack.args.peak is 1; expected"),
        ("fedmd", "attack.name=scaled attack.args.factor=-1", "attack.args.factor is -1"),
        ("fd", "attack.name=noise privacy.sum=masks", "privacy.sum=masks hides them"),
        ("fd", "attack.name=absent privacy.sum=masks", "privacy.sum=masks hides them"),
    ],
)
def test_a_run_that_cannot_be_attacked_so_is_refused(method: str, words: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        start_toy(method, words)


def test_labels_without_names_are_not_flipped():
    with pytest.raises(Exception, match=r"name them, Task\(classes=...\)"):
        start_toy("fedmd", "attack.name=label_flip")


def test_devices_are_not_attackers(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="is for simulated clients, and these are devices"):
        start_toy("fedmd", "attack.name=noise", devices("fedmd", str(tmp_path), "a", "b"))


def test_flowers_strategies_get_no_rewritten_replies():
    with pytest.raises(InvalidInputError, match=r"attack.name=lie rewrites replies on their way into a strategy of FD"):
        HostGrid.open(hosts("fedavg"), toy_settings("fedavg", "attack.name=lie"))


def test_an_entry_beyond_the_bound_costs_the_attacker_its_reply():
    strategy, _, lines = start_toy("fedavg", "attack.name=scaled attack.args.factor=1e12")
    (who,) = strategy.settings.attackers
    assert "its attack has an entry of size" in rounds(lines)[0]["failed"][who]
    assert len(rounds(lines)[0]["replied"]) == 2


@pytest.mark.parametrize("knowledge", ["own", "teacher", "omniscient"])
def test_every_attack_on_predictions_runs_with_all_that_its_attackers_may_know(knowledge: str):
    for name in names():
        marked = mark(name)
        if PREDICTIONS in marked.targets and KNOWLEDGE.index(marked.least) <= KNOWLEDGE.index(knowledge):
            lines = play(toy_settings("fedmd", f"attack.name={name} attack.knowledge={knowledge} server.rounds=2"))
            assert [line["failed"] for line in rounds(lines)] == [{}, {}], name


# --- what an attack does


@pytest.mark.parametrize("seed", [0, 1])
def test_lma_ruins_the_mean_and_costs_the_median_less(seed: int):
    def teacher(words: str) -> float:
        lines = run("fedmd", f"{DIGITS} run.seed={seed} {words}")
        return float(rounds(lines)[-1]["diagnostics"]["ensemble_accuracy"])

    mean, median = teacher("attack.name=lma"), teacher("attack.name=lma server.rule=median")
    absent = teacher("attack.name=absent")
    assert absent > 0.35
    assert mean < 0.1
    assert median > mean + 0.05
