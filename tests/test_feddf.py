"""FedDF: the mean of each architecture's clients, distilled from the ensemble of all of them at the server."""

import math
from collections.abc import Callable

import pytest
import torch
from fd_flower.strategies import feddf
from helpers import tiny
from helpers.replies import reply_of
from helpers.tiny import TINY
from torch import Tensor, nn

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.samples import Data, Samples
from fd_flower.server import Strategy
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import Knowledge, Weights

SHORT = (
    "server.distill_steps=6 server.distill_batch=16 server.check_every=2 server.distill_patience=100 "
    "server.distill_lr=0.01 "
)
NOTHING = Knowledge()
PUBLIC = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))


class Linear(nn.Module):
    """Logits are x w, without a bias; ``w`` [2, 2] is the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.eye(2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w


class Normed(nn.Module):
    """Batch normalization before a linear layer, so that training and evaluation mode differ."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


class Dropping(nn.Module):
    """Dropout, so that training draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.drop, self.head = nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.wide(x).relu()))


def server(model: Callable[[], nn.Module], changes: str = "") -> Strategy:
    """Return FedDF on the public samples, as it is between two rounds."""
    chosen = settings("feddf", f"model.name=any run.device=cpu {SHORT} {changes}")
    task = Task(lambda name: model(), None, lambda: Samples(PUBLIC))
    strategy = Strategy.for_method(chosen, task)
    strategy.__dict__["world"] = World(chosen, task, hosted=False)
    return strategy


def linear(*rows: list[float], model: str = "") -> Weights:
    return Weights({"w": torch.tensor(rows)}, model)


# --- mean and teacher


def test_without_steps_it_is_the_mean_by_examples():
    """(1 * 2 + 3 * 6) / 4 = 5 in every entry."""
    received = [
        reply_of("0", linear([2.0, 2.0], [2.0, 2.0])),
        reply_of("1", linear([6.0, 6.0], [6.0, 6.0]), examples=3),
    ]
    (mean,) = server(Linear, "server.distill_steps=0").aggregate(received, NOTHING, round=1)
    assert torch.equal(mean.values["w"], torch.full((2, 2), 5.0))


def test_the_teacher_is_the_softmax_of_the_mean_logits():
    """Linear models: the mean of x w1 and x w2 is x (w1 + w2) / 2, however many examples are behind either."""
    one, two = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(1))
    received = [Weights({"w": one}), Weights({"w": two})]
    replies = [reply_of("0", received[0], examples=1, model="any"), reply_of("1", received[1], examples=9, model="any")]
    _, teacher, _ = server(Linear)._teacher(replies, Knowledge(), 1)
    torch.testing.assert_close(teacher, (PUBLIC @ (one + two) / 2).log_softmax(1))


def test_teachers_speak_in_evaluation_mode():
    """MarsFL leaves its networks in training mode while they teach: then a sample's target depends on its batch,
    and batch normalization's statistics, which are part of the weights, take in the public samples.
    """
    strategy = server(Normed)
    values = {name: tensor.clone() for name, tensor in strategy.world.initial("any").items()}
    values["norm.running_mean"], values["norm.running_var"] = torch.tensor([3.0, -1.0]), torch.tensor([4.0, 0.25])
    before = {name: tensor.clone() for name, tensor in values.items()}
    _, teacher, _ = strategy._teacher([reply_of("0", Weights(values), model="any")], Knowledge(), 1)
    normed = (PUBLIC - torch.tensor([3.0, -1.0])) / (torch.tensor([4.0, 0.25]) + 1e-5).sqrt()
    logits = normed @ values["head.weight"].T + values["head.bias"]
    torch.testing.assert_close(teacher, logits.log_softmax(1), rtol=1e-4, atol=1e-5)
    tiny.assert_same_bits({0: values}, {0: before})


# --- distilling, with the training loop in our hands


@pytest.fixture
def scripted(monkeypatch) -> dict:
    """Replace the training loop by one that puts ``script[step]`` into the model and watches as the real one does."""
    seen: dict = {"script": {}, "steps": 0}

    def train(model, objective, samples, teacher, *, plan, rng, watch):
        seen.update(objective=objective, samples=samples, teacher=teacher, plan=plan, start=model.w.detach().clone())
        for step in range(1, plan.steps + 1):
            seen["steps"] = step
            if step in seen["script"]:
                model.w.data = seen["script"][step].clone()
            if watch(step):
                break
        return 0.0

    monkeypatch.setattr(feddf, "train", train)
    return seen


TEACHER = [[2.0, 0.0], [0.0, 1.0]]


TWICE, NOTHING_LEARNED = [[4.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]


def distilled(changes: str, *clients: list[list[float]]) -> Tensor:
    """By default the ensemble is ``TEACHER``, and the mean by examples, a tenth of ``TWICE``, far from it."""
    examples = [1] * len(clients) or [1, 9]
    received = [
        reply_of(str(i), linear(*w), examples=n, model="any")
        for i, (w, n) in enumerate(zip(clients or [TWICE, NOTHING_LEARNED], examples, strict=True))
    ]
    (student,) = server(Linear, changes).aggregate(received, NOTHING, round=1)
    return student.values["w"]


def test_the_student_starts_from_the_mean_and_learns_by_the_recipe(scripted):
    distilled("", [[4.0, 0.0], [0.0, 2.0]], [[0.0, 2.0], [2.0, 0.0]])
    assert torch.equal(scripted["start"], torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    plan = scripted["plan"]
    assert (plan.steps, plan.batch, plan.lr, plan.optimizer, plan.cosine, plan.clip) == (6, 16, 0.01, "adam", True, 5.0)


def test_a_tenth_of_the_public_samples_is_held_back(scripted):
    """36 of 40 samples teach, each with its own row of the teacher."""
    distilled("")
    assert len(scripted["samples"]) == 36
    assert len(set(scripted["samples"].index.tolist())) == 36
    x, _ = scripted["samples"].batch(torch.arange(36))
    torch.testing.assert_close(scripted["teacher"], (x @ torch.tensor(TEACHER)).log_softmax(1))


def test_the_loss_is_forward_kl_in_nats(scripted):
    """KL((1/2, 1/2) || (3/4, 1/4)) = ln(4/3) / 2; the gradient of the logits is softmax - teacher: (1/4, -1/4).

    MarsFL feeds probabilities that are not logs into KLDivLoss: an agreeing student would have a loss and a gradient.
    """
    distilled("")
    loss = scripted["objective"]
    x = torch.tensor([[math.log(3), 0.0]], requires_grad=True)
    even = torch.tensor([[0.5, 0.5]]).log()
    value = loss(nn.Identity(), x, None, even)
    assert value.item() == pytest.approx(math.log(4 / 3) / 2)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], torch.tensor([[0.25, -0.25]]))
    agreed = loss(nn.Identity(), x, None, x.detach().log_softmax(1))
    assert agreed.item() == pytest.approx(0.0, abs=1e-7)
    torch.testing.assert_close(torch.autograd.grad(agreed, x)[0], torch.zeros(1, 2), rtol=0, atol=1e-7)


FAR, NEAR, NEARER = torch.zeros(2, 2), torch.tensor([[1.5, 0.0], [0.0, 0.8]]), torch.tensor([[1.9, 0.0], [0.0, 1.0]])


def test_the_best_student_on_held_back_samples_is_returned(scripted):
    """Not the last one, nor one that nobody looked at (step 3, the teacher itself)."""
    scripted["script"] = {1: FAR, 3: torch.tensor(TEACHER), 4: NEARER, 5: NEAR, 6: FAR}
    assert torch.equal(distilled("server.check_every=2"), NEARER)
    assert scripted["steps"] == 6


def test_the_mean_is_returned_where_no_student_is_better(scripted):
    scripted["script"] = {1: FAR}
    assert torch.equal(distilled(""), torch.tensor(TWICE) / 10)


def test_the_last_step_is_looked_at_too(scripted):
    scripted["script"] = {1: FAR, 6: NEAR}
    assert torch.equal(distilled("server.check_every=4"), NEAR)


def test_patience_ends_the_distillation(scripted):
    """Looks at 2, 4, 6, ...: the best comes at 4, and 6 steps later, at 10 of 100, the server has seen enough."""
    scripted["script"] = {1: FAR, 3: NEAR, 5: FAR, 11: NEARER}
    kept = distilled("server.distill_steps=100 server.check_every=2 server.distill_patience=6")
    assert scripted["steps"] == 10
    assert torch.equal(kept, NEAR)


def test_a_gain_renews_patience(scripted):
    scripted["script"] = {1: FAR, 3: NEAR, 5: FAR, 9: NEARER}
    kept = distilled("server.distill_steps=100 server.check_every=2 server.distill_patience=6")
    assert scripted["steps"] == 16
    assert torch.equal(kept, NEARER)


# --- distilling in earnest


def test_the_student_comes_nearer_to_the_ensemble():
    """Batch-normalized clients trained apart: their mean is a poor model of what they say together."""
    strategy = server(Normed, "server.distill_steps=300 server.check_every=20")
    rng = torch.Generator().manual_seed(3)
    values = [
        {n: t + torch.randn(t.shape, generator=rng) if t.is_floating_point() else t for n, t in w.items()}
        for w in [strategy.world.initial("any")] * 3
    ]
    received = [Weights({n: t.abs() if n == "norm.running_var" else t for n, t in w.items()}) for w in values]
    replies = [reply_of(str(i), w, model="any") for i, w in enumerate(received)]
    _, teacher, _ = strategy._teacher(replies, Knowledge(), 1)
    far = {}
    for steps in (0, 300):
        strategy.config = methods.config("feddf", "server", distill_steps=steps, distill_batch=16, distill_lr=0.01)
        (student,) = strategy.aggregate(replies, NOTHING, round=1)
        model = strategy.world.load("any", student.values)
        said_of_public = feddf.predict(model, Samples(PUBLIC))
        far[steps] = (teacher.exp() * (teacher - said_of_public)).sum(1).mean().item()
    assert far[300] < 0.2 * far[0]


def test_one_public_sample_is_not_enough():
    strategy = server(Linear)
    strategy.world.__dict__["public"] = Samples(PUBLIC[:1])
    with pytest.raises(InvalidInputError, match="feddf has 1 public samples; expected at least 2"):
        strategy.aggregate([reply_of("0", linear([1.0, 0.0], [0.0, 1.0]), model="any")], NOTHING, round=1)


def test_a_few_public_samples_are_learnt_from():
    """Of five one is held back: without it no student would ever be better than the mean."""
    strategy = server(Linear, "server.distill_steps=50 server.distill_lr=0.1")
    strategy.world.__dict__["public"] = Samples(PUBLIC[:5])
    replies = [
        reply_of("0", linear([4.0, 0.0], [0.0, 4.0]), model="any"),
        reply_of("1", linear([0.0, 0.0], [0.0, 0.0]), examples=9, model="any"),
    ]
    (student,) = strategy.aggregate(replies, NOTHING, round=1)
    assert not torch.equal(student.values["w"], torch.eye(2) * 0.4)


# --- who teaches, what of it is learned, and what judges the student

RIGHT, WRONG = [[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]]


def labeled(changes: str) -> Strategy:
    """Public samples with the labels that ``RIGHT`` gives them."""
    strategy = server(Linear, changes)
    strategy.world.__dict__["public"] = Samples(PUBLIC, PUBLIC.argmax(1))
    return strategy


def test_the_rule_makes_the_ensemble():
    """Probabilities (e, 1) / (1 + e) and (1, e) / (1 + e) on x = (1, 0): their mean is a half, as are the logits'.

    With weights 3 w and -w the mean of the logits is w's, and that of the probabilities is not.
    """
    replies = [reply_of("0", linear([3.0, 0.0], [0.0, 3.0]), model="any"), reply_of("1", linear(*WRONG), model="any")]
    _, teacher, _ = server(Linear, "server.rule=mean_of_probabilities")._teacher(replies, Knowledge(), 1)
    expected = ((3 * PUBLIC).softmax(1) + (-PUBLIC).softmax(1)) / 2
    torch.testing.assert_close(teacher.exp(), expected)


def test_the_worst_teacher_is_dropped_from_the_ensemble_and_from_the_mean():
    strategy = labeled("server.teachers=drop_worst server.distill_steps=1")
    replies = [reply_of(str(i), linear(*w), model="any") for i, w in enumerate((RIGHT, WRONG, RIGHT))]
    left, teacher, _ = strategy._teacher(replies, Knowledge(), 1)
    assert [reply.client.id for reply in left] == ["0", "2"]
    torch.testing.assert_close(teacher, PUBLIC.log_softmax(1))
    (student,) = strategy.aggregate(replies, NOTHING, round=1)
    assert torch.equal(student.values["w"], torch.eye(2))


def test_an_architecture_whose_clients_are_all_dropped_keeps_its_student():
    strategy = labeled("server.teachers=drop_worst")
    replies = [reply_of("0", linear(*RIGHT, model="a"), model="a"), reply_of("1", linear(*WRONG, model="b"), model="b")]
    before = Knowledge([linear([9.0, 9.0], [9.0, 9.0], model=name) for name in ("a", "b")])
    students = {s.model: s.values["w"] for s in strategy.aggregate(replies, before, round=2)}
    assert torch.equal(students["b"], torch.full((2, 2), 9.0))


def test_teachers_weighted_by_accuracy():
    """One is always right, the other never and so below chance: the ensemble is the first alone."""
    strategy = labeled("server.teachers=weighted")
    replies = [reply_of(str(i), linear(*w), model="any") for i, w in enumerate((RIGHT, WRONG))]
    torch.testing.assert_close(strategy._teacher(replies, Knowledge(), 1)[1], PUBLIC.log_softmax(1))


def test_a_student_that_is_judged_by_labels_may_be_far_from_the_ensemble(scripted, monkeypatch):
    """Step 1 puts in the labels' own rule, step 3 the ensemble of two that are wrong."""
    scripted["script"] = {1: torch.tensor(RIGHT), 3: torch.tensor(WRONG)}
    replies = [reply_of(str(i), linear(*WRONG), model="any") for i in range(2)]
    for stop, kept in (("validation", RIGHT), ("kl", WRONG)):
        (student,) = labeled(f"server.stop={stop}").aggregate(replies, NOTHING, round=1)
        assert torch.equal(student.values["w"], torch.tensor(kept)), stop


