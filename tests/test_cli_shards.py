"""Runs dealt over several machines come together as if one had made them all."""

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from fd_flower.cli import main
from fd_flower.cli.order import Order
from fd_flower.cli.plan import Plan, command_line
from fd_flower.cli.shards import Shard
from fd_flower.server import lines

TINY = (
    "model.name=[mlp,cnn] data.clients=2 data.limit=300 data.public_size=60 server.rounds=2 client.steps=1 "
    "client.batch=16 run.device=cpu"
)
COMPARE = ["compare", "local", "fedprox", "fd", "--quiet", "--reach", "30", "--set", TINY]
SWEEP = ["sweep", "local", "--grid", "client.lr=0.1,1e30,0.3", "--quiet", "--set", TINY]
SBATCH = Path(__file__).parents[1] / "deploy" / "slurm" / "compare.sbatch"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rounds take no time: what runs leave behind is then the same, byte for byte."""
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: 0.0))


def left(folder: Path) -> dict[str, bytes]:
    """Return what is in a folder, but for paths, the runs' random keys, and what says that there were shards."""
    files = {}
    for path in sorted(folder.rglob("*")):
        memory = {"checkpoint", "clients"} & set(path.parts)
        if path.is_file() and not path.name.startswith(("shard-", ".")) and not memory:
            data = re.sub(rb"(?m)^  out: .*$", b"  out: where it ran", path.read_bytes().replace(bytes(folder), b"OUT"))
            name = re.sub(r"\b[0-9a-f]{16}\b", "KEY", str(path.relative_to(folder)))
            files[name] = re.sub(rb"\b[0-9a-f]{16}\b", b"KEY", data)
    return files


@pytest.mark.parametrize(("command", "status"), [(COMPARE, 1), (SWEEP, 0)], ids=["compare", "sweep"])
def test_shards_put_together_are_the_whole(capsys, tmp_path, timeless, command, status):
    """On one disk and on three; `fedprox` refuses two architectures, and a learning rate of 1e30 diverges."""
    assert main([*command, "--out", "whole"]) == status
    table = capsys.readouterr().out.replace(str(tmp_path / "whole"), "")
    whole = left(tmp_path / "whole")
    assert len([name for name in whole if name.endswith("rounds.jsonl")]) > 1
    for number in (1, 2, 3):
        main([*command, "--out", f"part{number}", "--shard", f"{number}/3"])
        shutil.copytree(f"part{number}", "shared", dirs_exist_ok=True)
    capsys.readouterr()
    assert main(["merge", "part1", "part2", "part3", "--out", "merged"]) == status
    assert capsys.readouterr().out.replace(str(tmp_path / "merged"), "") == table
    assert left(tmp_path / "merged") == whole
    assert main(["merge", "shared"]) == status
    assert left(tmp_path / "shared") == whole


