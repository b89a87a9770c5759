"""Replies that are well-formed and wrong: raw logits, more samples than there are, numbers that drown the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict
from helpers.grids import Spoilt
from helpers.mutations import deep
from helpers.tiny import rounds, start, start_toy, toy_settings
from torch import Tensor

from fd_flower import methods
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.engine import InProcessGrid
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.server.sanity import suspects
from fd_flower.wire import (
    Bounds,
    ClassLogits,
    Knowledge,
    LabelCounts,
    Payload,
    PixelStatistics,
    Prototypes,
    PublicHeads,
    PublicLogits,
    SampleKnowledge,
    Scores,
    Update,
    Weights,
)
from fd_flower.wire.payload import renormalized
from fd_flower.wire.replies import Reply

Change = Callable[[RecordDict], RecordDict | Error]


def spoilt(method: str, change: Change, rounds: tuple[int, ...] = (1,)) -> InProcessGrid:
    """Return a grid in which client 1's replies of these rounds are changed."""

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return change(content) if client == "1" and round in rounds and "metrics" in content else content

    return InProcessGrid(Spoilt(methods.client_app(method), spoil))


def array(change: Callable[[np.ndarray], np.ndarray], name: str = "", key: str = "") -> Change:
    """Return what changes one array of a reply, the first unless it is named."""

    def changed(content: RecordDict) -> RecordDict:
        record_name = name or next(n for n, r in content.items() if isinstance(r, ArrayRecord))
        record: Any = content[record_name]
        chosen = key or next(iter(record))
        new = {k: Array(change(a.numpy())) if k == chosen else a for k, a in record.items()}
        return RecordDict({**content, record_name: ArrayRecord(new)})

    return changed


def metrics(**changes: Any) -> Change:
    """Return what changes metrics; `num_examples` is the count of samples."""

    def changed(content: RecordDict) -> RecordDict:
        new = {key.replace("num_examples", "num-examples"): value for key, value in changes.items()}
        return RecordDict({**content, "metrics": MetricRecord({**content["metrics"], **new})})  # type: ignore[dict-item]

    return changed


# --- what costs a reply


UNFIT: dict[str, tuple[str, Change, str]] = {
    "unsigned numbers": (
        "dsfl",
        array(lambda a: a.astype(np.uint16), key="index"),
        "'index' of torch.uint16; expected torch.int64",
    ),
    "complex numbers": (
        "fedavg",
        array(lambda a: a.astype(np.complex64)),
        "of torch.complex64; expected torch.float32",
    ),
    "doubles": (
        "fedmd",
        array(lambda a: a.astype(np.float64), key="values"),
        "'values' of torch.float64; expected torch.float32",
    ),
    "halves": (
        "fedproto",
        array(lambda a: a.astype(np.float16), key="values"),
        "torch.float16; expected torch.float32",
    ),
    "single floats for doubles": (
        "fd",
        array(lambda a: a.astype(np.float32), key="sums"),
        "'sums' of torch.float32; expected torch.float64",
    ),
    "half a sample": ("fedavg", metrics(num_examples=0.5), "num-examples is 0.5; expected a number of samples"),
    "1e300 samples": ("fedavg", metrics(num_examples=1e300), "num-examples is 1e+300"),
    "more samples than it said": (
        "fedavg",
        metrics(num_examples=21),
        "num-examples is 21; by its answer to the handshake this client has 20 samples",
    ),
    "huge weights": (
        "fedavg",
        array(lambda a: a * 0 + np.float32(3e38)),
        "arrays has an entry of size 3e+38 in 'body.0.weight'; expected at most 1e+06",
    ),
    "huge updates": ("fedkd", array(lambda a: a * 0 + np.float32(2e6)), "an entry of size 2e+06"),
    "endless logits in a sum": ("fd", array(lambda a: a + 1e300, key="sums"), "class-logits has an entry of size"),
    "more labels than it has": (
        "fedgen",
        array(lambda a: a + 2**40, name="label-counts"),
        "by its answer to the handshake this client has",
    ),
    "an array too large for any memory": (
        "fedavg",
        lambda content: RecordDict({**content, "arrays": ArrayRecord({"w": hostile("(1000000000000000,)")})}),
        "arrays on the wire cannot be decoded",
    ),
    "a header nested too deep": (
        "fedavg",
        lambda content: RecordDict({**content, "arrays": ArrayRecord({"w": hostile("(" * 5000)})}),
        "arrays on the wire cannot be decoded",
    ),
}


def hostile(shape: str) -> Array:
    """Return an array whose bytes say this shape and hold nothing."""
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return Array("float32", (1,), "numpy.ndarray", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)


