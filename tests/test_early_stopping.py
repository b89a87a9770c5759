"""Early stopping by validation figures: a function of a run's lines, the same in every engine and on resume."""

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from flwr.serverapp.strategy import Result
from helpers.grids import devices, hosts
from helpers.resumed import assert_same
from helpers.tiny import figures, rounds, start, tiny_settings, toy_settings

from fd_flower import Callback, engine, methods
from fd_flower.config import Settings, settings
from fd_flower.core.client import Client
from fd_flower.core.errors import InvalidInputError
from fd_flower.core.kept import read_about
from fd_flower.methods import config
from fd_flower.results import RunFolder, kinds
from fd_flower.results.callback import Round
from fd_flower.results.validation import Validation
from fd_flower.server.stopping import check_patience

PERSONAL = {"global": "trained", "personal": "trained"}
SERVED = {"global": "aggregated", "personal": "trained"}
STILL = "client.lr=1e-30"
"""Nothing is learned, so no round is better than the first."""


def client(number: int, who: str, own: float, pooled: float = 0.0) -> dict[str, Any]:
    return {
        "round": number,
        "client": who,
        "evaluations": {"trained": {"validation": own, "pooled_validation": pooled}},
    }


def server(number: int, validation: float | None) -> dict[str, Any]:
    return {"round": number, "global": {} if validation is None else {"validation": validation}}


def validation(evaluated: dict[str, str | None], *rounds: Sequence[dict[str, Any]]) -> Validation:
    found = Validation(kinds.of("classification"), evaluated)
    for lines in rounds:
        found.add(lines)
    return found


# --- the figure


def test_of_personal_models_it_is_the_mean_over_clients_at_their_newest_own_figures():
    found = validation(
        PERSONAL,
        [server(1, None), client(1, "0", 0.2, 0.9), client(1, "1", 0.4, 0.9)],
        [server(2, None), client(2, "1", 0.8, 0.1)],  # 0 was not asked: (0.2 + 0.8) / 2
    )
    assert found.points == {1: pytest.approx(0.3), 2: pytest.approx(0.5)}


def test_of_a_servers_model_it_is_that_on_all_clients_samples_together():
    found = validation(SERVED, [server(1, 0.7), client(1, "0", 0.2)], [server(2, 0.6), client(2, "0", 0.9)])
    assert found.points == {1: 0.7, 2: 0.6}


def test_of_a_servers_model_on_devices_it_is_the_mean_of_their_own():
    assert validation(SERVED, [server(1, None), client(1, "0", 0.2), client(1, "1", 0.4)]).points == {
        1: pytest.approx(0.3)
    }


def test_means_over_fewer_clients_are_no_longer_compared_once_another_comes():
    found = validation(PERSONAL, [client(1, "0", 0.9)], [client(2, "1", 0.1)], [client(3, "0", 0.8)])
    assert found.points == {2: pytest.approx(0.5), 3: pytest.approx(0.45)}
    assert found.best() == 2


def test_the_best_round_is_the_first_of_equal_ones_and_better_is_more_than_min_delta_above():
    found = validation(SERVED, *([server(i + 1, figure)] for i, figure in enumerate((0.5, 0.6, 0.6, 0.65, 0.64))))
    assert (found.best(), found.since_best()) == (4, 1)
    assert (found.best(0.075), found.since_best(0.075)) == (2, 3)
    assert (found.best(0.2), found.since_best(0.2)) == (1, 4)


# --- runs


@pytest.mark.parametrize("method", ["fd", "fedavg", "fede4rag"])
def test_a_run_stops_where_validation_has_not_become_better(method: str, tmp_path: Path):
    changes = f"{STILL} client.epochs=1 server.rounds=9 server.patience=2 run.out={tmp_path}"
    start(toy_settings(method, changes), hosts(method))
    summary = RunFolder.open(tmp_path).summary
    assert summary["rounds"] == 3
    figure = "nDCG@10" if method == "fede4rag" else "accuracy"
    samples = "clients' own validation samples" if method == "fd" else "all clients' validation samples"
    assert summary["stopped"].startswith(f"after round 3 of 9: no {figure} on {samples} better than the 0")
    assert summary["stopped"].endswith(" of round 1 in 2 evaluated rounds (server.patience)")


