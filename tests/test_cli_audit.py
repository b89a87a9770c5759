"""``fd-flower audit``: what is written, a run that is run again, and errors before anything trains."""

import json
from pathlib import Path

import pytest
from helpers.tiny import run

from fd_flower.audit.findings import Finding, Histogram
from fd_flower.audit.report import labels, notes, table
from fd_flower.audit.run import Audit
from fd_flower.cli import audit, main
from fd_flower.core.errors import InvalidInputError

TINY = (
    "data.source=digits data.clients=3 data.partition=iid model.name=mlp data.public_size=40 data.public_batch=20 "
    "server.rounds=1 client.steps=2 client.optimizer=sgd client.lr=0.1 client.batch=16 run.device=cpu"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(knowledge: str, attack: str, *values: float) -> Finding:
    clients = tuple(map(str, range(len(values))))
    return Finding(knowledge, attack, clients, values, tuple(value / 10 for value in values))


def test_a_table_has_means_over_clients_and_seeds():
    audits = [
        Audit("fd", 0, (found("class means", "fit", 0.4, 0.5),), (Histogram("sent", ("0",), (0.1,), (0.2,)),), ()),
        Audit("fd", 1, (found("class means", "fit", 0.6, 0.7),), (Histogram("sent", ("0",), (0.3,), (0.2,)),), ()),
    ]
    (row,) = table(audits).rows
    # The deviation of .4 .5 .6 .7 is .129; Student's factor for 3 degrees of freedom is 3.182.
    assert [cell.text for cell in row] == ["fd", "class means", "fit", "0.55 ± 0.21", "0.05 ± 0.02"]
    (row,) = labels(audits).rows
    assert [cell.text for cell in row][:2] == ["fd", "sent"]
    assert row[2].text.startswith("0.200")


def test_chance_names_what_was_not_tried_and_success_does_not():
    chance = found("sum of class means", "fit", 0.45, 0.5, 0.55)
    success = found("weights", "loss threshold", 0.9, 0.91, 0.92)
    (note,) = notes([Audit("fd", 0, (chance,), (), ()), Audit("fedavg", 0, (success,), (), ())])
    assert note.startswith("fd, sum of class means: no attack is better than chance here. Not tried: simulated")
    assert "a single client is missing" in note


def test_the_command_writes_tables_figures_and_a_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    words = ["audit", "fedavg", "fd", "--set", TINY, "--candidates", "10", "--shadow-steps", "2", "--seeds", "2"]
    assert main([*words, "--out", "audited", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "TPR at 1 % FPR" in shown
    assert shown.strip().endswith(str(tmp_path / "audited"))
    content = json.loads((tmp_path / "audited" / "audit.json").read_text())
    assert [(each["name"], each["seed"]) for each in content["audits"]] == [
        ("fedavg", 0), ("fedavg", 1), ("fd", 0), ("fd", 1),
    ]  # fmt: skip
    assert len(content["audits"][0]["findings"][0]["auc"]) == 3
    page = (tmp_path / "audited" / "audit.md").read_text()
    assert "| fd | class means | tracing |" in page
    assert (tmp_path / "audited" / "audit.png").is_file()


def test_a_finished_run_is_audited_by_its_settings(tmp_path: Path):
    run("fd", TINY, out=tmp_path / "run")
    more = ["--candidates", "10", "--shadow-steps", "2", "--quiet"]
    assert main(["audit", "run", "--out", "of-run", *more]) == 0
    assert main(["audit", "fd", "--set", TINY, "--out", "of-method", *more]) == 0
    one, other = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("of-run", "of-method"))
    assert [each.pop("name") for each in (one["audits"][0], other["audits"][0])] == ["run", "fd"]
    assert one["audits"] == other["audits"]


def test_two_runs_of_one_name_are_not_mixed(tmp_path: Path):
    for place in ("a", "b"):
        run("fd", TINY, out=tmp_path / place / "run")
    with pytest.raises(InvalidInputError, match="two of what is audited are called 'run'"):
        audit.ordered(["a/run", "b/run"], [], None, tmp_path / "out", "", 1, 10, 2)


def test_a_failed_audit_is_named_and_the_others_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def failing(name: str, *more: object) -> Audit:
        if name == "fd":
            raise RuntimeError("out of luck")
        return Audit(name, 0, (found("weights", "loss threshold", 0.9),), (), ())

    monkeypatch.setattr(audit, "audit", failing)
    assert main(["audit", "fedavg", "fd", "--set", TINY, "--out", "audited"]) == 1
    shown = capsys.readouterr().out
    assert "fd-seed0 is missing: RuntimeError: out of luck" in shown
    assert "weights" in shown


@pytest.mark.parametrize(
    ("asked", "changes", "reason"),
    [
        (["local"], [TINY], "local sends nothing"),
        (["run"], [TINY], "has its own settings: leave out --set"),
        (["run"], [], "is no finished run"),
        (["fedavg"], [TINY, "data.limit=60"], r"10 candidates of client 0 .* lower --candidates"),
    ],
)
def test_errors_are_one_line_before_anything_trains(asked: list[str], changes: list[str], reason: str, tmp_path: Path):
    run("fd", TINY, out=tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(InvalidInputError, match=reason):
        audit.ordered(asked, changes, None, tmp_path / "out", "", 1, 10, 2)
    assert not (tmp_path / "out").exists()


def test_a_run_of_devices_cannot_be_run_again(tmp_path: Path):
    run("fd", TINY, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["data"]["source"] = "each device's own folder"
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(InvalidInputError, match="is a run of devices, whose samples are not here"):
        audit.ordered([str(tmp_path / "run")], [], None, tmp_path / "out", "", 1, 10, 2)