@pytest.mark.parametrize("case", UNFIT)
def test_what_is_wrong_costs_that_reply_alone_and_is_named(case: str):
    method, change, words = UNFIT[case]
    _, _, lines = start_toy(method, grid=spoilt(method, change))
    first, second = rounds(lines)
    assert first["replied"] == ["0", "2"]
    assert words in first["failed"]["1"]
    assert second["replied"] == ["0", "1", "2"]
    assert "lost" not in first | second


def test_a_kind_whose_check_raises_anything_costs_that_reply_alone(monkeypatch: pytest.MonkeyPatch):
    def check(self: Weights, bounds: Bounds) -> None:
        if bounds.client is not None and bounds.client.id == "1":
            raise RecursionError("too\ndeep\x1b[2J")
        honest(self, bounds)

    honest = Weights.check
    monkeypatch.setattr(Weights, "check", check)
    _, _, lines = start_toy("fedavg", "server.rounds=1")
    assert rounds(lines)[0]["failed"] == {"1": "its reply cannot be read: RecursionError too deep?[2J"}


@pytest.mark.parametrize(
    "layout", [deep(), deep('{"1":', "}"), "9" * 5000, " " * 2**25], ids=["lists", "maps", "9", " "]
)
def test_a_layout_that_cannot_be_read_costs_that_nodes_replies_alone(layout: str):
    from flwr.app import ConfigRecord, Context, Message
    from flwr.clientapp import ClientApp

    from fd_flower.wire.envelope import HEADER

    class Nested(ClientApp):
        def __call__(self, message: Message, context: Context) -> Message:
            answer = app(message, context)
            if message.metadata.message_type == "train" and context.node_id == 2:
                answer.content[HEADER] = ConfigRecord({"layout": layout})
            return answer

    app = methods.client_app("fd")
    _, _, lines = start_toy("fd", "server.rounds=1", InProcessGrid(Nested(), 3))
    ((lost, why),) = rounds(lines)[0]["failed"].items()
    assert rounds(lines)[0]["replied"] == [client for client in "012" if client != lost]
    assert "not one for clients" in why


# --- counts against the handshake


CLIENT = Client("1", 0, classes=3, counts=(5, 0, 2), examples=7, sizes=(7, 4, 0))
OF_CLIENT = Bounds(passes=lambda samples: 2).of(CLIENT)


def table(*counts: float) -> ClassLogits:
    return ClassLogits(torch.ones(3, 3).double() * torch.tensor(counts).unsqueeze(1), torch.tensor(counts).double())


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (table(10.0, 0.0, 4.0), ""),
        (table(11.0, 0.0, 4.0), "11 of class 0 in 'counts'; by its .* this client has 5, at most 10 in a round"),
        (table(10.0, 1.0, 4.0), "1 of class 1 .* has 0, at most 0"),
        (table(9.5, 0.0, 4.0), "counts that are not whole"),
        (
            ClassLogits(torch.ones(3, 3).double(), torch.tensor([1.0, 0.0, 1.0]).double()),
            "sums of classes that it counts 0",
        ),
        (LabelCounts(torch.tensor([10, 0, 4])), ""),
        (LabelCounts(torch.tensor([10, 0, 5])), "5 of class 2"),
        (Prototypes(torch.ones(3, 4), torch.tensor([5, 0, 2])), ""),
        (Prototypes(torch.ones(3, 4), torch.tensor([6, 0, 2])), "6 of class 0 .* has 5, at most 5"),
        (PixelStatistics(torch.ones(3, 1), torch.ones(3, 1), torch.tensor([True, True, False])), "1 of class 1"),
        (SampleKnowledge(torch.tensor([0, 6]), torch.tensor(1), labels=torch.tensor([0, 2]).short()), ""),
        (SampleKnowledge(torch.tensor([0, 7]), torch.tensor(1)), "'id' outside 0 to 6"),
        (SampleKnowledge(torch.tensor([0, 6]), torch.tensor(1), labels=torch.tensor([0, 1]).short()), "1 of class 1"),
        (Scores(torch.tensor([4, 1]), torch.tensor(4)), ""),
        (Scores(torch.tensor([4, 1]), torch.tensor(5)), "counts 5 samples; by its .* this client has 4"),
    ],
    ids=lambda value: value.kind if isinstance(value, Payload) else value or "fits",
)
def test_counts_are_compared_with_what_the_client_said_at_the_handshake(payload: Payload, words: str):
    if not words:
        payload.check(OF_CLIENT)
        return
    with pytest.raises(InvalidInputError, match=words):
        payload.check(OF_CLIENT)


