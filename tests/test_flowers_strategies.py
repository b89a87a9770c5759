"""Flower's own strategies, as they come, over clients that nodes host."""

import gc
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fd_flower.client_apps import fedavg
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flowers
from flwr.serverapp.strategy import FedAvg
from helpers.grids import Moody, Spoilt, hosts
from helpers.tasks import TASK, own, samples, task
from helpers.tiny import start_toy, toy_settings

from fd_flower import config, methods
from fd_flower.client import App, Turn, evaluate_personal, fit, reply
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.samples import Data
from fd_flower.engine import InProcessGrid
from fd_flower.server import HostGrid, Strategy
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.training import supervised
from fd_flower.wire import Weights

CLIENTS = 60
SHORT = "client.steps=1 client.epochs=1 model.name=small"
DP: dict[str, Any] = {"noise_multiplier": 0.1, "clipping_norm": 1.0, "num_sampled_clients": CLIENTS}
ADAPTIVE: dict[str, Any] = {"noise_multiplier": 0.1, "num_sampled_clients": CLIENTS}

PLAIN = "FedAdagrad FedAdam FedAvg FedAvgM FedMedian FedTrimmedAvg FedYogi Krum MultiKrum Bulyan"

STRATEGIES: dict[str, Callable[[], Any]] = {
    **{name: getattr(flowers, name) for name in PLAIN.split()},
    "QFedAvg": lambda: flowers.QFedAvg(client_learning_rate=0.1, train_loss_key="loss"),
    "DifferentialPrivacyServerSideFixedClipping": lambda: flowers.DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), **DP
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: flowers.DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), **ADAPTIVE
    ),
    "DifferentialPrivacyClientSideFixedClipping": lambda: flowers.DifferentialPrivacyClientSideFixedClipping(
        FedAvg(), **DP
    ),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: flowers.DifferentialPrivacyClientSideAdaptiveClipping(
        FedAvg(), **ADAPTIVE
    ),
}
"""Every one that averages a model's weights."""


def start(settings: config.Settings) -> ArrayRecord:
    return ArrayRecord(World(settings, task()).initial(str(settings.model.name)))


@pytest.fixture(scope="module")
def many() -> Callable[..., HostGrid]:
    """Return a federation of many hosted clients on two nodes, whose app has these mods; each shakes hands once."""
    known: dict[tuple[Any, ...], HostGrid] = {}

    def opened(*mods: Any) -> HostGrid:
        if mods not in known:
            app = App()
            app.train(mods=list(mods))(fedavg.train)
            app.evaluate()(fedavg.evaluate)
            known[mods] = HostGrid.open(InProcessGrid(app, 2), config.settings("fedavg", MANY, task=TASK))
        return known[mods]

    return opened


MANY = f"data.clients={CLIENTS} {SHORT}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_two_rounds_over_many_hosted_clients(name: str, many: Callable[..., HostGrid], monkeypatch: pytest.MonkeyPatch):
    """With every fraction at its default; both rounds learn and are evaluated by the clients."""
    monkeypatch.setattr(gc, "collect", lambda: 0)  # Flower's, once an array that it takes out of a reply: 80 seconds
    mods = {
        "DifferentialPrivacyClientSideFixedClipping": [fixedclipping_mod],
        "DifferentialPrivacyClientSideAdaptiveClipping": [adaptiveclipping_mod],
    }
    grid = many(*mods.get(name, ()))
    initial = start(config.settings("fedavg", MANY, task=TASK))
    result = STRATEGIES[name]().start(grid, initial_arrays=initial, num_rounds=2)
    for key, array in result.arrays.items():
        assert np.isfinite(array.numpy()).all()
        assert not np.array_equal(array.numpy(), initial[key].numpy())
    for round in (1, 2):
        assert math.isfinite(result.train_metrics_clientapp[round]["loss"])
        assert 0 <= result.evaluate_metrics_clientapp[round]["received/accuracy"] <= 1


def test_every_strategy_of_flowers_is_tried_or_refused():
    others = {"FedProx", "FedXgbBagging", "FedXgbCyclic", "Result", "Strategy"}
    assert others.isdisjoint(STRATEGIES)
    assert others | STRATEGIES.keys() == set(flowers.__all__)


def few(method: str = "fedavg", changes: str = "", app: Any = None) -> HostGrid:
    """Return a federation of three hosted clients."""
    grid = hosts(method) if app is None else InProcessGrid(app)
    return HostGrid.open(grid, toy_settings(method, f"{SHORT} {changes}"))


