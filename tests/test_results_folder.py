"""A run folder survives being killed, cut and finished."""

import json

import pytest
from helpers.drawing import draw

from fd_flower.config import RunConfig, ServerConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder

RUN_KEY = "0123456789abcdef"
SETTINGS = Settings("fd", server=ServerConfig(rounds=3), run=RunConfig(seed=7))
FACTS = {
    "method": "fd",
    "seed": 7,
    "rounds": 1,
    "clients": 1,
    "engine": "local",
    "model": "cnn",
    "data": "digits",
    "versions": {"torch": "2"},
    "evaluated": {"global": "trained", "personal": "trained"},
}
ROUND = {
    "round": 1,
    "seconds": 1.5,
    "asked": ["0"],
    "replied": ["0"],
    "failed": {},
    "bytes": {"up": {"class-logits": 10}, "down": {}, "wire": 10},
    "metrics": {"loss": 0.5},
    "global": None,
}
CLIENT = {"round": 1, "client": "0", "examples": 9, "metrics": {}, "evaluations": {"trained": {"accuracy": 0.5}}}


@pytest.fixture
def folder(tmp_path):
    made = RunFolder.create(tmp_path / "run", SETTINGS, RUN_KEY)
    made.release()
    return made


def test_what_was_written_is_read_back(folder):
    folder.append([{"round": 1}, {"round": 1, "client": "0"}])
    folder.append([{"round": 2}])
    again = RunFolder.open(folder.path)
    assert again.run_key == RUN_KEY
    assert again.config == SETTINGS.tree()
    assert again.lines() == [{"round": 1}, {"round": 1, "client": "0"}, {"round": 2}]


def test_a_folder_that_holds_a_run_is_refused(folder):
    with pytest.raises(InvalidInputError, match=r"already holds a run.*run\.resume=") as refused:
        RunFolder.create(folder.path, SETTINGS, "other")
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_run_cannot_be_opened(tmp_path):
    with pytest.raises(InvalidInputError, match="holds no run"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize("content", ["- 1\n", "method: fd\n", "a: [\n"])
def test_a_config_that_is_no_run_s_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InvalidInputError, match=r"config\.yaml"):
        RunFolder.open(tmp_path)


def read_all(folder) -> None:
    opened = RunFolder.open(folder.path)
    assert opened.summary
    assert opened.lines()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"{", b"7\n", bytes(range(256)), b"[" * 5000])
@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "rounds.jsonl"])
def test_a_file_of_something_else_is_one_line(folder, name: str, content: bytes):
    folder.append([ROUND])
    folder.finish(FACTS)
    (folder.path / name).write_bytes(content + b"\n")
    with pytest.raises(InvalidInputError, match=name) as refused:
        read_all(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "rounds.jsonl"])
def test_a_folder_in_place_of_a_file_is_one_line(folder, name: str):
    folder.append([ROUND])
    folder.finish(FACTS)
    (folder.path / name).unlink()
    (folder.path / name).mkdir()
    with pytest.raises(InvalidInputError, match=f"{name}|holds no run|not finished"):
        read_all(folder)


@pytest.mark.parametrize("line", ["7", "[1]", "{}", '{"round": "1"}', '{"round": true}'])
def test_a_line_without_a_round_is_named(folder, line: str):
    (folder.path / "rounds.jsonl").write_text('{"round": 1}\n' + line + "\n")
    with pytest.raises(InvalidInputError, match="line 2"):
        folder.lines()


@pytest.mark.parametrize("key", ["../../elsewhere", "0123456789ABCDEF", "1", ""])
def test_a_run_key_that_is_none_is_refused(folder, key: str):
    config = folder.path / "config.yaml"
    config.write_text(config.read_text().replace(RUN_KEY, f"'{key}'"))
    with pytest.raises(InvalidInputError, match=r"has the run_key '.*'; expected 16 hexadecimal digits"):
        RunFolder.open(folder.path)


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    first = RunFolder.create(tmp_path, SETTINGS, RUN_KEY)
    for other in (RunFolder.open(tmp_path).lock, lambda: RunFolder.create(tmp_path, SETTINGS, RUN_KEY)):
        with pytest.raises(InvalidInputError, match=f"another run is writing {tmp_path}: wait for its end"):
            other()
    first.release()
    second = RunFolder.open(tmp_path)
    second.lock()
    second.release()


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match=r"file/run cannot be written \(Not a directory\): name another folder"):
        RunFolder.create(tmp_path / "file" / "run", SETTINGS, RUN_KEY)


def test_a_torn_last_line_does_not_count(folder):
    folder.append([{"round": 1}, {"round": 2}])
    file = folder.path / "rounds.jsonl"
    file.write_bytes(file.read_bytes()[:-1])  # even whole JSON without its end: it may be the start of a longer number
    assert folder.lines() == [{"round": 1}]
    folder.append([{"round": 3}])
    assert folder.lines() == [{"round": 1}, {"round": 3}]


def test_a_torn_only_line_does_not_count(folder):
    (folder.path / "rounds.jsonl").write_text('{"rou')
    assert folder.lines() == []
    folder.append([{"round": 1}])
    assert folder.lines() == [{"round": 1}]


def test_a_broken_line_in_the_middle_is_named(folder):
    (folder.path / "rounds.jsonl").write_text('{"round": 1}\n{"rou\n{"round": 2}\n')
    with pytest.raises(InvalidInputError, match="line 2"):
        folder.lines()


def test_cut_drops_later_and_closing_lines_and_the_end(folder):
    closing = {**CLIENT, "closing": True}
    folder.append([ROUND, CLIENT, closing, {**ROUND, "round": 2}])
    with (folder.path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 1, "cli')
    folder.finish(FACTS)
    assert folder.finished
    folder.cut(1)
    assert folder.lines() == [ROUND, CLIENT]
    assert (folder.path / "rounds.jsonl").read_text().count("\n") == 2
    assert sorted(file.name for file in folder.path.iterdir()) == [".lock", "config.yaml", "rounds.jsonl"]
    assert not folder.finished


def test_an_updated_run_has_the_new_settings_and_the_old_key(folder):
    folder.update(Settings("fd", server=ServerConfig(rounds=9)))
    again = RunFolder.open(folder.path)
    assert again.config["server"]["rounds"] == 9
    assert again.run_key == RUN_KEY


def test_finish_leaves_everything_behind(folder):
    folder.append([ROUND, CLIENT])
    summary = folder.finish(FACTS)
    draw(folder)
    assert summary["accuracy"]["personal"]["final"] == 0.5
    assert folder.summary == summary == json.loads((folder.path / "summary.json").read_text())
    assert (folder.path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (folder.path / "report.html").read_text().startswith("<!doctype html>")
    names = {".lock", "config.yaml", "rounds.jsonl", "summary.json", "curves.png", "report.html"}
    assert {file.name for file in folder.path.iterdir()} == names


def test_figures_that_diverged_are_null(folder):
    evaluations = {"trained": {"accuracy": 0.5, "nll": float("inf"), "ece": float("nan")}}
    folder.append([{**ROUND, "metrics": {"loss": float("nan")}}, {**CLIENT, "evaluations": evaluations}])
    assert "NaN" not in (folder.path / "rounds.jsonl").read_text()
    assert folder.lines()[0]["metrics"] == {"loss": None}
    assert folder.finish(FACTS)["calibration"]["personal"] == {"ece": None, "nll": None}


def test_an_unfinished_run_has_no_summary(folder):
    with pytest.raises(InvalidInputError, match="not finished"):
        folder.summary  # noqa: B018 (the property raises)
