"""What a method's code follows is said wherever the method is named, and by all places alike."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import final

import pytest
from helpers import tiny
from helpers.drawing import draw
from rich.console import Console

from fd_flower import cli, methods
from fd_flower.cli import describe
from fd_flower.core.errors import InvalidInputError
from fd_flower.results import RunFolder, compare
from fd_flower.results.groups import grouped
from fd_flower.server import Status, Strategy
from fd_flower.server.status import STATUSES

ROOT = Path(__file__).parents[1]
in_checkout = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="looks at the checkout")

STEMS = methods.names()
RECONSTRUCTIONS = [stem for stem in STEMS if methods.strategy(stem).status.follows == "reconstruction"]
PAPER_READ = {"fedmd", "fedproto"} | {stem for stem in STEMS if methods.strategy(stem).status.follows == "paper"}
"""Methods whose paper's own text was read; of those that follow the authors' code, some have it beside that."""


@final
class Nobody(Strategy):
    """Says nothing of where it comes from."""

    client_app = "fd_flower.client_apps.local:app"

    def aggregate(self, replies, knowledge, round):
        """Learn nothing."""
        return []


@final
class Somebody(Strategy):
    """Says what it follows."""

    status = Status("official code", reconstructed="the sampling")
    client_app = "fd_flower.client_apps.local:app"

    def aggregate(self, replies, knowledge, round):
        """Learn nothing."""
        return []


def page(stem: str) -> str:
    return (ROOT / "docs" / "methods" / f"{stem}.md").read_text(encoding="utf-8")


def shown(*parts: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*parts)
    return console.export_text()


def facts_of(method: str) -> dict[str, str]:
    """Return the facts that ``describe`` shows of a method, by name."""
    names, facts = (column.cells for column in list(describe.described(method, []))[1].columns)
    return {name: str(fact) for name, fact in zip(names, facts, strict=True)}


def cells(text: str) -> Iterator[str]:
    """Yield every cell of the tables of a page."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield from (cell.strip() for cell in line.strip("| ").split("|"))


# --- what a method says


@pytest.mark.parametrize("stem", STEMS)
def test_every_method_of_ours_states_its_status(stem: str):
    assert methods.strategy(stem).status.follows != "unstated"


def test_what_was_built_without_code_or_paper_is_a_reconstruction():
    assert set(RECONSTRUCTIONS) >= {"edgefd", "knfu", "mhd", "kdstudy", "fedd2s"}
    assert methods.strategy("selectivefd").status.reconstructed == "the server's filter"


def test_another_status_is_refused_with_the_nearest():
    with pytest.raises(InvalidInputError, match=r"status is 'offical code' \(did you mean 'official code'\?\)"):
        Status("offical code")


def test_a_part_that_is_reconstructed_is_named():
    assert str(Status("paper")) == "paper"
    assert str(Status("paper", reconstructed="the mean")) == "paper; reconstruction: the mean"


# --- where it is shown


def test_the_list_of_methods_has_every_status():
    table = describe.methods_table()
    columns = {column.header: [str(cell) for cell in column.cells] for column in table.columns}
    told = dict(zip(columns["method"], columns["status"], strict=True))
    assert {stem: told[stem] for stem in STEMS} == {stem: str(methods.strategy(stem).status) for stem in STEMS}


@pytest.mark.parametrize("stem", STEMS)
def test_describe_says_the_status_and_what_it_means(stem: str):
    status = methods.strategy(stem).status
    assert facts_of(stem)["status"] == f"{status} ({STATUSES[status.follows]})"


