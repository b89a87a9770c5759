"""client.trainable in whole runs: who takes part, what is sent and stored, and what is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers import tiny
from helpers.grids import devices, hosts
from helpers.parts import SENDING, SHAPE, Tied, assert_sent, built, entered, world_of
from helpers.plain_app import app as plain
from helpers.tasks import Small, task
from helpers.tiny import TINY, rounds, start, start_toy, tiny_settings, toy_settings
from torch import Tensor

import fd_flower
from fd_flower import export, methods, models
from fd_flower.cli.estimate import estimated
from fd_flower.config import settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.export import KeptModel
from fd_flower.models.frozen import base, whole
from fd_flower.models.trainable import choose
from fd_flower.results import RunFolder
from fd_flower.server import handshake
from fd_flower.server.requirements import check_bases
from fd_flower.server.resume import Standing
from fd_flower.tasks.described import described
from fd_flower.tasks.task import Task
from fd_flower.tasks.world import World
from fd_flower.wire.envelope import HANDSHAKE, HEADER
from fd_flower.wire.traffic import numbers_counted

# --- who takes part


def test_a_client_of_another_frozen_part_is_refused_by_name():
    clients = [
        Client(name, i, "bert", base=name_of) for i, (name, name_of) in enumerate([("a", "1" * 64), ("b", "2" * 64)])
    ]
    check_bases(clients[:1], {})
    with pytest.raises(InvalidInputError) as caught:
        check_bases(clients, {})
    assert str(caught.value) == (
        "client b's 'bert' has another frozen part than client a's (checksum 222222222222, not 111111111111), and "
        "under client.trainable it is not sent: give all nodes the same model folder, in one version, and the same "
        "versions of packages"
    )
    with pytest.raises(InvalidInputError, match="client a's 'bert' has another frozen part than the server's"):
        check_bases(clients, {"bert": "2" * 64})
    check_bases([*clients[:1], replace(clients[1], model="gpt")], {})


def test_where_the_server_has_no_model_the_majority_takes_part():
    clients = [Client(str(i), i, "bert", base="odd" if i == 0 else "usual") for i in range(3)]
    shaken = handshake.Handshake()
    found = shaken.fitting(clients, lambda several: check_bases(several, {}))
    assert set(found) == {"1", "2"}
    assert "client 0's 'bert' has another frozen part" in shaken.misfits["0"]


class Otherwise(ClientApp):
    """An app whose node 1 has another frozen part."""

    def __init__(self, app: ClientApp) -> None:
        super().__init__()
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._app(message, context)
        if message.metadata.message_type != HANDSHAKE or context.node_id != 1:
            return answer
        about: Any = answer.content[HEADER]
        return Message(RecordDict({HEADER: ConfigRecord({**about, "base": "0" * 64})}), reply_to=message)


@pytest.mark.parametrize(("method", "refused"), [("fedavg", True), ("fd", False)])
def test_a_device_of_another_frozen_part_is_left_out_where_weights_travel(method: str, refused: bool, tmp_path: Path):
    """The methods that send none take any two models, the parts of which nobody has to put together."""
    grid = devices(method, str(tmp_path), "0", "1", "2")
    grid.app = Otherwise(methods.client_app(method))
    strategy, _, lines = start(toy_settings(method, "client.trainable=head"), grid)
    assert ("0" in strategy.refused) == refused
    assert rounds(lines)[-1]["replied"] == (["1", "2"] if refused else ["0", "1", "2"])
    if refused:
        assert "client 0's 'small' has another frozen part than the server's" in strategy.refused["0"]


def test_a_run_is_not_resumed_with_another_frozen_part():
    client = Client("0", 0, "bert", base="1" * 64)
    chosen = settings("fedavg", "client.trainable=lora")
    before, now = (
        Standing.of(chosen, "key", world_of(), [replace(client, base=own)], hosted=True) for own in ("1" * 64, "2" * 64)
    )
    assert Standing.read(before.text) == before
    before.check(before, [], "run", str)
    with pytest.raises(
        InvalidInputError, match=r"the frozen part of 'bert' changed \(checksum 2{12}, was 1{12}\): put"
    ):
        before.check(now, [], "run", str)


# --- every method that sends weights


IMAGES = [name for name in SENDING if tiny.classifies(name)]


@pytest.fixture
def worlds(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """Return the list that every world of the test's runs enters."""
    return entered(monkeypatch)


def test_there_are_methods_that_send_weights():
    assert {"fedavg", "fedprox", "feddf", "fedgen", "fedkd", "fedlgd", "fml", "kdstudy"} <= set(IMAGES)


