"""A secure sum over real SuperNodes: TLS, each device's own key, peers' keys pinned, a new process for each message."""

import json
from pathlib import Path

import pytest
from helpers.deployment import TINY, lab, partitions, short_settings

from fd_flower import engine
from fd_flower.cli import main
from fd_flower.results import RunFolder

pytestmark = pytest.mark.slow


def test_devices_that_have_pinned_each_others_keys_add_up_as_a_simulation_does(tmp_path: Path):
    changes = "model.name=mlp server.rounds=1"
    plain = engine.run(short_settings("fd", f"{changes} server.nodes=1"), out=tmp_path / "simulated")
    with lab(tmp_path / "lab") as made:
        for client, folder in partitions(tmp_path / "data", short_settings("local")).items():
            own = {"secret-key": f"{made.keys}/clients/{client}/client.key", "peer-keys": f"{made.keys}/allow.yaml"}
            made.device(client, folder, **own)
        out = tmp_path / "deployed"
        words = f"{TINY} {changes} privacy.sum=masks server.timeout=150"
        assert main(["run", "fd", "--on", str(made.keys), "--set", words, "--out", str(out)]) == 0
    lines = [line for line in RunFolder.open(out).lines() if "asked" in line]
    assert lines[0]["sum"] == {"kind": "masks", "threshold": 2, "clients": 3}
    assert len(lines[0]["exchanges"]) == 4
    assert plain is not None
    turns = [
        [line for line in run.lines() if "client" in line and not line.get("closing")]
        for run in (RunFolder.open(out), plain)
    ]
    losses = [{line["client"]: line["metrics"]["loss"] for line in lines} for lines in turns]
    assert losses[0] == losses[1]
    left = [json.loads(path.read_text()) for path in (tmp_path / "lab").rglob("sum.json")]
    assert [set(kept) for kept in left] == [{"round", "step", "opened"}] * len(left)
