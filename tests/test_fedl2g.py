"""FedL2G: guides of classes move so that clients, pulled to them, do better on samples that they hold out."""

from functools import partial

import pytest
import torch
from fd_flower.client_apps.fedl2g import guide_gradient, held_out, objective
from helpers import tiny
from helpers.replies import reply_of, strategy
from helpers.tasks import Echo
from helpers.tiny import TINY
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from fd_flower import methods
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.wire import Bounds, GuideGradients, Guides, Knowledge


def changed(**changes):
    return methods.config("fedl2g", "client", **changes)


# --- the loss


def test_objective_by_hand():
    """Distances (1, 0) - (0, 2) of class 0 and (0, 3) - (1, 3) of class 1: squares 1 + 4 and 1 + 0, mean over 4.

    An Echo's logits and features are its input; with its head doubled the logits move away, and the features do not.
    """
    x, y, guides = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]), torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    model = Echo(2)
    for guide in ("logits", "features"):
        loss = objective(model, x, y, guides, changed(kd_weight=3.0, guide=guide))
        torch.testing.assert_close(loss, cross_entropy(x, y) + 3 * 6 / 4)
    with torch.no_grad():
        model.head.weight.mul_(2)
    loss = objective(model, x, y, guides, changed(kd_weight=3.0, guide="features"))
    torch.testing.assert_close(loss, cross_entropy(2 * x, y) + 3 * 6 / 4)
    loss = objective(model, x, y, guides, changed(kd_weight=3.0))
    torch.testing.assert_close(loss, cross_entropy(2 * x, y) + 3 * (4 + 4 + 1 + 9) / 4)


# --- the gradient of the guides


class Net(nn.Module):
    """Four numbers, three features, three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 3)

    def features(self, x):
        return self.body(x).tanh()

    def forward(self, x):
        return self.head(self.features(x))


def drawn():
    rng = torch.Generator().manual_seed(1)

    def batch(*classes):
        return torch.randn(len(classes), 4, generator=rng).double(), torch.tensor(classes)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().double()
    return (
        model,
        torch.randn(3, 3, generator=rng).double(),
        [batch(0, 0, 1), batch(1, 0, 0)],
        [batch(0, 1, 2), batch(2, 1, 0)],
    )


@pytest.mark.parametrize("guide", ["logits", "features"])
def test_the_gradient_is_the_papers_first_order_form(guide):
    """Class c's is lr 2 / (B D) times the sum over its study samples of J g, over the mini-batches' mean.

    J is the Jacobian of what is guided in the parameters before the step, and g the gradient of the quiz after it; J g
    is found by central differences. The guides v enter the step by 2 / (B D) J^T (f - v), linearly. No study sample is
    of class 2.
    """
    model, guides, study, quiz = drawn()
    config, lr = changed(kd_weight=0.7, guide=guide), 0.5
    found = guide_gradient(model, partial(objective, config=config), guides, study, quiz, lr)

    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    sum(objective(model, x, y, guides, config) for x, y in study).div(2).backward()
    after = Net().double()
    after.load_state_dict({n: p.detach() - lr * p.grad for n, p in model.named_parameters()})
    sum(cross_entropy(after(x), y) for x, y in quiz).div(2).backward()
    slope = {name: p.grad for name, p in after.named_parameters()}

    def guided(x, size):
        """Return what is guided, of the parameters of before the step and so much of the quiz's gradient."""
        moved = Net().double()
        moved.load_state_dict({name: start[name] + size * slope[name] for name in start})
        return (moved(x) if guide == "logits" else moved.features(x)).detach()

    wanted = torch.zeros(3, 3).double()
    for x, y in study:
        along = (guided(x, 1e-5) - guided(x, -1e-5)) / 2e-5
        wanted.index_add_(0, y, 0.7 * lr * 2 / (3 * 3) * along / 2)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    assert found[:2].abs().min() > 0
    assert found[2].tolist() == [0, 0, 0]


def test_a_step_against_it_lowers_the_loss_on_the_quiz():
    model, guides, study, quiz = drawn()
    learn = partial(objective, config=changed())

    slope = guide_gradient(model, learn, guides, study, quiz, 0.5)
    before = quiz_loss(model, learn, guides, study, quiz)
    assert quiz_loss(model, learn, guides - 5 * slope, study, quiz) < before


