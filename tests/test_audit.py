"""Audits of runs: who is found, who cannot be, and that a watched run is the same run."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.tiny import figures, start, toy_settings
from torch import Tensor, nn

from fd_flower import config, methods
from fd_flower.audit.findings import Finding
from fd_flower.audit.pool import Pool, auxiliary
from fd_flower.audit.run import Audit, audit, check
from fd_flower.audit.scores import Interval
from fd_flower.audit.shadows import means_of
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.rng import torch_rng
from fd_flower.core.samples import Data, Samples
from fd_flower.engine import InProcessGrid
from fd_flower.server import Strategy
from fd_flower.tasks.candidates import candidates
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import ClassLogits

INPUTS, CLASSES, COUNT = 40, 3, 12

OVERFITTED = (
    "data.clients=4 data.public_batch=40 server.rounds=1 client.epochs=40 client.steps=null client.batch=6 "
    "client.optimizer=adam client.lr=0.01 client.public_steps=2 run.device=cpu"
)
UNTRAINED = f"{OVERFITTED} client.lr=1e-30 client.epochs=1"


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(INPUTS, 32), nn.ReLU())
        self.head = nn.Linear(32, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return self[1](self[0](x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _noise(name: str, number: int) -> Samples:
    """Return noise with labels that have nothing to do with it: all that a model can learn is by heart."""
    rng = torch_rng("noise", name)
    return Samples(torch.randn(number, INPUTS, generator=rng), torch.arange(number) % CLASSES)


def noise() -> Task:
    def own(client: str) -> Data:
        return Data(_noise(f"{client} train", 12), _noise(f"{client} validation", 6), _noise(f"{client} test", 9))

    return Task(lambda name: Net(), own, lambda: replace(_noise("public", 40), y=None), _noise("test", 60))


def settings(method: str, words: str = OVERFITTED) -> config.Settings:
    return config.settings(method, words, task=f"{__name__}:noise")


def found(audited: Audit) -> dict[tuple[str, str], Finding]:
    return {(each.knowledge, each.attack): each for each in audited.findings}


def mean(finding: Finding) -> float:
    return Interval.of(finding.auc).mean


# --- who is found


def test_models_that_know_their_samples_by_heart_give_them_away():
    audited = found(audit("run", settings("fedavg"), COUNT, 5))
    assert audited.keys() == {("weights", "loss threshold"), ("weights", "LiRA, other clients")}
    for finding in audited.values():
        assert finding.clients == ("0", "1", "2", "3")
        assert mean(finding) > 0.95
    assert Interval.of(audited["weights", "LiRA, other clients"].true_positives).mean > 0.6


def test_models_that_never_saw_the_samples_give_nothing_away():
    audited = found(audit("run", settings("fedavg", UNTRAINED), COUNT, 5))
    for finding in audited.values():
        assert Interval.of(finding.auc).contains(0.5), finding


def test_predictions_on_candidates_give_away_more_than_those_on_other_samples():
    audited = found(audit("run", settings("fedmd"), COUNT, 100))
    for attack in ("loss threshold", "co-op LiRA", "distillation-based LiRA"):
        assert mean(audited["predictions on candidates", attack]) > 0.9, attack
    passive = mean(audited["public predictions", "LiRA, other clients"])
    assert 0.5 < passive < mean(audited["predictions on candidates", "co-op LiRA"])


def test_a_secure_sum_is_attacked_as_one_and_hides_more():
    audited = audit("run", settings("fedavg", f"{OVERFITTED} privacy.sum=masks"), COUNT, 50)
    sums = found(audited)
    assert sums.keys() == {("sum of weights", "loss threshold"), ("sum of weights", "LiRA, server's models")}
    for finding in sums.values():
        assert finding.clients == ("0", "1", "2", "3")
        assert mean(finding) < 0.95
    assert not audited.histograms


@pytest.mark.parametrize("method", ["fedproto", "fd"])
def test_class_means_are_traced_and_counts_are_read(method: str):
    audited = audit("run", settings(method), COUNT, 50)
    assert [each.attack for each in audited.findings] == ["fit", "fit LiRA, other clients", "tracing"]
    assert audited.histograms[0].source == "counts that are sent"
    assert audited.histograms[0].estimated == pytest.approx((0.0,) * 4)


def test_class_means_of_a_known_body_give_their_samples_away():
    # No client trains, and the server's model makes one step: all bodies are the initial one.
    audited = found(audit("run", settings("fedproto", UNTRAINED), COUNT, 1))
    for attack in ("fit", "fit LiRA, other clients", "tracing"):
        interval = Interval.of(audited["class means", attack].auc)
        assert interval.mean > 0.8, attack
        assert not interval.contains(0.5)


def test_an_audit_is_a_function_of_the_settings():
    assert audit("run", settings("dsfl"), COUNT, 5) == audit("run", settings("dsfl"), COUNT, 5)


# --- a watched run is the same run


@pytest.mark.parametrize("method", ["fedavg", "fd", "fedmd"])
def test_who_watches_changes_no_bit(method: str):
    def played(watch: bool) -> tuple[dict[str, Tensor], list[Any], list[tuple[int, int]]]:
        chosen, seen = toy_settings(method), []
        strategy, lines = Strategy.for_method(chosen), []
        strategy.on_line = lines.append
        if watch:
            strategy.on_replies = lambda number, replies: seen.append((number, len(replies)))
        strategy.start(InProcessGrid(methods.client_app(method), run_config={"task": chosen.task}))
        return strategy.knowledge.flat(), figures(lines), seen

    alone, watched = played(watch=False), played(watch=True)
    assert all(torch.equal(tensor, watched[0][key]) for key, tensor in alone[0].items())
    assert alone[1] == watched[1]
    assert watched[2] == [(1, 3), (2, 3)], "single replies, each round"


# --- candidates


def test_members_are_trained_on_and_others_are_not():
    world = World(config.settings("local", "data.clients=4 data.partition=iid data.limit=300"), task := _digits())
    assert task.data is not None
    trained = {row for client in world.clients for row in _rows(world.data(client).train)}
    for client in world.clients:
        own = candidates(world.data, client, 10, world.settings)
        assert len(own.members) == len(own.others) == 10
        assert set(_rows(own.members)) <= set(_rows(world.data(client).train))
        assert not set(_rows(own.others)) & trained
    pool = Pool.of(world, 10)
    assert not set(_rows(auxiliary(world, pool))) & set(_rows(pool.samples))


def _digits() -> Task:
    from fd_flower.tasks.described import described

    return described(config.settings("local", "data.clients=4 data.partition=iid data.limit=300 model.name=mlp"))


def _rows(samples: Samples) -> list[bytes]:
    x = samples.x if samples.index is None else samples.x[samples.index]
    return [row.numpy().tobytes() for row in x]


def test_injected_candidates_are_behind_the_public_samples_client_by_client():
    chosen = settings("fedmd", f"{OVERFITTED} attack.inject=5")
    world = World(chosen, noise())
    assert world.public is not None
    assert len(world.public) == 40 + 4 * 2 * 5
    pool = Pool.of(world, 5)
    assert _rows(world.public)[40:] == _rows(pool.samples)
    members, others = pool.places["2"]
    assert set(_rows(pool.samples[members])) <= set(_rows(world.data("2").train))
    assert set(_rows(pool.samples[others])) <= set(_rows(world.data("2").test))


def test_auxiliary_rows_are_no_candidates_even_where_clients_test_on_the_global_test_set():
    task = noise()
    shared = replace(task, test=_noise("0 test", 9 + 20))
    world = World(settings("fedavg"), shared)
    pool = Pool.of(world, 9)
    left = _rows(auxiliary(world, pool))
    assert not set(left) & set(_rows(pool.samples))
    assert len(left) < 29


def test_class_means_are_probabilities_whatever_was_added_up():
    counts = torch.tensor([2.0, 0.0])
    probabilities = ClassLogits(torch.tensor([[1.5, 0.5], [0.0, 0.0]], dtype=torch.float64), counts)
    assert means_of(probabilities)[0].tolist() == [0.75, 0.25]
    logits = ClassLogits(torch.tensor([[6.0, 2.0], [0.0, 0.0]], dtype=torch.float64), counts)
    assert means_of(logits)[0].tolist() == pytest.approx(torch.tensor([3.0, 1.0]).softmax(0).tolist())


# --- what cannot be audited


@pytest.mark.parametrize(
    ("method", "words", "reason"),
    [
        (
            "local",
            "",
            "local sends nothing, for which the audit has no attack; it has attacks on arrays, public-logits",
        ),
        ("fedkd", "", "fedkd sends update, for which the audit has no attack"),
        ("fedavg", "data.clients=2", "data.clients=2 leaves too few other clients .* take 3 or more"),
        ("fedavg", "attack.name=lie", "an audit is of honest clients, and attack.name=lie"),
        ("fedmd", "attack.inject=3", "attack.inject=3: leave both out"),
        ("fedmd", "client.label_epochs=2", "learn from the labels of public samples, .*: set client.label_epochs=0"),
    ],
)
def test_what_cannot_be_audited_is_one_line_before_anything_trains(method: str, words: str, reason: str):
    with pytest.raises(InvalidInputError, match=reason):
        check(settings(method, f"{OVERFITTED} {words}"), COUNT)


def test_candidates_are_as_many_as_the_smallest_client_has():
    assert check(settings("fedavg"), None) == 12
    assert check(settings("fedavg"), 5) == 5


def test_too_few_samples_are_counted():
    with pytest.raises(InvalidInputError, match=r"16 candidates of client 0 .* it has 12 and 15: lower --candidates"):
        check(settings("fedavg"), 16)


def test_predictions_need_public_samples():
    words = "data.source=digits data.clients=4 model.name=mlp data.public=none"
    with pytest.raises(
        InvalidInputError, match=r"clients of fedmd predict on public samples, and data\.public is none"
    ):
        check(config.settings("fedmd", words), 5)


def test_other_kinds_of_task_have_no_candidates():
    with pytest.raises(InvalidInputError, match="an audit needs clients' samples with class labels"):
        check(toy_settings("fede4rag", "server.rounds=1"), 5)


def test_a_part_of_a_model_is_named_and_not_attacked():
    audited = audit("run", settings("fedavg", f"{OVERFITTED} client.share=body"), COUNT, 5)
    assert not audited.findings
    assert "no attack on weights that are no whole model of the client's architecture" in audited.notes[0]


def test_candidates_are_for_simulated_clients(tmp_path: Any):
    from helpers.grids import devices

    chosen = toy_settings("fedmd", "attack.inject=2")
    with pytest.raises(Exception, match=r"attack\.inject=2 is for simulated clients, and these are devices"):
        start(chosen, devices("fedmd", str(tmp_path), "a", "b"))


def test_candidates_whose_labels_clients_would_learn_are_refused():
    with pytest.raises(
        Exception, match=r"attack\.inject=2 adds training samples to the public ones, from whose labels"
    ):
        start(
            toy_settings("fedmd", "attack.inject=2 client.label_epochs=1"), InProcessGrid(methods.client_app("fedmd"))
        )