@pytest.mark.parametrize(
    "choice", ["head", "bias", "adapter", "lora", "last_layer", pytest.param("all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("method", IMAGES)
def test_what_learns_is_what_is_sent_and_nothing_else_changes(method: str, choice: str, worlds: list[World]):
    mentee = " server.mentee=lenet" if method == "fedkd" else ""
    chosen = tiny_settings(method, f"model.name=lenet client.trainable={choice} client.rank=2{mentee}")
    with numbers_counted():
        lines = tiny.play(chosen)
    assert_sent(chosen, lines, worlds)


@pytest.mark.parametrize("choice", ["bias", "last_layer"])
def test_statistics_that_do_not_travel_do_not_change(choice: str, worlds: list[World]):
    tiny.play(tiny_settings("fedavg", f"model.name=resnet8:0.25 client.trainable={choice}"))
    frozen = base(choose(models.build("resnet8:0.25", SHAPE, 10, seed=0), choice, ""))
    assert {base(here.module("resnet8:0.25")) for here in worlds} == {frozen}


def test_a_run_with_tied_weights_sends_them_once():
    with numbers_counted():
        lines = tiny.run("fedavg", f"{TINY} model.name=tied", task=tied)
    assert rounds(lines)[-1]["numbers"]["up"]["arrays"] == 3 * (5 * 4 + 4 * 4 + 4)


def tied() -> Task:
    """Return the toy task with tied weights, and numbers of tokens for inputs."""
    toy = task()

    class Five(Tied):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.abs().clamp(max=4))[:, :3]

    return replace(toy, model=lambda name: Five(), public=None)


def test_annealed_copies_leave_the_run_as_it_is():
    words = "client.trainable=lora model.name=lenet client.anneal_rounds=1"
    plain, annealed = (
        tiny.play(tiny_settings("fd", f"{words} server.anneal_every={every} server.evaluate_every=1"))
        for every in (0, 1)
    )
    last = [tiny.of_clients(lines)[2, "0"] for lines in (plain, annealed)]
    assert "annealed" in last[1]["evaluations"]
    assert last[0]["evaluations"]["trained"] == last[1]["evaluations"]["trained"]


@pytest.mark.parametrize(
    ("share", "choice", "numbers"),
    [
        ("head", "head", 850),
        ("head", "bias", 850),
        ("body", "bias", 226),
        ("no_norm", "bias", None),
        ("body", "head", None),
    ],
)
def test_what_is_averaged_is_of_what_learns(share: str, choice: str, numbers: int | None):
    """LeNet's head has 850 numbers, and below it are 226 biases."""
    chosen = tiny_settings("fedavg", f"model.name=lenet client.trainable={choice} client.share={share}")
    if numbers is None:
        reason = "none of 'lenet' learns under client.trainable=bias" if share == "no_norm" else "nothing else learns"
        with pytest.raises(InvalidInputError, match=reason):
            tiny.play(chosen)
        return
    with numbers_counted():
        assert rounds(tiny.play(chosen))[-1]["numbers"]["up"]["arrays"] == 3 * numbers


def test_an_estimate_counts_what_travels():
    chosen = tiny_settings("fedavg", "model.name=lenet client.trainable=head")
    assert estimated(chosen, 3, 2, numbers=True).numbers["up"] == {"arrays": 3 * 850}


def test_initial_arrays_of_what_is_frozen_are_refused():
    given = ArrayRecord(Small().state_dict())
    reason = r"initial_arrays has 'body\.0\.bias', which does not learn under client\.trainable=head"
    with pytest.raises(InvalidInputError, match=reason):
        start_toy("fedavg", "client.trainable=head", hosts("fedavg"), initial_arrays=given)


def test_an_app_that_knows_nothing_of_parts_is_refused():
    reason = "which trains and sends whole models: leave client.trainable=head out, or use fd_flower.client_apps.fedavg"
    with pytest.raises(InvalidInputError, match=reason):
        start(toy_settings("fedavg", "client.trainable=head"), InProcessGrid(plain, 3))


# --- what is kept


@pytest.mark.parametrize("choice", ["head", "adapter", "lora"])
def test_a_kept_model_is_whole(choice: str, tmp_path: Path):
    """Its file has the frozen part, too, so that neither a seed nor a folder of weights is needed any more."""
    words = f"{TINY} data.limit=500 model.name=lenet client.trainable={choice} run.keep=last"
    tiny.run("fedavg", words, out=tmp_path / "run")
    model = fd_flower.load(tmp_path / "run", "server")
    assert isinstance(model, KeptModel)
    assert base(model.module) == ""
    assert set(whole(model.module)) == set(whole(built("lenet", choice))) == set(model.module.state_dict())
    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, *SHAPE)
    export.write(model, tmp_path / "again.safetensors")
    again = fd_flower.load(tmp_path / "again.safetensors")
    assert torch.equal(again.logprobs(images), model.logprobs(images))
    chosen = settings("fedavg", words)
    here = World(chosen, described(chosen))
    limited = here.kind.judged(here, model, 0)["accuracy"]
    assert limited == RunFolder.open(tmp_path / "run").summary["accuracy"]["global"]["final"]


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["adapter", "lora"])
def test_what_was_added_is_in_every_form_of_a_model(choice: str, tmp_path: Path):
    words = f"{TINY} data.limit=500 model.name=lenet client.trainable={choice} run.keep=last"
    tiny.run("fedavg", words, out=tmp_path / "run")
    model = fd_flower.load(tmp_path / "run", "server")
    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, *SHAPE)
    assert isinstance(model, KeptModel)
    for name in ("model.pt2", "model.onnx"):
        export.write(model, tmp_path / name, tmp_path / "run")
    given = model.preprocess(images)
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(given), model(given))
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "model.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(given).detach(), atol=1e-5, rtol=1e-4)
