"""kdstudy: clients' trained models become one student, at the server or along a chain, and FedAvg starts from it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import tiny
from helpers.replies import reply_of
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Samples
from fd_flower.data import federation
from fd_flower.server import Strategy
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.training import predict
from fd_flower.training.consolidation import Lesson, teach
from fd_flower.wire import Candidates, Chain, Knowledge, Scores, Weights

SHORT = f"{tiny.TINY} client.convergence=2 client.public_steps=null client.public_epochs=1 client.distill_lr=0.05 "
CHAIN = "server.place=chain server.order=sequential data.public=none server.rounds=6 "
POINTS = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
PUBLIC = Samples(POINTS, POINTS.argmax(1))


class Linear(nn.Module):
    """Logits are x w; ``w`` [2, 2] is the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Normed(Linear):
    """The same behind batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


def server(changes: str = "", model: type[nn.Module] = Linear) -> Strategy:
    """Return the strategy with 40 public samples and a test set, as it is between two rounds of three clients."""
    chosen = settings("kdstudy", f"model.name=any run.device=cpu {changes}")
    task = Task(lambda name: model(), None, lambda: PUBLIC, PUBLIC)
    strategy = Strategy.for_method(chosen, task)
    strategy.__dict__["world"] = World(chosen, task, hosted=False, public_labels=chosen.server.labels)
    strategy.clients = tuple(reply_of(str(i), model="any").client for i in range(3))
    return strategy


def linear(first: float, second: float) -> Weights:
    return Weights({"w": torch.tensor([[first, 0.0], [0.0, second]])})


REPLIES = [
    reply_of("0", linear(1, 2), examples=1),
    reply_of("1", linear(4, 2), examples=2),
    reply_of("2", linear(1, 5), examples=1),
]

NOUGHT = Knowledge([Weights({"w": torch.zeros(2, 2)})])
SURE = {"0": 0.5, "1": 0.7, "2": 0.9}


def after_one(changes: str, replies: list | None = None) -> list:
    return list(server(changes).aggregate(replies or REPLIES, NOUGHT, round=1))


# --- where the student starts


@pytest.mark.parametrize(
    ("start", "diagonal"),
    [("average", [2.5, 2.75]), ("random", [0.0, 0.0])],  # (1 + 2 * 4 + 1) / 4 and (2 + 2 * 2 + 5) / 4
)
def test_the_start(start, diagonal):
    (student,) = after_one(f"client.kd_weight=0 server.start={start}")
    assert student.values["w"].diagonal().tolist() == diagonal


def test_the_best_teacher_is_by_its_own_validation_part():
    replies = [type(r)(r.client, r.content, r.examples, {"validation": SURE[r.client.id]}) for r in REPLIES]
    (student,) = after_one("server.technique=none server.start=best", replies)
    assert student.values["w"].diagonal().tolist() == [1.0, 5.0]


def test_the_first_teacher_is_drawn():
    drawn = set()
    for seed in range(8):
        (student,) = after_one(f"server.technique=none server.start=first run.seed={seed}")
        drawn.add(tuple(student.values["w"].diagonal().tolist()))
    assert drawn == {(1.0, 2.0), (4.0, 2.0), (1.0, 5.0)}


# --- distilling at the server


def test_the_student_learns_the_mean_of_the_teachers():
    """Against the lesson itself: from the average, towards the clients' predictions on public samples."""
    (student,) = after_one("client.objective_args.temperature=3.0 client.kd_weight=1.0")
    strategy = server("client.objective_args.temperature=3.0 client.kd_weight=1.0")
    world, options = strategy.world, strategy.settings.client
    public = Samples(PUBLIC.x)
    predictions = torch.stack([predict(world.load("any", Weights.need(r.content).values), public) for r in REPLIES])
    by_hand = world.load("any", linear(2.5, 2.75).values)
    order = torch_rng(0, "order", "server", 1)
    shuffled = predictions[torch.randperm(3, generator=order)]
    teach(
        by_hand,
        shuffled,
        public,
        Lesson("kd", "confidence", options, options.distill_lr),
        torch_rng(0, "distil", "server", 1),
    )
    assert torch.equal(student.values["w"], by_hand.w)
    assert not torch.equal(student.values["w"], linear(2.5, 2.75).values["w"])


