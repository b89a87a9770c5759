"""Callbacks: what they receive, once a round over all resumes, and that none of them costs a run."""

import logging
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from helpers.grids import hosts
from helpers.tiny import figures, of_clients, rounds, start, toy_settings

from fd_flower import Callback, Run, engine, methods
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.results import RunFolder
from fd_flower.results.callback import Round, Started, rounds_of


class Notes(Callback):
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.starts: list[Started] = []
        self.rounds: list[Round] = []
        self.ends: list[Any] = []

    def on_start(self, run: Started) -> None:
        self.starts.append(run)

    def on_round(self, round: Round) -> None:
        self.rounds.append(round)

    def on_end(self, summary: Any) -> None:
        self.ends.append(summary)


class Failing(Notes):
    """Raises where it is to."""

    def __init__(self, hook: str, error: BaseException | None = None) -> None:
        super().__init__()
        self.hook, self.error = hook, error or KeyError("a name")

    def on_start(self, run: Started) -> None:
        super().on_start(run)
        if self.hook == "on_start":
            raise self.error

    def on_round(self, round: Round) -> None:
        super().on_round(round)
        if self.hook == "on_round":
            raise self.error

    def on_end(self, summary: Any) -> None:
        super().on_end(summary)
        if self.hook == "on_end":
            raise self.error


def followed(changes: str, *callbacks: Callback, method: str = "fd") -> None:
    engine.run(toy_settings(method, changes), callbacks=callbacks)


def test_a_run_calls_back_at_its_start_after_each_round_and_at_its_end(tmp_path: Path):
    notes = Notes()
    followed(f"server.rounds=3 run.out={tmp_path}", notes)
    (started,), folder = notes.starts, RunFolder.open(tmp_path)
    assert (started.method, started.folder, started.run_key) == ("fd", tmp_path, folder.run_key)
    assert (started.clients, started.past) == (("0", "1", "2"), [])
    assert started.options["client.batch"] == started.settings.client.batch
    assert not started.options.keys() & {"run.out", "data.source"}  # a task's samples come from no source
    assert [round.number for round in notes.rounds] == [1, 2, 3]
    assert [line for round in notes.rounds for line in round.lines] == folder.lines()
    assert notes.ends == [folder.summary]


def test_metrics_are_the_figures_of_the_lines_by_flat_names():
    notes = Notes()
    _, _, lines = start(toy_settings("fd", "server.rounds=1"), hosts("fd"))
    engine.run(toy_settings("fd", "server.rounds=1"), callbacks=[notes])
    metrics, (head,), clients = notes.rounds[0].metrics, rounds(lines), of_clients(lines).values()
    assert metrics["loss"] == head["metrics"]["loss"]
    for name in ("accuracy", "global", "pooled_validation"):
        assert metrics[f"trained/{name}"] == fmean(line["evaluations"]["trained"][name] for line in clients)
    assert metrics["bytes/up"] == sum(head["bytes"]["up"].values())
    assert (metrics["clients/asked"], metrics["clients/replied"], metrics["clients/failed"]) == (3, 3, 0)
    assert metrics["validation"] == metrics["trained/validation"]


def test_the_servers_figures_are_those_of_aggregated():
    notes = Notes()
    followed("server.rounds=1", notes, method="fedavg")
    (round,) = notes.rounds
    assert round.metrics["aggregated/accuracy"] == round.lines[0]["global"]["accuracy"]
    assert round.metrics["validation"] == round.lines[0]["global"]["validation"]


def test_the_closing_measurement_comes_by_itself():
    notes = Notes()
    followed("server.rounds=2 server.evaluate=received", notes, method="fedmd")
    assert [(round.number, round.closing) for round in notes.rounds] == [(1, False), (2, False), (2, True)]
    assert "closing/received/accuracy" in notes.rounds[-1].metrics
    assert all(name.startswith("closing/") for name in notes.rounds[-1].metrics)


def test_a_figure_that_is_not_finite_is_no_metric():
    head = {"round": 1, "seconds": 1.0, "metrics": {"loss": float("nan")}, "global": None, "bytes": {}}
    head |= {"bytes": {"up": {}, "down": {}}, "asked": ["0", "1"], "replied": ["0", "1"], "failed": {}}
    clients = [
        {"round": 1, "client": str(i), "evaluations": {"trained": {"nll": nll, "accuracy": 0.5}}}
        for i, nll in enumerate((1.0, None))
    ]
    (round,) = rounds_of([head, *clients], lambda lines: None)
    assert round.metrics["trained/accuracy"] == 0.5
    assert not {"loss", "trained/nll", "validation"} & round.metrics.keys()


