"""Every figure names its moment, and is there as often as it was asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, RecordDict
from helpers import tiny
from helpers.grids import Spoilt, hosts
from helpers.tiny import rounds, start, start_toy
from safetensors.torch import load_file

from fd_flower import methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.engine import InProcessGrid
from fd_flower.results import RunFolder
from fd_flower.tasks.described import load_task
from fd_flower.tasks.world import World

Lines = list[dict[str, Any]]


def measured(lines: Lines) -> dict[int, set[str]]:
    return {
        number: {m for line in lines if line.get("client") and line["round"] == number for m in line["evaluations"]}
        for number in sorted({line["round"] for line in lines})
    }


@pytest.mark.parametrize(("every", "rounds_measured"), [(1, {1, 2, 3, 4, 5}), (2, {2, 4, 5}), (0, {5}), (7, {5})])
def test_rounds_are_measured_as_often_as_asked_and_always_at_the_end(every: int, rounds_measured: set[int]):
    changes = f"server.rounds=5 server.evaluate_every={every}"
    by_client = measured(start_toy("fd", changes)[2])
    assert {number for number, moments in by_client.items() if moments} == rounds_measured
    lines = start_toy("fedavg", changes)[2]
    assert {line["round"] for line in rounds(lines) if line["global"]} == rounds_measured


def test_test_images_are_limited_in_between_and_never_at_the_end():
    lines = start_toy("fedavg", "data.test_limit=9 server.rounds=3")[2]
    assert [line["global"]["images"] for line in rounds(lines)] == [9, 9, 30]


def test_each_method_is_measured_at_its_moment():
    assert measured(start_toy("fd", "server.rounds=1")[2]) == {1: {"trained"}}
    assert measured(start_toy("fedavg", "server.rounds=1")[2]) == {1: {"trained"}}
    assert measured(start_toy("knfu", "server.rounds=1")[2]) == {1: {"received"}}


def test_moments_can_be_asked_for():
    assert measured(start_toy("fedmd", "server.rounds=1 server.evaluate=received,trained")[2]) == {
        1: {"received", "trained"}
    }
    lines = start_toy("fedavg", "server.evaluate=trained")[2]
    assert [line["global"] for line in rounds(lines)] == [None, None]


def test_figures_are_of_own_and_of_everybodys_samples():
    line = next(line for line in start_toy("fd")[2] if line.get("client"))
    by_class = ("balanced_accuracy", "macro_f1", "auc")
    own = {"accuracy", "nll", "ece", "validation", "confusion", *by_class, *(f"validation_{f}" for f in by_class)}
    own |= {"accuracy_own", "validation_accuracy_own"}
    shared = {"global", "global_nll", "global_ece", "global_confusion", "pooled", "pooled_validation"}
    shared |= {f"{part}_{figure}" for part in ("global", "pooled_validation") for figure in by_class}
    assert set(line["evaluations"]["trained"]) == own | shared
    personal = next(line for line in start_toy("fedavg")[2] if line.get("client"))
    assert set(personal["evaluations"]["trained"]) == own  # the server's model is measured once, by the server


def closing(lines: Lines) -> Lines:
    return [line for line in lines if line.get("closing")]


def test_the_closing_message_measures_what_the_last_knowledge_taught():
    """Every client receives the last consensus; without the closing message the last aggregate would never be used."""
    _, _, lines = start_toy("knfu", "server.beta=1")
    assert [line.get("client", "all") for line in closing(lines)] == ["all", "0", "1", "2"]
    assert {line["round"] for line in closing(lines)} == {2}
    for line in closing(lines)[1:]:
        assert set(line["evaluations"]) == {"received"}
    assert closing(start_toy("fd")[2]) == []


def test_the_closing_message_trains_on_no_private_data_and_writes_no_memory(tmp_path: Path):
    """Without a step of digestion the closing figures are those of the models that the last round left."""
    changes = f"client.public_steps=0 server.evaluate=received,trained run.keep=last run.out={tmp_path}/run"
    _, _, lines = start_toy("fedmd", changes)
    trained = {
        line["client"]: line["evaluations"]["trained"] for line in lines if "trained" in line.get("evaluations", {})
    }
    assert {line["client"]: line["evaluations"]["received"] for line in closing(lines)[1:]} == trained
    (of_the_run,) = (tmp_path / "run" / "clients").iterdir()
    assert sorted(path.name for path in (of_the_run / "0").glob("*-*")) == ["1-0.safetensors", "2-0.safetensors"]


def test_a_closing_message_that_fails_is_named_and_the_run_ends_well():
    class Closed(Spoilt):
        def __call__(self, message: Any, context: Any) -> Any:
            self.kind = message.metadata.message_type
            return super().__call__(message, context)

    def spoil(client: str, round: int, content: RecordDict) -> RecordDict | Error:
        return Error(2, "gone home") if app.kind == "evaluate" and client != "2" else content

    app = Closed(methods.client_app("fedmd"), spoil)
    _, _, lines = start_toy("fedmd", "server.evaluate=received", grid=InProcessGrid(app))
    assert closing(lines)[0]["failed"] == {"0": "gone home", "1": "gone home"}
    assert closing(lines)[0]["replied"] == ["2"]


def test_the_evaluated_state_is_kept_and_named(tmp_path: Path):
    """Client 0's figures are those of the model in the file that ``state`` names, not of its newest round's."""
    changes = f"server.beta=1 client.public_steps=5 run.keep=last run.out={tmp_path}/run"
    _, _, lines = start_toy("knfu", changes)
    state = json.loads((tmp_path / "run" / "summary.json").read_text())["state"]
    kept = load_file(tmp_path / "run" / state.replace("<client>", "0"))
    chosen = RunFolder.open(tmp_path / "run").settings
    world = World(chosen, load_task(chosen.task))
    model = world.load(chosen.model.name, kept)
    found = world.kind.figures(world, "0", model, None, 0)
    assert {"0": found} == {c: f["received"] for c, f in evaluations(closing(lines)).items() if c == "0"}


def test_a_kept_closing_state_changes_no_resume(tmp_path: Path):
    steady = "server.beta=1 client.schedule=constant server.rounds"
    whole = start_toy("knfu", f"{steady}=3")[2]
    start_toy("knfu", f"{steady}=2 run.keep=last run.out={tmp_path}/run")
    _, _, more = start(settings("knfu", f"server.rounds=3 run.resume={tmp_path}/run"), hosts("knfu"))
    (of_the_run,) = (tmp_path / "run" / "clients").iterdir()
    assert [path.name for path in (of_the_run / "0").glob("evaluated-*")] == []
    assert (tmp_path / "run" / "models" / "client-0.safetensors").is_file()
    assert evaluations(closing(more)) == evaluations(closing(whole))


def test_where_nothing_is_kept_no_state_is_named(tmp_path: Path):
    start_toy("knfu", f"run.keep=none run.out={tmp_path}/run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] is None


def evaluations(lines: Lines) -> dict[str, Any]:
    return {line["client"]: line["evaluations"] for line in lines if "client" in line}


def test_rounds_count_their_own_bytes_alone():
    """Public logits of 32 samples and 3 classes go up from three clients; down, which they are."""
    _, _, lines = start_toy("fedmd")
    first, second = rounds(lines)
    assert first["bytes"]["down"].keys() == {"public-index"}
    assert second["bytes"]["down"].keys() == {"public-index", "public-logits"}
    assert first["bytes"]["up"] == second["bytes"]["up"]
    assert 3 * (32 * 3 * 4 + 32 * 8) < first["bytes"]["up"]["public-logits"] < 3 * (32 * 3 * 4 + 32 * 8 + 600)


def test_where_a_runs_own_point_is_not_asked_for_accuracy_is_of_the_one_that_is(tmp_path):
    tiny.run("dsfl", tiny.TINY + "server.evaluate=received", out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name in ("global", "pooled", "personal"):
        assert summary["accuracy"][name]["evaluated"] == "received"
        assert 0 <= summary["accuracy"][name]["final"] <= 1
    with pytest.raises(InvalidInputError, match="and dsfl is evaluated at trained and received: ask for one"):
        tiny.run("dsfl", tiny.TINY + "server.evaluate=aggregated")
    with pytest.raises(InvalidInputError, match="and fedavg is evaluated at aggregated and trained: ask for one"):
        tiny.run("fedavg", tiny.TINY + "server.evaluate=received")
