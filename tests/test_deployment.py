"""Real SuperLink and SuperNodes, with TLS and keys: the numbers of the simulation, through deaths and returns."""

import json
import os
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.deployment import TINY, Lab, lab, partitions, short_settings, until
from helpers.grids import Moody
from sklearn.datasets import load_breast_cancer

from fd_flower import engine, methods
from fd_flower.cli import federation, keys, main
from fd_flower.config import settings
from fd_flower.results import RunFolder
from fd_flower.server import Strategy

pytestmark = pytest.mark.slow

MODELS = ("mlp", "lenet", "cnn")
SIMULATED = f"model.name=[{','.join(MODELS)}] model.features=16 server.nodes=1"


def told(lines: list[dict[str, Any]]) -> dict[tuple[int, bool, str], dict[str, Any]]:
    """Return what each client said in each round and in the closing message: its losses, and its own accuracy."""
    return {
        (line["round"], bool(line.get("closing")), line["client"]): {
            "examples": line["examples"],
            "metrics": line["metrics"],
            "accuracy": {moment: own["accuracy"] for moment, own in line["evaluations"].items()},
        }
        for line in lines
        if "client" in line
    }


def rounds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "asked" in line and not line.get("closing")]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """Return the whole lines that a run has written so far."""
    path = folder / "rounds.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start three devices of three models, whose folders are the simulated clients'."""
    root = tmp_path_factory.mktemp("ward")
    with lab(root / "lab") as made:
        for (client, folder), model in zip(
            partitions(root / "data", short_settings("local")).items(), MODELS, strict=True
        ):
            made.device(client, folder, model=model)
        yield made


@pytest.mark.parametrize("method", ["fedmd", "edgefd", "fedgen"])
def test_devices_of_three_models_give_the_numbers_of_the_simulation(method: str, ward: Lab, tmp_path: Path):
    simulated = engine.run(short_settings(method, SIMULATED), out=tmp_path / "simulated")
    words = ["--set", f"{TINY} model.features=16", "--out", str(tmp_path / "deployed")]
    assert main(["run", method, "--on", str(ward.keys), *words]) == 0
    deployed = RunFolder.open(tmp_path / "deployed")
    assert simulated is not None
    assert {c for line in rounds(deployed.lines()) for c in line["replied"]} == {"0", "1", "2"}
    assert told(deployed.lines()) == told(simulated.lines())
    assert [line["bytes"]["up"] for line in rounds(deployed.lines())] == [
        line["bytes"]["up"] for line in rounds(simulated.lines())
    ]
    summary, expected = deployed.summary, simulated.summary
    assert summary["engine"] == "deployment"
    assert summary["accuracy"]["personal"]["final"] == expected["accuracy"]["personal"]["final"]


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start three devices of one model, whose folders are the simulated clients'."""
    root = tmp_path_factory.mktemp("alike")
    with lab(root / "lab") as made:
        for client, folder in partitions(root / "data", short_settings("local")).items():
            made.device(client, folder, model="mlp")
        yield made


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("fedlex", "server.guidance=scale client.explore_epochs=2"),
        ("fedlex", "server.guidance=prune client.explore_epochs=2"),
        ("fedlex", "server.guidance=rows server.refresh=1 server.ramp_rounds=0"),
        ("fedavg", "server.graph=ring client.tracking=0.5"),
        ("fedavg", "server.moments=true client.optimizer=amsgrad"),
        ("fedavg", "server.clusters=2"),
        ("fraug", ""),
        ("scaffold", ""),
        ("fedspeed", ""),
        ("ditto", ""),
        ("fedgh", ""),
        ("fedl2g", ""),
        ("fedmrl", "server.peer=mlp"),
    ],
)
def test_devices_of_one_model_give_the_numbers_of_the_simulation(method: str, words: str, alike: Lab, tmp_path: Path):
    simulated = engine.run(short_settings(method, f"model.name=mlp server.nodes=1 {words}"), out=tmp_path / "simulated")
    asked = ["--set", f"{TINY} server.timeout=200 {words}", "--out", str(tmp_path / "deployed")]
    assert main(["run", method, "--on", str(alike.keys), *asked]) == 0
    deployed = RunFolder.open(tmp_path / "deployed")
    assert simulated is not None
    assert {c for line in rounds(deployed.lines()) for c in line["replied"]} == {"0", "1", "2"}
    assert told(deployed.lines()) == told(simulated.lines())
    assert deployed.summary["engine"] == "deployment"


