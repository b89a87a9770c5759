"""What is printed has room on a terminal of 80 columns: no figure is broken or cut off, whatever things are called."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from fd_flower.cli import main
from fd_flower.cli.progress import LiveBoard
from fd_flower.results.tables import Table

TINY = (
    "model.name=mlp data.clients=2 data.limit=300 data.public_size=60 server.rounds=1 client.steps=1 client.batch=16 "
    "run.device=cpu"
)
LONG = "knowledge_distillation_of_everything_by_everybody"
HEAD = ["method", "status", "global final", "worst 10 %", "MB up", "seconds"]
ROWS = [[LONG, "official code; reconstruction: the filter", "100.0 ± 10.5", "98.7 ± 0.1", "12,345", "1,234.5"]]


def lines(head: list[str], rows: list[list[str]], texts: range, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(Table.of(head, rows, tuple(texts)))
    return console.export_text().splitlines()


def test_what_has_room_is_one_table_with_whole_headings():
    shown = lines(HEAD, ROWS, range(2), 160)
    assert [line for line in shown if "method" in line] == [line for line in shown if "seconds" in line]
    assert "global final" in shown[0]


@pytest.mark.parametrize("width", [80, 40])
def test_what_has_none_is_several_with_all_figures_whole(width):
    shown = lines(HEAD, ROWS, range(2), width)
    assert max(map(len, shown)) <= width
    assert all(any(figure in line for line in shown) for figure in ROWS[0][2:])
    heads = [line for line in shown if line.startswith("method")]
    assert len(heads) > 1  # each part says whose its figures are
    assert LONG in "".join("".join(line[: min(28, width // 3)].split()) for line in shown if line[:1] not in " ─")


def test_headings_are_broken_before_tables_are():
    shown = lines(["rank", "global selected accuracy"], [["1", "12.5 ± 0.1"]], range(1), 20)
    assert [line.split() for line in shown[:3]] == [["global"], ["selected"], ["rank", "accuracy"]]
    assert shown[-2].split() == ["1", "12.5", "±", "0.1"]


def test_brackets_are_part_of_a_value():
    assert "[mlp,cnn]" in lines(["rank", "model.name"], [["1", "[mlp,cnn]"]], range(1, 2), 80)[2]


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "selectivefd", "local", "--seeds", "2", "--reach", "10"],
        [
            *("sweep", "dsfl", "--grid", "client.weight_decay=0.000123,0.000321", "--grid", "server.temperature=0.125"),
            *("--grid", "model.name=[mlp,cnn,lenet]", "--grid", "client.public_batch=16"),
        ],
    ],
    ids=["compare", "sweep"],
)
def test_the_tables_of_a_command_fit(capsys, tmp_path: Path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command, "--quiet", "--out", "here", "--set", TINY.replace("model.name=mlp ", "")]) == 0
    shown = capsys.readouterr().out.splitlines()
    rules = [line for line in shown if set(line.strip()) == {"─"}]
    assert len(rules) > 1
    assert max(map(len, shown[:-2])) <= 80  # the last two are the page and the folder
    (table,) = {"compare": tmp_path.glob("here/compare.md"), "sweep": tmp_path.glob("here/sweep.md")}[command[0]]
    cells = [cell for row in re.findall(r"^\| (.*) \|$", table.read_text(), re.MULTILINE) for cell in row.split(" | ")]
    figures = {cell for cell in cells if re.fullmatch(r"[\d.,]+( ± [\d.]+)?", cell)}
    assert len(figures) > 5
    assert all(any(re.search(rf"(^|\s){re.escape(figure)}(\s|$)", line) for line in shown) for figure in figures)


def test_bars_have_whole_figures_and_both_ends_of_a_name():
    file = io.StringIO()
    terminal = Console(file=file, width=80, force_terminal=True, color_system=None)
    with LiveBoard(terminal) as live, live.run(f"{LONG}=0.000123-seed12", 1000) as hear:
        for number in range(1, 101):
            hear({"round": number, "seconds": 2.0, "replied": ["0"], "failed": {}, "global": None})
            hear({"round": number, "client": "0", "evaluations": {"trained": {"unseen/ndcg@10": 0.123}}})
        live._bars.refresh()
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "\n", file.getvalue())
    shown = [line for line in plain.splitlines() if "100/1000" in line]
    assert shown
    for words in ("knowledge…", "seed12 ", "personal unseen nDCG@10 0.123", "30:00 min left"):
        assert words in shown[0]


def test_what_is_said_on_a_terminal_is_broken_between_words_and_a_path_never():
    file, path = io.StringIO(), "/a/very/long/path/" * 6
    with LiveBoard(Console(file=file, width=80, force_terminal=True, color_system=None)) as live:
        live.say(f"fd-seed0: {'global 15.1% ' * 9}report: {path}")
    said = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", file.getvalue())
    assert said.count("15.1%") == 9
    assert path in said
