"""A client that fails, or says what cannot be used, is named and left out; the round goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Error, MetricRecord, RecordDict
from helpers.grids import Spoilt
from helpers.tasks import model
from helpers.tiny import assert_same_bits, rounds, start_toy

from fd_flower import methods
from fd_flower.core.errors import RunError
from fd_flower.engine import InProcessGrid
from fd_flower.wire import ClassLogits, Prototypes, PublicLogits, pack

Lines = list[dict[str, Any]]


def nan(record: ArrayRecord) -> ArrayRecord:
    return ArrayRecord({key: tensor * torch.nan for key, tensor in record.to_torch_state_dict().items()})


def swap(name: str, change: Callable[[ArrayRecord], ArrayRecord]) -> Callable[[RecordDict], RecordDict]:
    return lambda content: RecordDict({**content, name: change(content.array_records[name])})


def counts(examples: Any) -> Callable[[RecordDict], RecordDict]:
    return lambda content: RecordDict({**content, "metrics": MetricRecord({"num-examples": examples})})


def other(classes: int) -> Callable[[RecordDict], RecordDict]:
    said = ClassLogits(torch.zeros(classes, classes).double(), torch.ones(classes).double())
    return lambda content: RecordDict({**content, **pack(said)})


def weights(values: dict[str, torch.Tensor]) -> Callable[[RecordDict], RecordDict]:
    return swap("arrays", lambda _: ArrayRecord(values))


FAULTS: dict[str, tuple[str, Callable[[RecordDict], RecordDict | Error], str]] = {
    "an error": ("fd", lambda content: Error(6, "no memory left"), "no memory left"),
    "an error without a reason": ("fd", lambda content: Error(6), "error 6"),
    "NaN": ("fd", swap("class-logits", nan), "class-logits has values in 'sums' that are not finite"),
    "NaN weights": ("fedavg", swap("arrays", nan), "that are not finite"),
    "another number of classes": ("fd", other(4), "'counts' of shape [4]; expected [3]"),
    "a wrong shape": ("fedavg", weights(model("wide").state_dict()), "shape [6, 8]; expected [4, 8]"),
    "other keys": ("fedavg", weights({"w": torch.zeros(1)}), "other keys than the server's"),
    "other public samples": (
        "fedmd",
        lambda content: RecordDict({**content, **pack(PublicLogits(torch.arange(32), torch.zeros(32, 3)))}),
        "other public samples than the round's",
    ),
    "a record of no kind": ("fd", lambda content: RecordDict({**content, "what": ArrayRecord()}), "no kind 'what'"),
    "a wrong number of features": (
        "fedproto",
        lambda content: RecordDict({**content, **pack(Prototypes(torch.zeros(3, 9), torch.ones(3).long()))}),
        "'values' of shape [3, 9]; expected [3, 4]",
    ),
    "negative examples": ("fedavg", counts(-5), "num-examples is -5"),
    "endless examples": ("fedavg", counts(float("inf")), "num-examples is inf"),
    "examples that are no number": ("fedavg", counts([1, 2]), "num-examples is [1, 2]"),
    "another kind": (
        "fd",
        lambda content: pack(Prototypes(torch.zeros(3, 4), torch.ones(3).long())),
        "expected class-logits on the wire",
    ),
    "nothing at all": ("feddf", lambda content: RecordDict({"metrics": content["metrics"]}), "got nothing"),
    "nothing": ("fedavg", lambda content: RecordDict({"metrics": content["metrics"]}), "expected arrays on the wire"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reply_that_cannot_be_used_is_named_and_left_out_and_the_round_goes_on(fault: str):
    method, spoil, words = FAULTS[fault]

    def in_round_one(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return spoil(content) if (client, round) == ("1", 1) else content

    _, _, lines = start_toy(method, grid=InProcessGrid(Spoilt(methods.client_app(method), in_round_one)))
    first, second = rounds(lines)
    assert first["asked"] == ["0", "1", "2"]
    assert first["replied"] == ["0", "2"]
    assert list(first["failed"]) == ["1"]
    assert words in first["failed"]["1"]
    assert second["replied"] == ["0", "1", "2"]
    assert second["failed"] == {}


def test_a_client_that_raises_is_named_with_what_it_raised(monkeypatch: pytest.MonkeyPatch):
    from fd_flower.client import steps

    def fit(turn: Any, *also: Any) -> float:
        if turn.client == "1":
            raise ZeroDivisionError("no\nsamples")
        return untouched(turn, *also)

    untouched = steps.fit
    monkeypatch.setattr(steps, "fit", fit)  # what `private_training` calls
    _, _, lines = start_toy("fd", "server.rounds=1")
    assert rounds(lines)[0]["failed"] == {"1": "ZeroDivisionError: no samples"}


def test_a_client_whose_model_diverged_goes_on_from_its_state_before(monkeypatch: pytest.MonkeyPatch):
    from fd_flower.client_apps import local

    def fit(turn: Any, *also: Any) -> float:
        begun[turn.round, turn.client] = {name: value.clone() for name, value in turn.model.state_dict().items()}
        loss = untouched(turn, *also)
        if (turn.client, turn.round) == ("1", 2):
            for parameter in turn.model.parameters():
                parameter.data.fill_(torch.nan)
        return loss

    untouched, begun = local.fit, {}
    monkeypatch.setattr(local, "fit", fit)
    _, _, lines = start_toy("local", "server.rounds=3")
    assert [list(line["failed"]) for line in rounds(lines)] == [[], ["1"], []]
    assert "not finite" in rounds(lines)[1]["failed"]["1"]
    assert_same_bits({"1": begun[2, "1"]}, {"1": begun[3, "1"]})


def test_a_round_without_a_usable_reply_fails_and_names_everyone():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, f"{client} is broken") if round == 2 else content

    with pytest.raises(RunError, match=r"round 2 has no usable reply: client 0: 0 is broken; client 1: .*client 2:"):
        start_toy("fd", grid=InProcessGrid(Spoilt(methods.client_app("fd"), spoil)))


def test_lists_among_a_clients_metrics_harm_nobody():
    def spoil(client: str, round: int, content: RecordDict) -> RecordDict:
        own = content.metric_records.get("metrics", {})
        metrics = MetricRecord({**own, "times": [1.0, 2.0], "trained/all": [1, 2]})
        return RecordDict({**content, "metrics": metrics}) if round else content

    _, result, lines = start_toy("fd", grid=InProcessGrid(Spoilt(methods.client_app("fd"), spoil)))
    assert rounds(lines)[0]["replied"] == ["0", "1", "2"]
    assert "times" not in result.train_metrics_clientapp[1]


def test_metrics_are_averaged_by_examples():
    """Examples 1, 1 and 2 of losses 1, 2 and 4: (1 + 2 + 8) / 4 = 2.75; a metric that one lacks is not averaged."""
    said = {"0": (1, 1.0), "1": (1, 2.0), "2": (2, 4.0)}

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict:
        examples, loss = said[client]
        more = {} if client == "0" else {"own": 1.0}
        metrics = MetricRecord({"num-examples": examples, "loss": loss, **more})
        return RecordDict({**content, "metrics": metrics}) if round else content

    _, result, lines = start_toy("local", grid=InProcessGrid(Spoilt(methods.client_app("local"), spoil)))
    assert rounds(lines)[0]["metrics"] == {"loss": 2.75}
    assert dict(result.train_metrics_clientapp[1]) == {"num-examples": 4, "loss": 2.75}