def test_the_surest_public_samples_teach(scripted):
    """A third of 36: those with the greatest distance between the two logits, in the order that they had."""
    distilled("")
    everything, entropy = scripted["samples"].index, {}
    for row, logprobs in zip(everything.tolist(), scripted["teacher"], strict=True):
        entropy[row] = float(-(logprobs.exp() * logprobs).sum())
    distilled("server.low_entropy=0.33333")
    surest = set(sorted(entropy, key=entropy.__getitem__)[:12])
    assert scripted["samples"].index.tolist() == [row for row in everything.tolist() if row in surest]


@pytest.mark.parametrize(
    "changes", ["server.teachers=weighted", "server.teachers=drop_worst", "server.stop=validation"]
)
def test_labels_are_asked_for_where_they_are_used(changes):
    with pytest.raises(InvalidInputError, match="feddf needs labeled public samples"):
        tiny.run("feddf", f"{TINY} {SHORT} {changes} data.public=noise")
    assert not feddf.FedDF.requirements(settings("feddf")).labels


def test_nobody_can_be_a_better_teacher_where_nobody_teaches():
    with pytest.raises(InvalidInputError, match=r"server\.teachers is 'weighted' and server\.distill_steps is 0"):
        settings("feddf", "server.teachers=weighted server.distill_steps=0")


