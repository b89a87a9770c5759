"""A run that was killed and goes on ends as one that was not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from helpers.grids import Spoilt, hosts
from helpers.resumed import again, assert_same, outcome, started
from helpers.tasks import task
from helpers.tiny import rounds, start

from fd_flower import methods
from fd_flower.config import ServerConfig
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.server import Run, Strategy
from fd_flower.server.checkpoint import FILE, Checkpoint


class Killed(BaseException):
    """What ends a process, which no ``except Exception`` holds up."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a run of four rounds that nobody disturbed."""
    folders: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in folders:
            folders[method] = tmp_path_factory.mktemp(method) / "run"
            start(started(method, folders[method], 4), hosts(method))
        return folders[method]

    return run


@pytest.mark.parametrize("method", methods.names())
def test_a_run_killed_in_mid_round_goes_on_on_another_number_of_nodes(
    method: str, tmp_path: Path, whole: Callable[[str], Path]
):
    """Client 1 is killed in round three, when client 0 has had its turn already; the round is played again."""

    def kill(client: str, round: int, content: RecordDict) -> RecordDict:
        if (client, round) == ("1", 3):
            raise Killed
        return content

    with pytest.raises(Killed):
        start(started(method, tmp_path, 4), InProcessGrid(Spoilt(methods.client_app(method), kill)))
    assert [line["round"] for line in rounds(RunFolder.open(tmp_path).lines())] == [1, 2]
    _, _, received = start(again(method, tmp_path), hosts(method, 2))
    assert [line["round"] for line in rounds(received)] == [3, 4]
    assert_same(tmp_path, whole(method))


def test_a_run_killed_between_the_lines_and_the_checkpoint_plays_the_round_again(
    tmp_path: Path, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    def kill(checkpoint: Checkpoint, *where: Any) -> None:
        if checkpoint.round == 3:
            raise Killed
        write(checkpoint, *where)

    write = Checkpoint.write
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", kill)
        with pytest.raises(Killed):
            start(started("fd", tmp_path, 4), hosts("fd"))
    assert [line["round"] for line in rounds(RunFolder.open(tmp_path).lines())] == [1, 2, 3]
    start(again("fd", tmp_path), hosts("fd"))
    assert_same(tmp_path, whole("fd"))


def test_a_run_killed_after_its_last_round_only_finishes(tmp_path: Path, whole: Callable[[str], Path]):
    strategy = Strategy.for_method(started("fedmd", tmp_path, 4))

    def kill(line: dict[str, Any]) -> None:
        if line["round"] == 4:
            raise Killed

    strategy.on_line = kill
    with pytest.raises(Killed):
        strategy.start(hosts("fedmd"))
    _, result, received = start(again("fedmd", tmp_path), hosts("fedmd"))
    assert rounds(received) == []
    assert set(result.arrays) == {"public-logits/index", "public-logits/values"}
    assert_same(tmp_path, whole("fedmd"))


def test_a_run_killed_in_round_one_begins_again(tmp_path: Path, whole: Callable[[str], Path]):
    def kill(client: str, round: int, content: RecordDict) -> RecordDict:
        if (client, round) == ("2", 1):
            raise Killed
        return content

    with pytest.raises(Killed):
        start(started("fd", tmp_path, 4), InProcessGrid(Spoilt(methods.client_app("fd"), kill)))
    start(again("fd", tmp_path), hosts("fd"))
    assert_same(tmp_path, whole("fd"))


def test_a_torn_last_line_does_not_count(tmp_path: Path, whole: Callable[[str], Path]):
    start(started("fd", tmp_path, 2, "run.keep=last"), hosts("fd"))
    (tmp_path / "summary.json").unlink()
    with (tmp_path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 3, "asked": ["0"')
    start(again("fd", tmp_path, "server.rounds=4"), hosts("fd"))
    assert_same(tmp_path, whole("fd"))


@pytest.mark.parametrize("method", methods.names())
def test_a_finished_run_that_was_kept_can_have_more_rounds(method: str, tmp_path: Path, whole: Callable[[str], Path]):
    """The first run's closing figures are dropped: they are not the last round's any more."""
    start(started(method, tmp_path, 2, "run.keep=last"), hosts(method))
    start(again(method, tmp_path, "server.rounds=4"), hosts(method))
    assert_same(tmp_path, whole(method))
    assert RunFolder.open(tmp_path).settings.server.rounds == 4


def test_a_finished_run_that_was_not_kept_says_why_it_cannot_go_on(tmp_path: Path):
    start(started("fd", tmp_path, 2, "run.keep=none"), hosts("fd"))
    before = (tmp_path / "rounds.jsonl").read_bytes()
    with pytest.raises(InvalidInputError, match=r"is finished and its clients' memory is gone; .* needs run.keep=last"):
        start(again("fd", tmp_path, "server.rounds=4"), hosts("fd"))
    assert (tmp_path / "rounds.jsonl").read_bytes() == before
    assert RunFolder.open(tmp_path).finished


def test_a_finished_run_stays_as_it_is(tmp_path: Path):
    start(started("fedmd", tmp_path, 2), hosts("fedmd"))
    before = outcome(tmp_path)
    _, result, received = start(again("fedmd", tmp_path), hosts("fedmd"))
    after = outcome(tmp_path)
    assert received == []
    assert before[:2] == after[:2]
    assert "public-logits/values" in result.arrays


def test_a_run_is_not_begun_where_another_lies(tmp_path: Path):
    start(started("local", tmp_path, 1), hosts("local"))
    with pytest.raises(InvalidInputError, match=r"already holds a run: resume it with run\.resume"):
        start(started("local", tmp_path, 1), hosts("local"))


def test_a_torn_checkpoint_is_named(tmp_path: Path):
    start(started("fedavg", tmp_path, 2, "run.keep=last"), hosts("fedavg"))
    (tmp_path / FILE).write_bytes(b"torn")
    with pytest.raises(InvalidInputError, match=r"the checkpoint .*knowledge.safetensors cannot be read"):
        start(again("fedavg", tmp_path, "server.rounds=3"), hosts("fedavg"))


def test_a_strategy_in_somebodys_project_goes_on_too(tmp_path: Path):
    """Rounds count on in what Flower returns, and its evaluate_fn is not asked again about the round before."""

    def grid() -> InProcessGrid:
        return InProcessGrid(methods.client_app("fedavg"), run_config={"task": "helpers.tasks:task"})

    asked: list[int] = []

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        asked.append(number)
        return MetricRecord({"round": number})

    cls = methods.strategy("fedavg")
    first = cls(ServerConfig(rounds=2), task=task(), run=Run(clients=3, out=str(tmp_path / "run"), keep="last"))
    first.start(grid(), evaluate_fn=evaluate)
    assert asked == [0, 1, 2]
    asked.clear()
    second = cls(ServerConfig(rounds=4), task=task(), run=Run(resume=str(tmp_path / "run")))
    result = second.start(grid(), evaluate_fn=evaluate)
    assert asked == [3, 4]
    assert list(result.train_metrics_clientapp) == [3, 4]
    assert [m["round"] for m in result.evaluate_metrics_serverapp.values()] == [3, 4]
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds(lines)] == [1, 2, 3, 4]
