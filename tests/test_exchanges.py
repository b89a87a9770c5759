"""A round is a list of exchanges; each client receives what is meant for it, private knowledge stays at the server."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Error, RecordDict
from helpers.grids import Noted, Spoilt, hosts
from helpers.tiny import rounds, start, start_toy

from fd_flower import methods
from fd_flower.engine import InProcessGrid
from fd_flower.server.checkpoint import Checkpoint
from fd_flower.wire import Weights
from fd_flower.wire.envelope import unfold

Lines = list[dict[str, Any]]


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Let the core find a method in two more rooms; return its settings."""
    import fd_flower.client_apps
    import fd_flower.strategies

    from fd_flower.config import settings

    here = Path(__file__).parent / "rooms"
    for room, name in ((fd_flower.strategies, "strategies"), (fd_flower.client_apps, "client_apps")):
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(here / name)])
    methods.names.cache_clear()
    yield lambda changes="": settings(
        "relay",
        f"recipe={here}/relay.yaml data.clients=3 model.name=small server.rounds=2 {changes}",
        task="helpers.tasks:task",
    )
    methods.names.cache_clear()


def test_a_method_is_found_by_its_stem(relay: Callable[..., Any]):
    assert "relay" in methods.names()
    assert relay().method == "relay"


def test_what_one_exchange_gathers_the_next_one_hears(relay: Callable[..., Any]):
    """Three clients of 20 samples: each receives 60 in the second exchange, and its own number."""
    _, _, lines = start(relay(), hosts("relay"))
    said = {line["client"]: line["metrics"] for line in lines if line.get("client") and line["round"] == 1}
    assert {client: (m["received"], m["number"]) for client, m in said.items()} == {
        "0": (60, 0),
        "1": (60, 1),
        "2": (60, 2),
    }


def test_an_exchange_that_leaves_nothing_fit_loses_its_round_alone(
    relay: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    """In round one the secret becomes NaN before anybody is asked to train; round two counts from 0 again."""
    from fd_flower.strategies.relay import Relay

    def between(self: Relay, exchange: str, replies: Any, knowledge: Any, round: int) -> Any:
        found = honest(self, exchange, replies, knowledge, round)
        return [Weights({"bad": torch.tensor([torch.nan])})] if round == 1 else found

    honest = Relay.between
    monkeypatch.setattr(Relay, "between", between)
    strategy, _, lines = start(relay(), hosts("relay"))
    first, second = rounds(lines)
    assert first["lost"].startswith(
        "arrays has values in 'bad' that are not finite (server.max_entry); largest numbers"
    )
    assert (first["replied"], first["failed"]) == (["0", "1", "2"], {})
    assert "lost" not in second
    assert Weights.need(strategy.knowledge).values["secret"].tolist() == [1.0]


def test_each_exchange_is_a_turn_with_memory(relay: Callable[..., Any]):
    """Four turns in two rounds: before the second of round one there was one (counted from 0), of round two, three."""
    _, _, lines = start(relay(), hosts("relay"))
    assert [line["metrics"]["calls"] for line in lines if line.get("client") == "0"] == [0, 2]


def test_bytes_of_all_exchanges_of_a_round_are_counted(relay: Callable[..., Any]):
    _, _, lines = start(relay(), hosts("relay"))
    said = rounds(lines)[0]["bytes"]
    assert set(said["up"]) == {"prototypes"}
    assert set(said["down"]) == {"prototypes", "arrays"}


def test_private_knowledge_is_kept_and_never_sent(relay: Callable[..., Any], tmp_path: Path):
    grid = Noted(methods.client_app("relay"))
    strategy, result, _ = start(relay(f"run.out={tmp_path}/run"), grid)
    for message in grid.sent:
        for content in unfold(message.content).values():
            assert not isinstance(content, Error)
            assert "secret" not in str({name: list(record) for name, record in content.items()})
    assert not [key for key in result.arrays if "secret" in key]
    kept = Checkpoint.read(tmp_path / "run", "relay")
    assert kept is not None
    assert float(kept.knowledge.private[0].tensors()["secret"]) == 2  # counted in each round
    assert isinstance(strategy.knowledge.private[0], Weights)


def test_a_client_that_fails_in_the_first_exchange_is_left_out_of_it(relay: Callable[..., Any]):
    class Half(Spoilt):
        def __call__(self, message: Any, context: Any) -> Any:
            self.kind = message.metadata.message_type
            return super().__call__(message, context)

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, "asleep") if client == "1" and app.kind == "query.count" else content

    app = Half(methods.client_app("relay"), spoil)
    _, _, lines = start(relay(), InProcessGrid(app))
    assert [line["metrics"]["received"] for line in lines if line.get("client") == "0"] == [40, 40]
    assert rounds(lines)[0]["failed"]["1"] == "asleep"


def test_knowledge_for_each_architecture_is_its_own_weights():
    grid = Noted(methods.client_app("feddf"))
    _, result, _ = start_toy("feddf", "model.name=[small,wide]", grid)
    received = next(unfold(m.content) for m in grid.sent if m.metadata.message_type == "train")
    names = {client: list(content.array_records) for client, content in received.items()}  # type: ignore[union-attr]
    assert names == {"0": ["arrays.small"], "1": ["arrays.wide"], "2": ["arrays.small"]}
    assert {key.partition("/")[0] for key in result.arrays} == {"arrays.small", "arrays.wide"}
