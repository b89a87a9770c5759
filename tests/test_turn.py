"""A client's turn has the client's model, samples, memory and random numbers, and nobody else's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fd_flower.client_apps import fedavg, local
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from helpers import tasks
from helpers.grids import counted, counts, devices, hosts
from helpers.tasks import own
from helpers.tiny import rounds, start_toy, toy_settings
from safetensors.torch import load_file
from torch.nn import Linear, Module

from fd_flower import methods
from fd_flower.client import App, Turn, fit, reply
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.core.samples import Samples
from fd_flower.core.storage import Memory
from fd_flower.engine import InProcessGrid
from fd_flower.tasks.world import World
from fd_flower.training import Plan, supervised
from fd_flower.wire import PublicIndex, Weights, pack
from fd_flower.wire.envelope import HEADER, fold


@pytest.fixture
def world() -> World:
    return World(toy_settings("fd", "client.epochs=3 client.batch=5"), tasks.task())


def of(world: World, folder: Path, client: str = "0", number: int = 1, **said: Any) -> Turn:
    config = ConfigRecord({"server-round": number, **said})
    return Turn(world, client, "small", RecordDict({"config": config}), Memory(folder, "key", client))


def test_a_context_without_a_turn_says_what_to_do():
    app = ClientApp()
    app.train()(local.train)
    grid = InProcessGrid(app)
    [answer] = grid.send_and_receive([Message(fold({}, {}), 1, "train")])
    assert answer.error.reason.endswith("this context has no turn: make the app with fd_flower.client.App()")


def test_a_strategy_of_somebody_else_needs_a_grid_of_ours_for_functions_that_take_a_turn():
    grid = InProcessGrid(methods.client_app("local"))
    [answer] = grid.send_and_receive([Message(RecordDict(), 1, "train")])
    assert answer.error.reason.endswith("hand a strategy of somebody else fd_flower.server.HostGrid.open(grid, ...)")


def test_a_personal_model_is_found_again_as_it_was_left(world: World, tmp_path: Path):
    first = of(world, tmp_path)
    fit(first, supervised, first.data.train) if first.model else None
    left = {key: value.clone() for key, value in first.model.state_dict().items()}
    first.close()
    other = of(world, tmp_path, "1")
    assert torch.equal(other.model.state_dict()["head.bias"], world.initial("small")["head.bias"])
    other.close()
    again = of(world, tmp_path, number=2).model.state_dict()
    assert all(torch.equal(again[key], left[key]) for key in left)


def test_only_a_turn_that_asked_for_memory_writes_it(world: World, tmp_path: Path):
    shared = of(world, tmp_path)
    shared.shared(None)
    shared.close()
    assert not list(tmp_path.rglob("*.safetensors"))
    asked = of(world, tmp_path)
    asked.remember("note", torch.ones(1))
    asked.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert of(world, tmp_path, number=2).recall("note") == 1
    assert of(world, tmp_path, number=2).recall("nothing") is None


def test_shared_weights_are_not_the_servers_own_tensors(world: World, tmp_path: Path):
    """In one process the server's knowledge and the message hold the same tensors; training must not reach them."""
    weights = Weights({key: value.clone() for key, value in world.initial("small").items()})
    here = of(world, tmp_path)
    here.shared(weights)
    fit(here, supervised, here.data.train)
    assert torch.equal(weights.values["head.bias"], world.initial("small")["head.bias"])


def test_a_turn_has_a_personal_model_or_a_shared_one(world: World, tmp_path: Path):
    """Both would be the one resident module: the shared weights would be kept as the personal model.

    What the turn trains is the one that it has.
    """
    first = of(world, tmp_path)
    assert first.model is not None
    with pytest.raises(InvalidInputError, match="one module of an architecture"):
        first.shared(None)
    second = of(world, tmp_path)
    shared = second.shared(None)
    with pytest.raises(InvalidInputError, match="one module of an architecture"):
        _ = second.personal
    assert second.model is shared
    second.close()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_random_numbers_are_a_function_of_seed_purpose_client_and_round(world: World, tmp_path: Path):
    def draw(purpose: str, client: str, number: int) -> int:
        return int(torch.randint(2**40, (), generator=of(world, tmp_path, client, number).rng(purpose)))

    assert draw("a", "0", 1) == draw("a", "0", 1)
    assert len({draw("a", "0", 1), draw("b", "0", 1), draw("a", "1", 1), draw("a", "0", 2)}) == 4