@pytest.mark.parametrize("technique", ["kd", "dml", "dp-kd"])
@pytest.mark.parametrize("order", ["ensemble", "sequential"])
def test_every_technique_moves_the_student_and_says_how_far(technique, order):
    strategy = server(f"server.technique={technique} server.order={order} server.start=random")
    (student,) = strategy.aggregate(REPLIES, NOUGHT, round=1)
    assert bool(student.values["w"].any())
    told = strategy.diagnostics.figures[""]
    assert told["gain"] == told["after"] - told["before"]
    assert told["before_by_class"] == [1.0, 0.0]  # a model of zeros calls everything class 0
    assert told["after"] > 0.8


def test_labels_are_used_where_they_are_declared():
    """With weight 0 the labeled student learns from cross-entropy alone, the unlabeled one nothing."""
    for labels, moved in ((True, True), (False, False)):
        (student,) = after_one(f"server.labels={labels} client.kd_weight=0 server.start=random")
        assert bool(student.values["w"].any()) == moved


def test_labels_that_are_not_declared_are_not_even_there():
    assert server().world.public.y is None
    assert server("server.labels=true").world.public.y is not None


def test_batch_normalization_is_calibrated_on_public_samples():
    strategy = server("server.technique=none server.start=average", Normed)
    values = strategy.world.initial("any")
    odd = {key: tensor + 3.0 if key == "norm.running_mean" else tensor for key, tensor in values.items()}
    (start,) = strategy.aggregate([reply_of("0", Weights(odd))], NOUGHT, round=1)
    torch.testing.assert_close(start.values["norm.running_mean"], POINTS.mean(0))


# --- tuned


GRID = "server.technique=tuned-kd server.temperatures=[1,4] server.weights=[0.5,1.0] server.start=random "


def test_candidates_are_the_students_of_the_grid():
    start, candidates = after_one(GRID)
    assert isinstance(candidates, Candidates)
    assert not bool(start.values["w"].any())
    for place, (heat, weight) in enumerate([(1, 0.5), (1, 1.0), (4, 0.5), (4, 1.0)]):
        changes = f"server.start=random client.objective_args.temperature={heat} client.kd_weight={weight}"
        (alone,) = after_one(changes)
        assert torch.equal(candidates[place]["w"], alone.values["w"])


def test_the_candidate_that_is_right_most_often_is_chosen():
    """5 + 0 of 14, 3 + 6, 4 + 5 (a tie), 4 + 4: the second."""
    strategy = server(GRID)
    knowledge = Knowledge([linear(0, 0), Candidates({"w": torch.arange(4.0)[:, None, None].expand(4, 2, 2)})])
    replies = [
        reply_of("0", Scores(torch.tensor([5, 3, 4, 4]), torch.tensor(6))),
        reply_of("1", Scores(torch.tensor([0, 6, 5, 4]), torch.tensor(8))),
        reply_of("2", Scores(torch.tensor([9]), torch.tensor(9))),  # of another grid: it does not count
    ]
    (student,) = strategy.aggregate(replies, knowledge, round=2)
    assert bool((student.values["w"] == 1).all())
    told = strategy.diagnostics.figures[""]
    assert (told["temperature"], told["weight"]) == (1.0, 1.0)
    assert told["validation_by_candidate"] == [5 / 14, 9 / 14, 9 / 14, 8 / 14]


def test_a_loss_without_a_temperature_cannot_be_tuned():
    with pytest.raises(InvalidInputError, match="temperature"):
        tiny.run("kdstudy", f"{SHORT} {GRID} client.objective=mse")


def test_a_choice_needs_validation_samples():
    with pytest.raises(InvalidInputError, match=r"there are none: see data\.split"):
        tiny.run("kdstudy", f"{SHORT} {GRID} data.split=[0.8,0.0,0.2]")


