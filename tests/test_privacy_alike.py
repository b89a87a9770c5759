"""A server that tells clients different things, or one thing twice, opens nothing but sums of all."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from helpers.grids import Noted, hosts
from helpers.secure_sums import Adding
from helpers.tiny import rounds, start, start_toy, tiny_settings, toy_settings

from fd_flower import methods
from fd_flower.cli import keys
from fd_flower.config import PrivacyConfig, settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.keys import allowed
from fd_flower.engine import InProcessGrid
from fd_flower.privacy import crypto
from fd_flower.privacy.messages import RECORD, SETUP, SHARE_KEYS, UNMASK, about
from fd_flower.privacy.server_protocol import AggregationError, Contents
from fd_flower.privacy.transcript import begun, digest, extended
from fd_flower.server import Strategy
from fd_flower.wire import Payload, Weights, pack
from fd_flower.wire.envelope import unfold
from fd_flower.wire.replies import Reply
from fd_flower.wire.sums import Masked, SumShares, table, text

MASKS = PrivacyConfig("masks")
ROWS = torch.randn(4, 50, generator=torch.Generator().manual_seed(7))


class Lying(Adding):
    """A server that tells all but client 0 of 10^18 samples, of which theirs are a share that rounds to nothing.

    Clients sign, and know each other's keys. What they say of the messages that came, the server makes up.
    """

    def __init__(self, folder: Path, lies: Sequence[str]) -> None:
        super().__init__(folder, ROWS, MASKS, spoil=self.made_up)
        keys.make(folder / "keys", ["localhost"], [c.id for c in self.clients], 1)
        self.lies = lies
        self._transcript = torch.empty(0)

    def party(self, name: str, **more: object) -> Any:
        own = self.folder / "keys" / "clients" / name / "client.key"
        return super().party(name, secret=own, peers=allowed(str(self.folder / "keys" / "allow.yaml")))

    def ask(self, exchange: str, contents: Contents, kinds: Sequence[type[Payload]]) -> list[Reply]:
        if exchange in self.lies:
            for client, content in contents.items():
                if client.id != "0":
                    spec = ConfigRecord({**content[RECORD], "examples": 10**18})  # type: ignore[dict-item]
                    contents = {**contents, client: RecordDict({**content, RECORD: spec})}
        return super().ask(exchange, contents, kinds)

    def made_up(self, exchange: str, name: str, reply: RecordDict) -> RecordDict:
        if exchange != "train":
            return reply
        masked = Masked.need(reply)
        if name == "0":
            self._transcript = masked.transcript
        return RecordDict({**reply, **pack(Masked(masked.values, self._transcript))})


@pytest.mark.parametrize("lies", [["train"], [SHARE_KEYS, "train", UNMASK], [SETUP, SHARE_KEYS, "train", UNMASK]])
def test_a_server_that_tells_the_others_something_else_reads_no_client(lies: list[str], tmp_path: Path):
    adding = Lying(tmp_path, lies)
    try:
        read = Weights.need(adding.round().content).values["w"]
    except AggregationError:
        return
    assert float((read - ROWS[0]).abs().median()) > 1000


def test_the_same_server_that_does_not_lie_reads_the_mean(tmp_path: Path):
    read = Weights.need(Lying(tmp_path, []).round().content).values["w"]
    torch.testing.assert_close(read, ROWS.mean(0), atol=1e-6, rtol=0)


def test_keys_signed_after_another_message_are_refused(tmp_path: Path):
    adding = Lying(tmp_path, [SETUP])
    with pytest.raises(AggregationError, match="shares have come from 0 of 4 clients"):
        adding.round()
    assert "is not signed" not in adding.errors["0"]
    assert adding.errors["0"].endswith("or it was sent another round than this client")


def test_who_was_sent_something_else_is_left_out_and_named(tmp_path: Path):
    """An honest server, and a message that was changed on its way to client 2."""

    class Changed(Adding):
        def protocol(self, name: str, content: RecordDict) -> Any:
            more = {"config": ConfigRecord({"lr": 1.0})} if name == "2" and "sum-shares" in content else {}
            return super().protocol(name, RecordDict({**content, **more}))

    adding = Changed(tmp_path, ROWS, MASKS)
    received = adding.round()
    assert [c.id for c in received.clients] == ["0", "1", "3"]
    assert "a message was changed on its way" in adding.server.faults["2"]
    torch.testing.assert_close(Weights.need(received.content).values["w"], ROWS[[0, 1, 3]].mean(0), atol=1e-6, rtol=0)


def test_a_server_does_not_ask_clients_for_a_sum_of_different_messages(tmp_path: Path):
    adding = Adding(tmp_path, ROWS, MASKS)
    contents = adding.open()
    contents[adding.clients[3]]["config"] = ConfigRecord({"lr": 1.0})
    with pytest.raises(InvalidInputError, match="clients 0 and 3 would be sent different messages"):
        adding.server.sent(contents)


# --- what a transcript is of


ARRAYS = ArrayRecord({"a": torch.ones(2, 3), "b": torch.zeros(4)})
CONTENT = RecordDict({"arrays": ARRAYS, "config": ConfigRecord({"lr": 0.1, "closing": False, "names": ["x", "y"]})})


def test_a_message_has_one_hash_on_both_sides_and_in_any_order():
    turned = RecordDict(
        {
            "config": ConfigRecord({"names": ["x", "y"], "closing": False, "lr": 0.1}),
            "arrays": ArrayRecord({"b": torch.zeros(4), "a": torch.ones(2, 3)}),
        }
    )
    assert digest(turned) == digest(CONTENT)
    assert digest(recorddict_from_proto(recorddict_to_proto(CONTENT))) == digest(CONTENT)


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": ArrayRecord({"a": torch.ones(3, 2), "b": torch.zeros(4)})},
        {"arrays": ArrayRecord({"a": torch.ones(2, 3), "b": -torch.zeros(4)})},
        {"arrays": ArrayRecord({"a": torch.ones(2, 3)})},
        {"config": ConfigRecord({"lr": 0.1, "closing": 0, "names": ["x", "y"]})},
        {"config": ConfigRecord({"lr": 0.1 + 2**-55, "closing": False, "names": ["x", "y"]})},
        {"other": ConfigRecord({})},
    ],
)
def test_another_message_has_another_hash(change: dict[str, Any]):
    assert digest(RecordDict({**CONTENT, **change})) != digest(CONTENT)


def test_what_is_a_clients_own_is_not_in_it_and_whose_it_is_is():
    def shares(byte: int, *names: str) -> bytes:
        return digest(pack(SumShares(table([bytes([byte]) * 60] * 2), text(list(names)))))

    assert shares(0, "0", "1") == shares(1, "0", "1")
    assert shares(0, "0", "1") != shares(0, "0", "2")


def test_run_settings_exchange_and_order_are_in_it():
    first = begun("run", "settings")
    assert len({first, begun("other", "settings"), begun("run", "other"), begun("runs", "ettings")}) == 4
    one = digest(CONTENT)
    assert extended(first, SETUP, one) != extended(first, "train", one)
    assert extended(extended(first, "a", one), "b", one) != extended(extended(first, "b", one), "a", one)


def test_a_key_is_good_in_one_run_and_one_round():
    secret = bytes(32)
    scopes = [about("run", 1), about("run", 2), about("other", 1)]
    assert len({crypto.derived(secret, "own mask", scope) for scope in scopes}) == 3
    assert crypto.derived(secret, "own mask", scopes[0]) != crypto.derived(secret, "pair mask", scopes[0])


# --- what methods send


SUMMABLE = [m for m in methods.names() if methods.strategy(m).summable]


@pytest.mark.parametrize("method", SUMMABLE)
def test_a_method_that_can_be_summed_sends_all_clients_the_same_records(method: str):
    """Without a sum, which would refuse it first; in round two some clients are asked for the first time.

    FD's records are the same under a sum alone.
    """
    grid = Noted(methods.client_app(method))
    start(
        tiny_settings(
            method,
            f"privacy.sum={'masks' if method == 'fd' else 'none'} data.clients=4 server.rounds=2 server.fraction=0.5",
        ),
        grid,
    )
    asked = [message for message in grid.sent if message.metadata.message_type == "train"]
    assert len(asked) == 2
    for message in asked:
        contents = unfold(message.content)
        assert len(contents) == 2
        assert len({digest(content) for content in contents.values() if isinstance(content, RecordDict)}) == 1


# --- a round is opened once


def test_a_client_opens_a_round_once_and_goes_on_with_the_next(tmp_path: Path):
    adding = Adding(tmp_path, ROWS, MASKS)
    adding.round(1)
    adding.round(2)
    for number in (1, 2):
        with pytest.raises(AggregationError, match="keys have come from 0 of 4 clients"):
            adding.round(number)
        assert adding.errors["3"] == (
            "this client has opened its part of round 2's sum; a round is opened once, the run continues with the next"
        )
    assert len(adding.round(3).clients) == 4


def test_a_message_about_no_sum_does_not_make_a_client_forget_what_it_has_opened(tmp_path: Path):
    adding = Adding(tmp_path, ROWS, MASKS)
    adding.round(2)
    adding.protocol("0", RecordDict())
    assert json.loads((tmp_path / "0" / "sum.json").read_text()) == {"opened": 2}
    with pytest.raises(AggregationError):
        adding.round(2)


def test_a_round_that_was_cut_off_before_it_was_opened_is_played_again(tmp_path: Path):
    adding = Adding(tmp_path, ROWS, MASKS)
    adding.ask("train", adding.open(1), (Masked,))
    assert len(adding.round(1).clients) == 4


class CutOff(InProcessGrid):
    """A grid whose server dies when clients have answered an exchange of round two."""

    def __init__(self, method: str, exchange: str) -> None:
        super().__init__(methods.client_app(method))
        self._exchange, self._left = exchange, 2

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        replies = super().pull_messages(message_ids)
        if any(reply.metadata.message_type == self._exchange for reply in replies):
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt
        return replies


def resumed(exchange: str, tmp_path: Path) -> tuple[list[dict[str, Any]], Strategy]:
    """Return the lines and the strategy of a run that was cut off in round two of three, and resumed."""
    out = tmp_path / "run"
    changes = f"privacy.sum=masks data.clients=4 server.rounds=3 run.out={out}"
    with pytest.raises(KeyboardInterrupt):
        start(toy_settings("fedavg", changes), CutOff("fedavg", exchange))
    strategy, _, lines = start(settings("fedavg", f"run.resume={out}"), hosts("fedavg"))
    return rounds(lines), strategy


def test_a_round_that_was_cut_off_while_it_was_opened_is_lost_and_the_run_goes_on(tmp_path: Path):
    second, third = resumed(UNMASK, tmp_path)[0]
    assert "keys have come from 0 of 4 clients" in second["sum"]["lost"]
    assert "has opened its part of round 2's sum" in second["failed"]["0"]
    assert (third["round"], third["sum"]["clients"]) == (3, 4)


@pytest.mark.parametrize("exchange", [SETUP, SHARE_KEYS, "train"])
def test_a_run_that_was_cut_off_before_ends_as_one_that_was_not(exchange: str, tmp_path: Path):
    whole = start_toy("fedavg", "privacy.sum=masks data.clients=4 server.rounds=3")[0]
    lines, strategy = resumed(exchange, tmp_path)
    assert [line["sum"]["clients"] for line in lines] == [4, 4]
    known = strategy.knowledge.flat()
    assert all(torch.equal(tensor, known[key]) for key, tensor in whole.knowledge.flat().items())