def test_fedprox_moves_clients_as_far_as_its_own_option_lets_them():
    """With mu 50 and a learning rate of 0.01 each step halves the distance; with mu 0 it is FedAvg."""
    settings = toy_settings("fedprox", "client.steps=5 client.lr=0.01 model.name=small")
    initial, far = start(settings), {}
    for mu in (0.0, 50.0):
        grid = HostGrid.open(hosts("fedprox"), settings)
        result = flowers.FedProx(proximal_mu=mu).start(grid, initial_arrays=initial.copy(), num_rounds=1)
        far[mu] = sum(float(((result.arrays[k].numpy() - v.numpy()) ** 2).sum()) for k, v in initial.items())
    plain = FedAvg().start(few("fedavg", "client.steps=5 client.lr=0.01"), initial_arrays=initial.copy(), num_rounds=1)
    assert far[50.0] < 0.8 * far[0.0]
    distance = sum(float(((plain.arrays[k].numpy() - v.numpy()) ** 2).sum()) for k, v in initial.items())
    assert far[0.0] == pytest.approx(distance, rel=1e-5)


def test_fedprox_over_clients_that_do_not_look_at_its_option_is_refused():
    with pytest.raises(
        InvalidInputError, match=r"proximal-mu, at which the clients of fedavg do not look: open .*fedp"
    ):
        flowers.FedProx(proximal_mu=0.1).start(few(), initial_arrays=start(toy_settings("fedavg")), num_rounds=1)


@pytest.mark.parametrize("name", ["FedXgbBagging", "FedXgbCyclic"])
def test_trees_are_no_weights_of_a_model(name: str):
    with pytest.raises(RunError, match=r"to 'train': clients? .*InvalidInputError: the weights lack 'body.0.weight'"):
        getattr(flowers, name)().start(few(), initial_arrays=ArrayRecord([np.array([7], np.uint8)]), num_rounds=1)


# --- what arrives


def test_arrays_take_the_modules_types_on_arrival():
    """Batches seen are whole numbers; a mean of them is not."""
    here = World(toy_settings("fedavg", "model.name=normal"), task())
    own = here.initial("normal")
    sent = {key: value.double() + 0.25 * (not value.is_floating_point()) for key, value in own.items()}
    loaded = here.load("normal", sent).state_dict()
    assert {key: value.dtype for key, value in loaded.items()} == {key: value.dtype for key, value in own.items()}
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())


def test_a_users_arrays_of_another_type_are_the_same_start():
    settings = toy_settings("fedavg", "server.rounds=1 model.name=normal")
    own = World(settings, task()).initial("normal")
    results = [
        Strategy.for_method(settings).start(hosts("fedavg"), ArrayRecord({k: cast(v) for k, v in own.items()}))
        for cast in (torch.Tensor.clone, torch.Tensor.double)
    ]
    for key, value in results[0].arrays.to_torch_state_dict().items():
        assert torch.equal(value, results[1].arrays.to_torch_state_dict()[key])


# --- what is evaluated


def test_federated_evaluation_is_the_mean_over_the_clients_test_parts():
    """Each toy client has 9 test samples, so that the mean is over all 27."""
    grid, initial = few(), start(toy_settings("fedavg", SHORT))
    result = FedAvg(fraction_train=0.0).start(grid, initial_arrays=initial, num_rounds=1)
    found = result.evaluate_metrics_clientapp[1]
    model = World(toy_settings("fedavg", SHORT), task()).load("small", initial.to_torch_state_dict())
    tests = [own(client).test for client in "012"]
    right = [(model.eval()(test.x).argmax(1) == test.labels).float().mean().item() for test in tests]
    assert found["received/accuracy"] == pytest.approx(sum(right) / 3)
    names = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")
    assert set(found) == {f"received/{name}" for name in names}


def one_untested() -> Task:
    """Return the toy task, whose client 1 has no test samples."""

    def parts(client: str) -> Data:
        return replace(own(client), test=samples("nobody's", 0)) if client == "1" else own(client)

    return replace(task(), data=parts)


def test_a_client_without_test_samples_costs_its_own_evaluation():
    settings = config.settings("fedavg", f"data.clients=3 {SHORT}", task=f"{__name__}:one_untested")
    grid = HostGrid.open(hosts("fedavg"), settings)
    strategy, evaluated = FedAvg(), []
    aggregate = strategy.aggregate_evaluate

    def noted(server_round: int, replies: Any) -> Any:
        evaluated.extend(replies)
        return aggregate(server_round, replies)

    strategy.aggregate_evaluate = noted  # type: ignore[method-assign]
    result = strategy.start(grid, initial_arrays=start(settings), num_rounds=1)
    assert 0 <= result.evaluate_metrics_clientapp[1]["received/accuracy"] <= 1
    failed = {m.metadata.src_node_id: m.error.reason for m in evaluated if m.has_error()}
    assert failed == {2: "InvalidInputError: client 1 has no test samples to evaluate on: see data.split"}