def test_a_client_of_one_architecture_cannot_send_anothers_weights():
    state = {"w": torch.ones(2)}
    bounds = Bounds(weights={"small": state, "wide": state}).of(Client("1", 0, "small", classes=3, examples=1))
    Weights(state, "small").check(bounds)
    with pytest.raises(InvalidInputError, match=r"arrays\.wide is of another architecture than the client's, 'small'"):
        Weights(state, "wide").check(bounds)


def test_whole_numbers_of_an_update_have_no_singular_values():
    bounds = Bounds(weights={"": {"seen": torch.ones(9, 9, dtype=torch.int64)}})
    with pytest.raises(InvalidInputError, match=r"'seen' of shape \[1, 19\]; expected an update of \[9, 9\]"):
        Update({"seen": torch.ones(1, 19, dtype=torch.int64)}).check(bounds)


# --- log-probabilities


def test_rows_that_add_up_to_one_stay_bit_equal_and_others_are_normalized():
    good = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    nearly = good + 0.0009  # the probabilities add up to 1.0009
    off = good + 0.0011
    raw = torch.tensor([[200.0, 0.0, 0.0]])
    found = renormalized(torch.cat([good, nearly, off, raw]))
    assert torch.equal(found[:8], torch.cat([good, nearly]))
    torch.testing.assert_close(found[8:12], good)
    torch.testing.assert_close(found[12:], torch.tensor([[0.0, -200.0, -200.0]]))
    assert renormalized(good) is good