# --- learning


def test_private_training_follows_its_options(plans: list[Plan]):
    start_toy("local", "client.steps=null client.epochs=3 client.batch=7 client.momentum=0.5 client.optimizer=adam")
    assert {(p.batch, p.epochs, p.steps, p.momentum, p.optimizer) for p in plans} == {(7, 3, None, 0.5, "adam")}


def test_distillation_follows_its_own_options(plans: list[Plan]):
    """Three clients digest in round two and at the closing message."""
    changes = "client.public_steps=5 client.public_batch=9 client.batch=7"
    start_toy("fedmd", f"{changes} server.evaluate=received,trained")
    assert [(p.batch, p.steps) for p in plans if p.steps == 5] == [(9, 5)] * 6


def test_the_learning_rate_follows_the_schedule(plans: list[Plan]):
    start_toy("local", "data.clients=1 server.rounds=3 client.lr=1.0 client.schedule=exponential client.decay=0.5")
    assert [p.lr for p in plans] == [1.0, 0.5, 0.25]


def test_a_clients_first_training_begins_with_a_warm_up(plans: list[Plan]):
    start_toy("fd", "data.clients=1 server.rounds=3 client.warmup=4")
    assert [p.steps for p in plans] == [4, 2, 2, 2]


@pytest.mark.parametrize("method", ["fd", "fedavg"])
def test_a_client_that_is_first_asked_later_warms_up_later_where_it_keeps_its_model(method: str, plans: list[Plan]):
    """One of three is asked in each round. A method with a shared model warms it up in round one, once for all."""
    lines = start_toy(method, "server.fraction=0.34 server.rounds=6 client.warmup=4")[2]
    asked = [line["asked"][0] for line in rounds(lines)]
    assert len(set(asked)) > 1
    assert [p.steps for p in plans].count(4) == (len(set(asked)) if method == "fd" else 1)


# --- what is said


def test_a_figure_is_measured_where_its_moment_is_asked_for(world: World, tmp_path: Path):
    here = of(world, tmp_path, evaluate="trained,received", **{"global": False})
    here.evaluate("received")
    here.evaluate("elsewhere")
    assert {name.partition("/")[0] for name in here.evaluations} == {"received"}
    silent = of(world, tmp_path, evaluate="")
    silent.evaluate("received")
    assert silent.evaluations == {}


def test_what_speaks_for_everybodys_classes_may_be_another(world: World, tmp_path: Path):
    """Own parts are the model's, everybody's are another predictor's, and whatever else is measured has a name."""
    here = of(world, tmp_path, evaluate="trained", **{"global": True})

    def never(samples: Samples) -> torch.Tensor:
        return torch.nn.functional.one_hot((samples.labels + 1) % 3, 3).float().log()

    here.evaluate("trained", shared=never, others={"head1": never})
    alone = of(world, tmp_path, evaluate="trained", **{"global": True})
    alone.evaluate("trained")
    assert here.evaluations["trained/accuracy"] == alone.evaluations["trained/accuracy"]
    assert here.evaluations["trained/validation"] == alone.evaluations["trained/validation"]
    assert [here.evaluations[f"trained/{k}"] for k in ("global", "pooled", "pooled_validation")] == [0, 0, 0]
    assert here.evaluations["trained/head1/accuracy"] == here.evaluations["trained/head1/global"] == 0


def test_a_further_module_is_kept_as_the_personal_model_is(world: World, tmp_path: Path):
    def build() -> Module:
        return Linear(4, 3)

    first = of(world, tmp_path)
    heads = first.module("heads", build)
    start = {key: value.clone() for key, value in heads.state_dict().items()}
    with torch.no_grad():
        heads.weight.add_(1)
    first.close()
    other = of(world, tmp_path, "1").module("heads", build).state_dict()
    assert all(torch.equal(other[key], start[key]) for key in start)  # every client starts the same
    again = of(world, tmp_path, number=2).module("heads", build).state_dict()
    assert torch.equal(again["weight"], start["weight"] + 1)
    fresh = World(world.settings, world.task)
    assert torch.equal(of(fresh, tmp_path, "2").module("heads", build).weight, start["weight"])  # seeded


