"""Reports and comparisons: what they say, and that nothing in them is taken for HTML."""

import csv
import re
import shlex
from html.parser import HTMLParser
from io import StringIO

import pytest
from helpers.drawing import draw
from helpers.finished import finished as undrawn
from rich.console import Console

from fd_flower import config
from fd_flower.config import DataConfig, RunConfig, Settings
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder, compare, kinds, page, pictures, plots, report, reproduce
from fd_flower.results.groups import grouped
from fd_flower.results.pictures import Picture

NASTY = "<script>alert('&')</script>"


def finished(path, *args, **kwargs):
    """Leave a run behind, with its report."""
    folder = undrawn(path, *args, **kwargs)
    draw(folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [
        finished(root / f"{method}-{seed}", method, seed, top)
        for method, seed, top in (("fd", 0, 0.5), ("fd", 1, 0.7), ("local", 0, 0.4), ("local", 1, 0.4))
    ]


class Balance(HTMLParser):
    """Collects tags that never close, and sources of what a page loads."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded = [], []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text):
    """The page, once its tags balance and it loads nothing from elsewhere."""
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    assert all(source.startswith("data:image/png;base64,") for source in balance.loaded)
    assert "<script" not in text
    return text


def test_a_report_says_what_happened(tmp_path):
    folder = finished(tmp_path / "run", clients=12, failed={"3": "class-logits has 9 classes"})
    text = checked((folder.path / "report.html").read_text())
    for said in (
        "class-logits",
        "class-logits has 9 classes",
        "fd-flower run fd",
        "selected",
        "best on test",
        "abc123",
    ):
        assert said in text
    clients = re.findall(r'<tr><td class="text">(\d+)</td>', text.split("<h2>Clients</h2>")[1])
    assert clients == [str(i) for i in range(12)]


def test_text_is_escaped(tmp_path):
    folder = finished(tmp_path / "run", failed={"0": NASTY, NASTY: "x"}, versions={NASTY: NASTY})
    text = checked((folder.path / "report.html").read_text())
    assert "&lt;script&gt;" in text
    assert NASTY not in checked(compare.write([folder], tmp_path / "out", NASTY).read_text())


def test_a_report_of_several_runs_compares_them(runs, tmp_path):
    path = report.write(runs, tmp_path / "all")
    assert path == tmp_path / "all" / "report.html"
    text = checked(path.read_text())
    assert "60.0 ± 14.1" in text
    assert text.count("<details>") == 2 * len(runs)


def test_a_row_is_a_method_with_mean_and_deviation_over_seeds(runs):
    """Personal finals .5 and .7: mean .6, sample deviation .1414; global half of that. MB up 2 x .5, down 2 x 1."""
    table = compare.shown(runs)[0]
    rows = [[cell.text for cell in row] for row in table.rows]
    figures = ["30.0 ± 7.1", "30.0 ± 7.1", *["60.0 ± 14.1"] * 3, "1.00", "2.00", "2.0"]
    assert rows[0] == ["fd", "unstated", "trained", *figures]
    assert rows[1][:6] == ["local", "unstated", "trained", "20.0 ± 0.0", "20.0 ± 0.0", "40.0 ± 0.0"]


def test_rows_keep_the_given_order(runs):
    assert [group.name for group in grouped(runs[::-1])] == ["local", "fd"]


def test_a_single_seed_has_no_deviation(runs):
    assert "±" not in compare.markdown(runs[:1])
    [row] = csv.DictReader(StringIO(compare.comma_separated(runs[:1])))
    assert row["personal_final"] == "0.5"
    assert row["personal_final_std"] == ""


def test_csv_has_plain_numbers(runs):
    rows = list(csv.DictReader(StringIO(compare.comma_separated(runs))))
    assert [row["method"] for row in rows] == ["fd", "local"]
    assert rows[0]["seeds"] == "0 1"
    assert float(rows[0]["bytes_down"]) == 2_000_000
    assert float(rows[0]["personal_final_std"]) == pytest.approx(0.02**0.5)


def test_runs_of_one_method_are_told_apart_by_their_options(tmp_path):
    folders = [finished(tmp_path / str(alpha), alpha=alpha) for alpha in (0.1, 1.0)]
    assert [group.name for group in grouped(folders)] == ["fd (data.alpha=0.1)", "fd (data.alpha=1.0)"]


def test_a_comparison_states_data_seeds_and_command(runs, tmp_path):
    remark = "fedavg-seed0 is missing: it needs one architecture"
    written = compare.write(runs, tmp_path / "out", "fd-flower compare fd local --seeds 2", [remark])
    assert remark in written.read_text()
    assert remark in (tmp_path / "out" / "compare.md").read_text()
    names = {
        "compare.html",
        "compare.md",
        "compare.csv",
        "compare.tex",
        "differences.csv",
        "differences.tex",
        "runs.csv",
    }
    plots = [f"accuracy-per-{over}-{scope}" for over in ("round", "megabyte") for scope in ("global", "personal")]
    names |= {f"{name}.png" for name in plots}
    assert {file.name for file in written.parent.iterdir()} == names
    for text in (checked(written.read_text()), (tmp_path / "out" / "compare.md").read_text()):
        for said in ("abc123", "Seeds: 0, 1.", "fd-flower compare fd local --seeds 2"):
            assert said in text


def test_the_terminal_s_table_has_every_method(runs):
    console = Console(width=160, record=True, file=StringIO())
    console.print(*compare.shown(runs))
    text = console.export_text()
    assert "60.0 ± 14.1" in text
    assert "local" in text


def test_an_unfinished_run_is_refused(tmp_path):
    folder = RunFolder.create(tmp_path / "run", Settings("fd"), "key")
    with pytest.raises(InvalidInputError, match="not finished"):
        compare.write([folder], tmp_path / "out")
    with pytest.raises(InvalidInputError, match="nothing to compare"):
        grouped([])


def test_megabytes_by_the_time_of_measuring(tmp_path):
    """After round 1 .5 MB went up and 1 MB down; after round 2 twice as much."""
    [group] = grouped([finished(tmp_path / "run")])
    assert list(group.courses[0]["personal"].spent.values()) == [1.5, 3.0]


def test_images_of_nothing_are_drawn():
    for name in ("classification", "retrieval"):
        panels = kinds.of(name).panels([], {"global": "trained", "personal": "trained"})
        assert pictures.strip([Picture.of(panel) for panel in panels]).startswith(b"\x89PNG")
    assert pictures.png(plots.of_bands("global", [], "round", [])).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0"), (880, "0.000880"), (1_234_567, "1.23"), (12_345_678, "12.3"), (123e6, "123"), (1.5e9, "1,500")],
)
def test_megabytes_keep_three_digits(count, said):
    assert page.megabytes(count) == said


def test_the_command_says_the_settings_again():
    said = ["data.alpha=0.1", 'data.source=["a b",c]', "data.partition=domain", "client.lr=1e-05", "data.limit=200"]
    wanted = config.settings("fd", said)
    words = shlex.split(reproduce.command(wanted.tree()))
    assert words[:4] == ["fd-flower", "run", "fd", "--set"]
    assert config.settings("fd", words[4]) == wanted


def test_the_command_has_what_differs_from_the_recipe(monkeypatch):
    usual = Settings("fd")
    monkeypatch.setattr(reproduce.config, "settings", lambda method, task: usual)
    assert reproduce.command(usual.tree()) == "fd-flower run fd"
    changed = Settings("fd", data=DataConfig(alpha=0.1, source=["a b", "c"]), run=RunConfig(seed=3, out="here"))
    line = 'fd-flower run fd --set \'data.source=["a b","c"] data.alpha=0.1 run.seed=3\''
    assert reproduce.command(changed.tree()) == line
    assert reproduce.command(changed.tree(), "simulation") == f"{line} --engine flower"
    own = Settings("fd", data=DataConfig(source="a b"), task="mine:task")
    assert reproduce.command(own.tree()) == "fd-flower run fd --task mine:task --set 'data.source=\"a b\"'"
    said = """flwr run . --run-config "method='fd' set='data.source=\\"a b\\"' task='mine:task'\""""
    assert reproduce.command(own.tree(), "deployment") == said
