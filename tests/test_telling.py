"""What a run logs, under `flwr run` as anywhere: one line a round, and at its end what it came to and what that is."""

import logging
import re
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.app import Context, MetricRecord, RecordDict
from helpers.grids import hosts
from helpers.tiny import brief, start, toy_settings

from fd_flower import server_app
from fd_flower.cli import main
from fd_flower.cli.console import Output
from fd_flower.core.errors import RunError
from fd_flower.results import RunFolder
from fd_flower.results.outcome import ending, standing
from fd_flower.server.telling import log_round


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture):
    """Return what was logged since, line by line."""
    logging.getLogger("flwr").propagate = True
    caplog.set_level(logging.INFO, logger="flwr")
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_round_is_one_line_with_the_figures_that_the_command_shows(logged, tmp_path: Path):
    lines = start(toy_settings("fd", f"server.rounds=2 run.out={tmp_path}/run"), hosts("fd"))[2]
    own = [line["evaluations"]["trained"]["accuracy"] for line in lines if line["round"] == 2 and "client" in line]
    (told,) = [text for text in logged() if text.startswith("round 2 of 2: ")]
    assert told.startswith(f"round 2 of 2: 3 of 3 clients, personal {sum(own) / len(own):.1%}, loss ")
    assert re.search(r"loss \d+\.\d{3}, \d+\.\d s$", told)


@pytest.mark.usefixtures("drawn")
def test_the_end_says_what_the_run_came_to_and_where_its_report_is(logged, tmp_path: Path):
    start(toy_settings("fedavg", f"run.out={tmp_path}/run"), hosts("fedavg"))
    told = logged()
    assert told[-3:] == ending(RunFolder.open(tmp_path / "run"))
    assert re.match(r"global \d+\.\d% \(selected ", told[-3])
    assert "final, after the last round" in told[-2]
    assert told[-1] == f"report: {tmp_path}/run/report.html"
    assert not any("{}" in text or "None" in text or re.search(r"\de-\d", text) for text in told)


def test_a_run_that_writes_nothing_ends_with_its_time_and_how_to_get_a_report(logged):
    start(toy_settings("fd", "server.rounds=1"), hosts("fd"))
    *_, time, hint = logged()
    assert re.fullmatch(r"1 rounds in \d+\.\d s", time)
    assert hint.startswith("nothing was written: run=Run(out='/an/absolute/folder')")


def test_small_and_large_numbers_are_written_out(logged):
    line = {"round": 1, "asked": ["0", "1"], "replied": ["0"], "seconds": 0.04, "metrics": {"loss": 1.234e-7}}
    log_round(1, 9, [line], MetricRecord({"accuracy": 0.5, "perplexity": 1.5e9}))
    assert logged() == [
        "round 1 of 9: 1 of 2 clients, loss 0.000, accuracy 0.500 (evaluate_fn), "
        "perplexity 1,500,000,000.000 (evaluate_fn), 0.0 s"
    ]


def test_a_run_under_flower_that_fails_says_what_stands_and_how_it_goes_on(logged, tmp_path: Path, monkeypatch):
    lines = [{"round": number, "failed": {}} for number in (1, 2)]

    class Failing:
        def start(self, grid: object) -> None:
            RunFolder.create(tmp_path / "run", chosen[0], "0" * 16).append(lines)
            raise RunError("no client replied")

    chosen: list[Any] = []
    monkeypatch.setattr(server_app.Strategy, "for_method", lambda settings: chosen.append(settings) or Failing())
    context = Context(1, 0, {}, RecordDict(), {"method": "fd", "set": f"server.rounds=5 run.out={tmp_path}/run"})
    with pytest.raises(RunError):
        server_app.main(cast(Any, None), context)
    assert logged()[-1] == (
        f"2 of 5 rounds are in {tmp_path}/run, resume: "
        f"flwr run . --stream --run-config \"method='fd' set='run.resume={tmp_path}/run'\""
    )


def test_a_run_that_was_broken_off_says_how_far_it_came(tmp_path: Path):
    folder = RunFolder.create(tmp_path / "run", toy_settings("fd", "server.rounds=7"), "0" * 16)
    assert standing(folder) == f"0 of 7 rounds are in {tmp_path}/run"
    folder.append([{"round": 3}])
    assert standing(folder) == f"3 of 7 rounds are in {tmp_path}/run"


# --- the page, and help


def test_open_opens_the_report_or_says_where_it_is(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    words = ["--set", f"{brief('local')} server.rounds=1 run.device=cpu", "--quiet", "--open"]
    assert main(["run", "local", "--out", "a", *words], Output(opener=lambda url: not opened.append(url))) == 0
    assert opened == [(tmp_path / "a" / "report.html").as_uri()]
    assert capsys.readouterr().err == ""
    assert main(["run", "local", "--out", "b", *words], Output(opener=lambda url: False)) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path}/b\n"
    assert told.err == f"fd-flower: no browser could be started here; the page is {tmp_path}/b/report.html\n"


@pytest.mark.parametrize(
    "command", ["", *(f"{name} " for name in ("run", "compare", "sweep", "merge", "keys", "doctor"))]
)
def test_h_is_help(capsys, command):
    assert main([*command.split(), "-h"]) == 0
    assert f"Usage: fd-flower {command}" in capsys.readouterr().out
