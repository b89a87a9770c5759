"""A device that pins its public samples takes part in no run with others."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message
from helpers.deployment import partitions

from fd_flower import engine, methods
from fd_flower.cli import main
from fd_flower.config import settings
from fd_flower.data.fingerprint import fingerprint
from fd_flower.server import Strategy
from fd_flower.wire.envelope import HANDSHAKE

TINY = "data.clients=3 server.rounds=1 client.steps=1 client.public_steps=1 data.public_size=30 model.name=mlp"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Export three clients' samples: two devices' own, and the public ones."""
    return list(partitions(tmp_path_factory.mktemp("pinned"), settings("local", TINY)).values())


def start(
    folders: list[Path],
    public: str,
    grid: type[engine.InProcessGrid] = engine.InProcessGrid,
    on_line: Any = None,
    *,
    pinned: str = "",
) -> Any:
    nodes = [
        {"client-id": folder.name, "data-path": str(folder), "state-dir": str(folder / "state")}
        for folder in folders[:2]
    ]
    nodes[1] |= {"public-sha256": pinned} if pinned else {}
    strategy = Strategy.for_method(settings("fedmd", f"{TINY} server.nodes=2 data.public={public}"))
    strategy.on_line = on_line
    strategy.start(grid(methods.client_app("fedmd"), run_config={"task": ""}, node_configs=nodes))
    return strategy


@pytest.mark.parametrize("spelled", [str.lower, str.upper])
def test_the_pinned_folder_is_taken(folders: list[Path], spelled: Any):
    assert len(start(folders, str(folders[2]), pinned=spelled(fingerprint(folders[2])[0])).clients) == 2


def test_the_samples_own_checksum_is_taken(folders: list[Path]):
    checksum = start(folders, "noise").clients[0].public
    assert len(start(folders, "noise", pinned=checksum).clients) == 2


def test_other_samples_cost_the_device_its_part(folders: list[Path]):
    strategy = start(folders, "noise", pinned=fingerprint(folders[2])[0])
    assert [client.id for client in strategy.clients] == [folders[0].name]
    (reason,) = strategy.refused.values()
    assert "the device has public-sha256=" in reason
    assert "those of this run (data.public=noise)" in reason


def test_a_pin_that_is_no_checksum_is_named(folders: list[Path]):
    (reason,) = start(folders, "noise", pinned="12ab").refused.values()
    assert "public-sha256='12ab'; expected 64 hexadecimal digits" in reason


class Pinning(engine.InProcessGrid):
    """A grid whose second device pins other samples once it has answered the handshake."""

    def _reply(self, message: Message) -> Message:
        if message.metadata.message_type != HANDSHAKE:
            self._contexts[2].node_config["public-sha256"] = "0" * 64
        return super()._reply(message)


def test_it_is_checked_at_each_turn(folders: list[Path]):
    lines: list[dict[str, Any]] = []
    strategy = start(folders, "noise", Pinning, lines.append)
    assert len(strategy.clients) == 2
    assert "the device has public-sha256=000" in lines[0]["failed"][folders[1].name]
    assert lines[0]["replied"] == [folders[0].name]


def test_a_run_without_public_samples_passes(folders: list[Path]):
    nodes = [
        {"client-id": "a", "data-path": str(folders[0]), "state-dir": str(folders[0] / "s"), "public-sha256": "0" * 64}
    ]
    strategy = Strategy.for_method(settings("fedavg", f"{TINY} server.nodes=1 data.public=none"))
    strategy.start(engine.InProcessGrid(methods.client_app("fedavg"), run_config={"task": ""}, node_configs=nodes))
    assert not strategy.refused


def test_the_command_prints_what_a_device_pins(folders: list[Path], capsys: pytest.CaptureFixture[str]):
    assert main(["public", str(folders[2])]) == 0
    assert f'public-sha256 = "{fingerprint(folders[2])[0]}"' in capsys.readouterr().out