def test_devices_with_tables_give_the_numbers_of_the_simulation(tmp_path: Path):
    """Three sites of a real table, each with its own file; the server has the test rows."""
    table = load_breast_cancer(as_frame=True).frame
    table.columns = [*(inputs := [f"x{i}" for i in range(30)]), "outcome"]
    table.insert(0, "site", [i % 3 for i in range(len(table))])
    (tmp_path / "all").mkdir()
    for name, rows in (("train", table[:450]), ("test", table[450:])):
        rows.to_csv(tmp_path / "all" / f"{name}.csv", index=False)
    words = (
        f"data.source={tmp_path}/all data.label=outcome data.features=[{','.join(inputs)}] data.partition=column "
        "data.column=site data.clients=3 data.public=none model.name=tabular_resnet client.steps=3 server.rounds=2 "
        "server.timeout=200 run.device=cpu "
    )
    simulated = engine.run(settings("fedavg", f"{words} server.nodes=1"), out=tmp_path / "simulated")
    with lab(tmp_path / "lab") as made:
        for site in range(3):
            file = tmp_path / f"{site}.csv"
            table[:450][table.site[:450] == site].to_csv(file, index=False)
            made.device(str(site), file, model="tabular_resnet")
        asked = ["--set", f"{words} server.nodes=3", "--out", str(tmp_path / "deployed")]
        assert main(["run", "fedavg", "--on", str(made.keys), *asked]) == 0
    deployed = RunFolder.open(tmp_path / "deployed")
    assert simulated is not None
    assert {c for line in rounds(deployed.lines()) for c in line["replied"]} == {"0", "1", "2"}
    assert told(deployed.lines()) == told(simulated.lines())


