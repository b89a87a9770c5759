"""Trackers: TensorBoard's events, an offline folder of W&B and MLflow's SQLite, read back by their own code."""

import logging
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.deployment import until
from helpers.tiny import toy_settings

from fd_flower import engine
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder, trackers


def run(name: str, folder: Path, rounds: int) -> None:
    changes = f"server.rounds={rounds} run.keep=last run.track={name} run.out={folder}"
    engine.run(toy_settings("fd", changes))


def resume(folder: Path, rounds: int, more: str = "") -> None:
    engine.run(settings("fd", f"run.resume={folder} server.rounds={rounds} {more}"))


def accuracies(folder: Path) -> list[tuple[int, float]]:
    """Return clients' mean accuracy after each round, by the lines."""
    lines = [line for line in RunFolder.open(folder).lines() if "client" in line]
    numbers = sorted({line["round"] for line in lines})
    of = {n: [line["evaluations"]["trained"]["accuracy"] for line in lines if line["round"] == n] for n in numbers}
    return [(number, sum(values) / len(values)) for number, values in of.items()]


def near(points: Any, expected: list[tuple[int, float]]) -> None:
    points = list(points)
    assert [step for step, _ in points] == [step for step, _ in expected]
    assert [value for _, value in points] == pytest.approx([value for _, value in expected], abs=1e-6)


@pytest.fixture(autouse=True)
def _away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


# --- TensorBoard


def test_tensorboard_has_each_round_once_the_options_and_the_final_figures(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run("tensorboard", tmp_path, 2)
    resume(tmp_path, 3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    near([(e.step, e.value) for e in events.Scalars("trained/accuracy")], accuracies(tmp_path))
    finals = [(e.step, e.value) for e in events.Scalars("summary/personal_final")]
    assert finals[-1] == (3, pytest.approx(RunFolder.open(tmp_path).summary["accuracy"]["personal"]["final"]))
    assert "options/text_summary" in events.Tags()["tensors"]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["client.batch"].number_value == RunFolder.open(tmp_path).settings.client.batch


def test_a_tracker_that_comes_later_gets_the_rounds_before(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    engine.run(toy_settings("fd", f"server.rounds=2 run.keep=last run.out={tmp_path}"))
    resume(tmp_path, 3, "run.track=tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    near([(e.step, e.value) for e in events.Scalars("trained/accuracy")], accuracies(tmp_path))


# --- Weights & Biases


def records(folder: Path) -> list[Any]:
    """Return what an offline run of W&B wrote, in the order of its folders, once its own process has ended it."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: list[Any] = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        own: list[Any] = []

        def ended(path: Path = path, own: list[Any] = own) -> bool:
            own[:] = map(Record.FromString, entries(path.read_bytes()))
            return any(record.HasField("exit") for record in own)

        until(ended, "the end of an offline run")
        found += own
    return found


def entries(log: bytes, block: int = 2**15) -> Iterator[bytes]:
    """Yield the entries of a log in LevelDB's format, after a header of seven bytes.

    An entry is in one part or more, each with a checksum (4 bytes), its length (2) and its place (1: the whole entry,
    2: its beginning, 3: its middle, 4: its end) before it; what is left of a block is no part where it is too short.
    """
    at, whole = 7, b""
    while at + 7 <= len(log):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, place = struct.unpack("<HB", log[at + 4 : at + 7])
        whole += log[at + 7 : at + 7 + length]
        at += 7 + length
        if place in (1, 4):
            yield whole
            whole = b""


def test_wandb_offline_has_each_round_once_the_options_and_the_report(tmp_path: Path, drawn):
    pytest.importorskip("wandb")
    run("wandb", tmp_path, 2)
    resume(tmp_path, 3)
    found, key = records(tmp_path), RunFolder.open(tmp_path).run_key
    begun = [record.run for record in found if record.HasField("run")]
    assert {(each.run_id, each.project, each.display_name) for each in begun} == {(key, "fd-flower", tmp_path.name)}
    steps = []
    for record in found:
        if record.HasField("history"):
            items = {(i.key or "/".join(i.nested_key)): i.value_json for i in record.history.item}
            if "trained/accuracy" in items:
                steps.append((record.history.step.num, float(items["trained/accuracy"])))
    near(steps, accuracies(tmp_path))
    options = {i.key or ".".join(i.nested_key) for r in found if r.HasField("config") for i in r.config.update}
    assert "client.batch" in options
    files = {e.path for r in found if r.HasField("request") for e in r.request.log_artifact.artifact.manifest.contents}
    files |= {e.path for r in found if r.HasField("artifact") for e in r.artifact.manifest.contents}
    assert {"report.html", "summary.json"} <= files


def test_wandb_without_a_key_says_what_to_do_and_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wandb = pytest.importorskip("wandb")

    def refused(**_: object) -> None:
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refused)
    with pytest.raises(InvalidInputError, match=r"wandb cannot start: No API key .* by WANDB_MODE=offline$"):
        run("wandb", tmp_path, 1)
    engine.run(toy_settings("fd", f"run.out={tmp_path}"))


# --- MLflow


def test_mlflow_has_each_round_once_the_options_the_final_figures_and_the_report(tmp_path: Path, drawn):
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    run("mlflow", tmp_path, 2)
    resume(tmp_path, 3)
    client, folder = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), RunFolder.open(tmp_path)
    experiment = client.get_experiment_by_name("fd-flower")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (tmp_path.name, "FINISHED")
    assert found.data.tags["run_key"] == folder.run_key
    assert found.data.params["client.batch"] == str(folder.settings.client.batch)
    history = client.get_metric_history(found.info.run_id, "trained/accuracy")
    near([(point.step, point.value) for point in history], accuracies(tmp_path))
    assert found.data.metrics["summary/personal_final"] == folder.summary["accuracy"]["personal"]["final"]
    assert {f.path for f in client.list_artifacts(found.info.run_id)} >= {"report.html", "curves.png", "config.yaml"}
    assert (tmp_path / "mlartifacts").is_dir()


# --- all of them


def test_several_are_named_with_commas_between(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fd_flower.results.trackers.base.import_module", lambda name: None)
    assert list(trackers.named(("wandb", "mlflow"))) == ["wandb", "mlflow"]


@pytest.mark.parametrize("name", list(trackers.CLASSES))
def test_a_missing_package_is_one_line_before_round_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        InvalidInputError, match=rf"run.track={name} needs {name} \(.*\): pip install 'fd-flower\[{name}\]'"
    ):
        run(name, tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_folder_says_so(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("tensorboard")
    with pytest.raises(InvalidInputError, match=r"tensorboard writes into the run's folder, .* give run.out"):
        engine.run(toy_settings("fd", "run.track=tensorboard"))


def test_one_that_fails_midway_costs_a_warning_and_the_next_resume_sends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from fd_flower.results.trackers.tensorboard import TensorBoard

    log = TensorBoard.log

    def full(self: TensorBoard, metrics: dict[str, float], step: int) -> None:
        if step == 2:
            raise OSError(28, "No space left on device")
        log(self, metrics, step)

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "flwr"):
        patch.setattr(TensorBoard, "log", full)
        run("tensorboard", tmp_path, 3)
    (warning,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert "tensorboard is left out from here on, the run continues: on_round raised OSError" in warning
    assert RunFolder.open(tmp_path).summary["rounds"] == 3
    resume(tmp_path, 4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    near([(e.step, e.value) for e in events.Scalars("trained/accuracy")], accuracies(tmp_path))