@pytest.mark.parametrize(
    ("name", "said"),
    [("Nobody", "unstated"), ("Somebody", "official code; reconstruction: the sampling")],
)
def test_a_method_of_somebody_else_shows_its_own_or_as_unstated(name: str, said: str, tmp_path: Path):
    method = f"{__name__}:{name}"
    assert facts_of(method)["status"].startswith(f"{said} (")
    tiny.run(method, tiny.TINY, out=tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").summary["status"] == said


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    place = tmp_path_factory.mktemp("runs")
    for method in ("local", "knfu", "selectivefd"):
        tiny.run(method, tiny.TINY + "server.evaluate=received,trained", out=place / method)
    return [RunFolder.open(place / method) for method in ("local", "knfu", "selectivefd")]


FOLLOWED = {
    "local": "baseline",
    "knfu": "reconstruction",
    "selectivefd": "official code; reconstruction: the server's filter",
}


def test_the_summary_and_the_report_of_a_run_say_the_status(runs: list[RunFolder]):
    for folder in runs:
        status = FOLLOWED[folder.summary["method"]]
        assert folder.summary["status"] == status
        draw(folder)
        assert f"status: {status.replace(chr(39), '&#x27;')}" in (folder.path / "report.html").read_text()


def test_a_comparison_says_the_status_of_every_row(runs: list[RunFolder], tmp_path: Path):
    compare.write(runs, tmp_path)
    text = (tmp_path / "compare.md").read_text()
    rows = [line.strip("| ").split(" | ")[:2] for line in text.splitlines() if line.startswith("| ")]
    table = [["method", "status"], ["---", "---"], *([*pair] for pair in FOLLOWED.items())]
    assert rows == 3 * table  # accuracy and costs, other metrics, evaluation points
    assert "its figures say nothing of the published method" in text
    with (tmp_path / "compare.csv").open() as file:
        assert {row["method"]: row["status"] for row in csv.DictReader(file)} == FOLLOWED
    html = (tmp_path / "compare.html").read_text()
    assert '<td class="text">knfu</td><td class="text">reconstruction</td>' in html
    on_a_terminal = shown(*compare.shown(runs))
    assert all(status.split(";")[0] in on_a_terminal for status in FOLLOWED.values())


def test_plots_mark_what_is_a_reconstruction(runs: list[RunFolder]):
    assert [group.label for group in grouped(runs)] == ["local", "knfu (reconstruction)", "selectivefd"]


def test_a_sweep_says_the_status(tmp_path: Path):
    words = f"{tiny.TINY} server.rounds=1 data.public_batch=60"
    command = ["sweep", "knfu", "--grid", "server.beta=0,1", "--set", words, "--out", str(tmp_path / "sweep")]
    assert cli.main(command) == 0
    assert "* Method: knfu, status: reconstruction." in (tmp_path / "sweep" / "sweep.md").read_text()
    assert "(status: reconstruction)" in (tmp_path / "sweep" / "best.yaml").read_text()


# --- pages


@in_checkout
@pytest.mark.parametrize("stem", STEMS)
def test_a_page_says_its_methods_status(stem: str):
    assert re.findall(r"^\*\*Status: (.+)\.\*\*$", page(stem), re.MULTILINE) == [str(methods.strategy(stem).status)]


@in_checkout
@pytest.mark.parametrize("stem", STEMS)
def test_the_page_of_a_reconstruction_says_that_it_is_one_and_no_other_does(stem: str):
    assert ("**This is a reconstruction.**" in page(stem)) == (stem in RECONSTRUCTIONS)


@in_checkout
@pytest.mark.parametrize("stem", sorted(set(STEMS) - PAPER_READ))
def test_no_value_is_the_papers_where_the_paper_was_not_read(stem: str):
    assert not [cell for cell in cells(page(stem)) if re.match(r"(the )?paper\b", cell)]


@in_checkout
def test_the_tables_of_results_mark_reconstructions():
    names = "|".join(RECONSTRUCTIONS)
    for path in [ROOT / "docs" / "results.md", *(ROOT / "docs" / "methods").glob("*.md")]:
        for cell in cells(path.read_text(encoding="utf-8")):
            if re.match(rf"`?({names})`?(,|$| )", cell):
                assert re.match(rf"`?({names})`? \(reconstruction\)(,|$)", cell), f"{path.name}: {cell}"
