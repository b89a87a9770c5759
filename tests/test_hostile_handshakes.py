"""Whatever one device answers to the handshake costs that device; whatever a server sends costs that message."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from helpers import mutations
from helpers.deployment import partitions
from helpers.grids import devices
from helpers.mutations import deep
from helpers.tasks import model, task
from helpers.tiny import rounds, start, tiny_settings, toy_settings

from fd_flower import methods
from fd_flower.core.client import answered, natural
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.server.host_grid import PLAIN
from fd_flower.tasks.task import Task
from fd_flower.wire.envelope import HANDSHAKE, HEADER, REMEMBERED, fold, remembered

Answer = Callable[[ConfigRecord], ConfigRecord | Error]


class Answering(ClientApp):
    """An app whose node 1 answers the handshake as ``change`` says."""

    def __init__(self, app: ClientApp, change: Answer) -> None:
        super().__init__()
        self._app = app
        self._change = change

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._app(message, context)
        if message.metadata.message_type != HANDSHAKE or context.node_id != 1:
            return answer
        changed = self._change(answer.content[HEADER])  # type: ignore[arg-type]
        return Message(changed if isinstance(changed, Error) else RecordDict({HEADER: changed}), reply_to=message)


def answering(folder: Path, change: Answer, number: int = 3, method: str = "fd") -> InProcessGrid:
    """Return a grid of devices 0, 1, ... of which the first answers the handshake otherwise."""
    grid = devices(method, str(folder), *map(str, range(number)))
    grid.app = Answering(methods.client_app(method), change)
    return grid


def changed(**changes: Any) -> Answer:
    return lambda record: ConfigRecord({**record, **changes})


ODD: dict[str, tuple[Answer, str]] = {
    "an id of 5,000 digits": (changed(id="9" * 5000), "'id'; expected a name of 1 to 100 printable characters"),
    "an empty id": (changed(id=""), "'id'; expected a name"),
    "an id with a line's end": (changed(id="a\nb"), "'id'; expected a name"),
    "an id that is no text": (changed(id=[1, 2]), "[1, 2] for 'id'; expected a name"),
    "a model that is no text": (changed(model=7), "7 for 'model'; expected text"),
    "classes that are no number": (changed(classes="three"), "'three' for 'classes'; expected whole numbers"),
    "parts of samples": (changed(counts=[0.5, 19.5, 0.0]), "0.5 for 'counts'; expected whole numbers"),
    "endless samples": (changed(examples=2**62), "'examples'; expected whole numbers from 0 to"),
    "counts that do not add up": (changed(examples=21), "counts that add up to 20, and 21 samples"),
    "another number of classes": (changed(classes=4, counts=[20, 0, 0, 0]), "tells 4 classes apart, client"),
    "another shape": (changed(shape=[9]), "inputs of shape [9], client"),
    "labels that are no text": (changed(labels=[1, 2, 3]), "1 for 'labels'; expected text"),
    "fewer names than classes": (changed(labels=["a", "b"]), "names 2 classes, and its model tells 3 apart"),
    "one name for all classes": (changed(labels=["a", "a", "a"]), "expected one or more names, each once"),
    "names with a line's end": (changed(labels=["a\n", "b", "c"]), "expected text without control characters"),
    "a name that is a reference": (changed(labels=["${oc.env:HOME}", "b", "c"]), "references are not looked up"),
    "two sizes": (changed(sizes=[1, 2]), "[1, 2] for 'sizes'; expected its samples for training, validation and"),
    "other features of one model": (changed(features=10**12), "has 1000000000000 features, client 1's 4"),
    "a model's name with a line's end": (changed(model="a\nb"), "for 'model'; expected printable characters"),
    "an answer without end": (changed(more="a" * 2**21), "its answer is too long"),
    "nothing": (lambda record: ConfigRecord({}), "another app than FD-Flower's"),
    "no role": (lambda record: ConfigRecord({"id": "0"}), "cannot be read"),
    "a refusal that is no text": (changed(refused=5), "5"),
    "Flower's text for another app": (lambda record: Error(6, f"ValueError: {PLAIN}"), "No query function"),
}


@pytest.mark.parametrize("case", ODD)
def test_one_device_with_an_odd_answer_is_refused_and_named_and_the_run_goes_on(case: str, tmp_path: Path):
    change, words = ODD[case]
    strategy, _, lines = start(toy_settings("fd"), answering(tmp_path, change))
    assert [c.id for c in strategy.clients] == ["1", "2"]
    assert len(strategy.refused) == 1
    ((who, why),) = strategy.refused.items()
    assert who in ("node 1", "0")
    assert words in why
    assert len(why) <= 500
    assert rounds(lines)[-1]["replied"] == ["1", "2"]


def choosy() -> Task:
    """Return the toy task with models by name, as somebody may write it."""
    return replace(task(), model={"small": model("small")}.__getitem__)


@pytest.mark.parametrize("method", ["feddf", "fedgen", "fml"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zzz", "there is no architecture or group 'zzz'"),
        ("helpers.tasks:imported", "the server imports no code that a device names"),
    ],
)
def test_a_model_that_the_server_cannot_build_costs_its_device(method: str, name: str, words: str, tmp_path: Path):
    """The server of these methods has a model of each architecture, or of the first client's."""
    settings = tiny_settings(method, "data.public=noise")
    folders = partitions(tmp_path / "data", tiny_settings("local"))
    nodes = [{"client-id": c, "data-path": str(f), "state-dir": str(tmp_path / c)} for c, f in folders.items()]
    app = Answering(methods.client_app(method), changed(model=name))
    strategy, _, lines = start(settings, InProcessGrid(app, run_config={"task": ""}, node_configs=nodes))
    assert [c.id for c in strategy.clients] == ["1", "2"]
    assert words in strategy.refused["0"]
    assert rounds(lines)[-1]["replied"] == ["1", "2"]


