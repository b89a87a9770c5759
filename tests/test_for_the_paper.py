"""What compare and sweep write for a paper: marks, differences, LaTeX, figures, a row a run, words for pictures."""

import csv
import re
import shutil
import subprocess
from io import StringIO

import pytest
from helpers import drawing
from helpers.finished import finished
from rich.console import Console
from scipy import stats

from fd_flower.cli import main
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder, compare, latex, page, pictures, run_rows, sweep_files
from fd_flower.results.columns import COSTS, Column, places
from fd_flower.results.group_plots import Drawn
from fd_flower.results.groups import grouped
from fd_flower.results.paired import Difference, Paired
from fd_flower.results.sweep import COLUMNS, VALIDATION, Point, Sweep, Trial
from fd_flower.results.sweep_tables import for_a_paper, points_table, runs_table, shown
from fd_flower.results.tables import Cell, Table

ACCURACY = Column("global_final", "global final", ("accuracy", "global", "final"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[RunFolder]:
    """Return two methods with two seeds: fd is ahead of local by 10 and 30 points of personal accuracy."""
    root = tmp_path_factory.mktemp("runs")
    return [
        finished(root / f"{method}-{seed}", method, seed, top)
        for method, seed, top in (("local", 0, 0.4), ("local", 1, 0.4), ("fd", 0, 0.5), ("fd", 1, 0.7))
    ]


# Which figures are marked


@pytest.mark.parametrize(
    ("figures", "marked"),
    [
        ([0.5, 0.7, 0.6], [0, 1, 2]),
        ([0.7001, 0.7004, 0.6], [1, 1, 2]),  # both print as 70.0
        ([0.7, 0.6, 0.6001, 0.5], [1, 2, 2, 0]),
        ([0.5, 0.5], [1, 1]),
        ([0.5, None, 0.4], [1, 0, 2]),
        ([0.5, None], [0, 0]),
        ([None, None], [0, 0]),
    ],
)
def test_the_best_and_the_second_are_marked_as_they_are_printed(figures, marked):
    assert places(figures, ACCURACY) == marked


def test_of_a_loss_the_lowest_is_the_best_and_costs_are_not_marked():
    loss = Column("nll", "NLL", (), 1, 3, better="lower")
    assert places([1.2, 0.4, 0.9], loss) == [0, 1, 2]
    assert places([0.0, 100.0], COSTS[0]) == [0, 0]


def test_marks_are_bold_and_underlined_in_every_writing(runs):
    table = Table(["method", "f1"], [[Cell("a"), Cell("2", 1)], [Cell("b"), Cell("1", 2)]])
    assert "| **2** |" in table.markdown()
    assert "<strong>2</strong>" in table.html()
    assert '<span class="second">1</span>' in table.html()
    console = Console(width=80, force_terminal=True, file=StringIO(), color_system="standard")
    console.print(table)
    assert "\x1b[1m2\x1b[0m" in console.file.getvalue()
    assert "\x1b[4m1\x1b[0m" in console.file.getvalue()
    text = latex.table(table, "", "tab:a", [])
    assert r"a & \textbf{2} \\" in text
    assert r"b & \underline{1} \\" in text


def test_a_comparison_fits_80_columns_and_loses_no_figure(runs):
    console = Console(width=80, record=True, file=StringIO())
    console.print(*compare.shown(runs), sep="\n")
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for figure in ("60.0 ± 14.1", "30.0 ± 7.1", "1.00", "2.00", "+20.0 [-107.1, +147.1]"):
        assert figure in text


# Differences


def test_a_difference_is_taken_seed_by_seed_with_student_s_interval():
    """Pairs .1, .3, .2: mean .2, deviation .1; t(.975, 2) = 4.3027, so ± 4.3027 x .1 / sqrt(3) = .2484."""
    ours, theirs = {0: 0.5, 1: 0.7, 2: 0.4}, {2: 0.2, 0: 0.4, 1: 0.4}
    runs = {
        name: {seed: {"global_final": value} for seed, value in of.items()}
        for name, of in (("fd", ours), ("local", theirs))
    }
    found = Paired.of(runs, "local", [ACCURACY])
    difference = found.found["fd"]["global_final"]
    assert (difference.mean, *difference.interval) == pytest.approx((0.2, -0.0484, 0.4484), abs=1e-4)
    expected = stats.ttest_rel([0.5, 0.7, 0.4], [0.4, 0.4, 0.2]).confidence_interval(0.95)
    assert difference.interval == pytest.approx(tuple(expected))
    assert found.table("method").rows[0][2].whole == "+20.0 [-4.8, +44.8]"


def test_equal_differences_have_an_interval_of_no_width_and_equal_runs_differ_by_nothing():
    assert Difference({0: 0.25, 1: 0.25}).interval == (0.25, 0.25)
    assert Difference({0: 0.25, 1: 0.25}).apart
    assert not Difference({0: 0.0, 1: 0.0}).apart
    assert ACCURACY.signed(-0.0001) == "0.0"


def test_one_seed_is_one_line_in_place_of_differences(runs, tmp_path):
    alone = [runs[0], runs[2]]
    (tmp_path / "differences.csv").write_text("an earlier comparison's\n")
    compare.write(alone, tmp_path)
    said = "No differences to local: they need two seeds that both have (--seeds 2 or more)."
    assert f"* {said}" in (tmp_path / "compare.md").read_text()
    assert said in (tmp_path / "compare.html").read_text()
    assert not (tmp_path / "differences.csv").exists()


def test_the_baseline_is_the_one_that_is_named(runs):
    pairs = compare.differences(grouped(runs), "fd")
    assert list(pairs.found) == ["local"]
    assert pairs.found["local"]["personal_final"].mean == pytest.approx(-0.2)
    missing = compare.differences(grouped(runs), "fedavg")
    assert missing.notes("") == ["No differences: the baseline fedavg has no finished run."]


def test_runs_of_other_data_are_not_paired(tmp_path):
    folders = [
        finished(tmp_path / f"{alpha}-{seed}", seed=seed, alpha=alpha) for alpha in (0.1, 1.0) for seed in (0, 1)
    ]
    pairs = compare.differences(grouped(folders))
    assert not pairs.found
    assert pairs.missing == ["No difference of fd (data.alpha=1.0) to fd (data.alpha=0.1): their data differ."]


def test_a_baseline_that_is_not_compared_is_refused_before_anything_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "local", "fd", "--baseline", "fedavg"]) == 2
    said = capsys.readouterr().err
    assert said == "fd-flower: --baseline fedavg is none of the methods that are compared: local, fd\n"
    assert main(["sweep", "local", "--grid", "client.lr=0.1,0.2", "--baseline", "lr=0.3"]) == 2
    assert capsys.readouterr().err == "fd-flower: --baseline lr=0.3 is none of the points: lr=0.1; lr=0.2\n"
    assert list(tmp_path.iterdir()) == []