def test_what_the_server_refuses_is_one_line_and_a_status(
    ward: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["--set", f"{TINY} model.features=16", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["run", "fedavg", "--on", str(ward.keys), *words]) == 2
    assert "fedavg needs one architecture for all clients; got cnn, lenet, mlp" in capsys.readouterr().err


def test_devices_that_are_registered_already_stay_so(ward: Lab):
    assert list(federation.register(ward.keys)) == [f"{client}: was registered already" for client in "012"]


def test_a_run_goes_on_after_superlink_and_serverapp_were_killed(ward: Lab, tmp_path: Path):
    ward.submit("fedmd", f"{TINY} model.features=16 run.out={tmp_path}/deployed")
    until(lambda: (tmp_path / "deployed" / "checkpoint" / "knowledge.safetensors").is_file(), "the first round")
    time.sleep(2)
    ward.kill("superlink")
    before = lines_of(tmp_path / "deployed")
    assert not (tmp_path / "deployed" / "summary.json").exists()
    ward.superlink()
    ward.submit("fedmd", f"run.resume={tmp_path}/deployed")
    deployed = ward.finish(tmp_path / "deployed")
    simulated = engine.run(short_settings("fedmd", SIMULATED), out=tmp_path / "simulated")
    assert simulated is not None
    assert [line["round"] for line in rounds(deployed.lines())] == [1, 2]
    assert deployed.lines()[: len(before)] == before
    assert told(deployed.lines()) == told(simulated.lines())


def test_a_device_that_is_killed_in_mid_round_is_left_out_and_goes_on_from_its_model_when_it_returns(tmp_path: Path):
    folders = partitions(tmp_path / "data", short_settings("local"))
    chosen = f"{TINY} model.name=mlp server.rounds=60 server.min_replies=2 server.grace=8"
    run = tmp_path / "run"
    with lab(tmp_path / "lab") as made:
        for client, folder in folders.items():
            made.device(client, folder)
        made.submit("local", f"{chosen} run.out={run}")
        begun = "Receiving: train message"
        until(lambda: len(rounds(lines_of(run))) == 1 and made.log("node-1").count(begun) == 2, "round two's beginning")
        made.kill("node-1")
        until(lambda: len(rounds(lines_of(run))) >= 2, "a round without the device", 60)

        def returns() -> bool:
            """Start it again, as a supervisor does, until Flower takes the old one for dead."""
            if "node-1" in made.processes and made.processes["node-1"].poll() is not None:
                made.kill("node-1")  # what it started
                time.sleep(5)
            if "node-1" not in made.processes:
                made.device("1", folders["1"])
            return "1" in rounds(lines_of(run))[-1]["replied"]

        until(returns, "the device's return")
        lines = lines_of(run)
    missed = [line["round"] for line in rounds(lines) if "1" not in line["replied"]]
    back = missed[-1] + 1
    assert missed[0] == 2
    assert missed == list(range(2, back))
    assert all(line["replied"] == ["0", "2"] for line in rounds(lines) if line["round"] in missed)
    assert all(line["failed"]["1"] for line in rounds(lines) if line["round"] in missed)
    assert lines_without_absence(folders, chosen, missed, back) == {
        key: value for key, value in told(lines).items() if key[0] <= back
    }


def lines_without_absence(folders: dict[str, Path], chosen: str, missed: list[int], back: int) -> Any:
    """Return what clients say in this process where device 1 is not there in the rounds that it missed."""
    state = next(iter(folders.values())).parent / "states"
    nodes = [{"client-id": c, "data-path": str(f), "state-dir": str(state)} for c, f in folders.items()]
    lines: list[dict[str, Any]] = []
    grid = Moody(methods.client_app("local"), node_configs=nodes, run_config={"task": ""})
    strategy = Strategy.for_method(settings("local", chosen))

    def hear(line: dict[str, Any]) -> None:
        lines.append(line)
        grid.gone = {2} if line["round"] + 1 in missed else set()

    strategy.on_line = hear
    strategy.start(grid, num_rounds=back)
    return told(lines)


SPOILS = """\
# What every Python process of a dishonest device runs first: its replies' numbers become NaN.
import builtins, sys

untouched = builtins.__import__


def spoilt(name, *also, **more):
    module = untouched(name, *also, **more)
    envelope = sys.modules.get("fd_flower.wire.envelope")
    if envelope is not None and "fold" in vars(envelope) and envelope.fold.__name__ == "fold":
        honest = envelope.fold

        def dishonest(contents, header):
            from flwr.app import ArrayRecord, RecordDict

            def nan(record):
                tensors = record.to_torch_state_dict()
                return ArrayRecord({k: t * float("nan") if t.is_floating_point() else t for k, t in tensors.items()})

            return honest(
                {
                    client: RecordDict({k: nan(r) if isinstance(r, ArrayRecord) else r for k, r in content.items()})
                    for client, content in contents.items()
                },
                header,
            )

        envelope.fold = dishonest
    return module


builtins.__import__ = spoilt
"""


def test_those_who_have_no_business_here_are_refused_or_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stranger's key, a server that is not the one meant, another client's id, and numbers that are none."""
    folders = partitions(tmp_path / "data", short_settings("fedmd"))
    (tmp_path / "dishonest").mkdir()
    (tmp_path / "dishonest" / "sitecustomize.py").write_text(SPOILS)
    keys.make(tmp_path / "elsewhere", ["127.0.0.1"], ["stranger"], days=1)
    run = tmp_path / "run"
    with lab(tmp_path / "lab", ("0", "1", "2", "3")) as made:
        strange = tmp_path / "elsewhere" / "clients" / "stranger" / "client.key"
        outside = [
            made.device("0", folders["0"], key=strange, name="stranger"),
            made.device("1", folders["1"], ca=tmp_path / "elsewhere" / "ca.crt", name="deceived"),
        ]
        until(lambda: all(node.poll() for node in outside), "turning strangers away", 60)
        assert "No SuperNode found with the given public key" in made.log("superlink")
        assert "CERTIFICATE_VERIFY_FAILED" in made.log("node-deceived")
        for client in ("0", "1"):
            made.device(client, folders[client])
        made.device("0", folders["2"], key=made.keys / "clients" / "3" / "client.key", name="thief")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "dishonest"), prepend=os.pathsep)
        made.device("2", folders["2"])
        monkeypatch.undo()
        made.submit("fedmd", f"{TINY} model.name=mlp server.nodes=4 server.allow={made.keys}/allow.yaml run.out={run}")
        found = made.finish(run)
        said = made.said()
    assert "client id '0' belongs to another key; this node has the key of '3'" in " ".join(said.split())
    first = rounds(found.lines())[0]
    assert first["replied"] == ["0", "1"]
    assert "not finite" in first["failed"]["2"]
    honest = engine.InProcessGrid(
        methods.client_app("fedmd"),
        run_config={"task": ""},
        node_configs=[
            {"client-id": c, "data-path": str(folders[c]), "state-dir": str(tmp_path / "states")} for c in ("0", "1")
        ],
    )
    Strategy.for_method(short_settings("fedmd", f"model.name=mlp server.nodes=2 run.out={tmp_path}/honest")).start(
        honest
    )
    without = {key: said for key, said in told(found.lines()).items() if key[2] != "2"}
    assert without == told(RunFolder.open(tmp_path / "honest").lines())


def test_rounds_that_do_not_wait_use_late_replies_in_a_later_round(tmp_path: Path):
    """A device's message takes a process and several polls, longer than these windows."""
    chosen = f"{TINY} model.name=mlp server.rounds=40 server.timeout=300 "
    chosen += "server.clock=window server.grace=3 server.staleness=polynomial"
    with lab(tmp_path / "lab") as made:
        for client, folder in partitions(tmp_path / "data", short_settings("local")).items():
            made.device(client, folder)
        made.submit("fedmd", f"{chosen} run.out={tmp_path}/run")
        lines = made.finish(tmp_path / "run", 400).lines()
    replies = [(line["client"], line["version"]) for line in lines if "client" in line]
    late = [line["round"] - line["version"] for line in lines if "client" in line]
    assert max(late) > 0
    assert len(replies) == len(set(replies))
    assert {client for client, _ in replies} == {"0", "1", "2"}
    for before, line in pairwise(rounds(lines)):
        assert not set(before["under_way"]) & set(line["asked"])
        assert line["failed"] == {}
