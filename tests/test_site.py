"""The site: pages that are made from the code are current, and what the hooks make of Markdown."""

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from fd_flower import methods
from fd_flower.cli import describe
from fd_flower.config import settings

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "paper-index.md"

pytestmark = pytest.mark.skipif(not INDEX.is_file(), reason="looks at the checkout")


def loaded(path: str) -> ModuleType:
    """Return a script of the checkout as a module."""
    spec = spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- made from the code


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return loaded("benchmarks/pages.py")


def test_the_pages_are_what_the_script_makes_of_the_code(pages: ModuleType):
    for path, text in pages.made().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python benchmarks/pages.py"


def test_every_method_with_a_paper_is_in_the_index(pages: ModuleType):
    text = INDEX.read_text(encoding="utf-8")
    for stem in methods.names():
        paper = re.search(r"arXiv ([\d.]+)\b", describe.idea(stem))
        assert paper is None or f"https://arxiv.org/abs/{paper[1]}" in text, stem


def test_the_map_has_every_method_that_is_no_baseline(pages: ModuleType):
    drawn = re.sub("<[^>]+>", "", pages.choose_svg())
    for stem in methods.names():
        assert re.search(rf"\b{stem}\b", drawn), stem


def commands(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return re.findall(r"^```\n(fd-flower run .*?)```", text, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("command", commands(INDEX), ids=lambda command: command.split("\\")[0].strip())
def test_the_indexs_commands_are_accepted(command: str):
    _, _, method, *words = shlex.split(command.replace("\\\n", " "))
    given = dict(zip(words[::2], words[1::2], strict=True))
    changes = [value for option, value in zip(words[::2], words[1::2], strict=True) if option == "--set"]
    assert settings(method, " ".join(changes), recipe=given.get("--recipe")).method == method
    assert command.count("\n") <= 5


# --- Markdown


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs")
    return loaded("website/hooks.py")


@pytest.mark.parametrize(
    ("github", "python_markdown"),
    [
        ("text\n* one\n* two", "text\n\n*   one\n*   two"),
        ("1. one\n\n   more\n2. two", "1.  one\n\n    more\n2.  two"),
        ("* one\n  * inner\n\n    text", "*   one\n    *   inner\n\n        text"),
        ("text\n| a |\n| - |", "text\n\n| a |\n| - |"),
        ("> **Note.** text\n> * one", "> **Note.** text\n>\n> *   one"),
        ("```\n* code\n  * code\n```", "```\n* code\n  * code\n```"),
        ("<details>\n\ntext\n</details>", '<details markdown="1">\n\ntext\n</details>'),
    ],
)
def test_lists_tables_and_notes_that_github_reads_are_read_by_the_site(hooks, github: str, python_markdown: str):
    assert "\n".join(hooks._for_python_markdown(github.split("\n"))) == python_markdown


@pytest.mark.parametrize(
    ("link", "turned"),
    [
        ("[a](../CONTRIBUTING.md#style)", "[a](contributing.md#style)"),
        ("[`a`](../examples/tracker)", "[`a`](https://host/us/fd/tree/main/examples/tracker)"),
        ("[a](data.md#x)", "[a](data.md#x)"),
        ("[a](https://elsewhere)", "[a](https://elsewhere)"),
    ],
)
def test_links_out_of_the_pages_lead_to_their_copy_or_to_the_repository(hooks, link: str, turned: str):
    found = hooks._with_links(link, "docs/page.md", "page.md", "https://host/us/fd")
    assert found == turned
