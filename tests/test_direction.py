"""Metrics say which way is better: of 1.52, 1.43 and 1.47 bits per byte the second round is the best."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers.finished import finished
from matplotlib import colormaps

from fd_flower.config import settings
from fd_flower.core import kept
from fd_flower.core.kept import read_about
from fd_flower.core.registry import found
from fd_flower.results import compare, kinds
from fd_flower.results.columns import Column
from fd_flower.results.history import SERVER, at_best, best_point
from fd_flower.results.judge import Judge
from fd_flower.results.kinds import Kind
from fd_flower.results.kinds.base import Evaluated, Lines
from fd_flower.results.metrics import of_clients, of_mean
from fd_flower.results.sweep import COLUMNS, VALIDATION, Point, Sweep, Trial, trial
from fd_flower.results.sweep_plots import Shades
from fd_flower.results.sweep_tables import markdown, points_table
from fd_flower.results.validation import Validation
from fd_flower.server.keeper import Keeper
from fd_flower.server.stopping import stalled
from fd_flower.tasks.classification import CLASSIFICATION
from fd_flower.tasks.language.task import Language
from fd_flower.tasks.retrieval.task import Retrieval

BITS = {(1, False): 1.52, (2, False): 1.43, (3, False): 1.47}
POINTS = {"global": "trained", "personal": "trained"}


class Bits(Kind):
    """Bits per byte of clients' models, of which the lower is the better one."""

    key = "bits"
    title = heading = figure = axis = "bits per byte"
    scale = 1
    higher_is_better = False
    measured = "Measured"
    explained = ""
    selected: ClassVar = {"global": "global_selected", "personal": "personal_selected"}
    scopes: ClassVar = {"global": "All text", "personal": "Own text"}
    figures: ClassVar = [
        Column(f"{scope}_{key}", f"{scope} {key}", ("bits", scope, key), 1, 3, "lower")
        for scope in ("global", "personal")
        for key in ("final", "selected", "best")
    ]

    def _clients(self, lines: Lines, name: str) -> dict[str, Any]:
        tracks: dict[str, Any] = {}
        for line in (line for line in lines if "client" in line):
            tracks.setdefault(line["client"], {})[line["round"], False] = line["evaluations"]["trained"][name]
        return {"global": tracks, "personal": tracks}

    def tracks(self, lines: Lines, evaluated: Evaluated):
        return self._clients(lines, "accuracy")

    def validations(self, lines: Lines, evaluated: Evaluated):
        return self._clients(lines, "validation")

    def summarize(self, lines: Lines, facts: Any):
        own, judged = self.tracks(lines, POINTS)["personal"], self.validations(lines, POINTS)["personal"]
        return {"bits": {scope: {**of_clients(own, judged, higher=False), "evaluated": "trained"} for scope in POINTS}}

    def outcome(self, summary: Any):
        return []

    def headline(self, summary: Any, config: Any):
        return []

    def panels(self, lines: Lines, evaluated: Evaluated):
        return []

    def clients(self, lines: Lines, evaluated: Evaluated):
        return []

    def notes(self, several: bool):
        return []


@pytest.fixture
def bits(monkeypatch: pytest.MonkeyPatch) -> Bits:
    """Return a kind that all tasks are of."""
    kind = Bits()
    monkeypatch.setattr(kinds, "of", lambda name: kind)
    return kind


def bits_of_rounds(kind: Kind) -> Validation:
    validation = Validation(kind, POINTS)
    for (number, _), figure in BITS.items():
        validation.add([{"round": number, "client": "0", "evaluations": {"trained": {"validation": figure}}}])
    return validation


# --- rounds


@pytest.mark.parametrize(("higher", "round", "at"), [(True, 1, 10.0), (False, 2, 20.0)])
def test_the_best_round_is_by_the_direction(higher: bool, round: int, at: float):
    assert best_point(BITS, BITS, higher=higher) == (round, False)
    assert at_best(BITS, {(1, False): 10.0, (2, False): 20.0, (3, False): 30.0}, higher=higher) == at
    assert of_mean({SERVER: BITS}, BITS, higher=higher) == {
        "final": 1.47,
        "selected": 1.43 if not higher else 1.52,
        "best": 1.43 if not higher else 1.52,
    }


def test_of_equal_lowest_figures_the_earliest_counts():
    assert best_point({(1, False): 2.0, (2, False): 1.0, (3, False): 1.0}, BITS, higher=False) == (2, False)


def test_the_worst_tenth_of_clients_are_those_with_the_highest_figures():
    tests = {str(client): {(1, False): float(client)} for client in range(10)}
    assert [of_clients(tests, {}, higher=higher)["worst10"] for higher in (True, False)] == [0.0, 9.0]