def test_a_peer_is_another_model_and_is_not_kept(world: World, tmp_path: Path):
    """Even of the client's own architecture: what trains one leaves the other as it is."""
    here = of(world, tmp_path)
    own = here.model
    start = own.state_dict()["head.bias"].clone()
    peer = here.peer("small", Weights({key: value + 1 for key, value in world.initial("small").items()}))
    assert torch.equal(peer.state_dict()["head.bias"], start + 1)
    assert torch.equal(own.state_dict()["head.bias"], start)
    assert torch.equal(here.peer("small", None).state_dict()["head.bias"], start)
    here.close()
    [kept] = [load_file(file) for file in tmp_path.rglob("*.safetensors")]
    assert {name.partition("/")[0] for name in kept} == {"model"}


def test_samples_that_this_machine_lacks_are_named(world: World, tmp_path: Path):
    content = pack(PublicIndex(torch.tensor([0, 10_000])))
    content["config"] = ConfigRecord({"server-round": 1})
    here = Turn(world, "0", "small", content, Memory(tmp_path, "key", "0"))
    with pytest.raises(InvalidInputError, match="about public sample 10000; there are"):
        _ = here.next_index


def test_figures_are_right(world: World, tmp_path: Path):
    """The share of own test samples whose likeliest class is theirs, by hand."""
    here = of(world, tmp_path, evaluate="trained", **{"global": True})
    here.evaluate("trained")
    mine = own("0").test
    by_hand = (here.model(mine.x).argmax(1) == mine.labels).float().mean().item()
    assert here.evaluations["trained/accuracy"] == pytest.approx(by_hand)
    everybody = [own(c).test for c in world.clients]
    right = sum(int((here.model(s.x).argmax(1) == s.labels).sum()) for s in everybody)
    assert here.evaluations["trained/pooled"] == pytest.approx(right / sum(map(len, everybody)))


# --- the app


def test_a_mod_goes_around_each_clients_turn():
    received: list[tuple[str, str, bool]] = []

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        received.append(
            (message.metadata.message_type, str(context.node_config["client-id"]), HEADER in message.content)
        )
        return call_next(message, context)

    app = App(mods=[mod])
    app.train()(fedavg.train)
    start_toy("fedavg", "server.rounds=1", InProcessGrid(app, 1))
    assert received == [("train", "0", False), ("train", "1", False), ("train", "2", False)]


def test_what_a_mod_does_to_a_reply_is_what_the_server_hears():
    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        for key, array in reply.content.array_records["arrays"].items():
            reply.content.array_records["arrays"][key] = type(array)(0 * array.numpy())
        return reply

    app = App(mods=[mod])
    app.train()(fedavg.train)
    _, result, _ = start_toy("fedavg", "server.rounds=1", InProcessGrid(app, 1))
    assert float(sum(t.abs().sum() for t in result.arrays.to_torch_state_dict().values())) == 0


def test_a_client_sees_its_own_context_alone():
    contexts: list[Context] = []
    app = App()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        contexts.append(context)
        return reply(message, Turn.of(message, context))

    start_toy("local", "server.rounds=1", InProcessGrid(app, 2))
    assert sorted(str(c.node_config["client-id"]) for c in contexts) == ["0", "1", "2"]
    assert len({id(c.state) for c in contexts}) == 3


def counting() -> App:
    app = App(mods=[counted])
    app.train()(local.train)
    return app


def test_a_clients_state_is_its_own_and_comes_back():
    grid = InProcessGrid(counting(), 2)
    _, _, lines = start_toy("local", "data.clients=5 server.rounds=3", grid)
    assert counts(lines) == {client: [1, 2, 3] for client in "01234"}
    held = {node: sorted(context.state) for node, context in grid._contexts.items()}
    assert held == {1: ["0/count", "3/count", "4/count"], 2: ["1/count", "2/count"]}


def test_a_devices_state_comes_back(tmp_path: Path):
    grid = devices("local", str(tmp_path), "0", "a/b")
    grid.app = counting()
    _, _, lines = start_toy("local", "server.rounds=3", grid)
    assert counts(lines) == {"0": [1, 2, 3], "a/b": [1, 2, 3]}


def test_of_a_turn_that_fails_no_state_is_kept(monkeypatch: pytest.MonkeyPatch):
    def fail(turn: Turn, *also: Any) -> float:
        if (turn.client, turn.round) == ("1", 2):
            raise ZeroDivisionError("no samples")
        return fit(turn, *also)

    monkeypatch.setattr(local, "fit", fail)
    _, _, lines = start_toy("local", "server.rounds=3", InProcessGrid(counting(), 2))
    assert counts(lines) == {"0": [1, 2, 3], "1": [1, 2], "2": [1, 2, 3]}


