"""Every method's page shows a figure that its code draws, and the figure says what the method declares and sends."""

import importlib.util
import re
from html import unescape
from pathlib import Path
from types import ModuleType

import pytest
from helpers import tiny

from fd_flower import methods
from fd_flower.cli.describe import exchanged

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="looks at the checkout")
EVERY = pytest.mark.parametrize("stem", methods.names())
LARGEST = 60_000
"""Bytes of a figure, at most."""


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    """Return the script that draws."""
    spec = importlib.util.spec_from_file_location("method_figures", ROOT / "benchmarks" / "method_figures.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed(stem: str) -> str:
    return (ROOT / "docs" / "images" / "methods" / f"{stem}.svg").read_text(encoding="utf-8")


def test_every_method_and_no_other_has_a_figure():
    drawn = {path.stem for path in (ROOT / "docs" / "images" / "methods").iterdir()}
    assert drawn == set(methods.names())


@EVERY
def test_the_committed_figure_is_what_the_script_draws(stem: str, figures: ModuleType):
    assert committed(stem) == figures.drawn(stem), "run python benchmarks/method_figures.py"
    assert len(committed(stem)) < LARGEST


@EVERY
def test_the_alternative_text_on_the_page_is_the_figures_description(stem: str, figures: ModuleType):
    page = (ROOT / "docs" / "methods" / f"{stem}.md").read_text(encoding="utf-8")
    assert f"![{figures.description(stem)}](../images/methods/{stem}.svg)" in page, "run the script"


@EVERY
def test_the_accuracy_is_marked_on_the_side_that_is_evaluated(stem: str, figures: ModuleType):
    flow, server = figures.flow_of(stem), methods.strategy(stem).evaluated == "aggregated"
    assert [figures.EVALUATED in flow.clients, figures.EVALUATED in flow.server] == [not server, server]
    assert f">evaluated here: {methods.strategy(stem).evaluated}<" in committed(stem)


@EVERY
def test_the_arrows_have_kinds_that_the_method_exchanges(stem: str, figures: ModuleType):
    flow, strategy = figures.flow_of(stem), methods.strategy(stem)
    assert {*flow.down, *flow.up} <= {*exchanged(stem).split(", "), "public-index"}
    assert {kind.kind for kind in (*strategy.reply_kinds, *strategy.summable)} <= set(flow.up)
    assert ("public-index" in flow.down) == strategy.predicts


@pytest.mark.parametrize(("stem", "place"), [("fedmd", "on every client"), ("feddf", "at the server only"), ("fd", "")])
def test_public_samples_are_drawn_where_they_lie(stem: str, place: str):
    assert ("Public samples" in committed(stem)) == bool(place)
    assert place in committed(stem)


@EVERY
def test_no_line_of_a_figure_is_wider_than_its_box(stem: str):
    texts = re.findall(r'<text x="([\d.]+)"[^>]*class="([a-z]*)" text-anchor="start">([^<]*)<', committed(stem))
    for x, kind, words in texts:
        assert float(x) + (6.6 if kind == "small" else 7.4) * len(unescape(words)) < 452


@pytest.mark.slow
@EVERY
def test_the_arrows_are_what_a_run_sends(stem: str, figures: ModuleType):
    rounds = tiny.run(stem, f"{tiny.BRIEF}{tiny.BRIEF_TOO.get(stem, '')} server.rounds=3")
    sent = [line["bytes"] for line in rounds if line.get("bytes")]
    flow = figures.flow_of(stem)
    assert {kind for one in sent for kind in one["down"]} == set(flow.down)
    assert {kind for one in sent for kind in one["up"]} == set(flow.up)