@pytest.mark.parametrize("clients", [1, 3])
def test_of_a_personal_method_the_figure_that_stops_is_that_by_which_models_are_kept_and_selected(
    clients: int, tmp_path: Path
):
    """A client's best round is by its own validation track; the mean of all stops the run: of one client it is one."""
    changes = f"server.rounds=12 server.patience=2 client.lr=0.5 data.clients={clients} run.keep=best"
    start(toy_settings("fd", f"{changes} run.out={tmp_path}"), hosts("fd"))
    folder = RunFolder.open(tmp_path)
    tracks: dict[str, dict[int, dict[str, float]]] = {}
    for line in folder.lines():
        if "client" in line:
            tracks.setdefault(line["client"], {})[line["round"]] = line["evaluations"]["trained"]
    best = {who: max(track, key=lambda number: track[number]["validation"]) for who, track in tracks.items()}
    kept = {who: read_about(tmp_path / "models" / f"client-{who}.safetensors")["round"] for who in tracks}
    assert kept == best
    selected = fmean(tracks[who][number]["accuracy"] for who, number in best.items())
    assert folder.summary["accuracy"]["personal"]["selected"] == pytest.approx(selected)
    assert folder.summary["selected_on"]["personal"] == "own"
    means = {number: fmean(track[number]["validation"] for track in tracks.values()) for number in tracks["0"]}
    top = max(means, key=lambda number: means[number])
    assert f"the {means[top]:.4g} of round {top} in 2" in folder.summary["stopped"]
    assert clients > 1 or best == {"0": top}


def test_patience_counts_evaluated_rounds():
    changes = f"{STILL} server.rounds=20 server.patience=2 server.evaluate_every=3"
    lines = start(toy_settings("fd", changes), hosts("fd"))[2]
    assert len(rounds(lines)) == 9  # 3 is the best, 6 and 9 are no better


def test_a_stopped_run_has_the_closing_message_and_the_figures_of_a_run_of_so_many_rounds(tmp_path: Path):
    more = f"{STILL} server.evaluate=received,trained"
    start(toy_settings("fedmd", f"{more} server.rounds=9 server.patience=1 run.out={tmp_path}/a"), hosts("fedmd"))
    start(toy_settings("fedmd", f"{more} server.rounds=2 run.out={tmp_path}/b"), hosts("fedmd"))
    assert_same(tmp_path / "a", tmp_path / "b")


def test_it_stops_at_the_same_round_on_several_nodes():
    ran = [start(toy_settings("fd", "server.rounds=30 server.patience=2"), hosts("fd", nodes))[2] for nodes in (1, 2)]
    assert figures(ran[0]) == figures(ran[1])
    assert 3 <= len(rounds(ran[0])) < 30


def test_a_run_that_was_cut_off_when_it_would_have_stopped_stops_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    changes = f"{STILL} server.rounds=9 server.patience=2 run.out={tmp_path}"
    start(toy_settings("fedavg", f"{changes}/whole"), hosts("fedavg"))
    with monkeypatch.context() as patch:
        patch.setattr("fd_flower.server.progress.stalled", raising_after(3))
        with pytest.raises(OSError, match="killed"):
            start(toy_settings("fedavg", f"{changes}/cut"), hosts("fedavg"))
    lines = start(settings("fedavg", f"run.resume={tmp_path}/cut"), hosts("fedavg"))[2]
    assert not rounds(lines)
    assert RunFolder.open(tmp_path / "cut").summary["stopped"].startswith("after round 3 of 9: no accuracy")
    assert_same(tmp_path / "cut", tmp_path / "whole")


def raising_after(number: int) -> Any:
    """Return what ends a process, as it were, in place of stopping it after a round."""

    def stalled(config: object, validation: Validation) -> str:
        if number in validation.points:
            raise OSError("killed")
        return ""

    return stalled


def test_a_stopped_run_goes_on_with_more_patience_alone(tmp_path: Path):
    changes = f"{STILL} client.schedule=constant run.keep=last"
    start(toy_settings("fd", f"{changes} server.rounds=5 server.patience=2 run.out={tmp_path}/a"), hosts("fd"))
    with pytest.raises(InvalidInputError, match=r"a is finished, it was stopped after round 3: no .*, resume it with "):
        start(settings("fd", f"run.resume={tmp_path}/a"), hosts("fd"))
    start(settings("fd", f"run.resume={tmp_path}/a server.patience=0"), hosts("fd"))
    start(toy_settings("fd", f"{changes} server.rounds=5 run.out={tmp_path}/b"), hosts("fd"))
    assert "stopped" not in RunFolder.open(tmp_path / "a").summary
    assert_same(tmp_path / "a", tmp_path / "b")


