"""FedD2S: what is taught below a moving cut, by heads that learn from everybody's features."""

import math

import pytest
import torch
from fd_flower.client_apps.fedd2s import Taught, held_beyond, objective
from helpers import tiny
from helpers.replies import reply_of
from helpers.tiny import TINY
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fd_flower import methods, models
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.models.blocks import below, beyond
from fd_flower.server import Run
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import Knowledge, SampleKnowledge, Weights

RESNET = "model.name=resnet8:0.25 data.limit=200 data.clients=3 client.steps=2 client.batch=16 run.device=cpu "


def changed(**changes):
    return methods.config("fedd2s", "client", **changes)


# --- the client's loss


def resnet():
    return models.build("resnet8:0.25", (1, 8, 8), 10, seed=0).train()


def drawn(number=12):
    rng = torch.Generator().manual_seed(1)
    x, y = torch.randn(number, 1, 8, 8, generator=rng), torch.randint(10, (number,), generator=rng)
    return x, y, torch.randn(number, 10, generator=rng).log_softmax(1)


def gradients(model, loss):
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return {k: g for (k, _), g in zip(model.named_parameters(), found, strict=True)}


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_the_second_term_moves_what_lies_below_the_cut_and_nothing_else(cut):
    """Below the cut it has the gradient of the whole model's distillation, beyond it cross-entropy's alone.

    With detached activations the distillation would reach nothing; undetached, everything.
    """
    model, (x, y, teacher) = resnet(), drawn()
    config = changed(kd_weight=2.0)
    loss = gradients(model, objective(model, x, y, Taught(teacher, cut), config))
    labels = gradients(model, F.cross_entropy(model(x), y))
    p, q = (teacher / 3).softmax(1), (model(x) / 3).log_softmax(1)
    taught = gradients(model, 9 * (p * (p.log() - q)).sum(1).mean())
    shallow = {f"body.{k}" for k, _ in below(model, cut).named_parameters()}
    assert shallow
    assert shallow < loss.keys()
    for key, gradient in loss.items():
        expected = labels[key] + (2 * taught[key] if key in shallow else 0)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
        assert (taught[key].abs().max() > 1e-4) or key.endswith("bias")


def test_batch_normalization_counts_a_batch_once():
    once, twice, (x, y, teacher) = resnet(), resnet(), drawn()
    once(x)
    objective(twice, x, y, Taught(teacher, 2), changed())
    for (key, one), other in zip(once.named_buffers(), twice.buffers(), strict=True):
        assert torch.equal(one, other), key
    assert twice.get_buffer("body.0.0.1.num_batches_tracked") == 1


def test_the_second_pass_sees_the_same_batch():
    model, (x, _, _) = resnet(), drawn()
    torch.testing.assert_close(functional_call(model, held_beyond(model, 2), (x,)), model(x))