def test_what_a_client_deletes_of_its_state_is_gone():
    def forget(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        answer = call_next(message, context)
        if context.node_config["client-id"] == "1":
            context.state.clear()
        return answer

    app = App(mods=[forget, counted])
    app.train()(local.train)
    grid = InProcessGrid(app, 1)
    _, _, lines = start_toy("local", "server.rounds=2", grid)
    assert counts(lines) == {"0": [1, 2], "1": [1, 1], "2": [1, 2]}
    assert sorted(grid._contexts[1].state) == ["0/count", "2/count"]


def test_a_lifespan_is_a_messages_however_many_clients_it_names():
    """One node hosts three clients: a handshake for it, one for them, and a message a round."""
    app, seen = App(), []
    app.train()(local.train)

    @app.lifespan()
    def lifespan(context: Context) -> Iterator[None]:
        seen.append("enter")
        yield
        seen.append("exit")

    _, _, lines = start_toy("local", "server.rounds=2", InProcessGrid(app, 1))
    assert [line["replied"] for line in rounds(lines)] == [["0", "1", "2"]] * 2
    assert seen == ["enter", "exit"] * 4


@pytest.mark.parametrize("at", ["enter", "exit"])
def test_a_lifespan_that_fails_costs_the_message_as_in_flower(at: str):
    """Flower's own ClientApp raises out of the call, which its engines make an error of."""
    apps = [ClientApp(), App()]
    for app in apps:
        app.train()(lambda message, context: Message(RecordDict(), reply_to=message))

        @app.lifespan()
        def lifespan(context: Context) -> Iterator[None]:
            if at == "enter":
                raise ZeroDivisionError(at)
            yield
            raise ZeroDivisionError(at)

    reasons = []
    for app in apps:
        grid = InProcessGrid(app)
        content = fold({}, {"settings": toy_settings("local").text, "run-key": "0123456789abcdef", "state": "/nowhere"})
        [answer] = grid.send_and_receive([Message(content, 1, "train")])
        reasons.append((answer.error.code, answer.error.reason))
    assert reasons == [(2, f"ZeroDivisionError: {at}")] * 2


def test_a_lifespan_that_never_yields_is_an_error_as_in_flower():
    app = App()
    app.lifespan()(lambda context: iter(()))
    grid = InProcessGrid(app)
    [answer] = grid.send_and_receive([Message(RecordDict(), 1, "train")])
    assert "lifespan function should yield at least once" in answer.error.reason


def test_a_turn_sees_the_message_as_the_mods_have_left_it():
    seen = []

    def shorten(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        index = PublicIndex.need(message.content)
        message.content = RecordDict({**message.content, **pack(PublicIndex(index.index[:2]))})
        return call_next(message, context)

    app = App(mods=[shorten])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        here = Turn.of(message, context)
        seen.append(len(here.next_index))
        return reply(message, here, loss=0.0)

    with pytest.raises(RunError, match="has no usable reply"):  # it predicts nothing
        start_toy("fedmd", "server.rounds=1", InProcessGrid(app, 1))
    assert seen == [2, 2, 2]


def test_an_app_without_the_function_says_so():
    app = App()
    with pytest.raises(Exception, match="No train function registered"):
        start_toy("local", "", InProcessGrid(app, 1))


def test_the_task_of_the_nodes_configuration_is_used_where_the_server_names_none():
    grid = InProcessGrid(methods.client_app("local"), 1, run_config={"task": "helpers.tasks:task"})
    strategy = methods.strategy("local")()
    strategy.start(grid, num_rounds=1)
    assert [c.classes for c in strategy.clients] == [tasks.CLASSES] * 10


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toys", "expected package.module:name"),
        ("nowhere:task", "No module named 'nowhere'"),
        ("helpers.tasks:tusk", "has no attribute 'tusk'"),
        ("helpers.tasks:CLASSES", "'helpers.tasks:CLASSES' is int; expected fd_flower.tasks.task.Task"),
    ],
)
def test_a_task_that_cannot_be_loaded_says_why(name: str, words: str):
    from fd_flower.tasks.described import load_task

    with pytest.raises(InvalidInputError, match=words):
        load_task(name)


def test_hosts_keep_nothing_for_methods_that_keep_nothing(tmp_path: Path):
    start_toy("fedavg", f"run.keep=last run.out={tmp_path}/run", hosts("fedavg"))
    assert not (tmp_path / "run" / "clients").exists()