def test_tuning_costs_a_round_and_its_bytes(tmp_path):
    lines = tiny.rounds(tiny.run("kdstudy", f"{SHORT} {GRID} server.rounds=3", out=tmp_path / "run"))
    assert lines[1]["bytes"]["up"].keys() == {"scores"}
    assert lines[1]["bytes"]["down"]["candidates"] > 3.9 * lines[0]["bytes"]["up"]["arrays"]
    told = lines[1]["diagnostics"]
    assert (
        max(told["validation_by_candidate"])
        == told["validation_by_candidate"][
            [(1, 0.5), (1, 1.0), (4, 0.5), (4, 1.0)].index((told["temperature"], told["weight"]))
        ]
    )
    assert lines[1]["global"]["accuracy"] == told["after"]
    assert lines[1]["global"]["validation"] == pytest.approx(max(told["validation_by_candidate"]))


# --- along a chain


def test_the_chain_asks_one_client_after_another(tmp_path):
    folder = tmp_path / "run"
    lines = tiny.rounds(tiny.run("kdstudy", f"{SHORT} {CHAIN}", out=folder))
    assert sorted(line["asked"][0] for line in lines[1:4]) == ["0", "1", "2"]
    assert [len(line["asked"]) for line in lines] == [3, 1, 1, 1, 3, 3]
    assert all(line["bytes"]["up"]["arrays"] * 3 == lines[0]["bytes"]["up"]["arrays"] for line in lines[1:4])
    told = [line["diagnostics"] for line in lines[1:4]]
    assert [one["before"] for one in told[1:]] == [one["after"] for one in told[:-1]]
    assert "diagnostics" not in lines[4]


@pytest.mark.parametrize("learner", ["arriving", "own"])
@pytest.mark.parametrize("technique", ["kd", "dml", "dp-kd"])
def test_techniques_along_a_chain(learner, technique):
    changes = f"server.technique={technique} server.criterion=label client.learner={learner}"
    lines = tiny.rounds(tiny.run("kdstudy", f"{SHORT} {CHAIN} {changes}"))
    assert not any(line["failed"] for line in lines)
    assert all(math.isfinite(line["global"]["nll"]) for line in lines)


def test_who_does_not_learn_hands_the_student_on(tmp_path):
    """KD of weight 1 at a rate of 1e-30 leaves the learner: the arriving one is the start, the own is the teacher."""
    still = f"{SHORT} {CHAIN} server.rounds=4 client.distill_lr=1e-30 run.keep=last "
    for learner in ("arriving", "own"):
        tiny.run("kdstudy", f"{still} client.learner={learner}", out=tmp_path / learner)
    tiny.run("kdstudy", f"{still} server.technique=none server.place=server server.rounds=1", out=tmp_path / "start")
    final = {name: knowledge(tmp_path / name) for name in ("arriving", "own", "start")}
    tiny.assert_same_bits({0: final["arriving"]}, {0: final["start"]})
    last = tiny.memories(tmp_path / "own")
    teachers = [{k.removeprefix("teacher/"): t for k, t in kept.items()} for kept in last.values()]
    assert any(all(torch.equal(own[key], final["own"][key]) for key in own) for own in teachers)


def test_a_link_hears_of_itself_alone_and_the_chain_gets_shorter():
    strategy = server(CHAIN)
    chain = Chain.along(["2", "0"])
    strategy.knowledge = Knowledge([linear(1, 1), chain])
    assert [client.id for client in strategy.sample(2)] == ["2"]
    told = strategy.knowledge_for(strategy.clients[2], strategy.knowledge)
    assert Chain.need(told).clients == ["2"]
    assert Chain.find(strategy.knowledge_for(strategy.clients[1], strategy.knowledge)) is None
    student, left = strategy.aggregate([reply_of("2", linear(3, 3))], strategy.knowledge, round=2)
    assert Chain.need([left]).clients == ["0"]
    (alone,) = strategy.aggregate([reply_of("0", linear(4, 4))], Knowledge([student, left]), round=3)
    assert torch.equal(alone.values["w"], linear(4, 4).values["w"])