class Two(nn.Module):
    """Two blocks that change nothing, and a head that changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        self.head = nn.Linear(2, 2, bias=False)
        for layer in (*self.body, self.head):
            nn.init.eye_(layer.weight)

    def features(self, x):
        return self.body(x)

    def forward(self, x):
        return self.head(self.features(x))


def test_objective_by_hand():
    """Logits (0, 0) thrice; the server says (.9, .1) of the first sample and nothing of the others.

    CE is ln 2; KL at T = 1 is .9 ln 1.8 + .1 ln .2, for one of three samples, times lambda 3.
    """
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    teacher = torch.full((3, 2), -torch.inf)
    teacher[0] = torch.tensor([0.9, 0.1]).log()
    config = changed(kd_weight=3.0, objective_args={"temperature": 1.0})
    kl = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    loss = objective(Two(), x, y, Taught(teacher, 1), config)
    assert loss.item() == pytest.approx(math.log(2) + kl, rel=1e-5)
    assert objective(Two(), x, y, Taught(teacher, 1, 0.5), config).item() == pytest.approx(math.log(2) + kl / 2)
    silent = torch.full((3, 2), -torch.inf)
    for nothing in (None, Taught(silent, 1), Taught(teacher, 1, 0.0)):
        assert torch.equal(objective(Two(), x, y, nothing, config), F.cross_entropy(x, y))


# --- the server


def server(**changes):
    task = Task(lambda _: Two())
    config = methods.config("fedd2s", "server", **{"head_lr": 1e-30, "head_batch": 100, "cuts": [2, 1], **changes})
    strategy = methods.strategy("fedd2s")(config, task=task, run=Run(device="cpu"))
    strategy.__dict__["world"] = World(strategy.settings, task, hosted=False)
    return strategy


def rows(client, u, labels, probabilities, cut=2):
    logits = torch.tensor(probabilities).log()
    known = SampleKnowledge(
        torch.arange(len(u)), torch.tensor(cut), torch.tensor(u), torch.tensor(labels).short(), logits
    )
    return reply_of(client, known)


LN3 = math.log(3)
HEARD = [rows("0", [[LN3, 0.0]], [0], [[0.5, 0.5]]), rows("1", [[0.0, 0.0], [0.0, LN3]], [0, 0], [[0.5, 0.5]] * 2)]


def test_a_head_learns_from_everybodys_features_by_hand():
    """The head says (3/4, 1/4), (1/2, 1/2), (1/4, 3/4) of three features of class 0.

    CE: (ln 4/3 + ln 2 + ln 4) / 3. At T = 3 the head says softmax(ln 3 / 3, 0) of the first and the same turned round
    of the last: KL((1/2, 1/2) || q) = -ln(2 sqrt(q (1 - q))), 9 times, for two of three.
    """
    strategy = server(head_weight=2.0, stage_rounds=5)
    noted = {"": {}, "0": {}, "1": {}}
    strategy.log_diagnostics = lambda figures, client="": noted[client].update(figures)
    known = Knowledge(strategy.aggregate(HEARD, Knowledge(), round=1))
    q = 3 ** (1 / 3) / (3 ** (1 / 3) + 1)
    kl = 9 * -math.log(2 * math.sqrt(q * (1 - q))) * 2 / 3
    notes = noted[""]
    assert notes["head_loss"] == pytest.approx((math.log(4 / 3) + math.log(2) + math.log(4)) / 3 + 2 * kl, rel=1e-5)
    assert notes["head_accuracy"] == pytest.approx(2 / 3)  # of equals the first is taken
    assert (notes["cut"], notes["feature_bytes"], noted["1"]["feature_bytes"]) == (2, 24, 16)
    own = {p.client: p.logits.exp() for p in SampleKnowledge.all(known) if p.client}
    torch.testing.assert_close(own["0"], torch.tensor([[0.75, 0.25]]))
    torch.testing.assert_close(own["1"], torch.tensor([[0.5, 0.5], [0.25, 0.75]]))


def test_each_client_hears_of_its_own_samples_alone():
    strategy = server(stage_rounds=5)
    known = Knowledge(strategy.aggregate(HEARD, Knowledge(), round=1))
    (told,) = strategy.knowledge_for(reply_of("1").client, known)
    assert (told.name, told.id.tolist(), int(told.cut)) == ("sample-knowledge", [0, 1], 2)
    assert told.features is told.labels is None
    (stranger,) = strategy.knowledge_for(reply_of("7").client, known)
    assert (len(stranger.id), int(stranger.cut), stranger.logits) == (0, 2, None)


def test_who_was_away_hears_what_was_said_to_it_last():
    strategy = server(stage_rounds=5)
    known = Knowledge(strategy.aggregate(HEARD, Knowledge(), round=1))
    known = Knowledge(strategy.aggregate(HEARD[:1], known, round=2))
    assert sorted(p.client for p in SampleKnowledge.all(known)) == ["", "0", "1"]


@pytest.mark.parametrize("keep", [False, True])
def test_predictions_of_another_cut_are_dropped_unless_they_are_kept(keep):
    strategy = server(stage_rounds=2, keep_stale=keep)
    known = Knowledge(strategy.aggregate(HEARD, Knowledge(), round=2))
    assert [p.client for p in SampleKnowledge.all(known)] == (["", "0", "1"] if keep else [""])
    (told,) = strategy.knowledge_for(reply_of("0").client, known)
    assert (int(told.cut), len(told.id)) == (1, int(keep))


def test_a_new_cuts_head_goes_on_from_the_last_ones_blocks():
    strategy = server(head_lr=0.5, head_weight=0.0, stage_rounds=1)
    known = Knowledge(strategy.aggregate(HEARD, Knowledge(), round=1))
    (deep,) = Weights.all(known)
    assert set(deep.values) == {"head.weight"}
    assert not torch.equal(deep.values["head.weight"], torch.eye(2))
    second = server(head_epochs=0, stage_rounds=1)
    received = [rows("0", [[LN3, 0.0]], [0], [[0.5, 0.5]], cut=1)]
    shallow = {w.model: w.values for w in Weights.all(Knowledge(second.aggregate(received, known, round=2)))}
    assert set(shallow["head1"]) == {"body.1.weight", "head.weight"}
    assert torch.equal(shallow["head1"]["head.weight"], deep.values["head.weight"])
    assert torch.equal(shallow["head1"]["body.1.weight"], torch.eye(2))
    assert torch.equal(shallow["head2"]["head.weight"], deep.values["head.weight"])


def test_features_of_another_shape_are_left_out():
    wide = rows("2", [[1.0, 2.0, 3.0]], [0], [[0.5, 0.5]])
    bare = reply_of("3", SampleKnowledge(torch.arange(1), torch.tensor(2)))
    known = Knowledge(server().aggregate([*HEARD, wide, bare], Knowledge(), round=1))
    assert [p.client for p in SampleKnowledge.all(known)] == ["", "0", "1"]
    with pytest.raises(RunError, match="round 1 has no reply with features, labels and predictions"):
        server().aggregate([bare], Knowledge(), round=1)


def test_the_schedule():
    config = methods.config("fedd2s", "server", stage_rounds=2)
    assert [config.cut_at(t, 3) for t in range(1, 9)] == [3, 3, 2, 2, 1, 1, 0, 0]
    config = methods.config("fedd2s", "server", stage_rounds=1, cuts=[4, 4, 2], stage_weights=[1.0, 0.5])
    assert [config.cut_at(t, 4) for t in range(1, 5)] == [4, 4, 2, 2]
    assert [config.weight_at(t) for t in range(1, 5)] == [1.0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cuts": [1, 2]}, r"server.cuts is \[1, 2\]"),
        ({"cuts": [2, -1]}, r"server.cuts is \[2, -1\]"),
        ({"cuts": []}, r"server.cuts is \[\]"),
        ({"stage_weights": [1.0, -1.0]}, "server.stage_weights"),
        ({"stage_rounds": 0}, "server.stage_rounds is 0; expected at least 1"),
        ({"head_lr": 0.0}, "server.head_lr is 0.0; expected a number above 0"),
    ],
)
def test_schedules_that_cannot_be_are_refused(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        methods.config("fedd2s", "server", **changes)


# --- whole runs


@pytest.mark.parametrize("model", [TINY, RESNET])
def test_without_its_second_term_it_is_local_training(model, tmp_path):
    """Lambda_c = 0: the same weights and running statistics as `local`, bit for bit, and the same figures."""
    changes = f"{model} client.lr=0.1 server.rounds=3 run.keep=last "
    dropping = "client.kd_weight=0 server.stage_rounds=1"
    lines = {
        "fedd2s": tiny.run("fedd2s", changes + dropping, out=tmp_path / "fedd2s"),
        "local": tiny.run("local", changes, out=tmp_path / "local"),
    }
    tiny.assert_same_bits(tiny.models(tmp_path / "fedd2s"), tiny.models(tmp_path / "local"))
    ours, alone = (tiny.of_clients(found) for found in lines.values())
    assert all(ours[who]["evaluations"] == alone[who]["evaluations"] for who in ours)


def test_with_its_second_term_it_is_not(tmp_path):
    for method in ("fedd2s", "local"):
        tiny.run(method, TINY + "run.keep=last", out=tmp_path / method)
    ours, alone = tiny.models(tmp_path / "fedd2s"), tiny.models(tmp_path / "local")
    first = [who for who in ours if who[1] == "1-0"]
    tiny.assert_same_bits({who: ours[who] for who in first}, {who: alone[who] for who in first})
    assert not torch.equal(ours["0", "2-0"]["model/body.1.weight"], alone["0", "2-0"]["model/body.1.weight"])


def listen(monkeypatch, changes):
    """Run and return what clients said, by (round, client), and the lines."""
    received, real = {}, methods.strategy("fedd2s").aggregate

    def note(self, replies, knowledge, round):
        received.update({(round, r.client.id): SampleKnowledge.need(r.content) for r in replies})
        return real(self, replies, knowledge, round)

    monkeypatch.setattr(methods.strategy("fedd2s"), "aggregate", note)
    return received, tiny.run("fedd2s", changes)


def test_features_grow_as_the_cut_moves_up_and_a_subset_in_half_precision_is_smaller(monkeypatch):
    """8x8 images, a quarter of the width: 16 features, then 8 of 4x4, then 4 of 8x8, and 4 of 8x8 from the stem."""
    changes = RESNET + "server.rounds=5 server.stage_rounds=1 server.cuts=[4,3,2,1] client.samples=10 "
    whole, lines = listen(monkeypatch, changes)
    shapes = [list(whole[t, "0"].features.shape) for t in range(1, 6)]
    assert shapes == [[10, 16], [10, 8, 4, 4], [10, 4, 8, 8], [10, 4, 8, 8], [10, 4, 8, 8]]
    notes = [line["diagnostics"] for line in tiny.rounds(lines)]
    assert [(n["cut"], n["feature_bytes"]) for n in notes] == [
        *((4, 3 * 640), (3, 3 * 5120), (2, 3 * 10240)),
        *[(1, 3 * 10240)] * 2,
    ]
    down = [line["bytes"]["down"]["sample-knowledge"] for line in tiny.rounds(lines)]
    assert down[0] == down[1] == down[2] == down[3] < down[4]  # the last stage goes on, so its words are received
    half, lines = listen(monkeypatch, changes + "client.half=true")
    assert [line["diagnostics"]["feature_bytes"] for line in tiny.rounds(lines)] == [
        n["feature_bytes"] / 2 for n in notes
    ]
    assert torch.equal(half[1, "0"].features, whole[1, "0"].features.half())
    for client in "012":
        ids = [whole[t, client].id.tolist() for t in range(1, 6)]
        assert ids == [sorted(set(ids[0]))] * 5
        assert len({tuple(whole[t, client].labels.tolist()) for t in range(1, 6)}) == 1


def test_in_the_last_stage_the_exchange_ends_and_clients_train_alone(monkeypatch, tmp_path):
    """Rounds 3 and 4 have no cut: no feature goes up, no prediction comes down, and each model learns as `local`'s."""
    changes = RESNET + "server.rounds=4 server.stage_rounds=2 server.cuts=[4,0] client.samples=10 run.keep=last "
    received, lines = listen(monkeypatch, f"{changes} run.out={tmp_path / 'run'}")
    assert [received[t, "0"].features is None for t in (1, 2, 3, 4)] == [False, False, True, True]
    up, down = ([line["bytes"][way]["sample-knowledge"] for line in tiny.rounds(lines)] for way in ("up", "down"))
    assert up[2] == up[3] < 3 * 300 < up[1]  # names alone
    assert down[2] == down[3] == down[0] < down[1]
    assert not any(line["failed"] for line in tiny.rounds(lines))
    stale = f"{changes} run.out={tmp_path / 'stale'} server.keep_stale=true"
    listen(monkeypatch, stale)
    tiny.assert_same_bits(tiny.models(tmp_path / "run"), tiny.models(tmp_path / "stale"))