def quiz_loss(model, learn, guides, study, quiz):
    sum(learn(model, x, y, guides) for x, y in study).div(2).backward()
    after = Net().double()
    after.load_state_dict({n: p.detach() - 0.5 * p.grad for n, p in model.named_parameters()})
    model.zero_grad()
    with torch.no_grad():
        return float(sum(cross_entropy(after(x), y) for x, y in quiz))


# --- the server


def aggregated(replies, guides, **changes):
    (found,) = strategy("fedl2g", **changes).aggregate(replies, Knowledge([Guides(guides)]), round=1)
    return found.values


def sent(client, values, counts):
    return reply_of(client, GuideGradients(torch.tensor(values), torch.tensor(counts)))


REPLIES = [
    sent("0", [[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]], [1, 0, 1]),
    sent("1", [[3.0, 8.0], [0.0, 0.0], [0.0, 0.0]], [1, 0, 0]),
]


def test_guides_step_against_the_mean_over_the_clients_that_have_a_gradient():
    """Class 0: ((1, 0) + (3, 8)) / 2 = (2, 4); class 1: no one's; class 2: client 0's alone, (3, 0)."""
    found = aggregated(REPLIES, torch.ones(3, 2), lr=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, -1.0], [1.0, 1.0], [-0.5, 1.0]]))


def test_the_whole_gradient_is_clipped():
    """Its norm is the root of 4 + 16 + 9; clipped to 1 every entry shrinks by it."""
    found = aggregated(REPLIES, torch.zeros(3, 2), lr=0.5, clip=1.0)
    torch.testing.assert_close(
        found, torch.tensor([[-1.0, -2.0], [0.0, 0.0], [-1.5, 0.0]]) / 29**0.5, rtol=1e-5, atol=0
    )


def test_the_sum_of_the_replies_is_enough():
    """What masks or ciphers open: sums of gradients, and of how many clients have one."""
    payloads = [GuideGradients.need(reply.content) for reply in REPLIES]
    total = torch.stack([payload.summand(0.5) for payload in payloads]).sum(0)
    together = GuideGradients.blank(Bounds(classes=3, guide=2)).summed(total, 1.0, 2)
    assert together.counts.tolist() == [2, 0, 1]
    found = aggregated([reply_of("0", together)], torch.ones(3, 2), lr=0.5)
    torch.testing.assert_close(found, aggregated(REPLIES, torch.ones(3, 2), lr=0.5))


@pytest.mark.parametrize(
    ("values", "counts", "words"),
    [
        ((3, 2), [1, 0, 1], r"'values' of shape \[3, 2\]; expected \[3, 3\]"),
        ((3, 3), [1, 2, 0], "'counts' outside 0 to 1"),
    ],
)
def test_a_reply_of_another_size_or_weight_is_refused(values, counts, words):
    bounds = Bounds(classes=3, guide=3, client=Client("0", 0, classes=3))
    with pytest.raises(InvalidInputError, match=words):
        GuideGradients(torch.ones(*values), torch.tensor(counts)).check(bounds)


@pytest.mark.parametrize(
    ("side", "key", "value"),
    [("server", "lr", 0.0), ("server", "clip", 0.0), ("client", "guide", "logit"), ("client", "quiz_batches", -1),
     ("client", "study_batches", 0), ("client", "warmup_rounds", -1)],
)  # fmt: skip
def test_options_out_of_range_are_refused(side, key, value):
    with pytest.raises(InvalidInputError, match=f"{side}.{key} is '?{value}'?"):
        methods.config("fedl2g", side, **{key: value})


def test_a_run_of_nothing_but_warmup_is_refused():
    with pytest.raises(
        InvalidInputError, match=r"client\.warmup_rounds is 2 of server\.rounds=2, so no client would train"
    ):
        tiny.run("fedl2g", f"{TINY} client.warmup_rounds=2")


# --- whole runs


def guides_of(folder):
    return load_file(folder / "checkpoint" / "knowledge.safetensors")["guides/values"]