# --- several architectures


def test_each_architecture_has_one_student():
    """Means within an architecture, one teacher of all clients; an architecture without a reply keeps its student."""
    strategy = server(Linear, "server.distill_steps=0")
    received = [
        reply_of("0", linear([1.0, 0.0], [0.0, 1.0], model="a"), model="a"),
        reply_of("1", linear([5.0, 0.0], [0.0, 5.0], model="b"), model="b", examples=1),
        reply_of("2", linear([3.0, 0.0], [0.0, 3.0], model="a"), model="a"),
    ]
    before = Knowledge([linear([9.0, 9.0], [9.0, 9.0], model=name) for name in ("a", "b", "c")])
    students = {s.model: s.values["w"][0, 0].item() for s in strategy.aggregate(received, before, round=2)}
    assert students == {"a": 2.0, "b": 5.0, "c": 9.0}


def test_the_teacher_is_all_architectures(scripted):
    strategy = server(Linear)
    received = [
        reply_of("0", linear([1.0, 0.0], [0.0, 1.0], model="a"), model="a"),
        reply_of("1", linear([5.0, 0.0], [0.0, 5.0], model="b"), model="b"),
    ]
    strategy.aggregate(received, NOTHING, round=1)
    x, _ = scripted["samples"].batch(torch.arange(36))
    torch.testing.assert_close(scripted["teacher"], (3 * x).log_softmax(1))