def test_a_resumed_run_is_the_same_run_with_its_rounds_behind_it(tmp_path: Path):
    first, second = Notes(), Notes()
    followed(f"server.rounds=2 run.keep=last run.out={tmp_path}", first)
    engine.run(settings("fd", f"run.resume={tmp_path} server.rounds=3"), callbacks=[second])
    assert [round.number for round in second.rounds] == [3]
    (started,) = second.starts
    assert started.run_key == first.starts[0].run_key
    assert [(round.number, round.metrics) for round in started.past] == [
        (round.number, round.metrics) for round in first.rounds
    ]


def test_a_run_that_writes_nothing_has_a_summary_for_its_callbacks():
    notes = Notes()
    followed("server.rounds=2", notes)
    assert notes.starts[0].folder is None
    assert notes.ends[0]["rounds"] == 2
    assert notes.ends[0]["accuracy"]["personal"]["final"] == notes.rounds[-1].metrics["trained/accuracy"]


def test_somebodys_own_project_gives_them_to_run():
    notes = Notes()
    config = methods.config("fd", "server", rounds=1)
    chosen = toy_settings("fd")
    strategy = methods.strategy("fd")(config, None, Run(clients=3, callbacks=[notes]))
    assert strategy.callbacks == (notes,)
    strategy = methods.strategy("fd")(settings=chosen)
    assert strategy.callbacks == ()


@pytest.mark.parametrize("hook", ["on_round", "on_end"])
def test_one_that_raises_is_left_out_with_one_warning_and_the_run_goes_on(hook: str, tmp_path: Path, caplog):
    failing, notes = Failing(hook), Notes()
    with caplog.at_level(logging.WARNING, "flwr"):
        followed(f"server.rounds=3 run.out={tmp_path}", failing, notes)
    assert len(notes.rounds) == 3
    assert RunFolder.open(tmp_path).finished
    warnings = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    (warning,) = warnings
    assert warning.startswith(
        f"Failing is left out from here on, the run continues: {hook} raised KeyError: 'a name' ({__file__}:"
    )
    assert (len(failing.rounds), len(failing.ends)) == ((1, 0) if hook == "on_round" else (3, 1))


def test_one_that_cannot_start_ends_the_run_before_round_one_and_leaves_none(tmp_path: Path):
    notes = Notes()
    with pytest.raises(
        InvalidInputError, match=r"Failing cannot start: KeyError: 'a name' \(.*test_callbacks.py:\d+\)"
    ):
        followed(f"run.out={tmp_path}/run", notes, Failing("on_start"))
    assert (notes.rounds, notes.ends) == ([], [None])
    followed(f"run.out={tmp_path}/run", Notes())  # the same folder, tried again


def test_a_run_that_fails_ends_without_a_summary():
    notes = Notes()

    class Broken(Callback):
        def on_round(self, round: Round) -> None:
            notes.rounds.append(round)

    app = hosts("fd")
    app.pull_messages, answered = (lambda ids: [] if notes.rounds else answered(ids)), app.pull_messages
    strategy = methods.strategy("fd")(settings=toy_settings("fd", "server.timeout=0.1"))
    strategy.callbacks = (Broken(), notes)
    with pytest.raises(RunError):
        strategy.start(app)
    assert notes.ends == [None]


def test_what_is_no_callback_is_refused():
    with pytest.raises(InvalidInputError, match=r"callbacks has .*print.*; expected objects of subclasses of"):
        followed("", print)  # type: ignore[arg-type]


def test_two_of_a_class_are_two():
    first, second = Notes(), Notes()
    followed("server.rounds=1", first, second)
    assert len(first.rounds) == len(second.rounds) == 1


# --- by name


ENDED: list[str] = []


class Named(Callback):
    """A callback that `run.track` can name."""

    def on_end(self, summary: Any) -> None:
        ENDED.append(summary["method"])


def test_one_of_yours_is_named_by_its_module():
    followed(f"server.rounds=1 run.track={__name__}:Named")
    assert ENDED == ["fd"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", r"run.track has 'tensorbord' \(did you mean 'tensorboard'\?\)"),
        ("nowhere:Mine", "run.track 'nowhere:Mine' cannot be imported: .*put its folder on PYTHONPATH"),
        (f"{__name__}:ENDED", "expected a subclass of fd_flower.Callback"),
        (f"{__name__}:Failing", "run.track '.*:Failing' cannot be made: TypeError: "),
    ],
)
def test_a_name_of_no_callback_is_refused_in_one_line(name: str, message: str):
    with pytest.raises(InvalidInputError, match=message):
        followed(f"run.track={name}")


def test_what_a_run_tells_changes_no_figure():
    notes = Notes()
    _, _, lines = start(toy_settings("fd", "server.rounds=2"), hosts("fd"))
    followed("server.rounds=2", notes)
    assert figures([line for round in notes.rounds for line in round.lines]) == figures(lines)