# LaTeX


def checked(text: str) -> str:
    """Return LaTeX whose braces and environments balance and whose rows have as many cells as the table has columns."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    plain = re.sub(r"\\[\\{}&%$#_]", "", body)
    assert plain.count("{") == plain.count("}")
    assert sorted(re.findall(r"\\begin\{(\w+)\}", body)) == sorted(re.findall(r"\\end\{(\w+)\}", body))
    columns = re.findall(r"@\{\}([lr]+)@\{\}", body)
    assert columns
    for row in (line for line in lines if line.endswith(r"\\") and "multicolumn" not in line):
        assert len(re.split(r"(?<!\\)&", row)) in map(len, columns), row
    assert not re.search(r"(?<!\\)[#_]", re.sub(r"\\(label|multicolumn|cmidrule\(lr\))\{[^}]*\}", "", plain))
    return text


def test_a_comparison_in_latex_names_point_seeds_and_command(runs):
    text = checked(compare.for_a_paper(runs, "fd-flower compare local fd --seeds 2 --set 'a=50%'"))
    head = text.split(r"\begin{table}")[0]
    assert all(line.startswith("%") for line in head.splitlines())
    for said in ("evaluated: trained", "seeds: 0, 1", "command: fd-flower compare local fd --seeds 2 --set 'a=50%'"):
        assert f"% {said}\n" in head
    assert r"\multicolumn{2}{c}{personal}" in text
    assert r"fd & \textbf{30.0 $\pm$ 7.1}" in text
    assert r"local & \underline{20.0 $\pm$ 0.0}" in text


NASTY = r"50% & $x_1$ #{a}~b^c \d <e> |f| [mlp,cnn] * ± · ≥ é"


def test_text_is_escaped_for_latex():
    text = latex.table(Table.of([NASTY, "b"], [[NASTY, "-1.0"], ["[mlp]", "-"], ["*", "1"]]), NASTY, "tab:a", [NASTY])
    assert r"50\% \& \$x\_1\$ \#\{a\}\textasciitilde{}b\textasciicircum{}c \textbackslash{}d" in text
    assert "{}[mlp] & --" in checked(text)  # else LaTeX takes the bracket for an argument of the row's end
    assert "{}* & 1" in text
    assert "& $-$1.0" in text


def test_space_stands_between_rows_with_intervals_and_not_before_the_last_rule(tmp_path):
    rows = [[Cell(name), Cell("+1.0", 0, "[-1.0, +3.0]")] for name in "ab"]
    lines = latex.table(Table(["method", "f1"], rows), "", "tab:a", []).splitlines()
    assert lines.count(r"\addlinespace") == 1
    assert lines[lines.index(r"\bottomrule") - 1] != r"\addlinespace"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex (texlive-latex-recommended)")
def test_latex_compiles(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LINES", drawing.lines)
    Drawn.of(grouped(runs)).rounds[0].write(tmp_path)
    (tmp_path / "compare.tex").write_text(compare.for_a_paper(runs))
    compare.differences(grouped(runs)).write(tmp_path, "method", "", [])
    nasty = latex.table(Table.of([NASTY, "b"], [[NASTY, "-1.0"], ["[mlp]", "-"], ["*", "1"]]), NASTY, "tab:a", [NASTY])
    (tmp_path / "nasty.tex").write_text(nasty)
    inputs = "".join(rf"\input{{{name}.tex}}" for name in ("compare", "differences", "nasty"))
    figure = r"\includegraphics[width=\linewidth]{accuracy-per-round-global.pdf}"
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{inputs}{figure}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout.replace("\n", "").split("nasty.tex")[0]


# Pictures


def test_pictures_are_written_as_png_pdf_and_svg_and_alike_each_time(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "LINES", drawing.lines)
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        Drawn.of(grouped(runs)).rounds[0].write(tmp_path / place)
    for ending, first in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        one, two = ((tmp_path / place / f"accuracy-per-round-global.{ending}").read_bytes() for place in ("one", "two"))
        assert one.startswith(first)
        assert one == two
        assert b"CreationDate" not in one
        assert b"<dc:date>" not in one


def test_a_picture_s_words_say_what_is_seen(runs):
    drawn = Drawn.of(grouped(runs))
    alts = [picture.alt for picture in drawn.all]
    assert "Global accuracy: global test set, by round: local ends at 20.0 %, fd at 30.0 %." in alts
    exchanged = "by megabytes exchanged: local ends at 40.0 % after 3 MB, fd at 60.0 % after 3 MB."
    assert f"Personal accuracy: own test parts, {exchanged}" in alts


def test_every_axis_of_a_comparison_has_a_name_with_its_unit(tmp_path):
    folder = finished(tmp_path / "run", more={"macro_f1": 0.4, "global_macro_f1": 0.2})
    figures = [picture.figure for picture in Drawn.of(grouped([folder])).all]
    named = [(axes.get_xlabel(), axes.get_ylabel()) for figure in figures for axes in figure.axes]
    assert [axes[1] for axes in named] == ["accuracy, %"] * 4 + ["macro-F1, %"] * 2
    assert all(axes[0] for axes in named)


@pytest.mark.parametrize("closing", [False, True])
def test_a_closing_measurement_is_explained_where_there_is_one(tmp_path, closing):
    text = page.page("", compare.sections([finished(tmp_path / "run", closing=closing)]))
    assert ("A point after the last round is the closing measurement" in text) is closing


def test_a_page_stacks_its_pictures_and_marks_the_best(runs):
    text = page.page("Comparison", compare.sections(runs))
    assert text.count('<div class="panels">') == 2
    assert "repeat(auto-fit, minmax(min(100%, 20rem), 1fr))" in text
    assert "<strong>60.0 ± 14.1</strong>" in text
    assert '<span class="second">40.0 ± 0.0</span>' in text
    assert 'alt="Global accuracy: global test set, by round: local ends at 20.0 %' in text


# A row a run


def test_every_run_is_a_row_with_its_figures_and_what_differs(runs, tmp_path):
    more = finished(tmp_path / "more", "fd", 2, 0.9, alpha=1.0)
    rows = list(csv.DictReader(StringIO(run_rows.comma_separated([*runs, more]))))
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("local", "0"),
        ("local", "1"),
        ("fd", "0"),
        ("fd", "1"),
        ("fd", "2"),
    ]
    assert {row["evaluated_global"] for row in rows} == {"trained"}
    last = rows[-1]
    assert (last["accuracy.global.final"], last["accuracy.personal.best"], last["rounds"]) == ("0.45", "0.9", "2")
    assert (last["bytes.up"], last["bytes.down"], last["seconds.total"]) == ("1000000", "2000000", "2.0")
    assert [row["data.alpha"] for row in rows] == ["0.3"] * 4 + ["1.0"]
    assert "run.seed" not in last
    assert "data.partition" not in last


# Sweeps


def swept(baseline: str = "") -> Sweep:
    """Return a sweep of a method from elsewhere: lr 2 is ahead of lr 1 by 10 and 20 points of validation."""
    points = []
    for lr, values in (("1", (0.5, 0.5)), ("2", (0.6, 0.7)), ("[mlp,cnn]", (0.5, 0.49))):
        trials = [
            Trial(seed, {column.name: value for column in COLUMNS} | {VALIDATION: value}, evaluated="trained")
            for seed, value in enumerate(values)
        ]
        points.append(Point(f"lr={lr}", {"client.lr": lr}, trials))
    axes = {"client.lr": ["1", "2", "[mlp,cnn]"]}
    return Sweep("my_paper.fancy:Fancy", "global", axes, points, "the whole grid", baseline=baseline)


def test_a_sweep_s_page_is_titled_by_the_short_name_and_its_tables_name_the_evaluation_point(tmp_path):
    sweep_files.write(swept(), tmp_path, "fd-flower sweep", None)
    text = (tmp_path / "sweep.html").read_text()
    assert "<title>Sweep of fancy · FD-Flower</title>" in text
    assert "<h1>Sweep of fancy (unstated)</h1>" in text
    assert "my_paper.fancy:Fancy" not in text
    assert "evaluated" in text
    for table in (runs_table(swept()), points_table(swept())):
        assert {row["evaluated"] for row in csv.DictReader(StringIO(table))} == {"trained"}
    assert "% evaluated: trained\n" in (tmp_path / "sweep.tex").read_text()


def test_points_are_compared_with_the_best_or_the_one_that_is_named(tmp_path):
    assert swept().pairs.baseline == "lr=2"
    assert swept().pairs.found["lr=1"][VALIDATION].mean == pytest.approx(-0.15)
    pairs = swept("lr=1").pairs
    assert list(pairs.found) == ["lr=2", "lr=[mlp,cnn]"]
    assert pairs.found["lr=2"][VALIDATION].mean == pytest.approx(0.15)


def test_a_sweep_in_latex_marks_validation_alone():
    text = checked(for_a_paper(swept(), "fd-flower sweep"))
    assert text.count(r"\textbf") == 1
    assert r"1 & 2 & \textbf{65.0 $\pm$ 7.1} & 0.0 $\pm$ 0.0" in text


def test_a_sweep_fits_80_columns():
    console = Console(width=80, record=True, file=StringIO())
    console.print(*shown(swept()), sep="\n")
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "65.0 ± 7.1" in text
    assert "-15.0 [-78.5, +48.5]" in text


def test_a_long_value_is_broken_and_not_cut_off():
    value = "[" + ",".join(["resnet8"] * 12) + "]"
    console = Console(width=80, record=True, file=StringIO())
    console.print(Table.of(["rank", "model.name", "validation"], [["1", value, "65.0 ± 7.1"]], (0, 1)))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("8") == 12
    assert "65.0 ± 7.1" in text


def test_a_seed_with_several_runs_is_not_paired(runs, tmp_path):
    again = [finished(tmp_path / f"again-{seed}", "fd", seed, 0.5) for seed in (0, 1)]
    pairs = compare.differences(grouped([*runs, *again]))
    assert pairs.missing == ["No difference of fd to local: a seed has several runs."]


def test_without_runs_there_is_nothing_for_a_paper(tmp_path):
    with pytest.raises(InvalidInputError, match="nothing to compare"):
        compare.for_a_paper([])