def test_shards_that_share_a_folder_need_no_copies(capsys, tmp_path, runs):
    for number in (1, 2):
        assert main(["compare", "local", "fd", "--set", TINY, "--out", "both", "--shard", f"{number}/2"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert f"shard 2/2: 1 of 1 runs are done; when all shards are: fd-flower merge {tmp_path / 'both'}" in said
    assert not (tmp_path / "both" / "compare.md").exists()
    assert main(["merge", "both"]) == 0
    assert (tmp_path / "both" / "compare.md").is_file()
    assert main(["compare", "local", "fd", "--set", TINY, "--out", "both", "--quiet"]) == 0  # finds all of them there
    assert runs == ["local-seed0", "fd-seed0"]


def test_a_shard_that_is_missing_is_named(capsys, tmp_path):
    assert main(["compare", "local", "fd", "--set", TINY, "--out", "both", "--shard", "1/2", "--quiet"]) == 0
    assert main(["merge", "both"]) == 1
    assert "fd-seed0 is missing: no shard has run it\n" in capsys.readouterr().out
    (tmp_path / "both" / "local-seed0" / "summary.json").unlink()
    assert main(["merge", "both"]) == 1
    assert f"unfinished, 2 of 2 rounds are in {tmp_path}/both/local-seed0" in capsys.readouterr().out


def test_a_run_that_went_on_since_it_was_copied_is_copied_again(tmp_path):
    assert main(["compare", "local", "--set", TINY, "--out", "part", "--shard", "1/1", "--quiet"]) == 0
    summary = tmp_path / "part" / "local-seed0" / "summary.json"
    text = summary.read_bytes()
    summary.unlink()
    assert main(["merge", "part", "--out", "whole"]) == 1
    summary.write_bytes(text)
    assert main(["merge", "part", "--out", "whole"]) == 0


def test_every_run_is_in_one_shard():
    whole = Plan(Path("/out"), {name: Order("fd", (), Path("/out", name)) for name in "abcdefg"})
    parts = [list(Shard(number, 3, "compare", {}).deal(whole).orders) for number in (1, 2, 3)]
    assert parts == [["a", "d", "g"], ["b", "e"], ["c", "f"]]
    assert list(Shard(9, 9, "compare", {}).deal(whole).orders) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shard", "0/3", "--out", "a"], "--shard '0/3' is no part of a whole: expected I/N, with I from 1 to N"),
        (["--shard", "4/3", "--out", "a"], "'4/3' is no part"),
        (["--shard", "one", "--out", "a"], "'one' is no part"),
        (["--shard", "1/3"], "--shard 1/3 needs --out DIR"),
    ],
)
def test_what_is_no_shard_is_one_line_before_anything_runs(capsys, tmp_path, runs, arguments, told):
    assert main(["compare", "local", "--set", TINY, *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert (runs, list(tmp_path.iterdir())) == ([], [])


def test_what_does_not_belong_together_is_refused(capsys, tmp_path, runs):
    part = ["compare", "local", "--quiet", "--shard", "1/2", "--set", TINY]
    assert main([*part, "--out", "a"]) == 0
    assert main([*part, "--out", "again"]) == 0
    assert main([*part, "--seeds", "2", "--out", "b"]) == 0
    (tmp_path / "none").mkdir()
    capsys.readouterr()
    for arguments, told in (
        ([*part, "--seeds", "3", "--out", "a"], "a/shard-1-of-2.json is of another command, with seeds 1, not 3"),
        (["merge", "a", "b", "--out", "c"], "b/shard-1-of-2.json is of another command, with seeds 2, not 1"),
        (["merge", "a", "again", "--out", "c"], "are two runs of one name: leave one of them out"),
        (["merge", "none"], "none holds no shard (no shard-*-of-*.json)"),
        (["merge", "a", "b"], "2 folders make one: say where by --out DIR"),
    ):
        assert main(arguments) == 2
        assert told in capsys.readouterr().err
    assert len(runs) == 3
    assert not (tmp_path / "c").exists()


def test_the_command_of_the_whole_is_told(monkeypatch):
    monkeypatch.setattr("sys.argv", ["fd-flower", "compare", "fd", "--shard", "1/3", "--out", "a b", "--shard=2/3"])
    assert command_line() == "fd-flower compare fd --out 'a b'"


@pytest.mark.skipif(not SBATCH.is_file(), reason="looks at the checkout")
def test_the_batch_file_deals_the_runs_over_its_array(capsys, tmp_path):
    """As Slurm starts its third task, but for Slurm."""
    command = tmp_path / "bin" / "fd-flower"
    command.parent.mkdir()
    command.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > words\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", str(SBATCH)], env={**os.environ, **slurm, "PATH": path}, check=True)
    words = (tmp_path / "words").read_text().splitlines()
    assert words[words.index("--shard") + 1] == "3/4"
    words[words.index("--devices") + 1] = "99"
    assert main(words) == 2
    assert "--devices 99: " in capsys.readouterr().err  # all else was understood
    (merge,) = re.findall(r"--wrap 'fd-flower (.*)'", SBATCH.read_text())
    assert main(merge.split()) == 2
    assert f"{words[words.index('--out') + 1]} holds no shard" in capsys.readouterr().err


def test_a_shards_file_is_read_as_it_was_written(tmp_path):
    part = Shard(2, 3, "compare", {"methods": ["fd"]}, {"reach": 0.5}, "fd-flower compare fd", {"fd-seed1": "it fell"})
    part.write(tmp_path)
    assert Shard(**json.loads((tmp_path / "shard-2-of-3.json").read_text())) == part
