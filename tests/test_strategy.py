"""What the abstract strategy does for every method: choosing, refusing, and being one of Flower's."""

from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping
from helpers.grids import Noted, devices, hosts
from helpers.tasks import model, samples
from helpers.tiny import play, rounds, start_toy, tiny_settings, toy_settings

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.server import Strategy
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.resume import Standing
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire import Knowledge, Weights
from fd_flower.wire.envelope import unfold

Lines = list[dict[str, Any]]


# --- who is asked


def asked(lines: Lines) -> list[list[str]]:
    return [line["asked"] for line in rounds(lines)]


def test_the_same_clients_are_asked_whatever_the_order_of_nodes(tmp_path: Path):
    changes = "data.clients=6 server.fraction=0.5 server.rounds=4"
    hosted = [asked(start_toy("local", changes, hosts("local", nodes))[2]) for nodes in (1, 4)]
    names = [["0", "1", "2", "3", "4", "5"], ["3", "5", "0", "4", "1", "2"]]
    on_devices = [asked(start_toy("local", changes, devices("local", str(tmp_path / n[0]), *n))[2]) for n in names]
    assert hosted[0] == hosted[1] == on_devices[0] == on_devices[1]
    assert all(len(names) == 3 for names in hosted[0])
    assert len({tuple(names) for names in hosted[0]}) > 1  # not the same three in every round


def test_another_seed_asks_others():
    changes = "data.clients=6 server.fraction=0.5 server.rounds=4"
    assert asked(start_toy("local", changes)[2]) != asked(start_toy("local", f"{changes} run.seed=1")[2])


@pytest.mark.parametrize(("fraction", "number"), [(0.01, 1), (0.5, 3), (0.7, 4), (1.0, 5)])
def test_a_share_of_five_clients(fraction: float, number: int):
    """Halves are rounded up, and somebody is always asked: 2.5 is 3, 3.5 is 4."""
    lines = start_toy("local", f"data.clients=5 server.fraction={fraction} server.rounds=1")[2]
    assert len(asked(lines)[0]) == number


# --- what is refused before round one


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("fedmd", "data.public=none", "fedmd needs public samples: give data.public"),
        ("feddf", "data.public=none", "feddf needs public samples: give data.public"),
        ("fedmd", "data.public_batch=101", "public_batch is 101, but there are 100 public samples: take at most 100"),
        ("dsfl", "data.public_size=5000 data.public_batch=5000", "is 5000, but there are 479 public samples"),
        ("fedavg", "model.name=[mlp,cnn]", "fedavg needs one architecture for all clients; got cnn, mlp"),
        ("fedproto", "model.name=[mlp,cnn]", "needs one feature size for all models; got .*set model.features"),
    ],
)
def test_needs_are_checked_before_round_one(method: str, changes: str, words: str):
    lines: Lines = []
    with pytest.raises(InvalidInputError, match=words):
        lines += play(tiny_settings(method, changes))
    assert lines == []


def test_without_a_number_a_round_is_about_512_public_samples_or_all():
    chosen = settings("fedmd", "data.public_size=1000 data.public=noise")
    assert len(World(chosen, described(chosen)).public_index(1)) == 512
    few = settings("fedmd", "data.public_size=100")
    assert len(World(few, described(few)).public_index(1)) == 100


def test_who_does_not_go_by_rounds_of_public_samples_may_name_any_number():
    assert rounds(play(tiny_settings("feddf", "data.public_batch=5000 server.rounds=1")))


def test_a_model_without_features_does_for_methods_that_compare_logits():
    assert len(rounds(start_toy("fd", "model.name=plain")[2])) == 2
    with pytest.raises(InvalidInputError, match=r"needs models with features.*; Linear has no features and no head"):
        start_toy("fedproto", "model.name=plain")


def test_models_that_tell_different_classes_apart_are_refused():
    with pytest.raises(
        InvalidInputError, match="client 1's model tells 4 classes apart, client 0's 3; expected one number"
    ):
        start_toy("fd", "model.name=[small,fourth]")


def test_public_samples_that_differ_are_noticed(tmp_path: Path):
    strategy = Strategy.for_method(
        toy_settings("fedmd"), Task(model, None, lambda: samples("others", 40, labels=False))
    )
    with pytest.raises(InvalidInputError, match="client 0 has other public samples than the server"):
        strategy.start(devices("fedmd", str(tmp_path), "0", "1"))


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path):
    knowledge = Knowledge([Weights({"w": torch.ones(2)})])
    Checkpoint(3, knowledge, Standing(tiny_settings("fedavg").text, "", {})).write(tmp_path, "fedavg")
    found = Checkpoint.read(tmp_path, "fedavg")
    assert found is not None
    assert found.round == 3
    with pytest.raises(InvalidInputError, match="is of the method 'fedavg', not of 'fd'"):
        Checkpoint.read(tmp_path, "fd")
    assert Checkpoint.read(tmp_path / "elsewhere", "fd") is None


