"""`flwr run` on the checkout, through Ray, gives the numbers of the in-process engine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fd_flower.client_apps import local
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from helpers.grids import counted, counts
from helpers.simulation import Flwr, outcome, simulation
from helpers.tiny import brief, figures, toy_settings

from fd_flower import engine, methods
from fd_flower.client import App
from fd_flower.config import settings
from fd_flower.server import Strategy

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "strategies").is_dir(), reason="looks at the checkout"),
]


@pytest.fixture(scope="module")
def flwr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flwr]:
    """Return `flwr`, called in an empty folder, with a SuperLink of its own that sees the packed app alone."""
    root = tmp_path_factory.mktemp("flower")
    with simulation(root) as run:
        yield run
    assert not list((root / "empty").iterdir())


def submit(flwr: Flwr, method: str, changes: str) -> str:
    nodes = "num-supernodes=2 client-resources-num-cpus=1"
    ordered = f"method='{method}' set='{changes}'"
    said = flwr("run", str(ROOT), "--stream", "--federation-config", nodes, "--run-config", ordered)
    return said.stdout + said.stderr


def compare_engines(method: str, words: str, flwr: Flwr, folder: Path) -> list[dict[str, Any]]:
    """Fail unless a run here and one over two SuperNodes have equal figures; return the lines of the latter."""
    said = submit(flwr, method, f"{words} server.nodes=2 run.out={folder}/there")
    assert outcome(flwr)["status"] == "finished:completed", said
    here = engine.run(settings(method, words), out=folder / "here")
    assert here is not None
    there = [json.loads(line) for line in (folder / "there" / "rounds.jsonl").read_text().splitlines()]
    assert figures(there) == figures(here.lines())
    return there


@pytest.mark.parametrize("method", methods.names())
def test_two_supernodes_give_the_numbers_of_one_process(method: str, flwr: Flwr, tmp_path: Path):
    words = f"{brief(method)} data.clients=10 data.alpha=0.3"
    compare_engines(method, words, flwr, tmp_path)
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("here", "there")]
    assert [s["engine"] for s in summaries] == ["local", "simulation"]
    figures_of = [s.get("accuracy", s.get("retrieval")) for s in summaries]
    assert figures_of[0] == figures_of[1]


@pytest.mark.parametrize(
    ("method", "clock"),
    [
        ("fedavg", "server.clock=window server.window=4 server.staleness=fedfix"),
        ("fedmd", "server.clock=count server.buffer=3 server.staleness=polynomial"),
    ],
)
def test_rounds_that_do_not_wait_give_the_numbers_of_one_process(method: str, clock: str, flwr: Flwr, tmp_path: Path):
    words = f"{brief(method)} data.clients=10 data.alpha=0.3 server.rounds=5 server.speed_spread=1 {clock}"
    there = compare_engines(method, words, flwr, tmp_path)
    late = [line["round"] - line["version"] for line in there if "version" in line]
    assert max(late) > 0
    assert min(late) == 0


def test_what_the_server_refuses_fails_the_run(flwr: Flwr):
    said = submit(flwr, "fedavg", "model.name=[mlp,cnn] data.clients=2")
    assert outcome(flwr)["status"] == "finished:failed"
    assert "fedavg needs one architecture for all clients; got cnn, mlp" in said


def test_in_flowers_simulation_a_clients_state_comes_back():
    """Five clients on two nodes; each message may be another process of Ray's."""
    client, server = App(mods=[counted]), ServerApp()
    client.train()(local.train)
    lines: list[dict[str, Any]] = []

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = Strategy.for_method(toy_settings("local", "data.clients=5 server.rounds=3 server.nodes=2"))
        strategy.on_line = lines.append
        strategy.start(grid)

    run_simulation(server, client, num_supernodes=2, backend_config={"client_resources": {"num_cpus": 1}})
    assert counts(lines) == {name: [1, 2, 3] for name in "01234"}