# --- identities of whole runs


def knowledge(folder: Path, method: str = "kdstudy") -> dict[str, Tensor]:
    return dict(Weights.need(Checkpoint.read(folder, method).knowledge).values)


def test_weight_nought_from_the_average_is_fedavg_from_the_average(tmp_path):
    for name, changes in {"kd": "client.kd_weight=0", "none": "server.technique=none"}.items():
        tiny.run("kdstudy", f"{SHORT} server.rounds=4 {changes}", out=tmp_path / name)
    tiny.assert_same_bits({0: knowledge(tmp_path / "kd")}, {0: knowledge(tmp_path / "none")})


def test_kd_is_not(tmp_path):
    for name, changes in {"kd": "", "none": "server.technique=none"}.items():
        tiny.run("kdstudy", f"{SHORT} server.rounds=2 {changes}", out=tmp_path / name)
    kd, none = knowledge(tmp_path / "kd"), knowledge(tmp_path / "none")
    assert not all(torch.equal(kd[key], none[key]) for key in kd)


def test_from_random_weights_without_a_technique_it_is_fedavg(tmp_path):
    changes = f"{tiny.TINY} server.rounds=3"
    tiny.run("kdstudy", f"{changes} server.technique=none server.start=random data.public=held-out", out=tmp_path / "a")
    tiny.run("fedavg", changes, out=tmp_path / "b")
    tiny.assert_same_bits({0: knowledge(tmp_path / "a")}, {0: knowledge(tmp_path / "b", "fedavg")})


@pytest.mark.parametrize("changes", ["", "server.start=random client.kd_weight=0"])
def test_the_rounds_after_are_fedavgs_of_the_same_numbers(tmp_path, changes):
    """Random numbers go by the round's number: FedAvg that holds the student after its round one ends alike.

    With weight 0 from random weights the student is those: phase B is FedAvg from the first, one round later.
    """
    tiny.run("kdstudy", f"{SHORT} server.rounds=1 run.keep=last {changes}", out=tmp_path / "student")
    tiny.run("kdstudy", f"{SHORT} server.rounds=4 {changes}", out=tmp_path / "whole")
    tiny.run("fedavg", f"{tiny.TINY} server.rounds=1 run.keep=last", out=tmp_path / "fedavg")
    student = knowledge(tmp_path / "student")
    if changes:
        chosen = settings("fedavg", tiny.TINY)
        tiny.assert_same_bits({0: student}, {0: World(chosen, described(chosen)).initial("mlp")})
    kept = Checkpoint.read(tmp_path / "fedavg", "fedavg")
    assert kept is not None
    replace(kept, knowledge=Knowledge([Weights(student)])).write(tmp_path / "fedavg", "fedavg")
    tiny.run("fedavg", f"run.resume={tmp_path / 'fedavg'} server.rounds=4")
    whole, fedavgs = knowledge(tmp_path / "whole"), knowledge(tmp_path / "fedavg", "fedavg")
    assert whole.keys() == fedavgs.keys()
    for key, value in fedavgs.items():  # FedAvg's sum is one of integers, whose last bits are others
        torch.testing.assert_close(whole[key], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [f"{GRID} server.rounds=4", f"{CHAIN} client.learner=own"])
def test_an_interrupted_run_goes_on(tmp_path, changes):
    """Stopped with candidates, or a chain, under way, and resumed: the same end."""
    tiny.run("kdstudy", f"{SHORT} {changes}", out=tmp_path / "whole")
    most = 6 if "chain" in changes else 4
    cut = " ".join(word for word in changes.split() if not word.startswith("server.rounds"))
    halfway = 2 if most == 6 else 1
    tiny.run("kdstudy", f"{SHORT} {cut} server.rounds={halfway} run.keep=last", out=tmp_path / "cut")
    tiny.run("kdstudy", f"run.resume={tmp_path / 'cut'} server.rounds={most}")
    tiny.assert_same_bits({0: knowledge(tmp_path / "cut")}, {0: knowledge(tmp_path / "whole")})


