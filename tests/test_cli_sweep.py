"""sweep: points are what was asked for, validation data alone choose, and a broken-off sweep ends like a whole one."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fd_flower import engine
from fd_flower.cli import main
from fd_flower.cli import sweep as sweeping
from fd_flower.cli.grid import Choices, Range, axes, drawn, whole_grid
from fd_flower.config import settings
from fd_flower.core.errors import InvalidInputError, RunError
from fd_flower.results import RunFolder
from fd_flower.results.sweep import COLUMNS, VALIDATION, Point, Sweep, Trial, short, trial
from fd_flower.results.sweep_files import recipe
from fd_flower.results.sweep_plots import images
from fd_flower.results.sweep_tables import markdown, notes, points_table, runs_table

TINY = (
    "model.name=mlp data.clients=2 data.limit=300 data.public_size=60 server.rounds=2 client.steps=1 client.batch=16 "
    "run.device=cpu"
)
LOCAL = ["sweep", "local", "--quiet", "--out", "found", "--set", TINY]
NAMES = [column.name for column in COLUMNS]
LEFT = (
    "sweep.csv",
    "points.csv",
    "sweep.md",
    "sweep.html",
    "best.yaml",
    "sweep.tex",
    "sweep-lr.png",
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# What --grid says


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1,1, 10", ("0.1", "1", "10")),
        ("mlp,[mlp,cnn],[[a,b],c]", ("mlp", "[mlp,cnn]", "[[a,b],c]")),
        ("{a: 1, b: 2},{}", ("{a: 1, b: 2}", "{}")),
        ("\"a,b\",'c,d'", ('"a,b"', "'c,d'")),
        ("null,3", ("null", "3")),
        ("../a..b", ("../a..b",)),
    ],
)
def test_commas_in_brackets_braces_and_quotes_survive(text, values):
    assert axes([f"a.b={text}"]) == [Choices("a.b", values)]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("0.1..0.9", Range("k", 0.1, 0.9, log=False, whole=False)),
        ("log:1e-4..1e-1", Range("k", 1e-4, 1e-1, log=True, whole=False)),
        ("-3..5", Range("k", -3, 5, log=False, whole=True)),
        ("1.0..10", Range("k", 1, 10, log=False, whole=False)),
    ],
)
def test_ranges(text, axis):
    assert axes([f"k={text}"]) == [axis]


@pytest.mark.parametrize(
    ("grids", "told"),
    [
        ([], "--grid KEY=V1,V2"),
        (["client.lr"], "expected KEY=V1,V2"),
        (["client.lr=0.1,,1"], "has an empty value"),
        (["client.lr="], "has an empty value"),
        (["client.lr=1", "client.lr=2"], "names client.lr twice"),
        (["client.lr=0.9..0.1"], "the smaller number first"),
        (["client.lr=log:0..1"], "both above 0"),
    ],
)
def test_a_grid_that_cannot_be_read(grids, told):
    with pytest.raises(InvalidInputError, match=told):
        axes(grids)


def test_the_whole_grid_is_every_combination_the_last_key_fastest():
    points = whole_grid(axes(["a=1,2", "b=x,y"]))
    assert [tuple(point.values()) for point in points] == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]


def test_draws_are_different_points_that_more_draws_begin_with():
    grid = axes(["a=1,2,3", "b=log:1e-3..1e-1", "c=0..2"])
    few, many = (drawn(grid, count, np.random.default_rng(5)) for count in (4, 30))
    assert few == many[:4]
    assert len({tuple(point.values()) for point in many}) == 30
    assert all(1e-3 <= float(point["b"]) <= 1e-1 for point in many)
    assert {point["c"] for point in many} == {"0", "1", "2"}
    # A third of the draws of an even logarithm lie in each third of it: of 30, 10; not so of an even interval.
    assert 4 <= sum(float(point["b"]) < 10 ** (-3 + 2 / 3) for point in many) <= 16


def test_as_many_draws_as_points_are_the_grid_and_more_are_refused():
    grid = axes(["a=1,2,3", "b=4,5"])
    assert sorted(map(str, drawn(grid, 6, np.random.default_rng(0)))) == sorted(map(str, whole_grid(grid)))
    with pytest.raises(InvalidInputError, match="more points than there are: 6"):
        drawn(grid, 7, np.random.default_rng(0))


def test_short_names_tell_keys_apart():
    assert short(["client.lr", "client.kd_weight"]) == {"client.lr": "lr", "client.kd_weight": "kd_weight"}
    assert short(["client.lr", "server.lr"]) == {"client.lr": "client.lr", "server.lr": "server.lr"}


# What is asked for


def ordered(*grids: str, words: str = TINY, random: int | None = None, method: str = "fd") -> sweeping.Search:
    return sweeping.ordered(method, grids, random, "global", [words], None, "local", None, "", 1)


def test_every_point_has_its_settings_and_a_folder_of_its_own():
    search = ordered("client.lr=0.1,0.2", "model.name=mlp,[mlp,cnn],'[mlp,cnn,lenet]'", words="data.clients=3")
    asked = [order.settings for order in search.plan.orders.values()]
    assert [(s.client.lr, s.model.name) for s in asked[:3]] == [
        (0.1, "mlp"),
        (0.1, ["mlp", "cnn"]),
        (0.1, "[mlp,cnn,lenet]"),
    ]
    names = list(search.plan.orders)
    assert len(set(names)) == 6
    assert names[0] == "lr=0.1,name=mlp-seed0"
    assert not any(set(name) & set("[]' /") for name in names)
    assert [s.run.out for s in asked] == [str(order.out) for order in search.plan.orders.values()]


def test_random_points_are_a_function_of_the_seed():
    grid = ("client.lr=log:1e-3..1", "client.kd_weight=0.0..2")
    first, again, other = (ordered(*grid, words=f"run.seed={seed}", random=3).points for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--grid", "client.lrr=0.1"], "lrr=0.1: there is no key 'client.lrr' (did you mean 'client.lr'?)"),
        (["--grid", "client.lr=0.1,fast"], "lr=fast: client.lr is 'fast'"),
        (["--grid", "client.lr=0.1,-1"], "lr=-1: client.lr is -1"),
        (["--grid", "client.lr=0.1,0.10"], "lr=0.1 and lr=0.10 are the same settings"),
        (["--grid", "client.lr=0.1..1"], "--random N"),
        (["--grid", "client.lr=1,2", "--random", "3"], "more points than there are"),
        (["--grid", "client.steps=1,2"], "in --grid and in --set"),
        (["--grid", "run.seed=1,2"], "run.seed cannot be swept"),
        (["--grid", "client.lr=0.1", "--set", "run.out=here"], "--out sets the folder"),
        (["--grid", "client.lr=0.1", "--set", "data.split=[0.8,0,0.2]"], "no validation data"),
        (["--grid", "client.lr=0.1", "--select", "test"], "--select is 'test'; expected global, personal, or a metric"),
        ([], "--grid KEY=V1,V2"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_anything_runs(capsys, tmp_path, runs, arguments, told):
    assert main(["sweep", "fd", "--set", TINY, *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.err.count("\n") == 1
    assert runs == []
    assert list(tmp_path.iterdir()) == []


# What is chosen


def made(**validation: list[float | str]) -> Sweep:
    """Return a sweep of points by the validation accuracy of each seed, or why it failed; tests say the opposite."""
    points = []
    for name, values in validation.items():
        trials = []
        for seed, value in enumerate(values):
            if isinstance(value, str):
                trials.append(Trial(seed, {}, value))
            else:
                figures = {**dict.fromkeys(NAMES, 1 - value), VALIDATION: value, "bytes_up": 10, "bytes_down": 10}
                trials.append(Trial(seed, figures))
        points.append(Point(f"lr={name[1:]}", {"client.lr": name[1:]}, trials))
    return Sweep(
        "fd", "global", {"client.lr": [point.values["client.lr"] for point in points]}, points, "the whole grid"
    )


def test_the_best_mean_over_seeds_is_chosen_whatever_the_test_data_say():
    sweep = made(_1=[0.5, 0.7], _2=[0.9, 0.5], _3=[0.1, 0.2])
    assert [point.values["client.lr"] for point in sweep.ranked] == ["2", "1", "3"]
    assert sweep.best.figure(VALIDATION) == (pytest.approx(0.7), pytest.approx(0.08**0.5))


def test_of_equal_points_the_first_one_tried_is_chosen():
    # 0.1 + 0.2 is not 0.3 in binary: means of the same figures in another order must not differ in the last bit.
    assert made(_1=[0.1, 0.2, 0.3], _2=[0.3, 0.2, 0.1]).best.name == "lr=1"
    assert made(_2=[0.3, 0.2, 0.1], _1=[0.1, 0.2, 0.3]).best.name == "lr=2"


def test_a_point_of_which_a_run_failed_is_named_and_not_chosen():
    sweep = made(_1=[0.9, "nobody replied"], _2=[0.2, 0.4], _3=["diverged", "diverged"])
    assert sweep.best.name == "lr=2"
    assert [point.name for point in sweep.failed] == ["lr=1", "lr=3"]
    assert "lr=1: 1 of 2 runs failed: nobody replied" in notes(sweep)
    table = points_table(sweep).splitlines()
    assert [line.split(",")[0] for line in table] == ["rank", "1", "", ""]
    assert table[2].endswith("1 of 2 runs failed: nobody replied")
    assert "| - | 1 | failed | - | - | - | - | - |" in markdown(sweep, "", [])
    assert runs_table(sweep).count("\n") == 7


def test_how_much_was_tried_and_how_far_chance_goes_are_said():
    sweep = made(_1=[0.5, 0.7], _2=[0.6, 0.5], _3=[0.1, 0.2])
    said = " ".join(notes(sweep))
    assert "3 points (the whole grid), seeds 0, 1; 6 of 6 runs count" in said
    # The best is the first: the second is behind by -0.1 and 0.2, 0.05 ± 0.21, the third by 0.4 and 0.5, 0.45 ± 0.07.
    assert "The gap of 1 of the 2 other points is within its standard deviation." in said
    assert "| 2 | 2 | 55.0 ± 7.1 | 5.0 ± 21.2 |" in markdown(sweep, "", [])
    assert "| 3 | 3 | 15.0 ± 7.1 | 45.0 ± 7.1 |" in markdown(sweep, "", [])
    assert "One seed a point" in " ".join(notes(made(_1=[0.5], _2=[0.6])))


def test_the_recipe_says_how_it_was_chosen_whatever_the_command_holds():
    text = recipe(made(_1=[0.5, 0.7]), "fd-flower sweep fd --set 'a=1\nb=2'", settings("fd").tree())
    head = text.split("data:")[0]
    assert all(line.startswith("# ") for line in head.splitlines())
    assert "60.0 ± 14.1 %" in head
    assert "seeds 0, 1" in head


# How a run stands


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., RunFolder]:
    """Return a finished run of two rounds with two clients, whose figures are typed in."""

    def finished(pooled, own, *, nll: float | None = 1.0, failed: str = "") -> RunFolder:
        made = RunFolder.create(tmp_path / "run", settings("fd"), "key")
        for number in (1, 2):
            lines = [
                {"round": number, "failed": {"9": failed} if failed else {}, "metrics": {"loss": 1.0}, "global": None}
            ]
            for client in (0, 1):
                at = (number - 1, client)
                figures = {"accuracy": 0.0, "global": 0.1 * number, "nll": nll}
                figures |= {"pooled_validation": pooled[at[0]][at[1]], "validation": own[at[0]][at[1]]}
                lines.append(
                    {"round": number, "client": str(client), "metrics": {}, "evaluations": {"trained": figures}}
                )
            made.append(lines)
        accuracy = {"final": 0.2, "selected": 0.1, "worst10": 0.0, "evaluated": "trained"}
        summary = {
            "seed": 3,
            "task": "classification",
            "accuracy": {"global": accuracy, "personal": accuracy},
            "bytes": {"up": 7, "down": 8},
        }
        (made.path / "summary.json").write_text(json.dumps(summary))
        return made

    return finished


def test_a_run_is_judged_at_its_best_validation_round(folder):
    """Pooled: the means over clients are 0.5 and 0.4. Own: client 0 is best in round 1 (0.9), client 1 in 2 (0.3)."""
    run = folder(pooled=[[0.4, 0.6], [0.7, 0.1]], own=[[0.9, 0.1], [0.5, 0.3]])
    assert trial(run, "global").figures[VALIDATION] == pytest.approx(0.5)
    stood = trial(run, "personal")
    assert stood.figures[VALIDATION] == pytest.approx(0.6)
    assert (stood.seed, stood.reason) == (3, "")
    assert (stood.figures["global_selected"], stood.figures["bytes_up"]) == (0.1, 7)


def test_a_run_that_diverged_does_not_count_however_good_its_accuracy(folder):
    run = folder(pooled=[[1.0, 1.0]] * 2, own=[[1.0, 1.0]] * 2, nll=None)
    assert trial(run, "global").reason == "diverged: client 0: nll is not finite"


def test_a_run_whose_client_was_left_out_for_what_it_sent_does_not_count(folder):
    run = folder(pooled=[[1.0, 1.0]] * 2, own=[[1.0, 1.0]] * 2, failed="arrays has values in 'w' that are not finite")
    assert trial(run, "global").reason.startswith("diverged: client 9: arrays has values")


def test_a_client_that_was_late_is_no_divergence(folder):
    run = folder(pooled=[[1.0, 1.0]] * 2, own=[[1.0, 1.0]] * 2, failed="no reply in time")
    assert trial(run, "global").reason == ""


# Images


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ({"client.lr": ["1", "2"]}, ["sweep-lr"]),
        ({"client.lr": ["1"]}, ["sweep-lr"]),
        ({"client.lr": ["1", "2"], "model.name": ["[mlp,cnn]", "mlp"]}, ["sweep-lr-name"]),
        ({"client.lr": ["1", "2"], "client.batch": ["8"]}, ["sweep-lr"]),
        ({"a.b": ["1", "2"], "a.c": None}, ["sweep-b-c"]),
        (
            {"a.b": ["1", "2"], "a.c": ["1", "2"], "a.d": ["1", "2"]},
            ["sweep-b-c", "sweep-b-d", "sweep-c-d"],
        ),
    ],
)
@pytest.mark.parametrize("all_failed", [False, True])
def test_there_is_an_image_for_one_key_and_for_each_pair_of_more(keys, names, all_failed):
    values = whole_grid([Choices(key, tuple(each or ("0.01", "0.5"))) for key, each in keys.items()])
    figures = {**dict.fromkeys(NAMES, 0.4), VALIDATION: 0.5}
    points = []
    for number, value in enumerate(values):
        failed = all_failed or (number == 1)
        points.append(Point(str(number), value, [Trial(0, {}, "fell") if failed else Trial(0, figures)]))
    drawn = images(Sweep("fd", "global", keys, points, "the whole grid"))
    assert [picture.name for picture in drawn] == names
    assert all(picture.png.startswith(b"\x89PNG") for picture in drawn)
    assert all(("all points failed" in picture.alt) == all_failed for picture in drawn)


# What is left behind


def test_a_sweep_leaves_tables_images_a_page_and_a_recipe_that_gives_the_same_run(capsys, tmp_path):
    arguments = ["sweep", "local", "--out", "found", "--set", f"{TINY} run.seed=4", "--seeds", "2"]
    assert main([*arguments, "--grid", "client.lr=1e30,0.1"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(tmp_path / "found")
    assert re.search(r"^1/2 points, \d+ s left$", said, re.MULTILINE)  # nothing to choose yet: the first diverged
    assert re.search(r"^2/2 points, best so far lr=0.1 with \d+\.\d% on validation data$", said, re.MULTILINE)
    table = rows(tmp_path / "found" / "sweep.csv")
    assert [(row["client.lr"], row["seed"]) for row in table] == [
        ("1e30", "4"),
        ("1e30", "5"),
        ("0.1", "4"),
        ("0.1", "5"),
    ]
    assert all(row["reason"].startswith("diverged: ") and "not finite" in row["reason"] for row in table[:2])
    told = (tmp_path / "found" / "sweep.md").read_text()
    assert "lr=1e30: 2 of 2 runs failed: diverged: round 2 has no usable reply" in told
    assert "lr=1e30" in (tmp_path / "found" / "sweep.html").read_text()

    best, first = tmp_path / "found" / "best.yaml", tmp_path / "found" / "lr=0.1-seed4"
    ran = RunFolder.open(first).settings.tree()
    for chosen in (settings("local", recipe=str(best)), settings("local", f"recipe={best}")):
        tree = chosen.tree()
        assert {key: value for key, value in tree.items() if key != "run"} == {
            k: v for k, v in ran.items() if k != "run"
        }
        assert tree["run"] | {"out": 0, "device": 0, "keep": 0} == ran["run"] | {"out": 0, "device": 0, "keep": 0}
    assert (
        main(["run", "local", "--quiet", "--recipe", "found/best.yaml", "--out", "again", "--set", "run.device=cpu"])
        == 0
    )
    again, before = (json.loads((f / "summary.json").read_text()) for f in (tmp_path / "again", first))
    assert again["accuracy"] == before["accuracy"]
    validation = [line["evaluations"]["trained"] for line in RunFolder.open(first).lines() if "client" in line]
    by_hand = max(np.mean([f["pooled_validation"] for f in validation[i : i + 2]]) for i in (0, 2))
    assert float(table[2]["validation"]) == pytest.approx(by_hand)


def test_finished_runs_are_kept_when_the_grid_grows_and_other_settings_are_refused(capsys, tmp_path, runs):
    assert main([*LOCAL, "--grid", "client.lr=0.1"]) == 0
    assert main([*LOCAL, "--grid", "client.lr=0.2,0.1"]) == 0
    assert runs == ["lr=0.1-seed0", "lr=0.2-seed0"]
    capsys.readouterr()
    assert main([*LOCAL, "--grid", "client.lr=0.1", "--set", "server.rounds=3"]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'found' / 'lr=0.1-seed0'} holds a run with server.rounds=2, not 3: name another --out" in told


def test_where_no_point_is_left_the_status_is_1_and_an_old_recipe_goes(capsys, monkeypatch, tmp_path):
    def run(*_: object, **__: object) -> None:
        raise RunError("nobody\nreplied")

    monkeypatch.setattr(engine, "run", run)
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "best.yaml").write_text("client: {}\n")
    assert main([*LOCAL, "--grid", "client.lr=0.1,0.2"]) == 1
    said = capsys.readouterr()
    assert said.err == ""
    assert "lr=0.1: 1 of 1 runs failed: nobody replied\n" in said.out
    assert not (tmp_path / "found" / "best.yaml").exists()


def test_a_sweep_that_was_broken_off_ends_like_a_whole_one(capsys, monkeypatch, tmp_path):
    """Ctrl-C in the second run's second round; what is left is byte for byte the same, the page and image too."""
    arguments = [*LOCAL, "--grid", "client.lr=0.1,0.3"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for place in (whole, broken):
        place.mkdir()
    monkeypatch.chdir(whole)
    assert main(arguments) == 0
    monkeypatch.chdir(broken)
    played, ended = engine.run, []

    def run(settings, *, out, on_line):
        def received(line):
            on_line(line)
            if ended and line["round"] == 2:
                raise KeyboardInterrupt

        found = played(settings, out=out, on_line=received)
        ended.append(out)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run", run)
        capsys.readouterr()
        assert main(arguments) == 130
        assert "1 of 2 runs are done, resume with the same command and --out" in capsys.readouterr().err
    assert main(arguments) == 0
    for name in LEFT:
        assert (whole / "found" / name).read_bytes() == (broken / "found" / name).read_bytes(), name


def test_a_sweep_that_was_killed_ends_like_a_whole_one(monkeypatch, tmp_path):
    """SIGKILL after the first run, which leaves whatever was half written."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for place in (whole, killed):
        place.mkdir()
    arguments = [*LOCAL, "--grid", "client.lr=0.1,0.3,0.5"]
    monkeypatch.chdir(killed)
    python_path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "fd_flower.cli", *arguments]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": python_path}, stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if (killed / "found" / "lr=0.1-seed0" / "summary.json").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "found" / "sweep.csv").exists()
    assert main(arguments) == 0
    monkeypatch.chdir(whole)
    assert main(arguments) == 0
    for name in LEFT:
        assert (whole / "found" / name).read_bytes() == (killed / "found" / name).read_bytes(), name


@pytest.mark.slow
def test_two_at_once_leave_what_one_by_one_leaves(monkeypatch, tmp_path):
    arguments = [
        *LOCAL,
        "--grid",
        "client.lr=0.1,1e30",
        "--grid",
        "model.name=mlp,[mlp,cnn]",
        "--set",
        "model.features=32",
    ]
    arguments[arguments.index(TINY)] = TINY.replace("model.name=mlp ", "")
    for place, jobs in (("one", "1"), ("two", "2")):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert main([*arguments, "--jobs", jobs]) == 0
    for name in ("sweep.csv", "points.csv", "best.yaml", "sweep-lr-name.png"):
        assert (tmp_path / "one/found" / name).read_bytes() == (tmp_path / "two/found" / name).read_bytes(), name
