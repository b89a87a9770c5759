"""Pages, docstrings, comments and messages are free of the words that docs/writing.md lists."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "writing.md"
CODE = ("fd_flower", "strategies", "client_apps")
SEEDING = {"rng", "seed_of"}  # their words feed the seeds of random streams, which must not change
QUOTING = {"docs/writing.md"}  # lists the words
FEDMD = ("docs/methods/fedmd.md", "strategies/fedmd.py", "client_apps/fedmd.py", "fd_flower/config/recipes/fedmd.yaml")
OWN_WORD = {"digest": {*FEDMD, "docs/paper-index.md"}}

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="looks at the checkout")


def words() -> dict[str, str]:
    """Return the page's table: a phrase to avoid, and what to write instead."""
    table = PAGE.read_text().partition("<!-- words: start -->")[2].partition("<!-- words: end -->")[0]
    rows = [row.strip("|").split("|") for row in table.split("\n") if row.startswith("|")][2:]
    return {phrase.strip(): instead.strip() for phrases, instead in rows for phrase in phrases.split(",")}


def pattern(phrases: dict[str, str]) -> re.Pattern[str]:
    """Return an expression that matches any of the phrases as whole words, over line breaks too."""
    longest_first = sorted(phrases, key=len, reverse=True)
    joined = "|".join(r"\s+".join(map(re.escape, phrase.split())) for phrase in longest_first)
    return re.compile(rf"(?<![\w.-])(?:{joined})(?![\w-])", re.IGNORECASE)


def without_code(text: str) -> str:
    """Return a page's or docstring's prose: without code blocks, inline code, equations and link targets."""
    text = re.sub(r"^ +\w+ : .*$", "", text, flags=re.MULTILINE)  # a parameter's name in numpy's format
    for code in (r"```.*?```", r"``.+?``", r"`[^`\n]+`", r"\$\$.*?\$\$", r"\]\([^)]*\)"):
        text = re.sub(code, " \N{MIDDLE DOT} ", text, flags=re.DOTALL)
    return text


def prose(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring, comment and message; single words are identifiers."""
    tree = ast.parse(source)
    seeding = {
        id(part)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in SEEDING
        for argument in call.args
        for part in ast.walk(argument)
    }
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if " " in text.strip() and id(node) not in seeding:
            yield node.lineno, text
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def offences(name: str, texts: Iterator[tuple[int, str]]) -> list[str]:
    """Return a line for each phrase that a file should not have, and what to write instead."""
    listed = words()
    avoided = pattern(listed)
    found = []
    for line, text in texts:
        for match in avoided.finditer(without_code(text)):
            phrase = " ".join(match[0].lower().split())
            if not any(phrase.startswith(word) and name in places for word, places in OWN_WORD.items()):
                found.append(f"{name}:{line}: {phrase!r}; write: {listed[phrase]}")
    return found


def other_texts() -> list[str]:
    """Return files that users read in other forms: recipes, templates, services."""
    rooms = {"fd_flower/config/recipes": "*.yaml", "fd_flower/cli/templates": "*.template", "deploy": "*.*"}
    rooms |= {"examples": "*.md", "hub": "*.md", "baselines": "*.md", ".github": "*.*"}
    found = [path for room, kind in rooms.items() for path in (ROOT / room).rglob(kind) if path.is_file()]
    return sorted(path.relative_to(ROOT).as_posix() for path in (*found, ROOT / "benchmarks/README.md"))


def modules() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for room in CODE for path in (ROOT / room).rglob("*.py"))


def pages() -> list[str]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted({path.relative_to(ROOT).as_posix() for path in found} - QUOTING)


def test_every_word_to_avoid_has_a_replacement():
    assert len(words()) > 100
    assert all(phrase and instead for phrase, instead in words().items())


def test_a_phrase_is_found_as_whole_words_over_a_line_break_and_in_any_case():
    avoided = pattern({"roll call": "", "ours": "", "goes on": "", "goes on with": ""})
    assert avoided.search("The roll\n    call")
    assert avoided.search("Ours is")
    assert avoided.findall("it goes on with") == ["goes on with"]
    assert not avoided.search("hours, a roll-call")


def test_code_in_a_text_and_the_purposes_of_random_streams_are_not_checked():
    source = 'stream = turn.rng("the pictures", round)\n"""Ask `rng("pictures")`."""  # heard'
    assert [text for _, text in prose(source) if "heard" in text or "pictures" in without_code(text)] == ["# heard"]


@pytest.mark.parametrize("name", pages())
def test_a_page_has_none_of_the_words_to_avoid(name: str):
    found = offences(name, iter([(1, (ROOT / name).read_text())]))
    assert not found, "\n".join(found)


def test_docstrings_comments_and_messages_have_none_of_the_words_to_avoid():
    found = [line for name in modules() for line in offences(name, prose((ROOT / name).read_text()))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", other_texts())
def test_recipes_templates_and_services_have_none_of_the_words_to_avoid(name: str):
    text = (ROOT / name).read_text()
    found = offences(name, ((number, line) for number, line in enumerate(text.split("\n"), 1)))
    assert not found, "\n".join(found)