def test_mixed_architectures_run(tmp_path):
    """Students go to the clients of their architecture alone, and the server's accuracy is their mean."""
    changes = f"{TINY} {SHORT} model.name=[mlp,lenet] data.clients=4"
    lines = tiny.run("feddf", changes, out=tmp_path / "run")
    kept = Weights.all(Checkpoint.read(tmp_path / "run", "feddf").knowledge)
    assert sorted(w.model for w in kept) == ["lenet", "mlp"]
    assert all(0 < line["global"]["accuracy"] < 1 for line in tiny.rounds(lines))
    down = tiny.rounds(lines)[1]["bytes"]["down"]["arrays"]
    assert 0 <= down - 2 * 4 * sum(t.numel() for w in kept for t in w.values.values()) < 10000


# --- whole runs


def test_without_distillation_it_is_fedavg(tmp_path):
    """No steps: the same server model and the same clients as FedAvg, bit for bit."""
    for method, changes in (("feddf", "server.distill_steps=0"), ("fedavg", "")):
        tiny.run(method, TINY + "server.rounds=3 " + changes, out=tmp_path / method)
    ours, theirs = (
        Weights.need(Checkpoint.read(tmp_path / method, method).knowledge).values for method in ("feddf", "fedavg")
    )
    tiny.assert_same_bits({0: ours}, {0: theirs})