def test_flowers_privacy_wrappers_are_refused_with_what_to_use_instead():
    wrapped = DifferentialPrivacyServerSideFixedClipping(Strategy.for_method(toy_settings("fedavg")), 1.0, 1.0, 3)
    with pytest.raises(
        InvalidInputError,
        match=r"is wrapped in a strategy that runs its own start .*start it itself, with privacy\.dp=",
    ):
        wrapped.start(hosts("fedavg"), initial_arrays=ArrayRecord(model("").state_dict()))


def test_a_relative_folder_that_reaches_the_server_says_so():
    with pytest.raises(InvalidInputError, match=r"run\.out is the relative path 'somewhere'; give an absolute one"):
        start_toy("local", "run.out=somewhere")


# --- Flower's parameters


def test_an_explicit_number_of_rounds_wins():
    _, result, lines = start_toy("fedavg", num_rounds=3)
    assert [line["round"] for line in rounds(lines)] == [1, 2, 3]
    assert list(result.train_metrics_clientapp) == [1, 2, 3]
    with pytest.raises(InvalidInputError, match=r"server.rounds is 0; expected at least 1"):
        start_toy("fedavg", num_rounds=0)


def test_initial_arrays_replace_the_weights_that_the_method_starts_from():
    torch.manual_seed(5)
    given = model("").state_dict()
    grid = Noted(methods.client_app("fedavg"))
    start_toy("fedavg", grid=grid, initial_arrays=ArrayRecord(given))
    first = next(unfold(m.content)["0"] for m in grid.sent if m.metadata.message_type == "train")
    assert torch.equal(Weights.need(first).values["head.bias"], given["head.bias"])  # type: ignore[arg-type]


def test_train_config_reaches_every_client_beside_ours():
    grid = Noted(methods.client_app("local"))
    start_toy("local", grid=grid, train_config=ConfigRecord({"mine": 7, "server-round": 99}))
    received = [unfold(m.content)["0"]["config"] for m in grid.sent if m.metadata.message_type == "train"]  # type: ignore[index]
    assert [(c["mine"], c["server-round"]) for c in received] == [(7, 1), (7, 2)]


def test_an_evaluate_fn_replaces_ours():
    seen = []

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append((round, "head.bias" in arrays))
        return MetricRecord({"mine": float(round)})

    _, result, lines = start_toy("fedavg", evaluate_fn=evaluate)
    assert seen == [(0, True), (1, True), (2, True)]
    assert {r: m["mine"] for r, m in result.evaluate_metrics_serverapp.items()} == {0: 0.0, 1: 1.0, 2: 2.0}
    assert [line["global"] for line in rounds(lines)] == [None, None]


def test_the_result_is_what_any_flower_user_loads():
    _, result, _ = start_toy("fedavg")
    model("").load_state_dict(result.arrays.to_torch_state_dict())


def test_knowledge_without_weights_is_the_result_by_kind_and_field():
    _, result, _ = start_toy("fd")
    assert set(result.arrays) >= {"class-logits/sums", "class-logits/counts"}


def test_what_a_subclass_of_flowers_hooks_would_change_is_taken_over():
    strategy = Strategy.for_method(toy_settings("fedavg"))
    configure = strategy.configure_train

    def zeroed(server_round: int, arrays: ArrayRecord, *also: Any) -> Any:
        zeros = ArrayRecord({k: t * 0 for k, t in arrays.to_torch_state_dict().items()})
        return configure(server_round, zeros, *also)

    strategy.configure_train = zeroed  # type: ignore[method-assign]
    grid = Noted(methods.client_app("fedavg"))
    strategy.start(grid)
    first = next(unfold(m.content)["0"] for m in grid.sent if m.metadata.message_type == "train")
    assert float(Weights.need(first).values["head.bias"].abs().sum()) == 0  # type: ignore[arg-type]


def test_a_method_that_draws_from_the_global_generator_draws_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch):
    """Dropout in a model that the server trains does."""
    method, draws = methods.strategy("fd"), []
    original = method.aggregate

    def aggregate(self: Strategy, *received: Any, **also: Any) -> Any:
        draws.append(torch.rand(1).item())
        return original(self, *received, **also)

    monkeypatch.setattr(method, "aggregate", aggregate)
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        start_toy("fd", "server.rounds=2")
        assert torch.equal(before, torch.get_rng_state())
    assert draws[:2] == draws[2:]
    assert draws[0] != draws[1]