def test_patience_that_lasts_changes_no_figure():
    ran = [start(toy_settings("fd", f"server.rounds=3 {more}"), hosts("fd"))[2] for more in ("", "server.patience=9")]
    assert figures(ran[0]) == figures(ran[1])


def test_devices_stop_by_their_own_validation_samples(tmp_path: Path):
    changes = f"{STILL} client.epochs=1 server.rounds=9 server.patience=1"
    lines = start(toy_settings("fedavg", changes), devices("fedavg", str(tmp_path), "a", "b"))[2]
    assert len(rounds(lines)) == 2


# --- where it cannot


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("fd", "data.split=[0.8,0.0,0.2]", "no client has validation samples: give them some"),
    ],
)
def test_a_run_without_validation_figures_is_refused_before_round_one(
    method: str, changes: str, message: str, tmp_path: Path
):
    with pytest.raises(InvalidInputError, match=f"server.patience is 2, and {message}"):
        start(tiny_settings(method, f"server.patience=2 {changes} run.out={tmp_path}/run"), hosts(method))
    assert not (tmp_path / "run").exists()


def test_a_server_model_that_others_evaluate_has_no_figure_to_go_by():
    """On devices, say: the clients' validation samples are not the server's."""
    chosen, client = config("fedavg", "server", patience=2, evaluate="aggregated"), Client("0", 0, sizes=(9, 3, 3))
    with pytest.raises(InvalidInputError, match="leaves out 'trained', by which it goes"):
        check_patience(chosen, [client], (), served=False, personal="trained", plain=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("server.patience=1 server.evaluate_every=0", "server.evaluate_every=0 evaluates the last round alone"),
        ("server.min_delta=0.1", "server.min_delta is 0.1, and nothing stops early: give server.patience"),
        ("server.patience=-1", "server.patience is -1; expected at least 0"),
    ],
)
def test_options_that_do_nothing_are_refused(changes: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        settings("fd", changes)


def test_clients_that_do_not_say_what_they_have_and_measure_nothing_are_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(Client, "validation", None)
    changes = "server.rounds=3 server.patience=1 data.split=[0.8,0.0,0.2]"
    with caplog.at_level(logging.WARNING, "flwr"):
        lines = start(tiny_settings("fd", changes), hosts("fd"))[2]
    assert len(rounds(lines)) == 3
    warnings = [record.getMessage() for record in caplog.records if "server.patience" in record.getMessage()]
    assert warnings == [
        "round 1 has no figure on validation samples: without any, server.patience does not stop the run"
    ]


# --- Flower's hook, and Ctrl-C


class Impatient(methods.strategy("fd")):  # type: ignore[misc]
    """FD that stops after its second round."""

    client_app = "fd_flower.client_apps.fd:app"

    def should_stop(self, server_round: int, result: Result) -> bool:
        return sorted(result.train_metrics_clientapp) == [1, 2]


def test_a_strategy_may_say_by_itself_that_it_ends(tmp_path: Path):
    chosen = toy_settings("fd", f"server.rounds=5 run.out={tmp_path}")
    Impatient(settings=chosen).start(hosts("fd"))
    assert RunFolder.open(tmp_path).summary["stopped"] == "after round 2 of 5: by should_stop"


class CtrlC(Callback):
    def on_round(self, round: Round) -> None:
        if round.number == 2:
            raise KeyboardInterrupt


def interrupted(chosen: Settings) -> None:
    with pytest.raises(KeyboardInterrupt):
        engine.run(chosen, callbacks=[CtrlC()])


def test_an_interrupted_run_has_summary_and_report_and_goes_on(tmp_path: Path, drawn):
    interrupted(toy_settings("fd", f"server.rounds=3 run.out={tmp_path}/a"))
    folder = RunFolder.open(tmp_path / "a")
    assert (folder.summary["stopped"], folder.finished) == ("after round 2 of 3: interrupted", False)
    assert "stopped after round 2 of 3: interrupted" in (tmp_path / "a" / "report.html").read_text()
    engine.run(settings("fd", f"run.resume={tmp_path}/a"))
    engine.run(toy_settings("fd", "server.rounds=3"), out=tmp_path / "b")
    assert "interrupted" not in RunFolder.open(tmp_path / "a").summary
    assert_same(tmp_path / "a", tmp_path / "b")


def test_its_report_names_where_and_why_a_run_stopped(tmp_path: Path, drawn):
    engine.run(toy_settings("fd", f"{STILL} server.rounds=9 server.patience=1"), out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "stopped after round 2 of 9: no accuracy on clients&#x27; own validation samples better than the" in page