def test_a_model_that_a_users_task_does_not_know_costs_its_device(tmp_path: Path):
    grid = answering(tmp_path, changed(model="zzz"), method="feddf")
    settings = tiny_settings("feddf", "model.name=small", task=f"{__name__}:choosy")
    strategy, _, lines = start(settings, grid)
    assert "the task's model('zzz') raises KeyError: 'zzz'" in strategy.refused["0"]
    assert rounds(lines)[-1]["replied"] == ["1", "2"]


def test_a_method_without_a_model_on_the_server_takes_a_device_of_any_model(tmp_path: Path):
    _, _, lines = start(toy_settings("fd"), answering(tmp_path, changed(model="package:Net")))
    assert rounds(lines)[-1]["replied"] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["²", "٣", "0" * 100, "Köln/7", "-1", "1e5"])
def test_a_device_may_have_any_printable_name(name: str, tmp_path: Path):
    strategy, _, lines = start(toy_settings("fd"), devices("fd", str(tmp_path), name, "0", "1"))
    assert {c.id for c in strategy.clients} == {name, "0", "1"}
    assert set(rounds(lines)[-1]["replied"]) == {name, "0", "1"}


def test_a_name_whose_folder_would_be_too_long_is_refused(tmp_path: Path):
    strategy, _, _ = start(toy_settings("fd"), devices("fd", str(tmp_path), "\N{OWL}" * 100, "0", "1"))
    assert {c.id for c in strategy.clients} == {"0", "1"}


def test_what_a_device_says_its_task_is_is_imported_by_no_resume(tmp_path: Path):
    change = changed(task="os:system")
    start(toy_settings("fd", f"run.out={tmp_path / 'run'}"), answering(tmp_path / "state", change, 1))
    assert "os:system" not in (tmp_path / "run" / "config.yaml").read_text()


def test_natural_order_takes_any_text():
    names = ["10", "2", "02", "²", "9" * 5000, "client 12", "client 3", "", "٣"]
    ordered = sorted(names, key=natural)
    assert ordered.index("2") < ordered.index("10") < ordered.index("9" * 5000)
    assert ordered.index("client 3") < ordered.index("client 12")


def test_of_two_devices_that_do_not_go_together_nobody_can_say_which_is_wrong(tmp_path: Path):
    grid = answering(tmp_path, changed(classes=4, counts=[20, 0, 0, 0]), 2)
    with pytest.raises(InvalidInputError, match="tells 3 classes apart, client 0's 4; expected one number"):
        start(toy_settings("fd"), grid)