def test_with_distillation_it_is_not(tmp_path):
    for method, changes in (("feddf", f"{SHORT} server.distill_lr=0.001"), ("fedavg", "")):
        tiny.run(method, f"{TINY} server.rounds=1 client.epochs=5 client.lr=0.2 {changes}", out=tmp_path / method)
    ours, theirs = (
        Weights.need(Checkpoint.read(tmp_path / method, method).knowledge).values for method in ("feddf", "fedavg")
    )
    assert not torch.equal(ours["head.weight"], theirs["head.weight"])


def test_clients_never_distill(tmp_path):
    """MarsFL distills into every client instead of into a student: here clients exchange weights and keep nothing."""
    lines = tiny.run("feddf", f"{TINY} {SHORT} run.keep=last", out=tmp_path / "run")
    for line in tiny.rounds(lines):
        assert list(line["bytes"]["up"]) == list(line["bytes"]["down"]) == ["arrays"]
    assert tiny.memories(tmp_path / "run") == {}


def test_public_samples_are_needed():
    with pytest.raises(InvalidInputError, match="feddf needs public samples"):
        tiny.run("feddf", TINY + "data.public=none")


@pytest.mark.parametrize(
    ("key", "value"),
    [("distill_steps", -1), ("distill_batch", 0), ("distill_lr", 0.0), ("distill_patience", 0), ("check_every", 0)],
)
def test_values_outside_their_range_are_refused(key, value):
    with pytest.raises(InvalidInputError, match=f"server.{key} is {value}"):
        methods.config("feddf", "server", **{key: value})


@pytest.mark.parametrize("edge", [*tiny.DEGENERATE, "data.public=noise", "server.distill_batch=1000"])
def test_federations_at_the_edge(edge):
    lines = tiny.run("feddf", f"{TINY} {SHORT} {edge}")
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert all(math.isfinite(line["global"]["nll"]) for line in tiny.rounds(lines))
    assert not any(line["failed"] for line in tiny.rounds(lines))


def small(client: str) -> Data:
    start = 10 * int(client)
    own = Samples(PUBLIC[start : start + 10], (PUBLIC[start : start + 10, 0] > 0).long())
    return Data(own, own, own)


def dropping() -> Task:
    return Task(lambda _: Dropping(), small, lambda: Samples(PUBLIC[30:]), Samples(PUBLIC, (PUBLIC[:, 0] > 0).long()))


def test_a_run_with_dropout_is_reproducible():
    changes = f"{TINY} {SHORT} model.name=any"
    first, second = (
        [line["global"] for line in tiny.rounds(tiny.run("feddf", changes, task=dropping))] for _ in range(2)
    )
    assert first == second