def test_without_any_cut_it_is_local_training(tmp_path):
    alone = RESNET + "server.rounds=2 client.lr=0.05 run.keep=last "
    tiny.run("fedd2s", f"{alone} server.cuts=[0]", out=tmp_path / "fedd2s")
    tiny.run("local", alone, out=tmp_path / "local")
    tiny.assert_same_bits(tiny.models(tmp_path / "fedd2s"), tiny.models(tmp_path / "local"))


def test_the_recipe_bounds_what_is_sent():
    assert methods.config("fedd2s", "client").samples == 200


def test_a_feature_beyond_half_precision_stays_finite(monkeypatch):
    received, _ = listen(monkeypatch, TINY + "client.half=true client.lr=1e-30 data.source=digits server.rounds=1")
    assert received[1, "0"].features.dtype is torch.float16
    monkeypatch.setattr("fd_flower.client_apps.fedd2s.LARGEST", 0.25)
    cut, _ = listen(monkeypatch, TINY + "client.half=true client.lr=1e-30 data.source=digits server.rounds=1")
    assert torch.equal(cut[1, "0"].features, received[1, "0"].features.clamp(max=0.25))


def test_what_is_said_is_of_the_trained_model(monkeypatch, tmp_path):
    """Features and predictions are those of the model that the client keeps, in evaluation mode."""
    received, _ = listen(
        monkeypatch, f"{RESNET} server.rounds=1 server.cuts=[2] run.keep=last run.out={tmp_path / 'run'}"
    )
    kept = tiny.models(tmp_path / "run")["1", "1-0"]
    model = models.build("resnet8:0.25", (1, 8, 8), 10, seed=0).eval()
    model.load_state_dict({k.removeprefix("model/"): t for k, t in kept.items()})
    own = received[1, "1"]
    torch.testing.assert_close(beyond(model, 2)(own.features).log_softmax(1), own.logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("model.name=cnn server.cuts=[4]", "server.cuts has 4; 'cnn' has 3 blocks"),
        ("model.name=[cnn,lenet]", "fedd2s needs one architecture for all clients; got cnn, lenet"),
        ("model.name=shufflenet_v2:0.5", "Classifier cannot be cut: expected a model whose input enters `body`"),
    ],
)
def test_models_that_it_cannot_cut_are_refused(changes, words):
    with pytest.raises(InvalidInputError, match=words):
        tiny.run("fedd2s", f"{TINY} {changes}")


def test_whoever_is_asked_seldom_runs_on(tmp_path):
    lines = tiny.run("fedd2s", TINY + "server.fraction=0.34 server.rounds=5 server.stage_rounds=2")
    assert not any(line["failed"] for line in tiny.rounds(lines))


@pytest.mark.parametrize("edge", tiny.DEGENERATE)
def test_federations_at_the_edge(edge):
    lines = tiny.run("fedd2s", TINY + edge)
    assert all(math.isfinite(line["metrics"]["loss"]) for line in tiny.of_clients(lines).values())
    assert not any(line["failed"] for line in tiny.rounds(lines))