def test_apps_without_our_turn_are_known_by_what_all_of_them_answer():
    """The first three are asked first; of these all say so, of the others nobody is asked."""
    asked = []

    class Other(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            asked.append(context.node_id)
            raise ValueError(PLAIN)

    with pytest.raises(InvalidInputError, match="the nodes run an app without FD-Flower's turn"):
        start(toy_settings("fd"), InProcessGrid(Other(), 5))
    assert asked == [1, 2, 3]


@pytest.mark.usefixtures("quiet")
def test_no_changed_answer_ends_a_run(tmp_path: Path):
    settings = toy_settings("fd", "server.rounds=1 client.steps=1")
    taken = 0
    for place in range(80):
        rng = random.Random(f"handshake {place}")
        notes: list[str] = []

        def change(record: ConfigRecord, rng: random.Random = rng, notes: list[str] = notes) -> ConfigRecord:
            what, made = mutations.answer(record, rng)
            notes.append(what)
            return made

        try:
            strategy, _, lines = start(settings, answering(tmp_path, change))
        except Exception as error:
            error.add_note(f"{place}: {notes}")
            raise
        json.dumps(lines, allow_nan=False)
        assert {"1", "2"} <= {c.id for c in strategy.clients} | set(strategy.refused)
        assert len(strategy.clients) >= 2
        taken += len(strategy.clients) == 3
    assert 0 < taken < 80


def test_what_a_client_says_of_itself_is_read_strictly():
    honest = {"features": 4, "classes": 2, "counts": [1, 2], "examples": 3, "model": "m", "public": "", "labels": []}
    assert answered("a", honest).counts == (1, 2)
    for key, value in (("features", -1), ("classes", 2.0), ("counts", "12"), ("examples", True), ("public", None)):
        with pytest.raises(InvalidInputError, match=f"for '{key}'"):
            answered("a", {**honest, key: value})


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"0": 7}', '{"0": ["a", 0]}', deep()],
    ids=["torn", "a list", "a number", "no number", "nested"],
)
def test_what_hosted_clients_remember_is_read_or_costs_the_reply(text: str):
    with pytest.raises(InvalidInputError, match="what clients remember cannot be read"):
        remembered(ConfigRecord({REMEMBERED: text}))


# --- what a device refuses


HEADER_OF = {"settings": toy_settings("fd").text, "run-key": "0123456789abcdef", "state": "/nowhere"}


def ask(header: dict[str, Any], folder: Path, layout: str | None = None) -> Message:
    """Send one message to a device and return its reply."""
    grid = devices("fd", str(folder), "0")
    content = fold({"0": RecordDict({"config": ConfigRecord({"server-round": 1})})}, header)
    if layout is not None:
        content[HEADER] = ConfigRecord({**header, "layout": layout})
    (answer,) = grid.send_and_receive([Message(content, 1, "train")])
    return answer


@pytest.mark.parametrize(
    "key",
    ["../../etc", "", "0123456789abcde", "0123456789abcdeff", "0123456789ABCDEF", "/tmp/0123456789abc", "²" * 16, 7],
)
def test_a_run_key_that_is_no_16_hexadecimal_digits_is_refused_by_the_device(key: Any, tmp_path: Path):
    answer = ask({**HEADER_OF, "run-key": key}, tmp_path / "state")
    assert "expected 16 hexadecimal digits" in answer.error.reason
    assert not list(tmp_path.rglob("*"))


def test_a_run_key_of_16_hexadecimal_digits_is_taken(tmp_path: Path):
    assert ask(HEADER_OF, tmp_path).has_content()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"settings": deep()}, "the message's settings cannot be read: RecursionError"),
        ({"settings": "{"}, "the message's settings cannot be read: JSONDecodeError"),
        ({"settings": '"fd"'}, "the message's settings cannot be read"),
        ({"settings": "9" * 2**21}, "2097152 characters for 'settings'; expected at most 1048576"),
        ({"state": [1, 2]}, "[1, 2] for 'state'; expected text"),
    ],
    ids=["nested", "torn", "no map", "long", "a list"],
)
def test_a_header_that_cannot_be_read_is_refused_in_one_line(header: dict[str, Any], words: str, tmp_path: Path):
    reason = ask({**HEADER_OF, **header}, tmp_path).error.reason
    assert words in reason
    assert "\n" not in reason
    assert len(reason) < 1000


def test_a_layout_that_is_nested_too_deep_is_refused(tmp_path: Path):
    assert "the message is not one for clients: RecursionError" in ask(HEADER_OF, tmp_path, deep()).error.reason
