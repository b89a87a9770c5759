"""The code of the tutorial pages: read in order, written and run from a user's folder, with few rounds and steps.

A block is left out by a comment before it, ``<!-- no test: why -->``. What ``docs/data.md`` and
``docs/using-in-your-flower-project.md`` show is run by test_data_page.py and test_quickstart.py.
"""

import ast
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest

from fd_flower import methods
from fd_flower.cli import main
from fd_flower.config import settings

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("start", "your-model", "metrics", "your-own-method", "compare-honestly")
"""What is run here."""
READ = (*PAGES, "data", "using-in-your-flower-project")
"""What is checked without a run."""

SMALL = "server.rounds=1 client.steps=1 data.clients=3"
"""What a command's own settings are followed by."""
DOWNLOADS = "weights=DEFAULT"
FENCE = re.compile(r"(?P<no><!-- no test: .*? -->\s*\n)?^ *```(?P<kind>python|bash)\n(?P<text>.*?)^ *```$", re.M | re.S)

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="looks at the checkout")


@dataclass(frozen=True)
class Block:
    """A block of code of a page."""

    kind: str
    text: str

    @property
    def file(self) -> str:
        """The file that its first line names; "": none."""
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found[1] if found else ""

    @property
    def commands(self) -> list[list[str]]:
        """The words after ``fd-flower`` of its commands, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [
            shlex.split(os.path.expandvars(line), comments=True)[1:] for line in lines if line.startswith("fd-flower ")
        ]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page that can be tested."""
    path = DOCS / f"{page}.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = [Block(m["kind"], dedent(m["text"])) for m in FENCE.finditer(text) if not m["no"]]
    return [block for block in found if "pip install" not in block.text]


@pytest.mark.parametrize("page", READ)
def test_the_python_of_a_page_is_python(page: str):
    for block in blocks(page):
        if block.kind == "python":
            ast.parse(block.text)


@pytest.mark.parametrize("page", READ)
def test_the_settings_of_a_pages_commands_are_accepted(page: str):
    for block in blocks(page):
        for verb, *words in block.commands:
            names = [word for word in words if word in methods.names()]
            for changes in (value for option, value in pairwise(words) if option == "--set"):
                if verb in ("run", "compare", "sweep") and names:
                    own = [word for word in changes.split() if word.split(".")[0] not in (*methods.names(), "fancy")]
                    assert settings(names[0], " ".join(own)).method == names[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a user's folder, from which Python imports."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, here: Path, capsys: pytest.CaptureFixture[str]):
    names: dict[str, object] = {}
    if page == "your-model":  # it exports a model of the run that start.md has made
        assert main(["run", "fd", "--out", "runs/first", "--quiet", "--set", SMALL + " data.clients=5"]) == 0
    for block in blocks(page):
        if block.file:
            (here / block.file).parent.mkdir(exist_ok=True)
            (here / block.file).write_text(block.text, encoding="utf-8")
        if block.kind == "python" and "/" not in block.file:
            exec(compile(block.text, f"docs/{page}.md", "exec"), names)
        for words in block.commands:
            if not any(DOWNLOADS in word for word in words):
                judged = words[0] == "reproduce"  # a claim that a small run does not show is no error
                assert main(small(words)) in ((0, 1) if judged else (0,)), (words, capsys.readouterr())


def small(words: list[str]) -> list[str]:
    """Return a command with few rounds, steps and seeds, in this process."""
    text = re.sub(r"--seeds\0\d+", "--seeds\0002", "\0".join(words)).replace("\0--engine\0flower", "")
    runs = words[0] in ("run", "compare")
    return [*text.split("\0"), *(["--set", SMALL, "--quiet"] if runs else [])]