def test_teachers_are_trained_to_convergence_and_told_of():
    lines = tiny.run("kdstudy", f"{SHORT} server.rounds=2 client.convergence=4 client.patience=1 client.lr=0.5")
    told = tiny.of_clients(lines)
    assert all(1 <= told[1, client]["metrics"]["epochs"] <= 4 for client in "012")
    assert all("epochs" not in told[2, client]["metrics"] for client in "012")
    assert tiny.rounds(lines)[0]["bytes"]["up"]["arrays"] > 0


def test_one_client_teaches_a_student_from_random_weights():
    changes = f"{SHORT} data.clients=1 data.partition=iid data.public_size=400 server.rounds=1 server.start=random "
    changes += "client.convergence=10 client.public_epochs=40 client.kd_weight=1.0 client.distill_lr=0.2"
    told = tiny.rounds(tiny.run("kdstudy", changes))[0]["diagnostics"]
    assert told["after"] > 0.7 > told["before"]


# --- what it needs and refuses


def test_needs_go_by_the_options():
    needed = methods.strategy("kdstudy").requirements
    assert needed(settings("kdstudy")).public
    assert not needed(settings("kdstudy", "server.technique=none")).public
    assert not needed(settings("kdstudy", CHAIN)).public
    assert needed(settings("kdstudy", "server.labels=true")).labels
    with pytest.raises(InvalidInputError, match="kdstudy needs public samples"):
        tiny.run("kdstudy", f"{SHORT} data.public=none")
    with pytest.raises(InvalidInputError, match="kdstudy needs labeled public samples"):
        tiny.run("kdstudy", f"{SHORT} data.public=noise server.labels=true")
    assert tiny.rounds(tiny.run("kdstudy", f"{SHORT} server.technique=none data.public=none"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ("server.technique=kdd", "server.technique is 'kdd'"),
        ("server.start=mean", "server.start is 'mean'"),
        ("server.place=chain", "expected kd, dml or dp-kd and sequential"),
        ("server.place=chain server.order=sequential server.technique=tuned-kd", "fd-flower sweep tunes"),
        ("server.technique=dp-kd server.criterion=label", "set server.labels=true"),
        ("server.weights=[]", "server.weights is .*; expected one or more"),
        ("client.kd_weight=1.5", "client.kd_weight is 1.5; expected a share from 0 to 1"),
        ("client.patience=0", "client.patience is 0"),
        ("client.distill_lr=0", "client.distill_lr is 0.0"),
        ("client.learner=both", "client.learner is 'both'"),
    ],
)
def test_what_does_not_go_is_refused(changes, why):
    with pytest.raises(InvalidInputError, match=why):
        settings("kdstudy", changes)


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
@pytest.mark.parametrize("technique", ["kd", "dml", "dp-kd", "none"])
def test_federations_at_the_edge(edge, technique):
    lines = tiny.run("kdstudy", f"{SHORT} server.technique={technique} {edge}")
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert all(math.isfinite(line["global"]["nll"]) for line in tiny.rounds(lines))
    assert not any(line["failed"] for line in tiny.rounds(lines))


def test_models_with_batch_normalization_run():
    lines = tiny.rounds(tiny.run("kdstudy", f"{SHORT} model.name=resnet8:0.25 server.technique=dml data.limit=300"))
    assert math.isfinite(lines[-1]["global"]["nll"])


def test_the_study_has_labeled_public_samples(shared_data):
    """What benchmarks/kdstudy.py gives the server: held-out images of all ten classes."""
    chosen = settings("kdstudy", f"data.source={shared_data('mnist')} data.limit=10000 data.public_size=1000")
    held = federation(chosen.data, 0).public_labeled
    assert held is not None
    assert len(held.labels.unique()) == 10