def test_without_quiz_and_guides_it_is_local(tmp_path):
    """The same weights bit for bit, and the same figures; the guides stay."""
    alone = "client.quiz_batches=0 client.kd_weight=0 client.clip=null"
    lines = {
        method: tiny.run(method, f"{TINY} run.keep=last {changes}", out=tmp_path / method)
        for method, changes in {"fedl2g": alone, "local": ""}.items()
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedl2g"), tiny.models(tmp_path / "local"))
    ours, theirs = (tiny.of_clients(lines[method]) for method in ("fedl2g", "local"))
    assert all(ours[who]["evaluations"] == theirs[who]["evaluations"] for who in theirs)
    drawn = strategy("fedl2g").initial_knowledge([Client("0", 0, classes=10, features=128)])[0].values
    assert torch.equal(guides_of(tmp_path / "fedl2g"), drawn)


def test_in_warmup_rounds_the_guides_learn_alone(tmp_path):
    lines = tiny.run("fedl2g", f"{TINY} run.keep=last server.rounds=3 client.warmup_rounds=2", out=tmp_path / "run")
    tiny.run("fedl2g", f"{TINY} client.warmup_rounds=1", out=tmp_path / "two")
    kept = tiny.models(tmp_path / "run")
    first = {who: kept[who, "2-0"] for who in "012"}
    tiny.assert_same_bits({"": first["0"]}, {"": first["1"]})  # every client's starts the same
    assert not torch.equal(kept["0", "3-0"]["model/head.weight"], kept["1", "3-0"]["model/head.weight"])
    losses = [line["metrics"]["loss"] for line in tiny.of_clients(lines).values()]
    assert losses[:6] == [0.0] * 6
    assert min(losses[6:]) > 0
    assert not torch.equal(guides_of(tmp_path / "run"), guides_of(tmp_path / "two"))


@pytest.mark.parametrize(("guide", "size"), [("logits", 10), ("features", 128)])
def test_guides_and_their_gradients_are_all_that_travels(guide, size):
    """A vector of float32 for each of 10 classes; 10 int64 counts on top of the gradients; and names."""
    for line in tiny.rounds(tiny.run("fedl2g", f"{TINY} client.guide={guide}")):
        assert 0 <= line["bytes"]["down"]["guides"] / 3 - 4 * 10 * size < 200
        assert 0 <= line["bytes"]["up"]["guide-gradients"] / 3 - (4 * 10 * size + 80) < 400


def test_guides_of_features_need_one_feature_size():
    with pytest.raises(InvalidInputError, match="fedl2g needs one feature size for all models; got lenet 84, mlp 128"):
        tiny.run("fedl2g", TINY + "model.name=[mlp,lenet] client.guide=features")


@pytest.mark.parametrize("changes", ["data.per_client=12 data.partition=iid client.batch=5000", "data.clients=1"])
def test_at_most_half_of_the_samples_are_held_out(changes, monkeypatch):
    """The split is the same in every round, and no sample is in both parts."""
    seen = {}
    real = held_out

    def look(turn):
        study, quiz = real(turn)
        seen.setdefault(turn.client, []).append((study.index.tolist(), quiz.index.tolist()))
        return study, quiz

    monkeypatch.setattr("fd_flower.client_apps.fedl2g.held_out", look)
    tiny.run("fedl2g", f"{TINY} {changes}")
    for rounds in seen.values():
        assert rounds[0] == rounds[1]
        study, quiz = rounds[0]
        assert not set(study) & set(quiz)
        assert 1 <= len(quiz) <= len(study)


def test_bags_of_words_are_refused_before_round_one(tmp_path):
    """PyTorch has no second derivative of them; without held-out samples none is asked for."""
    source = tmp_path / "notes.csv"
    source.write_text("text,label\n" + "".join(f"{word} is here,{word}\n" for word in ["one", "two"] * 60))
    words = f"{TINY} data.source={source} model.name=bag:8 data.clients=2 server.rounds=1 client.guide=logits "
    with pytest.raises(InvalidInputError, match=r"cannot do so with 'bag:8' \(embedding_bag\): take another model"):
        tiny.run("fedl2g", words)
    assert not tiny.rounds(tiny.run("fedl2g", words + "client.quiz_batches=0"))[0]["failed"]