@pytest.mark.parametrize(
    "payload",
    [
        PublicLogits(torch.tensor([0]), torch.tensor([[7.0, 0.0, 0.0]])),
        PublicHeads(torch.tensor([0]), torch.tensor([[[7.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])),
        SampleKnowledge(torch.tensor([0]), torch.tensor(1), logits=torch.tensor([[7.0, 0.0, 0.0]])),
    ],
    ids=lambda payload: payload.kind,
)
def test_every_kind_of_prediction_is_normalized(payload: Payload):
    for key, tensor in payload.normalized().tensors().items():
        if key in ("values", "logits"):
            torch.testing.assert_close(tensor.exp().sum(-1), torch.ones(tensor.shape[:-1]))
    assert payload.normalized().normalized().tensors().keys() == payload.tensors().keys()


def test_sums_by_class_are_no_log_probabilities():
    sent = ClassLogits(torch.full((3, 3), 50.0).double(), torch.ones(3).double())
    assert sent.normalized() is sent


@pytest.mark.parametrize("method", ["fedmd", "dsfl", "selectivefd", "edgefd", "knfu"])
def test_a_client_that_sends_raw_logits_counts_as_one_that_sends_log_probabilities_and_is_named(method: str):
    def raw(content: RecordDict) -> RecordDict:
        if "public-logits" not in content:  # what the closing message brought
            return content
        return array(lambda a: a + np.float32(200.0), name="public-logits", key="values")(content)

    honest, _, _ = start_toy(method, "server.rounds=1")
    strategy, _, lines = start_toy(method, "server.rounds=1", spoilt(method, raw))
    assert rounds(lines)[0]["replied"] == ["0", "1", "2"]
    assert list(rounds(lines)[0]["remarks"]) == ["1"]
    assert "do not add up to 1" in rounds(lines)[0]["remarks"]["1"]
    for key, tensor in strategy.knowledge.flat().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, honest.knowledge.flat()[key], atol=1e-4, rtol=1e-4)


def test_an_honest_run_has_no_remark():
    for method in ("fedmd", "mhd", "fedd2s"):
        assert all("remarks" not in line for line in start_toy(method)[2])


def test_under_a_sum_the_client_normalizes_itself(monkeypatch: pytest.MonkeyPatch):
    from fd_flower.client_apps import fedmd

    from fd_flower.client.turn import Turn

    summed: list[Tensor] = []
    untouched = PublicLogits.summand

    def summand(self: PublicLogits, share: float) -> Tensor:
        if bool(self.values.any()):  # not the server's blank
            summed.append(self.values)
        return untouched(self, share)

    monkeypatch.setattr(PublicLogits, "summand", summand)
    honest = Turn.predict
    monkeypatch.setattr(Turn, "predict", lambda self, *args: honest(self, *args) + 5.0)
    assert fedmd.app
    start_toy("fedmd", "server.rounds=1 privacy.sum=masks")
    assert summed
    for values in summed:
        torch.testing.assert_close(values.exp().sum(1), torch.ones(len(values)))


# --- metrics


def test_metrics_that_are_no_finite_numbers_are_left_out_and_named():
    change = metrics(loss=float("nan"), more=10**400, deep=[1.0, float("inf")], own=2.0)
    _, _, lines = start_toy("fd", "server.rounds=1", spoilt("fd", change))
    json.dumps(lines, allow_nan=False)
    assert rounds(lines)[0]["replied"] == ["0", "1", "2"]
    assert "'loss', 'more', 'deep'" in rounds(lines)[0]["remarks"]["1"]
    assert next(line for line in lines if line.get("client") == "1")["metrics"] == {"own": 2.0}


# --- what the server has learned


def amplified(content: RecordDict) -> RecordDict:
    """Return an update whose factors are small enough, and whose product is not: 1e5 * 1e5 * 1e5 = 1e15."""
    record: Any = content["update.small"]
    factors = np.full((1, 1 + 4 + 8), 1e5, dtype=np.float32)
    return RecordDict({**content, "update.small": ArrayRecord({**record, "values/body.0.weight": Array(factors)})})


def test_a_result_that_is_too_large_is_not_kept_and_the_suspect_is_named(tmp_path: Path):
    grid = spoilt("fedkd", amplified, (2,))
    settings = toy_settings("fedkd", f"server.rounds=2 run.out={tmp_path}/run")
    strategy, _, lines = start(settings, grid)
    first, second = rounds(lines)
    assert "lost" not in first
    assert second["replied"] == ["0", "1", "2"]
    assert "expected at most 1e+06 (server.max_entry); largest numbers sent: client 1 1e+05, client" in second["lost"]
    kept = Checkpoint.read(tmp_path / "run", "fedkd")
    assert kept is not None
    assert all(bool(t.isfinite().all()) for t in kept.knowledge.flat().values())
    honest, _, _ = start_toy("fedkd", "server.rounds=1")
    for key, tensor in honest.knowledge.flat().items():
        assert torch.equal(strategy.knowledge.flat()[key], tensor)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_the_round_is_lost_whatever_made_its_result_unfit(monkeypatch: pytest.MonkeyPatch, value: float):
    from fd_flower.strategies.fedavg import FedAvg

    def aggregate(self: FedAvg, replies: Any, knowledge: Knowledge, round: int) -> Any:
        found = honest(self, replies, knowledge, round)
        return [Weights({k: t + value for k, t in found[0].values.items()})] if round == 2 else found

    honest = FedAvg.aggregate
    monkeypatch.setattr(FedAvg, "aggregate", aggregate)
    strategy, _, lines = start_toy("fedavg", "server.rounds=3")
    assert ["lost" in line for line in rounds(lines)] == [False, True, False]
    assert all(bool(t.isfinite().all()) for t in strategy.knowledge.flat().values())


def test_a_run_all_of_whose_rounds_are_lost_is_no_result(monkeypatch: pytest.MonkeyPatch):
    from fd_flower.strategies.fedavg import FedAvg

    def aggregate(self: FedAvg, *_: Any) -> Any:
        return [Weights({"w": torch.tensor([torch.nan])})]

    monkeypatch.setattr(FedAvg, "aggregate", aggregate)
    with pytest.raises(RunError, match=r"all 2 rounds are lost, the last one because arrays has values in 'w'"):
        start_toy("fedavg")


def test_who_is_in_a_sum_stays_hidden():
    members = (CLIENT, Client("2", 1))
    assert suspects([Reply.of_sum(members, RecordDict(), 9)]) == "whose part did it is hidden in the sum"


def test_the_bound_is_an_option():
    change = array(lambda a: a + np.float32(2e6))
    _, _, lines = start_toy("fedavg", "server.rounds=1 server.max_entry=1e7", spoilt("fedavg", change))
    assert rounds(lines)[0]["failed"] == {}


def test_initial_arrays_that_are_unfit_are_refused_before_round_one():
    from helpers.tasks import model

    arrays = ArrayRecord({key: tensor + 1e9 for key, tensor in model("").state_dict().items()})
    with pytest.raises(
        InvalidInputError, match=r"what the server starts from cannot be used: arrays has an entry of size"
    ):
        start_toy("fedavg", initial_arrays=arrays)


def test_a_classes_ruled_out_in_what_the_server_knows_are_fine():
    PublicLogits(torch.tensor([0]), torch.tensor([[0.0, -torch.inf]])).check_size(1e6)
    with pytest.raises(InvalidInputError, match="not finite"):
        PublicLogits(torch.tensor([0]), torch.tensor([[0.0, torch.nan]])).check_size(1e6)


def test_many_samples_are_no_large_numbers():
    ClassLogits(torch.full((3, 3), 3e7).double(), torch.full((3,), 3e7).double()).check_size(1e6)