def test_early_stopping_waits_for_lower_figures(bits: Bits):
    """After 1.43 in round 2 one round has passed; by .1 or more below 1.52 nothing has come."""
    validation = bits_of_rounds(bits)
    assert (validation.best(), validation.since_best()) == (2, 1)
    assert (validation.best(0.1), validation.since_best(0.1)) == (1, 2)
    config = settings("fd", "server.patience=2 server.min_delta=0.1").server
    assert stalled(config, validation) == (
        "no bits per byte on clients' own validation samples more than 0.1 below the 1.52 of round 1 in 2 evaluated "
        "rounds (server.patience)"
    )
    assert stalled(settings("fd", "server.patience=2").server, validation) == ""


@pytest.mark.parametrize(("higher", "kept_round"), [(True, 1), (False, 2)])
def test_a_run_keeps_the_models_of_its_best_rounds(higher: bool, kept_round: int, tmp_path: Path):
    keeper = Keeper(tmp_path / "run", tmp_path / "memory", "best", "trained", higher=higher)
    for when, figure in BITS.items():
        kept.offer(tmp_path / "memory" / "0", when, {"w": torch.ones(1)}, {})
        keeper.offer(when, "", {"w": torch.ones(1)}, {})
        figures = {"validation": figure}
        keeper.note(
            [
                {"round": when[0], "global": figures},
                {"round": when[0], "client": "0", "evaluations": {"trained": figures}},
            ]
        )
        keeper.settle()
    keeper.finish()
    models = sorted((tmp_path / "run" / "models").glob("*.safetensors"))
    assert [(path.name, read_about(path)["round"]) for path in models] == [
        ("client-0.safetensors", kept_round),
        ("server.safetensors", kept_round),
    ]


# --- what declares it


def test_every_kind_says_so_and_its_task_says_the_same():
    shown = found(kinds.__name__, lambda value: isinstance(value, type) and issubclass(value, Kind))
    said = {name: kind.higher_is_better for name, kind in shown.items() if name != "kind"}
    assert said == {kind.name: kind.higher_is_better for kind in (CLASSIFICATION, Language, Retrieval)}


# --- sweeps and comparisons


def test_a_run_stands_in_a_sweep_at_its_lowest_validation_figure(bits: Bits, tmp_path: Path):
    """The runs' figures rise from .4 to .5, so the first round is the best and selected."""
    run = finished(tmp_path / "run", top=0.5)
    for scope in ("global", "personal"):
        figures = trial(run, scope).figures
        assert figures[VALIDATION] == pytest.approx(0.4)
        assert figures[f"{scope}_selected"] == figures[f"{scope}_best"] == pytest.approx(0.4)
        assert figures[f"{scope}_final"] == 0.5
    assert Judge.of("personal", {}, bits).unit == "bits per byte (lower is better)"


def test_a_sweep_ranks_points_by_a_task_s_own_metric_from_the_lowest_up():
    points = [
        Point(name, {"client.lr": name}, [Trial(0, {**{c.name: 0.0 for c in COLUMNS}, VALIDATION: figure})])
        for name, figure in (("1", 1.52), ("2", 1.43), ("3", 1.47))
    ]
    sweep = Sweep("fd", "brier", {"client.lr": ["1", "2", "3"]}, points, "the whole grid", own={"brier": False})
    assert [point.name for point in sweep.ranked] == ["2", "3", "1"]
    assert sweep.behind(points[0])[0] == pytest.approx(0.09)
    assert [line.split(",")[1] for line in points_table(sweep).splitlines()[1:]] == ["2", "3", "1"]
    table = markdown(sweep, "", [])
    assert "| validation (lower is better) |" in table
    assert "| 1 | 2 | **1.430** |" in table
    assert "brier (lower is better) on the pooled validation data" in table
    shades = Shades.of(sweep)
    assert shades.color(1.43) == colormaps["viridis"](1.0)  # bright is better
    assert shades.unit == "brier (lower is better)"


def test_a_comparison_marks_the_lowest_figures_and_says_so(bits: Bits, tmp_path: Path):
    runs = [finished(tmp_path / method, method, top=top) for method, top in (("fd", 0.5), ("local", 0.7))]
    compare.write(runs, tmp_path / "out")
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "global final (lower is better)" in page
    row = next(line for line in page.splitlines() if line.startswith("| fd |"))
    assert "**0.500**" in row
    assert "**0.400**" in row
    assert bits.ylabel == "bits per byte (lower is better)"
