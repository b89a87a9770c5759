"""The pages of methods follow one plan, and what they say of options, payloads and commands is true of the code."""

import re
import shlex
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from fd_flower import methods, settings
from fd_flower.cli import compare, describe
from fd_flower.config import ClientConfig, ServerConfig

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="looks at the checkout")

PLAN = (
    "When to use it",
    "Usage",
    "What travels",
    "The round",
    "Options",
    "Evaluation",
    "Results",
    "Differences from ",  # the paper, the official code, other implementations: what there is
    "Privacy",
    "References",
)
"""The second-level headings of a method's page, in this order and no others."""
OPTIONS = ["option", "default", "meaning", "source"]
TRAVELS = ["direction", "payload", "shape and type", "bytes per client and round"]
"""The first columns of two tables; more may follow."""


def text_of(stem: str) -> str:
    return (ROOT / "docs" / "methods" / f"{stem}.md").read_text(encoding="utf-8")


def section(stem: str, heading: str) -> str:
    """Return what is below a second-level heading."""
    return re.split(r"^## .+\n", text_of(stem).partition(f"\n## {heading}")[2], flags=re.MULTILINE)[0]


def rows(text: str, header: list[str]) -> list[list[str]]:
    """Return the cells of every row below a table's header that begins with these cells."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        if not cells or cells[: len(header)] == header:
            inside = bool(cells)
        elif inside and not set(line) <= set("|-: "):
            found.append(cells)
    return found


def commands(stem: str, first: str) -> list[list[str]]:
    """Return the words of the page's commands that begin with ``first``; one may go over several lines."""
    blocks = re.findall(r"^```\n(.*?)^```$", text_of(stem), re.MULTILINE | re.DOTALL)
    lines = [word for block in blocks for word in re.split(r"\n(?=fd-flower |FLWR_)", block)]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(first)]


def changes(words: list[str]) -> list[str]:
    """Return what ``--set`` and ``--recipe`` of a command say."""
    pairs = list(pairwise(words))
    sets = [change for word, value in pairs if word == "--set" for change in shlex.split(value)]
    return sets + [f"recipe={value}" for word, value in pairs if word == "--recipe"]


EVERY = pytest.mark.parametrize("stem", methods.names())


@EVERY
def test_a_page_has_the_headings_of_the_plan(stem: str):
    headings = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```$", "", text_of(stem), flags=re.M | re.S), re.MULTILINE)
    assert len(headings) == len(PLAN)
    for heading, planned in zip(headings, PLAN, strict=True):
        assert heading.startswith(planned) if planned.endswith(" ") else heading == planned


@EVERY
def test_a_page_begins_with_the_methods_name_its_status_its_idea_and_its_figure(stem: str):
    head = text_of(stem).partition("\n## ")[0]
    title, status, idea, *_, figure = re.split(r"\n\n+", head.strip())
    assert stem in re.sub(r"[^a-z0-9]", "", title.lower())
    assert status.startswith("**Status: ")
    assert not idea.startswith(("**", "!", "|", "* "))
    assert re.fullmatch(rf"!\[[^]]*\]\(\.\./images/methods/{stem}\.svg\)", figure)


@EVERY
def test_the_commands_of_a_page_have_options_that_exist(stem: str):
    runs, from_flower = commands(stem, "fd-flower run "), commands(stem, "FLWR_")
    assert any(words[2] == stem for words in runs)
    assert from_flower
    for words in runs:
        settings(words[2], changes(words))
    for words in from_flower:
        config = dict(word.split("=", 1) for word in shlex.split(words[words.index("--run-config") + 1]))
        assert config.get("method", "fd") == stem
        settings(stem, config.get("set", ""))
    for words in commands(stem, "fd-flower compare "):
        named = [word for word in words[2:] if not word.startswith("-")]
        named = named[: next((i for i, word in enumerate(named) if word not in methods.names()), None)]
        seeds = int(words[words.index("--seeds") + 1]) if "--seeds" in words else 1
        assert compare.ordered(named, changes(words), None, "local", None, "", seeds, "--same-loop" in words).orders


@EVERY
def test_a_page_shows_the_strategy_in_python(stem: str):
    assert f"from fd_flower.strategies import {methods.strategy(stem).__name__}\n" in section(stem, "Usage")


@EVERY
def test_the_table_of_options_has_the_values_that_a_run_has(stem: str):
    table = rows(section(stem, "Options"), OPTIONS)
    chosen = settings(stem)
    for key, default, *_ in table:
        side, name = re.search(r"`([a-z]+)\.([a-z_]+)`", key).groups()
        assert yaml.safe_load(default.strip("`")) == getattr(chosen.section(side), name), key


@EVERY
def test_the_table_of_options_has_every_option_that_the_method_adds(stem: str):
    chosen = settings(stem)
    own = {
        f"{side}.{f.name}"
        for side, base in (("server", ServerConfig), ("client", ClientConfig))
        for f in fields(chosen.section(side))
        if f.name not in {common.name for common in fields(base)}
    }
    listed = {re.search(r"`([a-z]+\.[a-z_]+)`", row[0]).group(1) for row in rows(section(stem, "Options"), OPTIONS)}
    assert not own - listed


@EVERY
def test_what_travels_has_every_kind_that_is_exchanged(stem: str):
    kinds = describe.exchanged(stem)
    cells = [row[1] for row in rows(section(stem, "What travels"), TRAVELS)]
    assert all(any(f"`{kind}`" in cell for cell in cells) for kind in kinds.split(", ") if kind != "nothing")


@EVERY
def test_a_page_names_its_evaluation_point(stem: str):
    assert f"`{methods.strategy(stem).evaluated}`" in section(stem, "Evaluation")