def personal() -> App:
    """Return an app whose clients keep their models and ignore the server's."""
    app = App()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        turn = Turn.of(message, context)
        loss = fit(turn, supervised, turn.data.train, model=turn.model)
        turn.evaluate("trained")
        return reply(message, turn, Weights(turn.model.state_dict()), loss=loss)

    app.evaluate()(evaluate_personal)
    return app


def test_federated_evaluation_sees_the_models_as_they_are_now_and_changes_none():
    """After round one, what clients have trained; round two goes on from there, and not from a state before."""
    grid = few(app=personal())
    asked = {"train_config": ConfigRecord({"evaluate": "trained"}), "num_rounds": 2}
    result = FedAvg().start(grid, initial_arrays=start(toy_settings("fedavg", SHORT)), **asked)
    for round in (1, 2):
        trained, received = result.train_metrics_clientapp[round], result.evaluate_metrics_clientapp[round]
        assert received["received/nll"] == pytest.approx(trained["trained/nll"])
    unseen = FedAvg(fraction_evaluate=0.0).start(
        few(app=personal()), initial_arrays=start(toy_settings("fedavg", SHORT)), **asked
    )
    assert result.train_metrics_clientapp[2]["trained/nll"] == unseen.train_metrics_clientapp[2]["trained/nll"]


# --- who fails


def failing(*rounds: int) -> Spoilt:
    """Return FedAvg's app, whose clients fail in these rounds."""

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, "no memory left") if round in rounds else content

    return Spoilt(methods.client_app("fedavg"), spoil)


def test_a_round_in_which_every_reply_fails_is_an_error_whoevers_strategy_it_is():
    grid, initial = few(app=failing(2)), start(toy_settings("fedavg"))
    with pytest.raises(RunError) as caught:
        FedAvg().start(grid, initial_arrays=initial, num_rounds=3)
    assert str(caught.value) == "none of 3 clients has a usable reply to 'train': clients 0, 1, 2: no memory left"
    with pytest.raises(RunError, match="round 2 has no usable reply: clients 0, 1, 2: no memory left"):
        Strategy.for_method(toy_settings("fedavg")).start(InProcessGrid(failing(2)))


def test_a_closing_message_to_which_every_reply_fails_is_an_error():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return content if "public-logits" in content or not round else Error(2, "no memory left")

    with pytest.raises(RunError, match="round 2 has no usable reply: clients 0, 1, 2: no memory left"):
        start_toy("fedmd", "server.evaluate=received", InProcessGrid(Spoilt(methods.client_app("fedmd"), spoil)))


def test_what_many_clients_fail_by_is_logged_once(caplog: pytest.LogCaptureFixture):
    settings = config.settings("fedavg", f"server.rounds=2 {MANY}", task=TASK)
    words = "clients 0, 1, 2, 3, 4 and 55 more: no memory left"
    with pytest.raises(RunError) as caught:
        Strategy.for_method(settings).start(InProcessGrid(failing(2)))
    assert str(caught.value) == f"round 2 has no usable reply: {words}"
    assert caplog.text.count("no memory left") == 1


# --- who is there


def test_flowers_strategies_see_devices_come_and_go(tmp_path: Path):
    """Two devices at first, two more after round one, and the first leaves after round two."""
    configs = [{"client-id": str(i), "data-path": "/toys", "state-dir": str(tmp_path)} for i in range(4)]
    nodes = Moody(methods.client_app("fedavg"), node_configs=configs[:2])
    settings = toy_settings("fedavg", SHORT)
    grid, shown = HostGrid.open(nodes, settings), []

    def between(round: int, arrays: ArrayRecord) -> None:
        if round == 1:
            nodes.add(3, configs[2])
            nodes.add(77, configs[3])
        if round == 2:
            nodes.gone.add(1)
        shown.append([grid.client(node).id for node in grid.get_node_ids()])

    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(grid, initial_arrays=start(settings), num_rounds=3, evaluate_fn=between)
    assert shown == [["0", "1"], ["0", "1", "2", "3"], ["1", "2", "3"], ["1", "2", "3"]]
    assert sorted(result.train_metrics_clientapp) == [1, 2, 3]
